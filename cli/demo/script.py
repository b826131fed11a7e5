"""The demo as a script: what happens in which order, and what is shown of it."""

import json
import signal
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any

from cli.arguments import usd
from cli.demo.outcome import Killing, Outcome, WarmStarts
from cli.demo.stage import Stage, wait_until
from cli.demo.telling import Teller
from cli.live import RunView
from cli.session import connect_pooled, new_id
from cli.verbs.market import make_invite

PROVIDERS = (("aurora", "0.30", "eu"), ("borealis", "0.45", "eu"), ("cumulus", "0.60", "us"))
DEPOSIT_NANOS = 20_000_000_000
STARTUP_S = 90.0
KILL_AFTER_ROUND = 5
INNER_STEPS = 20
PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user asked of the demo."""

    data: Path | None
    seed: int
    rounds: int
    keep: bool
    limit_s: float


class TimeLimit(Exception):
    """The demo took longer than it may."""


def play(wishes: Wishes, teller: Teller) -> Outcome:
    """Run the whole demo; whatever happens, nothing of it is left running."""
    began = time.monotonic()
    outcome = Outcome()
    previous = signal.signal(signal.SIGALRM, _over), signal.signal(signal.SIGTERM, _interrupted)
    signal.setitimer(signal.ITIMER_REAL, wishes.limit_s)
    try:
        with Stage(keep=wishes.keep) as stage:
            _perform(stage, wishes, teller, outcome, began)
            signal.setitimer(signal.ITIMER_REAL, 0)
            if wishes.keep:
                teller.say(f"the home is kept: {stage.root}")
        left = stage.left()
        if left:
            outcome.failures.append(f"processes were left: {left}")
    except TimeLimit:
        outcome.failures.append(f"not over after {wishes.limit_s:.0f} s")
    except TimeoutError as error:
        outcome.failures.append(str(error))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous[0])
        signal.signal(signal.SIGTERM, previous[1])
        outcome.seconds = round(time.monotonic() - began, 2)
    return outcome


def _perform(stage: Stage, wishes: Wishes, teller: Teller, outcome: Outcome, began: float) -> None:
    teller.chapter("A market opens")
    told = stage.up()
    teller.say(f"{told['url']}: one exchange, its journal, its books, and Ray beside it")
    with (
        connect_pooled(stage.settings, "operator", patience_s=PATIENCE_S) as operator,
        connect_pooled(stage.settings, "customer", patience_s=PATIENCE_S) as customer,
    ):
        for name, price, region in PROVIDERS:
            stage.provide(name, price, region, make_invite(stage.settings, name)["code"])
        teller.say(
            "three providers join, each a Ray node of its own: " + ", ".join(f"{n} at ${p}/h" for n, p, _ in PROVIDERS)
        )
        operator.deposit(new_id("deposit"), "customer", DEPOSIT_NANOS)
        teller.say(f"the customer's wallet gets {usd(DEPOSIT_NANOS)}")
        spec = _prepare(customer, stage, wishes)
        offers = wait_until(lambda: _all_open(stage, customer.offers()), STARTUP_S, "three open offers")
        outcome.startup_seconds = round(time.monotonic() - began, 2)
        teller.offers(offers)
        teller.chapter("A job bids")
        teller.plan(spec, customer.quote(spec))
        job = new_id("job")
        customer.submit_job(job, spec)
        teller.begin(
            RunView(job, name=spec["name"], planned=spec["rounds"], budget_nanos=spec["limits"]["budget_nanos"])
        )
        killing = _watch(stage, customer, teller, outcome)
        teller.chapter("The bill, the books, the proof")
        _settle(operator, customer, job, teller, outcome)
        outcome.judge(teller.view, killing)


def _all_open(stage: Stage, offers: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    if ended := stage.ended():
        raise TimeoutError("a provider ended: " + "; ".join(f"{name}: {line}" for name, line in ended.items()))
    ready = [one for one in offers if one["state"] == "open"]
    return sorted(ready, key=lambda one: one["price_nanos_per_gpu_hour"]) if len(ready) == len(PROVIDERS) else None


def _prepare(customer: Any, stage: Stage, wishes: Wishes) -> dict[str, Any]:
    from cli.jobfiles import prepare

    text = {
        "name": "demo-gpt",
        "workload": "byte_lm",
        "options": {"size": "1M", "context": 128},
        "data": "stdlib" if wishes.data is None else str(wishes.data),
        "strategy": {
            "name": "diloco",
            "inner_steps": INNER_STEPS,
            "outer_lr": 0.7,
            "outer_momentum": 0.5,
            "codec": "int8",
        },
        "steps": INNER_STEPS * wishes.rounds,
        "workers": {"min": 2, "max": 2, "gpus": 1, "gpu": ["cpu"], "isolation": "process"},
        "limits": {"max_usd_per_gpu_hour": 0.90, "budget_usd": 5.00},
        "checkpoint": {"every_rounds": 1, "keep": 3},
        "seed": wishes.seed,
    }
    file = stage.root / "demo.yaml"
    file.write_text(json.dumps(text, indent=2), encoding="utf-8")  # JSON is YAML
    with prepare(file) as prepared:
        prepared.upload(customer)
        return prepared.spec


def _watch(stage: Stage, customer: Any, teller: Teller, outcome: Outcome) -> Killing | None:
    killing: Killing | None = None
    stalls_ms = 0
    warm = WarmStarts()
    for record in customer.job_events(teller.view.job):
        event = record["event"]
        teller.fold(record)
        warm.hear(record)
        if killing is not None:
            for line in killing.hear(record):
                teller.happened(line)
        elif event["type"] == "round_committed" and event["round"] >= KILL_AFTER_ROUND and len(event["members"]) > 1:
            killing = _kill(stage, event, teller)
            outcome.workers_killed = 1
        if event["type"] == "checkpoint_durable":
            stalls_ms += event["stall_ms"]
    teller.end()
    view = teller.view
    outcome.rounds = view.rounds[-1].round if view.rounds else 0
    outcome.lease_to_training_seconds = warm.median_s
    outcome.round_seconds = _round_seconds(view)
    outcome.checkpoint_stall_fraction = _stall_fraction(view, stalls_ms)
    if killing is not None:
        outcome.recovery_seconds, outcome.replacement_seconds = killing.recovery_s, killing.replacement_s
    return killing


def _kill(stage: Stage, event: dict[str, Any], teller: Teller) -> Killing:
    # The dearer of the two dies; half a round later, so that it dies at work and not at the door.
    victim = max(event["members"], key=lambda member: teller.view.members[member["lease"]].price_nanos)
    time.sleep(event["duration_ms"] / 2000)
    at_ms = time.time_ns() // 1_000_000
    pids = stage.kill(victim["provider"])
    teller.happened(
        f"SIGKILL to {victim['provider']}: {len(pids)} processes, in the middle of round {event['round'] + 1}"
    )
    return Killing(victim["provider"], victim["lease"], at_ms, event["round"], pids)


def _round_seconds(view: RunView) -> float | None:
    gaps = [(after.at_ms - before.at_ms) / 1000 for before, after in pairwise(view.rounds)]
    return round(median(gaps), 3) if gaps else None


def _stall_fraction(view: RunView, stalls_ms: int) -> float | None:
    if len(view.rounds) < 2:
        return None
    trained_ms = view.rounds[-1].at_ms - view.rounds[0].at_ms
    return round(stalls_ms / trained_ms, 5) if trained_ms > 0 else None


def _settle(operator: Any, customer: Any, job: str, teller: Teller, outcome: Outcome) -> None:
    from cli.verbs.proof import check_bundle

    last = customer.job(job)
    outcome.state = last["state"]
    outcome.loss_first, outcome.loss_last = last["loss_first"], last["loss_last"]
    outcome.billed_nanos, outcome.escrow_left_nanos = last["billed_nanos"], last["escrow_nanos"]
    teller.invoice(customer.invoice(job))
    outcome.refunded_nanos = sum(line["refunded_nanos"] for line in customer.billing(job=job))
    outcome.provider_earnings_nanos = sum(operator.balance(name)["earnings_nanos"] for name, _, _ in PROVIDERS)
    books = operator.verify_books()
    outcome.books_balanced = bool(books["ok"] and books.get("balanced", True))
    outcome.fee_nanos = _fee(operator)
    bundle = check_bundle(customer.provenance(job))
    outcome.provenance_verified = bool(bundle["ok"])
    invoice = check_bundle(customer.invoice_bundle(job))
    outcome.invoice_verified = bool(invoice["ok"])
    teller.losses(customer.rounds(job))
    teller.verdicts(outcome, books, bundle, invoice)


def _fee(operator: Any) -> int:
    newest = operator.transfers(account="fee", limit=1)
    return int(newest[0]["balance_nanos"]) if newest else 0


def _over(number: int, frame: FrameType | None) -> None:
    raise TimeLimit


def _interrupted(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
