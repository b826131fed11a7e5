"""What a bid is worth in a clearing: for how long it will hold its machines, and what waiting adds. Pure integers.

A seat is worth (limit − ask) × hours × GPUs. The hours are what is expected to remain: of the estimate that the customer was
told, else of the command's timeout, else of the deadline, else an hour; never more than the deadline leaves, nor than the
escrow pays for the smallest gang at the limit. So no bid counts for more than the money behind it.

Waiting adds: the weight is 1 + hours waited, 25 at most. A bid that has waited four times as long as it will take (an hour
at least, a day at most; the operator may say otherwise, `DueRule`) is **due**: it goes before all that are not, the longest waiting first, and free seats that the first
of those could use are kept for it until its gang is whole. So nobody starves, however much others would pay. A gang
that runs below its minimum is due at once, and so is a job for its customer's own machines alone, which offers no money: it
goes before those who rent them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from market.orders import PPM
from storage.units import MS_PER_DAY, MS_PER_HOUR

DEFAULT_MS: Final = MS_PER_HOUR
LEAST_MS: Final = 60_000
AGE_MS: Final = MS_PER_HOUR
MOST_AGE: Final = 24
MOST_AGE_MS: Final = MOST_AGE * AGE_MS
MOST_PATIENCE: Final = 1_000
MOST_DUE_MS: Final = 365 * MS_PER_DAY


@dataclass(frozen=True, slots=True)
class DueRule:
    """From when on a bid is due, as the operator says: it has waited `patience` times as long as it will hold its machines, an hour
    at least and `most_ms` at most. Without patience (None) waiting makes nobody due."""

    patience: int | None = 4
    most_ms: int = MS_PER_DAY

    def after_ms(self, expected: int) -> int | None:
        """How long a bid that would hold its machines for `expected` ms waits until it is due; None: for ever."""
        return None if self.patience is None else min(self.most_ms, max(MS_PER_HOUR, self.patience * expected))


def expected_ms(
    spec: Mapping[str, Any],
    estimate: Mapping[str, Any] | None,
    *,
    rounds_committed: int = 0,
    running_ms: int = 0,
    age_ms: int = 0,
    spendable_nanos: int | None = None,
) -> int:
    """For how long the job will hold its machines from now on, by the rule above; a minute at least.

    Args:
        rounds_committed: of a job that trains; its estimate is for all of them.
        running_ms: for how long a command has run.
        age_ms: since the job was submitted, which the deadline counts from.
        spendable_nanos: what is left for it; None: its whole budget.
    """
    command, limits, workers = spec.get("command"), spec["limits"], spec["workers"]
    deadline_ms = limits["deadline_ms"]
    timeout_ms = None if command is None else command["timeout_ms"]
    if estimate is not None and estimate["middle_ms"] is not None:
        whole_ms = int(estimate["middle_ms"])
    elif timeout_ms is not None:
        whole_ms = int(timeout_ms)
    else:
        whole_ms = DEFAULT_MS if deadline_ms is None else int(deadline_ms)
    if command is not None:
        found = whole_ms - running_ms
    else:
        rounds = max(1, int(spec["rounds"]))
        found = whole_ms * max(0, rounds - rounds_committed) // rounds
    if deadline_ms is not None:
        found = min(found, deadline_ms - age_ms)
    money = limits["budget_nanos"] if spendable_nanos is None else spendable_nanos
    rate = limits["max_price_nanos_per_gpu_hour"] * workers["gpus"] * max(1, workers["min"])
    return max(LEAST_MS, min(found, max(0, money) * MS_PER_HOUR // max(1, int(rate))))


def weight_ppm(waited_ms: int) -> int:
    """What waiting makes of a bid's worth."""
    return PPM + min(max(0, waited_ms), MOST_AGE_MS) * PPM // AGE_MS
