"""How long a member may take: measured against its own average, allowed what is usual among all."""

import statistics
from collections import deque
from collections.abc import Mapping
from types import MappingProxyType

from trainers.round_decisions import RoundPlan

SAMPLES = 32
LEAST_DEVIATION = 0.05
EVERY_STEP_PATIENCE = 4.0


class Patience:
    """Each member's average time a step, and how far shares were from these averages lately."""

    def __init__(self) -> None:
        self._ms_per_step: dict[int, float] = {}
        self._ratios: deque[float] = deque(maxlen=SAMPLES)

    @property
    def ms_per_step(self) -> Mapping[int, float]:
        """A member's average so far."""
        return MappingProxyType(self._ms_per_step)

    def measured(self, slot: int, steps: int, took_ms: int) -> None:
        """A member did its share."""
        per_step = max(1e-6, took_ms / steps)
        before = self._ms_per_step.get(slot)
        if before is not None:
            self._ratios.append(per_step / before)
        self._ms_per_step[slot] = per_step if before is None else 0.5 * (before + per_step)

    def forget(self, slot: int) -> None:
        """A member is gone."""
        self._ms_per_step.pop(slot, None)

    def allowed_ms(self, plan: RoundPlan, slot: int, steps: int, *, fetching: bool) -> int:
        """For these steps: (median + tolerance · MAD) of what shares took, times this member's average, and some grace."""
        known, patience = self._ms_per_step.get(slot), float(plan.first_deadline_ms)
        if known is not None and self._ratios:
            median = statistics.median(self._ratios)
            deviation = statistics.median(abs(ratio - median) for ratio in self._ratios)
            usual = median + plan.tolerance * max(deviation, LEAST_DEVIATION)
            patience = known * steps * max(1.0, usual) + plan.grace_ms
            if plan.every_step:
                patience *= EVERY_STEP_PATIENCE
        return round(patience) + (plan.joining_grace_ms if fetching else 0)
