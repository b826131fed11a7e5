"""A simulation as one page: plots and tables, readable by day and by night, with nothing to load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from market.simulation import plots

Json = Mapping[str, Any]
COLOURS: Final = {"market": "c1", "fifo": "c2", "auction": "c3", "greedy": "c4"}
TITLES: Final = {"market": "torg", "fifo": "FIFO", "auction": "one provider a job", "greedy": "greedy by value"}
MOST_PROVIDERS: Final = 16
MOST_TENANTS: Final = 16
_STYLE: Final = """
:root{--page:#fbfbfa;--card:#fff;--ink:#1b1b19;--soft:#5d5c57;--rule:#e4e3de;--c1:#2a78d6;--c2:#8b8a83;--c3:#d98a00;--c4:#14996b}
@media(prefers-color-scheme:dark){:root{--page:#161615;--card:#1e1e1c;--ink:#f1f0ea;--soft:#b3b2a9;--rule:#363632;--c1:#5b9bee;--c2:#9a998f;--c3:#e5a63a;--c4:#3fbf8f}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:66rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}h1{font-size:1.7rem;line-height:1.2;margin:0 0 .4rem}
h2{font-size:1.05rem;margin:0 0 .15rem}p{margin:.2rem 0 .9rem;color:var(--soft);max-width:46rem}
section{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:1.1rem 1.25rem;margin:1rem 0;overflow-x:auto}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.75rem;margin:1.4rem 0}
.tile{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:.8rem 1rem}.tile b{display:block;font-size:1.45rem;line-height:1.25}
.tile span{color:var(--soft);font-size:.85rem}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.9rem}
th{font-weight:500;color:var(--soft);text-align:right;padding:.3rem .45rem;border-bottom:1px solid var(--rule);white-space:nowrap}
td{text-align:right;padding:.35rem .45rem;border-bottom:1px solid var(--rule);white-space:nowrap}tr:last-child td{border:0}
th:first-child,td:first-child{text-align:left;padding-left:0}.key{display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;font-size:.85rem;color:var(--soft);margin:.2rem 0 .5rem}
.key i{display:inline-block;width:.75rem;height:.75rem;border-radius:3px;margin-right:.4rem;background:currentColor}
.key .c1,g.c1{color:var(--c1)}.key .c2,g.c2{color:var(--c2)}.key .c3,g.c3{color:var(--c3)}.key .c4,g.c4{color:var(--c4)}
.key em{font-style:normal;color:var(--soft)}svg{display:block;width:100%;min-width:30rem;height:auto;font:12px system-ui,sans-serif}
.grid{stroke:var(--rule)}.tick,.unit{fill:var(--soft);font-size:11px}.name{fill:var(--ink)}.value{fill:var(--soft);font-size:11px}
.line{fill:none;stroke-width:2;stroke-linejoin:round}.line.c1{stroke:var(--c1)}.line.c2{stroke:var(--c2)}.line.c3{stroke:var(--c3)}.line.c4{stroke:var(--c4)}
.area{opacity:.16;stroke:none}.area.c1,.bar.c1{fill:var(--c1)}.area.c2,.bar.c2{fill:var(--c2)}.area.c3,.bar.c3{fill:var(--c3)}.area.c4,.bar.c4{fill:var(--c4)}
.span{stroke:currentColor;stroke-width:2}.dot{fill:currentColor}.ring{fill:var(--card);stroke:currentColor;stroke-width:2}
footer{color:var(--soft);font-size:.85rem;margin-top:1.5rem}
"""


def page(told: Json) -> str:
    """The page of what market/simulation/whole.py told, and `seconds`, `cpu_seconds`, `peak_memory_mib` of the run."""
    trace, supply, runs = told["trace"], told["supply"], told["runs"]
    market, days = runs["market"], told["by_day"]["market"]
    load = "as they are listed" if told["plan"]["load"] is None else f"so many that the load is {told['plan']['load']:g}"
    churn = " Machines come and go as in a recorded cluster." if told["plan"]["churn"] else ""
    sections = [
        _section("Side by side", "The market is the live exchange's own code. The others clear the same jobs on the same machines.", _runs(runs)),
        _section(
            "Wait by size of the gang", "Until the first GPU: half of the jobs wait no longer than the dot, 99 in 100 no longer than the ring. Jobs that gave up are not in it; the table above counts them.",
            _key(runs) + plots.ranges("wait by gang", _groups(runs, "wait_by_gang", list(market["wait_by_gang"]))),
        ),
        _section(
            "GPUs over time", "Mean of each day: let, there, and wanted by jobs that wait.",
            _named_key([("let", "c1"), ("there", "c2"), ("waited for", "c3")])
            + plots.lines("GPUs over time", "GPUs", [("let", "c1", days["gpus_used"]), ("there", "c2", days["gpus_there"]), ("waited for", "c3", days["gpus_waited_for"])], filled=True),
        ),
        _section(
            "Prices over time", "Mean ask of what was let on each day, per GPU-hour. When many wait, dear machines are let too.",
            _key(runs) + plots.lines("prices", "$ per GPU-hour", [(TITLES.get(name, name), COLOURS.get(name, "c1"), told["by_day"][name]["ask_usd_per_gpu_hour"]) for name in reversed(list(runs))]),
        ),
        _section(
            "Welfare", f"What the jobs that were done are worth to their customers, less the asks for all time that was let. No way of clearing makes more than ${told['bound_usd']:,.0f}: that is proven, and more than any real one could reach.",
            plots.bars("welfare", [(TITLES.get(name, name), COLOURS.get(name, "c1"), one["welfare_usd"], f"{dollars(one['welfare_usd'])}{_share(one['welfare_share_of_bound'])}") for name, one in runs.items()]),
        ),
        _section("Wait by tenant", "In the market; the largest tenants. Dot: half wait no longer. Ring: 99 in 100.", plots.ranges("wait by tenant", _groups({"market": market}, "wait_by_tenant", list(market["wait_by_tenant"])[:MOST_TENANTS]))),
        _section("Revenue by provider", f"What the {MOST_PROVIDERS} largest earned, after the market's fee; the market's fee is ${market['fee_usd']:,.0f}.", _largest(market["revenue_usd"], MOST_PROVIDERS)),
    ]  # fmt: skip
    if market["not_served"]:
        sections.append(_section("Not served", "Jobs that were refused, or gave up, and what stood in the way.", plots.bars("not served", [(reason.replace("_", " "), "c1", float(count), f"{count:,}") for reason, count in list(market["not_served"].items())[:12]])))
    if market["by_terms"]:
        sections.append(_section("Firm and interruptible", _preempted(market), _by_terms(runs)))
    if outlooks := outlook_rows(told):
        sections.append(_section("What plans said", "Of some jobs, what their plan said at submission, and what came. The share counts who gave up as far as it is known: after the low end they did not begin sooner.", _table(("", "jobs", "within", "sooner", "later", "gave up", "within"), [[what, *(f"{one[name]:,}" for name in ("jobs", "within", "sooner", "later", "gave_up")), _share(one["within_share_of_all"]).strip(" ,")] for what, one in outlooks])))
    tiles = [
        (f"{trace['jobs']:,}", f"jobs of {trace['tenants']} tenants"), (f"{supply['gpus']:,}", f"GPUs on {supply['machines']:,} machines"),
        (short(market["wait_s"]["p50"]), "wait, half of the jobs"), (short(market["wait_s"]["p99"]), "wait, 99 in 100"),
        (f"{market['utilisation']:.0%}", "of the GPU-time let"), (f"{market['fairness']:.2f}", "fairness (Jain)"),
    ]  # fmt: skip
    money = "The sum of all balances at the end is zero." if told["money_conserved"] else "Money was not conserved: this is an error."
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>A market in virtual time</title><style>{_STYLE}</style></head><body><main>'
        f"<h1>{trace['jobs']:,} jobs through the market</h1><p>{trace['days']:g} days, {trace['gpu_hours']:,.0f} GPU-hours, {trace['mean_gpus']:g} GPUs wanted on average; offers {load}.{churn} Seed {told['plan']['seed']}.</p>"
         '<div class="tiles">' + "".join(f'<div class="tile"><b>{escape(large)}</b><span>{escape(small)}</span></div>' for large, small in tiles) + "</div>"
        + "".join(sections)
        + f"<footer>{money} Played in {told['seconds']:g} s ({told['cpu_seconds']:g} s of CPU) with {told['peak_memory_mib']:,.0f} MiB.</footer></main></body></html>\n"
    )  # fmt: skip


def _section(title: str, text: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2><p>{escape(text)}</p>{body}</section>"


def _runs(runs: Json) -> str:
    heads = ("", "done", "gave up", "refused", "wait p50", "wait p99", "completion", "fairness", "used", "welfare", "of bound", "workers lost")
    rows = [
        [
            TITLES.get(name, name), *(f"{one['states'].get(state, 0):,}" for state in ("done", "gave_up", "refused")),
            short(one["wait_s"]["p50"]), short(one["wait_s"]["p99"]), short(one["completion_s"]["mean"]), f"{one['fairness']:.3f}",
            f"{one['utilisation']:.1%}", dollars(one["welfare_usd"]), _share(one["welfare_share_of_bound"]).strip(" ,"), f"{one['workers_lost']:,}",
        ]
        for name, one in runs.items()
    ]  # fmt: skip
    return _table(heads, rows)


def _preempted(market: Json) -> str:
    causes, hours = market["preemptions"], market["gpu_hours"]
    told = ", ".join(f"{count:,} by {cause}" for cause, count in causes.items())
    return f"Workers that went before they were done: {told}. With them {hours['redone']:,.0f} of {hours['let']:,.0f} GPU-hours were lost, and {hours['restarting']:,.0f} went into restarts. The baselines know no interruptible jobs: they serve these as all others."


def _by_terms(runs: Json) -> str:
    rows = [
        [f"{TITLES.get(run, run)}, {name}", *(f"{own[what]:,}" for what in ("jobs", "done", "never", "outbid")), short(own["wait_s"]["p50"]), short(own["wait_s"]["p99"]), short(own["completion_s"]["mean"]), dollars(own["welfare_usd"])]
        for run, one in runs.items() for name, own in one["by_terms"].items()
    ]  # fmt: skip
    return _table(("", "jobs", "done", "never", "outbid", "wait p50", "wait p99", "completion", "welfare"), rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr></thead><tbody>{cells}</tbody></table>"


def outlook_rows(told: Json) -> list[tuple[str, Json]]:
    """How plans came true, for people; empty where nobody asked for plans."""
    found = told.get("outlooks")
    if found is None:
        return []
    how = {"now": "begins at once", "leases": "begins when leases end", "recent": "begins as others did lately"}
    return [(how[basis], one) for basis, one in found["begins"].items()] + [("done", found["done"])]


def _groups(runs: Json, by: str, names: Sequence[str]) -> list[tuple[str, list[tuple[str, str, float | None, float | None, str]]]]:
    found = []
    for name in names:
        rows = []
        for run, one in runs.items():
            wait = one[by].get(name)
            p50, p99 = (None, None) if wait is None else (wait["p50"], wait["p99"])
            rows.append((TITLES.get(run, run), COLOURS.get(run, "c1"), p50, p99, "nobody" if p50 is None or p99 is None else f"{short(p50)} / {short(p99)}"))
        gpus = " GPU" if name == "1" else " GPUs"
        found.append((name + (gpus if by == "wait_by_gang" else ""), rows))
    return found


def _largest(usd: Mapping[str, float], most: int) -> str:
    rest = list(usd.items())[most:]
    rows = [(name, "c1", value, f"${value:,.0f}") for name, value in list(usd.items())[:most]]
    more = f"<p>{len(rest):,} more earned ${sum(value for _, value in rest):,.0f} together.</p>" if rest else ""
    return plots.bars("revenue", rows) + more


def _key(runs: Json) -> str:
    return _named_key([(TITLES.get(name, name), COLOURS.get(name, "c1")) for name in runs])


def _named_key(named: Sequence[tuple[str, str]]) -> str:
    return '<div class="key">' + "".join(f'<span class="{colour}"><i></i><em>{escape(name)}</em></span>' for name, colour in named) + "</div>"


def short(seconds: float | None) -> str:
    """A time in a few letters: `42 s`, `9.5 min`, `13 h`, `2.4 d`; a dash for none."""
    if seconds is None:
        return "–"
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def dollars(amount: float) -> str:
    """Whole dollars, the sign before the currency."""
    whole = round(amount)
    return f"{'-' if whole < 0 else ''}${abs(whole):,}"


def _share(share: float | None) -> str:
    return "" if share is None else f", {share:.1%}"
