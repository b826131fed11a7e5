"""A byte-level GPT on any folder of files: no tokeniser, no preparation, loss in nats per byte.

Shapes: B sequences, T = context bytes, D = width, H = heads, V = 256.
"""

import mmap
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from trainers.workload import OnePass
from trainers.workloads.options import size_of, workload_options
from trainers.workloads.streams import Draws, SampleStream, epoch_offsets, own_seed

VOCABULARY = 256
HELD_OUT_FRACTION = 0.05
HELD_OUT_SEQUENCES = 48
HELD_OUT_FOLDER = "held_out"


@dataclass(frozen=True, slots=True)
class Shape:
    """Everything that the one dial `size` decides."""

    layers: int
    width: int
    heads: int
    learning_rate: float

    @classmethod
    def of(cls, size: str) -> "Shape":
        """From a parameter count such as "100k", "1M" or "10M": deeper and wider together.

        A block has 12 D² parameters. Depth grows with the fourth root of the size; the best rate falls with width.
        Heads have 32 elements and more; from width 512 on exactly 64, the width that attention kernels are made for.
        """
        wanted = size_of(size)
        if wanted is None or not 1e4 <= wanted <= 1e10:
            raise ValueError(f"size {size!r} is not a parameter count from 10k to 10G, such as 100k, 1M or 10M")
        layers = max(2, round(4 * (wanted / 1e6) ** 0.25))
        width = max(16, 16 * round((wanted / (12 * layers)) ** 0.5 / 16))
        heads = max((heads for heads in range(1, width // 32 + 1) if width % heads == 0), default=1)
        if width >= 512:
            width = 64 * round(width / 64)
            layers, heads = round(wanted / (12 * width**2)), width // 64
        return cls(layers, width, heads, learning_rate=4e-3 * (144 / width) ** 0.5)

    def rate_of(self, optimizer: str) -> float:
        """The rate to begin with: Muon stands twice AdamW's (docs/PROTOCOLS.md)."""
        return self.learning_rate * (2.0 if optimizer == "muon" else 1.0)


class Block(nn.Module):
    """Pre-norm attention and a four times wider feed-forward layer. [B, T, D] -> [B, T, D]."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.width
        self.heads = shape.heads
        self.norm_attention = nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.norm_feed = nn.LayerNorm(width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, D] -> [B, T, D], causal."""
        b, t, d = x.shape
        q, k, v = self.qkv(self.norm_attention(x)).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # [B, H, T, D/H]
        x = x + self.out(attended.transpose(1, 2).reshape(b, t, d))
        fed: torch.Tensor = self.down(F.relu(self.up(self.norm_feed(x))).square())
        return x + fed


class GPT(nn.Module):
    """Tokens in, logits of the next token out; the output layer is the embedding. [B, T] int64 -> [B, T, V]."""

    def __init__(self, shape: Shape, context: int, vocabulary: int = VOCABULARY) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, shape.width)
        self.positions = nn.Embedding(context, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width, bias=False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:  # what adds to the residual stream starts smaller, so that depth does not matter
                adds = "out" in name or "down" in name
                nn.init.normal_(weight, std=0.02 / (2 * shape.layers) ** 0.5 if adds else 0.02)

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        """[B, T] -> [B, T, V]."""
        x = self.embedding(index) + self.positions.weight[: index.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.embedding.weight)


class ByteLM(OnePass):
    """Options: `size` (1M), `context` bytes (128), `batch` sequences (6), `lr` (from the size when not given), `optimizer`, `reading`.

    Readings: `random` windows by (seed, step, worker); `stream`, every byte once an epoch by all workers together;
    `own`, every byte once an epoch by each worker for itself, for workers that have different data.
    """

    def __init__(self, options: dict[str, Any], data: Path | None, seed: int) -> None:
        known = workload_options("byte_lm", options)
        self.shape = Shape.of(known["size"])
        super().__init__({**known, "lr": known["lr"] or self.shape.rate_of(known["optimizer"])}, data, seed)
        self.context, self.batch_size, self.reading = known["context"], known["batch"], known["reading"]
        if data is None:
            raise ValueError("byte_lm needs data: a file or a folder of files")
        self.train_bytes, self.held_out_bytes = split_corpus(data, self.context)
        windows = (self.train_bytes.size - self.context) // self.context  # whatever the offset, as many fit
        self.stream = SampleStream(windows, self.batch_size)

    def model(self) -> nn.Module:
        """A `GPT` of the chosen size."""
        return GPT(self.shape, self.context)

    @property
    def streams(self) -> bool:
        """With `reading: stream`."""
        return bool(self.reading == "stream")

    def batch(self, seed: int, step: int, worker: int) -> torch.Tensor:
        """[B, T+1] int64: windows of the training part, random ones or the next of this worker's own stream."""
        if self.reading == "own":
            return self._drawn(self.stream.draws(own_seed(seed, worker), step), own_seed(seed, worker))
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, step, worker])))
        starts = random.integers(0, self.train_bytes.size - self.context, size=self.batch_size)
        return self._windows(self.train_bytes, starts)

    def stream_batch(self, seed: int, index: int) -> torch.Tensor:
        """[B, T+1] int64: windows side by side, each once an epoch; every epoch cuts the text at other places."""
        return self._drawn(self.stream.draws(seed, index), seed)

    def held_out(self) -> Sequence[torch.Tensor]:
        """Batches [≤16, T+1] of evenly spaced windows of the held-out part."""
        room = self.held_out_bytes.size - self.context
        starts = np.linspace(0, room - 1, num=min(HELD_OUT_SEQUENCES, room), dtype=np.int64)
        return [self._windows(self.held_out_bytes, starts[i : i + 16]) for i in range(0, len(starts), 16)]

    def outputs(self, model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        """Logits [B, T, V]."""
        return next_token_logits(model, batch)

    def loss_of(self, outputs: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy in nats per byte."""
        return next_token_loss(outputs, batch)

    def tokens(self, batch: torch.Tensor) -> int:
        """Bytes predicted."""
        return batch.shape[0] * (batch.shape[1] - 1)

    def metrics_of(self, outputs: torch.Tensor, batch: torch.Tensor) -> dict[str, float]:
        """The share of bytes whose most likely guess is right."""
        return {"accuracy": next_token_accuracy(outputs, batch)}

    def _drawn(self, draws: Draws, seed: int) -> torch.Tensor:
        offsets = epoch_offsets(seed, draws.epochs, self.context)
        return self._windows(self.train_bytes, offsets + draws.samples * self.context)

    def _windows(self, source: np.ndarray, starts: np.ndarray) -> torch.Tensor:
        windows = source[starts[:, None] + np.arange(self.context + 1)]
        return torch.from_numpy(windows.astype(np.int64))


def next_token_logits(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """[B, T, V] of windows [B, T+1]."""
    logits: torch.Tensor = model(batch[:, :-1])
    return logits


def next_token_loss(logits: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in nats of logits [B, T, V]."""
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), batch[:, 1:].reshape(-1))


def next_token_accuracy(logits: torch.Tensor, batch: torch.Tensor) -> float:
    """The share of tokens whose most likely guess is right."""
    return float((logits.argmax(dim=-1) == batch[:, 1:]).float().mean())


def split_corpus(data: Path, context: int) -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out bytes: the folder `held_out` in the data when there is one, else the last 5 %."""
    apart = data / HELD_OUT_FOLDER
    if apart.is_dir():
        train, held_out = corpus_of(data, without=apart), corpus_of(apart)
    else:
        corpus = corpus_of(data)
        split = corpus.size - int(corpus.size * HELD_OUT_FRACTION)
        train, held_out = corpus[:split], corpus[split:]
    if train.size < 2 * context or held_out.size <= context:
        sizes = f"{train.size} bytes to train on and {held_out.size} to hold out"
        raise ValueError(f"the data have {sizes}; context {context} needs {2 * context} and {context + 1}")
    return train, held_out


def corpus_of(data: Path, without: Path | None = None) -> np.ndarray:
    """All files under `data` as one memory-mapped uint8 array, in the order of their relative paths.

    Joined into one unlinked file in the working folder: a mapping per file would need as many descriptors as files. A
    file that is alone is mapped where it lies.
    """
    found = [data] if data.is_file() else [path for path in data.rglob("*") if path.is_file()]
    files = [path for path in found if without is None or not path.is_relative_to(without)]
    if sum(path.stat().st_size for path in files) == 0:
        raise ValueError(f"the data folder holds no bytes{' beside ' + without.name if without else ''}")
    if len(files) == 1:
        with files[0].open("rb") as alone:
            return np.frombuffer(mmap.mmap(alone.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)
    with tempfile.TemporaryFile(dir=".") as joined:
        for path in sorted(files, key=lambda path: path.relative_to(data).as_posix()):
            with path.open("rb") as part:
                shutil.copyfileobj(part, joined, 1 << 20)
        joined.flush()
        return np.frombuffer(mmap.mmap(joined.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)
