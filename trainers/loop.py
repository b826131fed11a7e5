"""The inner loop: H optimiser steps from the parameters that everybody agrees on. Readable in one screen, on purpose.

Flat vectors are float32, parameters in the order of `model.named_parameters()`.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from trainers.workload import Batch, Workload

CPU = torch.device("cpu")


class NotFinite(Exception):
    """A loss or gradient became NaN or infinite; the message says where."""


class ShapeChanged(Exception):
    """The model's parameters are not those that it had when it was loaded."""


@dataclass(frozen=True, slots=True)
class InnerResult:
    """What H steps gave. `losses` has one entry a step; `trained_ms` is wall time in the loop."""

    losses: list[float]
    tokens: int
    trained_ms: int


class InnerLoop:
    """One worker's model and inner optimiser state, which stays here and is never reset between rounds."""

    def __init__(self, workload: Workload, seed: int, total_steps: int, device: torch.device = CPU) -> None:
        torch.manual_seed(seed)
        self.workload, self.seed, self.total_steps, self.device = workload, seed, total_steps, device
        self.model = workload.model().to(device)  # made on the CPU: the same initial bits whatever the device
        self.shapes = self._shapes()
        self.optimizer = workload.optimizer(self.model, total_steps)
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.held_out: Sequence[Batch] | None = None

    def train(
        self, first_step: int, steps: int, worker: int, progress: Callable[[int, float, int], None] = lambda *_: None
    ) -> InnerResult:
        """Steps first_step … first_step+steps−1 on this worker's data. `progress` gets (steps done, loss, tokens)."""
        torch.manual_seed(hash_seed(self.seed, worker, first_step))  # dropout too can be replayed from the schedule
        self.model.train()
        losses, tokens, began = [], 0, time.monotonic()
        for step in range(first_step, first_step + steps):
            for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
                group["lr"] = rate * self.workload.schedule(step, self.total_steps)
            batch = self.workload.batch(self.seed, step, worker)
            loss = self._loss(batch, step)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            if not torch.isfinite(norm):
                raise NotFinite(f"the gradient is {norm.item()} at step {step}")
            self.optimizer.step()
            losses.append(loss.item())
            tokens += int(self.workload.tokens(batch))
            progress(len(losses), losses[-1], tokens)
        return InnerResult(losses, tokens, round((time.monotonic() - began) * 1000))

    @torch.no_grad()
    def evaluate(self) -> float:
        """Mean loss over the held-out batches."""
        if self.held_out is None:
            self.held_out = self.workload.held_out()
            if not self.held_out:
                raise ValueError("held_out() returned no batches")
        self.model.eval()
        return float(np.mean([self._loss(batch, None).item() for batch in self.held_out]))

    @torch.no_grad()
    def write_parameters(self, flat: np.ndarray) -> None:
        """Copy the model into `flat`, float32 [n]."""
        self._check_shapes(flat.size)
        offset = 0
        for parameter in self.model.parameters():
            flat[offset : offset + parameter.numel()] = parameter.detach().reshape(-1).to("cpu", torch.float32).numpy()
            offset += parameter.numel()

    @torch.no_grad()
    def read_parameters(self, flat: np.ndarray) -> None:
        """Copy `flat`, float32 [n], into the model; the optimiser state is left as it is."""
        self._check_shapes(flat.size)
        offset = 0
        for parameter in self.model.parameters():
            part = torch.from_numpy(flat[offset : offset + parameter.numel()])
            parameter.copy_(part.reshape(parameter.shape))
            offset += parameter.numel()

    def _loss(self, batch: Batch, step: int | None) -> torch.Tensor:
        loss = self.workload.loss(self.model, on_device(batch, self.device))
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
            raise TypeError(f"loss() must return a scalar tensor, not {what}")
        if not torch.isfinite(loss):
            raise NotFinite(f"the loss is {loss.item()} " + ("on held-out data" if step is None else f"at step {step}"))
        return loss

    def _shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        return [(name, tuple(parameter.shape)) for name, parameter in self.model.named_parameters()]

    def _check_shapes(self, elements: int) -> None:
        now = self._shapes()
        if now != self.shapes:
            changed = sorted({name for name, _ in set(now) ^ set(self.shapes)})
            raise ShapeChanged(f"the model changed after it was loaded: {', '.join(changed[:5])}")
        assert elements == sum(parameter.numel() for parameter in self.model.parameters())


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
