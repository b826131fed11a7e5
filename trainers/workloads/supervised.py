"""What workloads on a fixed set of samples share: drawing them, holding some out, loss, accuracy or error.

Shapes: N training samples, B in a batch; inputs float32 [N, …], targets int64 [N] (classes) or float32 [N] (values).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from trainers.workload import OnePass
from trainers.workloads.streams import SampleStream, own_seed

HELD_OUT_BATCH = 4096

Pair: TypeAlias = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Samples:
    """Inputs and targets of the same length."""

    inputs: torch.Tensor
    targets: torch.Tensor

    @classmethod
    def of(cls, inputs: np.ndarray, targets: np.ndarray) -> "Samples":
        """From arrays, which are copied."""
        return cls(torch.tensor(inputs), torch.tensor(targets))

    def taken(self, numbers: np.ndarray) -> Pair:
        """The samples of these numbers, int64 [B]."""
        index = torch.from_numpy(numbers)
        return self.inputs[index], self.targets[index]


class Supervised(OnePass):
    """Subclasses call `hold` with their samples and write `model`. One sample counts as one token."""

    train: Samples
    apart: Samples
    unit = 1.0  # of a value target, so that errors are told as the data have them

    def __init__(self, options: dict[str, Any], data: Path | None, seed: int) -> None:
        super().__init__(options, data, seed)
        self.reading = options["reading"]

    def hold(self, train: Samples, apart: Samples) -> None:
        """Take the training and the held-out samples. A fractional batch counts from the training samples here."""
        count, batch = len(train.targets), self.options["batch"]
        self.train, self.apart = train, apart
        self.stream = SampleStream(count, max(1, round(batch * count)) if isinstance(batch, float) else batch)

    @property
    def streams(self) -> bool:
        """With `reading: stream`."""
        return bool(self.reading == "stream")

    def batch(self, seed: int, step: int, worker: int) -> Pair:
        """Random samples, or the next of this worker's own stream."""
        if self.reading == "own":
            return self.train.taken(self.stream.samples(own_seed(seed, worker), step))
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, step, worker])))
        return self.train.taken(self.numbers(random, worker))

    def numbers(self, random: np.random.Generator, worker: int) -> np.ndarray:
        """Which samples a random batch of this worker has, int64 [B]."""
        return random.integers(0, self.stream.count, size=self.stream.batch)

    def stream_batch(self, seed: int, index: int) -> Pair:
        """Each sample once an epoch by all workers together."""
        return self.train.taken(self.stream.samples(seed, index))

    def held_out(self) -> Sequence[Pair]:
        """All held-out samples, in batches of nearly equal size."""
        count = len(self.apart.targets)
        parts = np.array_split(np.arange(count), -(-count // HELD_OUT_BATCH))
        return [self.apart.taken(part) for part in parts]

    def outputs(self, model: nn.Module, batch: Pair) -> torch.Tensor:
        """[B, classes], or [B, 1] of values."""
        outputs: torch.Tensor = model(batch[0])
        return outputs

    def loss_of(self, outputs: torch.Tensor, batch: Pair) -> torch.Tensor:
        """Cross-entropy in nats of classes; mean squared error, in deviations of the target, of values."""
        targets = batch[1]
        if targets.is_floating_point():
            return F.mse_loss(outputs.squeeze(-1), targets)
        return F.cross_entropy(outputs, targets)

    def metrics_of(self, outputs: torch.Tensor, batch: Pair) -> Mapping[str, float]:
        """`accuracy` of classes; `root_mean_squared_error` in the target's own unit of values."""
        targets = batch[1]
        if targets.is_floating_point():
            return {"root_mean_squared_error": float(F.mse_loss(outputs.squeeze(-1), targets).sqrt()) * self.unit}
        return {"accuracy": float((outputs.argmax(dim=-1) == targets).float().mean())}

    def tokens(self, batch: Pair) -> int:
        """Samples."""
        return len(batch[1])
