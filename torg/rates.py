"""Learning rates by global step as a scheduler of torch gives them, for members that join late or go back a round."""

import warnings
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau


class Rates:
    """The scheduler is stepped once a global step, ahead of the loop; what it said is kept."""

    def __init__(self, scheduler: LRScheduler) -> None:
        """Raises TypeError or ValueError for one that no function of the step can stand for."""
        if isinstance(scheduler, ReduceLROnPlateau):
            raise TypeError(
                "schedule is ReduceLROnPlateau, which follows one worker's loss; give a function of the step"
            )
        self._scheduler = scheduler
        self._optimizer: Optimizer = scheduler.optimizer
        self._known = [self._now()]

    def at(self, step: int) -> list[float]:
        """One for each group of parameters. Raises ValueError when the scheduler changes more than rates."""
        while len(self._known) <= step:
            self._advance()
        return self._known[step]

    def _advance(self) -> None:
        groups = self._optimizer.param_groups
        for group, rate in zip(groups, self._known[-1], strict=True):
            group["lr"] = rate
        before = [_settings(group) for group in groups]
        with warnings.catch_warnings():  # that optimizer.step() was to come first: here the loop steps, later
            warnings.simplefilter("ignore")
            self._scheduler.step()
        for group, was in zip(groups, before, strict=True):
            changed = sorted(name for name, value in _settings(group).items() if value != was.get(name))
            if changed:
                raise ValueError(
                    f"schedule changes {changed[0]!r} of the optimizer; only learning rates follow the global step "
                    "(OneCycleLR and CyclicLR: cycle_momentum=False)"
                )
        self._known.append(self._now())

    def _now(self) -> list[float]:
        return [float(group["lr"]) for group in self._optimizer.param_groups]


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name not in ("params", "lr", "initial_lr")}
