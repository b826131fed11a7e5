"""How many inner steps each round of a job has: by its strategy and the step it begins at alone, so that whoever restores,
rewinds or plans a job finds the same rounds. No numpy, no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainers.options import round_steps, strategy_options


@dataclass(frozen=True, slots=True)
class RoundLengths:
    """Rounds of `steps` inner steps each, and of `later` from the first one on that begins at `later_from` or after it (with
    `later` None never). All are global inner steps; the last round ends with the job, at `total`.
    """

    total: int
    steps: int
    later: int | None = None
    later_from: int = 0

    def end_of(self, start: int) -> int:
        """Where the round ends that begins at step `start`."""
        steps = self.steps if self.later is None or start < self.later_from else self.later
        return min(start + steps, self.total)

    def rounds_from(self, start: int) -> int:
        """How many rounds there are from step `start` on, at which one begins."""
        if self.later is None:
            return -(-max(0, self.total - start) // self.steps)
        before = -(-max(0, min(self.later_from, self.total) - start) // self.steps)
        return before + -(-max(0, self.total - start - before * self.steps) // self.later)


def round_lengths(strategy: Mapping[str, Any], total_steps: int) -> RoundLengths:
    """Of a job of so many inner steps; options with their defaults filled in or not."""
    options = strategy_options(strategy)
    if "inner_steps_later" not in options:
        return RoundLengths(total_steps, round_steps(options))
    later_from = round(float(options["later_from"]) * total_steps)
    return RoundLengths(total_steps, round_steps(options), int(options["inner_steps_later"]), later_from)


def lengths_said(strategy: Mapping[str, Any], total_steps: int | None) -> str:
    """For people, of whole options: `30 steps`, `3 steps, 7 from step 330 on`."""
    said = f"{strategy.get('inner_steps')} steps"
    if "inner_steps_later" not in strategy:
        return said
    share = float(strategy["later_from"])
    since = f"{share:.3g} of its steps" if total_steps is None else f"step {round(share * total_steps)}"
    return f"{said}, {strategy['inner_steps_later']} from {since} on"
