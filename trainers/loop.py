"""The inner loop: H optimiser steps from the parameters that everybody agrees on. Readable in one screen, on purpose.

Flat vectors are float32, parameters in the order of `model.named_parameters()`.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch

from trainers.flat import FlatModel, ShapeChanged
from trainers.inner_options import InnerOptions
from trainers.inner_state import StateFile, import_state, state_file
from trainers.metrics import mean_metrics
from trainers.precision import LossScale, forward_in, norm_of
from trainers.preparing import compiled, recompute_activations, shard
from trainers.ranks import Ranks
from trainers.sharding import gather_no_longer, whole
from trainers.workload import Batch, OnePass, Workload

__all__ = ["InnerLoop", "InnerResult", "NotFinite", "ShapeChanged"]

CPU = torch.device("cpu")
DEFAULTS = InnerOptions()


class NotFinite(Exception):
    """A loss or gradient became NaN or infinite; the message says where."""


@dataclass(frozen=True, slots=True)
class InnerResult:
    """What H steps gave. `losses` has one entry a step; `trained_ms` is wall time in the loop without exchanges."""

    losses: list[float]
    tokens: int
    trained_ms: int


class Exchange(Protocol):
    """Where the gradient of every step goes before anything is done with it."""

    flat: np.ndarray
    """float32 [n]: the gradient is written here, and what comes back is read from here."""
    applies: Literal["parameters", "gradient"]
    """What comes back: parameters to go on from, or the gradient that the optimiser is to use."""

    def __call__(self, step: int, rate: float) -> None:
        """`flat` holds the gradient of that step now; returns when it holds the answer. May raise."""


class InnerLoop:
    """One worker's model and inner optimiser state, which stays here and is never reset between rounds."""

    def __init__(
        self,
        workload: Workload,
        seed: int,
        total_steps: int,
        device: torch.device = CPU,
        options: InnerOptions = DEFAULTS,
        ranks: Ranks | None = None,
    ) -> None:
        torch.manual_seed(seed)
        self.workload, self.seed, self.total_steps, self.device = workload, seed, total_steps, device
        self.options, self.ranks = options, ranks or Ranks()
        self.model = workload.model().to(device)  # made on the CPU: the same initial bits whatever the device
        if options.activation_checkpointing:
            recompute_activations(workload.checkpointed(self.model))
        if self.ranks.count > 1 and options.sharding == "fsdp2":
            shard(self.model)
        self.flat = FlatModel(self.model, writes=self.ranks.rank == 0, alone=self.ranks.count == 1)
        self.called = compiled(self.model, device) if options.compile else self.model
        self.scale = LossScale() if options.precision == "fp16" else None
        self.optimizer = workload.optimizer(self.model, total_steps)
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.held_out: Sequence[Batch] | None = None
        self.metrics: dict[str, float] = {}

    def train(
        self,
        first_step: int,
        steps: int,
        worker: int,
        progress: Callable[[int, float, int], None] = lambda *_: None,
        *,
        position: int = 0,
        uneven: bool = False,
        exchange: Exchange | None = None,
    ) -> InnerResult:
        """Steps first_step … first_step+steps−1 on this worker's data. `progress` gets (steps done, loss, tokens).

        `position`: number of the first step among all steps that the whole job has batches for; a step's batches are
        those of its number, so no two workers, ranks or micro-batches share one. `uneven`: workers train unequal numbers
        of steps in a round, so that only this number tells the batches of `Workload.batch` apart, too. With `exchange` every step's gradient goes
        through it; what it raises ends the call before that step changed anything. Losses are means and tokens sums
        over micro-batches and ranks; `progress` is told of this rank's tokens. NotFinite is raised at all ranks.
        """
        seeds = [self.seed, worker, first_step] + ([self.ranks.rank] if self.ranks.rank else [])
        torch.manual_seed(hash_seed(*seeds))  # dropout too can be replayed from the schedule
        self.model.train()
        losses, tokens, began, waited = [], 0, time.monotonic(), 0.0
        for step in range(first_step, first_step + steps):
            rate = self._schedule(step)
            number = position + step - first_step
            loss, seen = self._gradient(step, worker, number, number if uneven else step)
            if exchange is None:
                self._optimise(step)
            else:
                waited += self._exchange(exchange, step, rate)
            losses.append(loss)
            tokens += seen
            progress(len(losses), loss, tokens)
        trained_ms = round((time.monotonic() - began - waited) * 1000)
        *sums, all_tokens = self.ranks.totals([*losses, tokens])
        return InnerResult([total / self.ranks.count for total in sums], round(all_tokens), trained_ms)

    @torch.no_grad()
    def evaluate(self) -> float | None:
        """Mean loss over the held-out batches, None when it is not finite; `metrics` are the means of the workload's other
        figures afterwards, none without a loss.
        """
        if self.held_out is None:
            self.held_out = self.workload.held_out()
            if not self.held_out:
                raise ValueError("held_out() returned no batches")
        self.model.eval()
        losses, found = [], []
        for batch in self.held_out:
            loss, figures = self._evaluated(batch)
            losses.append(float(loss.item()))
            found.append(figures)
        gather_no_longer(self.model)
        mean = float(np.mean(losses))
        self.metrics = mean_metrics(found) if math.isfinite(mean) else {}
        return mean if math.isfinite(mean) else None

    def write_parameters(self, flat: np.ndarray) -> None:
        """Copy the model into `flat`, float32 [n]."""
        self.flat.write_parameters(flat)

    def read_parameters(self, flat: np.ndarray) -> None:
        """Copy `flat`, float32 [n], into the model; the optimiser state is left as it is."""
        self.flat.read_parameters(flat)

    def inner_file(self) -> StateFile:
        """The inner optimiser's state as a safetensors file that is still to be written. Raises InnerStateError."""
        return state_file(self.optimizer, self.flat.named(), None if self.scale is None else self.scale.value)

    def export_inner(self) -> bytes:
        """The inner optimiser's state as safetensors. Raises InnerStateError."""
        return self.inner_file().content()

    def import_inner(self, exported: bytes) -> None:
        """Another worker's state of the same optimiser takes the place of this one's. Raises InnerStateError."""
        scale = import_state(exported, self.optimizer, self.flat.named())
        if self.scale is not None and scale is not None:
            self.scale.value = scale

    def _schedule(self, step: int) -> float:
        """Set the learning rates of a global step; the first group's, which a strategy may need."""
        rates = self.workload.learning_rates(self.rates, step, self.total_steps)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        return rates[0]

    def _gradient(self, step: int, worker: int, position: int, drawn: int) -> tuple[float, int]:
        """The gradient and the loss of one step, means over its micro-batches and ranks; this rank's tokens. `drawn`: by
        which number `Workload.batch` draws.
        """
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            loss, tokens = self._backward(worker, position, drawn)
            if self.ranks.count > 1:
                self.ranks.average([*self._gradients(fill=True), loss])
            value = self._finite(loss, f"at step {step}")  # only here, that all ranks find the same
            if self.scale is None or self.scale.take_off(self._gradients()):
                return value, tokens

    def _backward(self, worker: int, position: int, drawn: int) -> tuple[torch.Tensor, int]:
        """Add up the gradients of this rank's micro-batches, each divided by their number; mean loss, a scalar."""
        parts, all_parts = self.options.accumulate, self.options.accumulate * self.ranks.count
        losses, tokens = [], 0
        for micro in range(parts):
            own = micro * self.ranks.count + self.ranks.rank
            batch = self.workload.next_batch(self.seed, drawn * all_parts + own, worker, position * all_parts + own)
            loss = self._loss(batch)
            scaled = loss / parts if parts > 1 else loss
            (scaled * self.scale.value if self.scale is not None else scaled).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach().float().reshape(()))
            tokens += int(self.workload.tokens(batch))
        mean = losses[0] if parts == 1 else torch.stack(losses).mean()
        return mean, tokens

    def _gradients(self, fill: bool = False) -> list[torch.Tensor]:
        """Those that are there; with `fill` zeros take the place of those that are not, as other ranks may have them."""
        if fill:
            for parameter in self.flat.parameters:
                if parameter.requires_grad and parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        return [parameter.grad for parameter in self.flat.parameters if parameter.grad is not None]

    def _optimise(self, step: int) -> None:
        """One step of the inner optimiser with the gradient that is there."""
        if self.options.clip > 0:
            norm = whole(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip))
        else:
            norm = norm_of(self._gradients())
        self._finite(norm, f"at step {step}", "gradient")
        self.optimizer.step()

    def _exchange(self, exchange: Exchange, step: int, rate: float) -> float:
        """Hand the gradient over and use what comes back; seconds spent waiting for it."""
        self.flat.write_gradient(exchange.flat)
        asked = time.monotonic()
        exchange(step, rate)
        waited = time.monotonic() - asked
        if exchange.applies == "parameters":
            self.flat.read_parameters(exchange.flat)
        else:
            self.flat.read_gradient(exchange.flat)
            self._optimise(step)
            self.flat.drop_gradient()
        return waited

    def _loss(self, batch: Batch) -> torch.Tensor:
        """One forward pass. Raises TypeError for what is no scalar."""
        with forward_in(self.options.precision, self.device):
            loss = self.workload.loss(self.called, on_device(batch, self.device))
        return _scalar(loss)

    def _evaluated(self, batch: Batch) -> tuple[torch.Tensor, Mapping[str, float]]:
        """Loss and figures of a held-out batch: of one forward pass where the workload allows it. Raises TypeError."""
        workload = self.workload
        if not (isinstance(workload, OnePass) and workload.in_one_pass):
            return self._loss(batch), workload.metrics(self.called, on_device(batch, self.device))
        batch = on_device(batch, self.device)
        with forward_in(self.options.precision, self.device):
            outputs = workload.outputs(self.called, batch)
            return _scalar(workload.loss_of(outputs, batch)), workload.metrics_of(outputs, batch)

    def _finite(self, number: torch.Tensor, where: str, what: str = "loss") -> float:
        """A scalar's value, for which the device is waited for. Raises NotFinite."""
        value = float(number.item())
        if not math.isfinite(value):
            raise NotFinite(f"the {what} is {value} {where}")
        return value


def _scalar(loss: object) -> torch.Tensor:
    """The same. Raises TypeError for what is no scalar tensor."""
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise TypeError(f"loss() must return a scalar tensor, not {what}")
    return loss


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with all its tensors on that device: those in tuples, lists and dicts too, and whatever has a `to`."""
    if callable(getattr(batch, "to", None)):
        return batch.to(device)
    if isinstance(batch, tuple):
        moved = [on_device(part, device) for part in batch]
        return type(batch)(*moved) if hasattr(batch, "_fields") else tuple(moved)
    if isinstance(batch, list):
        return [on_device(part, device) for part in batch]
    if isinstance(batch, dict):
        return {name: on_device(part, device) for name, part in batch.items()}
    return batch


def hash_seed(*numbers: int) -> int:
    """One 63-bit seed from several numbers, the same on every machine."""
    return int(np.random.SeedSequence(list(numbers)).generate_state(1, np.uint64)[0] >> 1)
