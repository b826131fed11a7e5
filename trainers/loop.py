"""The inner loop: H optimiser steps from the parameters that everybody agrees on. Readable in one screen, on purpose.

Flat vectors are float32, parameters in the order of `model.named_parameters()`.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch

from trainers.flat import FlatModel, ShapeChanged
from trainers.workload import Batch, Workload

__all__ = ["InnerLoop", "InnerResult", "NotFinite", "ShapeChanged"]

CPU = torch.device("cpu")


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

    def __init__(self, workload: Workload, seed: int, total_steps: int, device: torch.device = CPU) -> None:
        torch.manual_seed(seed)
        self.workload, self.seed, self.total_steps, self.device = workload, seed, total_steps, device
        self.model = workload.model().to(device)  # made on the CPU: the same initial bits whatever the device
        self.flat = FlatModel(self.model)
        self.optimizer = workload.optimizer(self.model, total_steps)
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.held_out: Sequence[Batch] | None = None

    def train(
        self,
        first_step: int,
        steps: int,
        worker: int,
        progress: Callable[[int, float, int], None] = lambda *_: None,
        *,
        position: int = 0,
        exchange: Exchange | None = None,
    ) -> InnerResult:
        """Steps first_step … first_step+steps−1 on this worker's data. `progress` gets (steps done, loss, tokens).

        `position`: number of the first batch for a workload that streams. With `exchange` every step's gradient goes
        through it; what it raises ends the call before that step changed anything.
        """
        torch.manual_seed(hash_seed(self.seed, worker, first_step))  # dropout too can be replayed from the schedule
        self.model.train()
        losses, tokens, began, waited = [], 0, time.monotonic(), 0.0
        for step in range(first_step, first_step + steps):
            rate = self._schedule(step)
            batch = self.workload.next_batch(self.seed, step, worker, position + step - first_step)
            loss = self._loss(batch, step)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch
            if exchange is None:
                self._optimise(step)
            else:
                waited += self._exchange(exchange, step, rate)
            losses.append(loss.item())
            tokens += int(self.workload.tokens(batch))
            progress(len(losses), losses[-1], tokens)
        return InnerResult(losses, tokens, round((time.monotonic() - began - waited) * 1000))

    @torch.no_grad()
    def evaluate(self) -> float:
        """Mean loss over the held-out batches."""
        if self.held_out is None:
            self.held_out = self.workload.held_out()
            if not self.held_out:
                raise ValueError("held_out() returned no batches")
        self.model.eval()
        return float(np.mean([self._loss(batch, None).item() for batch in self.held_out]))

    def write_parameters(self, flat: np.ndarray) -> None:
        """Copy the model into `flat`, float32 [n]."""
        self.flat.write_parameters(flat)

    def read_parameters(self, flat: np.ndarray) -> None:
        """Copy `flat`, float32 [n], into the model; the optimiser state is left as it is."""
        self.flat.read_parameters(flat)

    def _schedule(self, step: int) -> float:
        """Set the learning rates of a global step; the first group's, which a strategy may need."""
        factor = self.workload.schedule(step, self.total_steps)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        return self.rates[0] * factor

    def _optimise(self, step: int) -> None:
        """One step of the inner optimiser with the gradient that is there."""
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if not torch.isfinite(norm):
            raise NotFinite(f"the gradient is {norm.item()} at step {step}")
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
        return waited

    def _loss(self, batch: Batch, step: int | None) -> torch.Tensor:
        loss = self.workload.loss(self.model, on_device(batch, self.device))
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
            raise TypeError(f"loss() must return a scalar tensor, not {what}")
        if not torch.isfinite(loss):
            raise NotFinite(f"the loss is {loss.item()} " + ("on held-out data" if step is None else f"at step {step}"))
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


def hash_seed(seed: int, worker: int, step: int) -> int:
    """One 63-bit seed from three numbers, the same on every machine."""
    return int(np.random.SeedSequence([seed, worker, step]).generate_state(1, np.uint64)[0] >> 1)
