"""What a death costs: the demo's job, a provider's processes killed with SIGKILL in mid-round, several times over.

`recovery_s`: from the kill to the next committed round; `replacement_s`: to the first round with the newcomer's own
contribution; both also as ratios to the median round of the same runs. `lease_to_training_s`: from a lease's grant to
its worker's first inner step, with a warm worker. `goodput`: charged ÷ metered money.

    python -m benchmarks.faults --json
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from benchmarks.report import Target, finish, parser, say
from cli.demo.script import Wishes, play
from cli.demo.telling import Teller
from cli.settings import Settings


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument("--rounds", type=int, default=14)
    chosen = arguments.parse_args()
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
