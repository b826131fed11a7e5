"""A GPT on tokenised shards: `byte_lm`'s model with a vocabulary of any size, read as a stream."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from trainers.workload import OnePass
from trainers.workloads.byte_lm import (
    GPT,
    HELD_OUT_FOLDER,
    HELD_OUT_FRACTION,
    HELD_OUT_SEQUENCES,
    Shape,
    next_token_accuracy,
    next_token_logits,
    next_token_loss,
)
from trainers.workloads.options import workload_options
from trainers.workloads.shards import TokenShards, shard_files
from trainers.workloads.streams import SampleStream, own_seed


class TokenLM(OnePass):
    """Options: see `trainers.workloads.options`. Data: `.bin` or `.npy` files; what lies in `held_out` is held out."""

    def __init__(self, options: dict[str, Any], data: Path | None, seed: int) -> None:
        known = workload_options("token_lm", options)
        self.shape = Shape.of(known["size"])
        super().__init__({**known, "lr": known["lr"] or self.shape.rate_of(known["optimizer"])}, data, seed)
        self.context, self.vocabulary, self.reading = known["context"], known["vocabulary"], known["reading"]
        if data is None:
            raise ValueError("token_lm needs data: a folder of .bin or .npy files of tokens")
        self._split(data)

    def model(self) -> nn.Module:
        """A GPT of the chosen size, the embedding not counted."""
        return GPT(self.shape, self.context, self.vocabulary)

    @property
    def streams(self) -> bool:
        """With `reading: stream`."""
        return bool(self.reading == "stream")

    def batch(self, seed: int, step: int, worker: int) -> torch.Tensor:
        """[B, T+1] int64: random windows, or the next of this worker's own stream."""
        if self.reading == "own":
            own = own_seed(seed, worker)
            return self._checked(self.shards.drawn(self.stream.draws(own, step), own))
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, step, worker])))
        samples = random.integers(0, self.stream.count, size=self.stream.batch)
        return self._checked(self.shards.windows(samples, random.integers(0, self.context, size=self.stream.batch)))

    def stream_batch(self, seed: int, index: int) -> torch.Tensor:
        """[B, T+1] int64: each window once an epoch; every epoch cuts the files at other places."""
        return self._checked(self.shards.drawn(self.stream.draws(seed, index), seed))

    def held_out(self) -> Sequence[torch.Tensor]:
        """Batches [≤16, T+1] of evenly spaced windows of the held-out part."""
        first, count = self.held_range
        samples = np.linspace(first, first + count - 1, num=min(HELD_OUT_SEQUENCES, count), dtype=np.int64)
        batches = [samples[i : i + 16] for i in range(0, len(samples), 16)]
        return [self._checked(self.held_shards.windows(part, [0] * len(part))) for part in batches]

    def outputs(self, model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        """Logits [B, T, V]."""
        return next_token_logits(model, batch)

    def loss_of(self, outputs: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy in nats per token."""
        return next_token_loss(outputs, batch)

    def metrics_of(self, outputs: torch.Tensor, batch: torch.Tensor) -> dict[str, float]:
        """The share of tokens whose most likely guess is right."""
        return {"accuracy": next_token_accuracy(outputs, batch)}

    def tokens(self, batch: torch.Tensor) -> int:
        """Tokens predicted."""
        return batch.shape[0] * (batch.shape[1] - 1)

    def _split(self, data: Path) -> None:
        """The folder `held_out` in the data when there is one, else the last 5 % of the windows."""
        apart, dtype = data / HELD_OUT_FOLDER, self.options["dtype"]
        files = [path for path in shard_files(data) if not path.is_relative_to(apart)]
        self.shards = self.held_shards = TokenShards(files, self.context, dtype)
        train = self.shards.count
        if apart.is_dir():
            self.held_shards = TokenShards(shard_files(apart), self.context, dtype)
            self.held_range = (0, self.held_shards.count)
        else:
            held = max(1, int(self.shards.count * HELD_OUT_FRACTION))
            self.held_range = (self.shards.count - held, held)
            train -= held + 1  # an epoch's offset moves the last training window into the one that is left out
        if train < 1 or self.held_range[1] < 1:
            found = f"{len(files)} .bin and .npy files with {int(self.shards.tokens.sum())} tokens"
            raise ValueError(f"the data have {found}; context {self.context} needs {4 * self.context} and more")
        self.stream = SampleStream(train, self.options["batch"])

    def _checked(self, windows: np.ndarray) -> torch.Tensor:
        if windows.max() >= self.vocabulary:
            raise ValueError(f"the data have a token {windows.max()}; vocabulary is {self.vocabulary}")
        return torch.from_numpy(windows)
