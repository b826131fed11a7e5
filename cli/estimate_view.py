"""Estimates for people: what a plan expects, what else could be rented, and how an estimate came true."""

from collections.abc import Mapping
from typing import Any

from cli.arguments import usd
from storage.units import counted, format_duration

NOTHING_KNOWN = "not known: no earlier run of this here; this one will be measured"
NOBODY_FREE = "not known while no fitting machine is free"
LITTLE = 0.05
_SAME = {
    "job": "",
    "loss": ", to the same held-out loss",
    "data": ", for the same data; how well it learns is not measured",
}


def plan_facts(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a plan says of time and price, what other workers or GPUs would change, and how good such words were."""
    estimate = plan.get("estimate")
    if estimate is None:
        return [("expected", NOTHING_KNOWN if plan.get("candidates") else NOBODY_FREE)]
    facts = [("expected", f"{span(estimate)}, {_basis(estimate)}")]
    facts += [("or", _other(one, estimate)) for one in plan.get("alternatives") or []]
    judged = calibration(plan.get("calibration") or {})
    return facts + ([("so far", judged)] if judged else [])


def span(estimate: Mapping[str, Any]) -> str:
    """`4 min 10 s to 5 min 30 s for $0.021 to $0.028`."""
    low, high = (format_duration(estimate[name]) for name in ("low_ms", "high_ms"))
    cheap, dear = (usd(estimate[name]) for name in ("low_nanos", "high_nanos"))
    time = low if low == high else f"{low} to {high}"
    return f"{time} for {cheap if cheap == dear else f'{cheap} to {dear}'}"


def outcome(estimate: Mapping[str, Any] | None) -> str | None:
    """`estimated … for …; took 4 min 52 s, $0.025: within`; None where nothing was estimated."""
    if estimate is None:
        return None
    came = estimate.get("outcome")
    told = f"{span(estimate)}, {_basis(estimate)}"
    if came is None:
        return told
    missed = [name for name, held in (("time", came["within_time"]), ("price", came["within_cost"])) if not held]
    verdict = f"{' and '.join(missed)} outside" if missed else "within"
    return f"{told}; took {format_duration(came['took_ms'])}, {usd(came['cost_nanos'])}: {verdict}"


def calibration(judged: Mapping[str, Any]) -> str | None:
    """How often estimates have held; None while there are none to judge."""
    if not judged.get("estimates"):
        return None
    count, held = judged["estimates"], round(judged["within_share"] * judged["estimates"])
    error, claimed = judged["median_error_share"], judged["claimed_share"]
    widened = f"; ranges are {judged['widened']:.1f} × as wide for that" if judged["widened"] > 1 else ""
    told = f"{held} of {count} estimates held ({claimed:.0%} are meant to), the time half of them missed by at most {error:.0%}"
    return told + widened


def _basis(estimate: Mapping[str, Any]) -> str:
    runs = "1 earlier run" if estimate["runs"] == 1 else f"{estimate['runs']} earlier runs"
    held = round(10 * estimate["claimed"])
    how = {
        "runs": f"from {runs} on {estimate['gpu']}",
        "other_gpu": f"from {runs} on other hardware, by measured speeds",
        "hardware": "from the measured speed of the hardware alone",
    }[estimate["basis"]]
    return f"{how} ({held} of 10 are meant to fall within)"


def _other(one: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    """`2 workers: 1.2 × faster for 1.7 × the price (…)`."""
    workers = counted(one["workers"], "worker")
    name = workers if one["gpu"] == plan["gpu"] else f"{workers} of {one['gpu']}"
    time, price = one["time_ratio"], one["price_ratio"]
    speed = f"{1 / time:.2g} × faster" if time < 1 else f"{time:.2g} × slower"
    if abs(time - 1) < LITTLE:
        speed = "as fast"
    cost = "the same price" if abs(price - 1) < LITTLE else f"{price:.2g} × the price"
    return f"{name}: {speed} for {cost} ({span(one['estimate'])}){_SAME[one['same']]}"


def outlook_facts(outlook: Mapping[str, Any]) -> list[tuple[str, str]]:
    """When it would begin, at what price, by when it would be done, and what that stands on."""
    facts: list[tuple[str, str]] = []
    begins, price, done, recent = (outlook.get(name) for name in ("begins", "price", "done", "recent"))
    if begins is not None:
        why = {"leases": "when leases of others are expected to end", "recent": "as it went lately for those who had to wait for such machines, or gave up"}
        how = "with the next clearing, if nobody who comes before is worth more"
        facts.append(("begins", how if begins["basis"] == "now" else f"{_times(begins)} from now, {why[begins['basis']]}"))
    if price is not None:
        low, high = usd(price["low_nanos"]), usd(price["high_nanos"])
        cost = low if low == high else f"{low} to {high}, mostly {usd(price['middle_nanos'])}"
        basis = {"now": "as it would be matched now", "trades": f"as the newest {counted(price['trades'], 'lease')} went", "asks": "as is asked"}
        facts.append(("price", f"{cost} per GPU-hour, {basis[price['basis']]}"))
    if done is not None:
        facts.append(("done", f"{_times(done)} from now"))
    if recent is not None and begins is not None and begins["basis"] != "now":
        waits = f"{format_duration(recent['median_ms'])}, 9 of 10 no more than {format_duration(recent['p90_ms'])}"
        facts.append(("waits", f"half of the newest {counted(recent['jobs'], 'job')} that got machines waited no more than {waits}"))
    return facts


def _times(span: Mapping[str, Any]) -> str:
    low, high = format_duration(span["low_ms"]), format_duration(span["high_ms"])
    return low if low == high else f"{low} to {high}, mostly {format_duration(span['middle_ms'])}"
