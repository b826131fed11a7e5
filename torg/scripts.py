"""What a script has anyway (model, optimizer, batches, loss) as a `Workload`."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch.optim.lr_scheduler import LRScheduler

from torg.batches import Numbered, all_of, numbered
from torg.randomness import seed_generators
from torg.rates import Rates
from trainers.workload import Batch, Workload

Schedule: TypeAlias = LRScheduler | Callable[[int, int], float]


@dataclass(frozen=True, slots=True)
class Training:
    """The parts of a loop, as `setup` gives them: this, or a tuple that begins in this order.

    Args:
        model: on the CPU or where the script put it. Its parameters must never change shape.
        optimizer: of that model's parameters.
        batches: a DataLoader, a list of batches, a function of the batch's number in the job, or any iterable.
        loss: of (model, batch), a scalar tensor to minimise.
        held_out: batches that are never trained on; every evaluation reads all of them.
        schedule: a scheduler of torch on that optimizer, or the factor on its rates by (step, total steps); constant without.
        metrics: of (model, batch), further figures of a held-out batch.
        tokens: of a batch, how much data it holds; by default the elements of its first tensor.
    """

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    batches: object
    loss: Callable[[Any, Any], torch.Tensor]
    held_out: Iterable[Batch]
    schedule: Schedule | None = None
    metrics: Callable[[Any, Any], Mapping[str, float]] | None = None
    tokens: Callable[[Any], int] | None = None

    def __post_init__(self) -> None:
        """Raises TypeError or ValueError naming the part that is not what it must be."""
        kinds = {"model": torch.nn.Module, "optimizer": torch.optim.Optimizer, "held_out": Iterable}
        for name, kind in kinds.items():
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise TypeError(f"setup() gave {type(value).__name__} as {name}; it must be a {kind.__name__}")
        for name in ("loss", "metrics", "tokens"):
            value = getattr(self, name)
            if not callable(value) and (value is not None or name == "loss"):
                raise TypeError(f"setup() gave {type(value).__name__} as {name}; it must be a function")
        own = {id(parameter) for parameter in self.model.parameters()}
        if any(id(one) not in own for group in self.optimizer.param_groups for one in group["params"]):
            raise ValueError("setup() gave an optimizer of parameters that its model does not have")
        if isinstance(self.schedule, LRScheduler) and self.schedule.optimizer is not self.optimizer:
            raise ValueError("setup() gave a schedule of another optimizer")
        if self.schedule is not None and not isinstance(self.schedule, LRScheduler) and not callable(self.schedule):
            raise TypeError(
                f"setup() gave {type(self.schedule).__name__} as schedule; it must be a scheduler or a function"
            )


Setup: TypeAlias = Callable[..., Training | tuple[Any, ...]]
GIVEN = ("options", "data", "seed")


class ScriptWorkload(Workload):
    """A workload whose parts a function made, once, after all generators were seeded with the job's seed."""

    setup: Setup

    def __init__(self, options: dict[str, Any], data: Path | None, seed: int) -> None:
        super().__init__(options, data, seed)
        self._made: Training | None = None
        self._numbered: Numbered | None = None
        self._rates: Rates | None = None
        self._names: dict[int, str] = {}

    @property
    def training(self) -> Training:
        """The parts, made at first use."""
        if self._made is None:
            setup, given = type(self).setup, {"options": self.options, "data": self.data, "seed": self.seed}
            seed_generators(self.seed)
            torch.manual_seed(self.seed)  # cards too, and the CPU as every other workload's model is drawn
            self._made = made = _training(setup(**{name: given[name] for name in _wanted(setup)}))
            self._numbered = numbered(made.batches, self.seed)
            self._rates = Rates(made.schedule) if isinstance(made.schedule, LRScheduler) else None
            self._names = {id(parameter): name for name, parameter in made.model.named_parameters()}
        return self._made

    def model(self) -> torch.nn.Module:
        """The script's."""
        return self.training.model

    def optimizer(self, model: torch.nn.Module, total_steps: int) -> torch.optim.Optimizer:
        """The script's, of the parameters that the model has now: sharding puts others in their places."""
        optimizer, now = self.training.optimizer, dict(model.named_parameters())
        for group in optimizer.param_groups:
            group["params"] = [now[self._names[id(parameter)]] for parameter in group["params"]]
        return optimizer

    def learning_rates(self, base: Sequence[float], step: int, total_steps: int) -> list[float]:
        """As the script's scheduler has them; without one they are constant."""
        schedule = self.training.schedule
        if self._rates is not None:
            return self._rates.at(step)
        factor = 1.0 if schedule is None else schedule(step, total_steps)  # type: ignore[operator]  # no LRScheduler
        return [rate * factor for rate in base]

    def stream_batch(self, seed: int, index: int) -> Batch:
        """The script's batch of that number."""
        assert seed == self.seed, "numbered with the job's seed"
        self.training  # noqa: B018  # makes them
        assert self._numbered is not None
        return self._numbered(index)

    def held_out(self) -> Sequence[Batch]:
        """All of them."""
        found = all_of(self.training.held_out, self.seed)
        if not found:
            raise ValueError("setup() gave no batches as held_out")
        return found

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """The script's."""
        return self.training.loss(model, batch)

    def metrics(self, model: torch.nn.Module, batch: Batch) -> Mapping[str, float]:
        """The script's, if it has any."""
        metrics = self.training.metrics
        return {} if metrics is None else metrics(model, batch)

    def tokens(self, batch: Batch) -> int:
        """As the script counts, or elements of the first tensor."""
        count = self.training.tokens
        return super().tokens(batch) if count is None else count(batch)


def workload(setup: Setup) -> type[Workload]:
    """The workload of a function that makes a loop's parts: a class for `workload: ./train.py:NAME` in a job file.

    `setup` may take any of `options` (the job file's, a dict), `data` (the folder with the job's data, or None) and `seed`,
    by these names. It gives a `Training`, or a tuple (model, optimizer, batches, loss, held_out). Also a decorator.
    Raises TypeError for a function that wants anything else.
    """
    _wanted(setup)
    name = getattr(setup, "__name__", "Script")
    described = {"setup": staticmethod(setup), "__doc__": setup.__doc__, "__module__": setup.__module__}
    return type(name, (ScriptWorkload,), described)


def _wanted(setup: Setup) -> list[str]:
    """Which of what there is the function takes."""
    if not callable(setup):
        raise TypeError(f"torg.workload takes a function that makes the loop's parts, not {type(setup).__name__}")
    wanted = []
    for name, parameter in inspect.signature(setup).parameters.items():
        if name in GIVEN:
            wanted.append(name)
        elif parameter.default is parameter.empty or parameter.kind in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        ):
            raise TypeError(f"setup wants {name!r}; it may take {', '.join(GIVEN)}")
    return wanted


def _training(made: object) -> Training:
    if isinstance(made, Training):
        return made
    names = [one.name for one in fields(Training)]
    if isinstance(made, tuple) and 5 <= len(made) <= len(names):
        return Training(*made)
    what = f"{len(made)} parts" if isinstance(made, tuple) else type(made).__name__
    raise TypeError(
        f"setup() gave {what}; it must give model, optimizer, batches, loss and held_out, or a torg.Training"
    )
