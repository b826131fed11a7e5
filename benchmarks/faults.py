"""What a death costs: the demo's job, a provider's processes killed with SIGKILL in mid-round, several times over.

`recovery_s`: from the kill to the next committed round; `replacement_s`: to the first round with the newcomer's own
contribution; both also as ratios to the median round of the same runs. `lease_to_training_s`: from a lease's grant to
its worker's first inner step, with a warm worker. `goodput`: charged ÷ metered money.

    python -m benchmarks.faults --json

With `--script` a job on a fleet of worker processes instead (no Ray, no market), through the failures that the script
names (`benchmarks.failures`); see `benchmarks.goodput` for the figures.

    python -m benchmarks.faults --script "kill every 20" --seconds 180 --workers 3
    python -m benchmarks.faults --script "kill 1 at 30; freeze any at 60 for 10; cut 0 at 90; kill all at 120" --link none
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.failures import script
from benchmarks.goodput import figures_of
from benchmarks.report import Target, finish, parser, say
from benchmarks.trials import Job, Place, run_torg
from cli.demo.script import Wishes, play
from cli.demo.telling import Teller
from cli.settings import Settings
from trainers.options import STRATEGIES

MAX_STEPS = 1_000_000
PATIENCE_S = 120.0


def scripted(chosen: argparse.Namespace) -> int:
    """A fleet through a script of failures. With the same length and no script: what the failures cost."""
    job = Job(
        size=chosen.size, inner_steps=chosen.inner_steps, workers=chosen.workers, link=chosen.link, steps=MAX_STEPS,
        seed=chosen.seed, checkpoint_every=chosen.checkpoint_every,
    )  # fmt: skip
    failures = script(chosen.script, seed=chosen.seed, seconds=chosen.seconds)
    with Place() as place:
        _, record = run_torg(
            place, job, chosen.strategy, {}, timeout_s=chosen.seconds + PATIENCE_S, failures=failures,
            spares=chosen.spares, pause_after_s=chosen.seconds,
        )  # fmt: skip
    figures = figures_of(record)
    told = [{"kind": one.kind, "slot": one.slot, "at_s": one.at_s - record.began_s} for one in record.happened]
    return finish(figures, _promised(chosen.script, figures), chosen.json, {"happened": told})


def _promised(text: str, figures: Mapping[str, float]) -> dict[str, Target]:
    least = {"kill every 60": 0.90, "kill every 20": 0.70}.get(text)
    goodput = {} if least is None else {"goodput": Target(figures["goodput"], least, at_most=False)}
    bounds = {"warm_ready_s": 3.0, "cold_ready_s": 10.0, "rounds_from_ready_to_first_contribution": 1.0}
    return goodput | {name: Target(figures[name], bound) for name, bound in bounds.items() if name in figures}


def main() -> int:
    arguments = parser(__doc__)
    arguments.formatter_class = argparse.RawDescriptionHelpFormatter
    arguments.add_argument("--runs", type=int, default=3, help="of the demo")
    arguments.add_argument("--rounds", type=int, default=14, help="of the demo")
    arguments.add_argument("--script", default=None)
    arguments.add_argument("--seconds", type=float, default=180.0)
    arguments.add_argument("--workers", type=int, default=3)
    arguments.add_argument("--spares", type=int, default=1, help="warm workers that wait for a lease")
    arguments.add_argument("--strategy", default="diloco", choices=sorted(STRATEGIES))
    arguments.add_argument("--link", default="loopback")
    arguments.add_argument("--size", default="1M")
    arguments.add_argument("--inner-steps", type=int, default=10)
    arguments.add_argument("--checkpoint-every", type=int, default=1, help="rounds")
    arguments.add_argument("--seed", type=int, default=1)
    chosen = arguments.parse_args()
    return demo(chosen) if chosen.script is None else scripted(chosen)


def demo(chosen: argparse.Namespace) -> int:
    """The demo, several times."""
    outcomes = []
    for number in range(chosen.runs):
        teller = Teller(Settings(Path(), None, None, as_json=True, color=False))
        outcome = play(Wishes(None, 1 + number, chosen.rounds, False, 240.0), teller)
        if outcome.failures:
            say(False, f"run {number + 1} failed: {'; '.join(outcome.failures)}")
            return 1
        say(
            chosen.json,
            f"run {number + 1}: recovery {outcome.recovery_seconds} s, replacement {outcome.replacement_seconds} s",
        )
        outcomes.append(outcome)

    def median(pick) -> float:
        return float(statistics.median(pick(outcome) for outcome in outcomes))

    round_s = median(lambda one: one.round_seconds)
    recovery_s, replacement_s = median(lambda one: one.recovery_seconds), median(lambda one: one.replacement_seconds)
    figures = {
        "recovery_s": recovery_s,
        "replacement_s": replacement_s,
        "round_s": round_s,
        "recovery_ratio_to_round": recovery_s / round_s,
        "replacement_ratio_to_round": replacement_s / round_s,
        "lease_to_training_s": median(lambda one: one.lease_to_training_seconds),
        "checkpoint_stall_fraction": median(lambda one: one.checkpoint_stall_fraction),
        "goodput": median(lambda one: one.billed_nanos / (one.billed_nanos + one.refunded_nanos)),
        "startup_s": median(lambda one: one.startup_seconds),
        "whole_demo_s": median(lambda one: one.seconds),
    }
    targets = {
        "lease_to_training_s": Target(figures["lease_to_training_s"], 1.0),
        "checkpoint_stall_fraction": Target(figures["checkpoint_stall_fraction"], 0.01),
        "startup_s": Target(figures["startup_s"], 45.0),
        "whole_demo_s": Target(figures["whole_demo_s"], 120.0),
    }
    return finish(figures, targets, chosen.json)


if __name__ == "__main__":
    sys.exit(main())
