"""A byte-level GPT on any folder of files: no tokeniser, no preparation, loss in nats per byte.

Shapes: B sequences, T = context bytes, D = width, H = heads, V = 256.
"""

import mmap
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from trainers.workload import Workload, checked_options

VOCABULARY = 256
HELD_OUT_FRACTION = 0.05
HELD_OUT_SEQUENCES = 48
OPTIONS = {"size": "1M", "context": 128, "batch": 6, "lr": None}


@dataclass(frozen=True, slots=True)
class Shape:
    """Everything that the one dial `size` decides."""

    layers: int
    width: int
    heads: int
    learning_rate: float

    @classmethod
    def of(cls, size: str) -> "Shape":
        """From a parameter count such as "100k", "1M" or "10M": deeper and wider together, heads of 32 and more.

        A block has 12 D² parameters. Depth grows with the fourth root of the size; the best rate falls with width.
        """
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([kMG])", str(size))
        if match is None:
            raise ValueError(f"size {size!r} is not a parameter count such as 100k, 1M or 10M")
        wanted = float(match[1]) * {"k": 1e3, "M": 1e6, "G": 1e9}[match[2]]
        if not 1e4 <= wanted <= 1e10:
            raise ValueError(f"size {size!r} is not between 10k and 10G")
        layers = max(2, round(4 * (wanted / 1e6) ** 0.25))
        width = max(16, 16 * round((wanted / (12 * layers)) ** 0.5 / 16))
        heads = max((heads for heads in range(1, width // 32 + 1) if width % heads == 0), default=1)
        return cls(layers, width, heads, learning_rate=4e-3 * (144 / width) ** 0.5)


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


class ByteGPT(nn.Module):
    """Bytes in, logits of the next byte out; the output layer is the embedding. [B, T] int64 -> [B, T, V]."""

    def __init__(self, shape: Shape, context: int) -> None:
        super().__init__()
        self.bytes = nn.Embedding(VOCABULARY, shape.width)
        self.positions = nn.Embedding(context, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width, bias=False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:  # what adds to the residual stream starts smaller, so that depth does not matter
                adds = "out" in name or "down" in name
                nn.init.normal_(weight, std=0.02 / (2 * shape.layers) ** 0.5 if adds else 0.02)

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        """[B, T] -> [B, T, V]."""
        x = self.bytes(index) + self.positions.weight[: index.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.bytes.weight)


class ByteLM(Workload):
    """Options: `size` (1M), `context` bytes (128), `batch` sequences (6), `lr` (from the size when not given)."""

    def __init__(self, options: dict[str, Any], data: Path | None, seed: int) -> None:
        chosen = checked_options(options, OPTIONS)
        self.shape = Shape.of(chosen["size"])
        super().__init__({**chosen, "lr": chosen["lr"] or self.shape.learning_rate}, data, seed)
        self.context = whole("context", chosen["context"], 8, 8192)
        self.batch_size = whole("batch", chosen["batch"], 1, 4096)
        if data is None:
            raise ValueError("byte_lm needs data: a file or a folder of files")
        corpus = corpus_of(data)
        split = corpus.size - int(corpus.size * HELD_OUT_FRACTION)
        self.train_bytes, self.held_out_bytes = corpus[:split], corpus[split:]
        if self.held_out_bytes.size <= self.context:
            needed = int((self.context + 1) / HELD_OUT_FRACTION) + 1
            raise ValueError(f"data has {corpus.size} bytes; context {self.context} needs {needed} and more")

    def model(self) -> nn.Module:
        """A `ByteGPT` of the chosen size."""
        return ByteGPT(self.shape, self.context)

    def batch(self, seed: int, step: int, worker: int) -> torch.Tensor:
        """[B, T+1] int64: random windows of the training part."""
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, step, worker])))
        starts = random.integers(0, self.train_bytes.size - self.context, size=self.batch_size)
        return self._windows(self.train_bytes, starts)

    def held_out(self) -> Sequence[torch.Tensor]:
        """Batches [≤16, T+1] of evenly spaced windows of the last 5 %."""
        room = self.held_out_bytes.size - self.context
        starts = np.linspace(0, room - 1, num=min(HELD_OUT_SEQUENCES, room), dtype=np.int64)
        return [self._windows(self.held_out_bytes, starts[i : i + 16]) for i in range(0, len(starts), 16)]

    def loss(self, model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy in nats per byte."""
        logits = model(batch[:, :-1])
        return F.cross_entropy(logits.reshape(-1, VOCABULARY), batch[:, 1:].reshape(-1))

    def tokens(self, batch: torch.Tensor) -> int:
        """Bytes predicted."""
        return batch.shape[0] * (batch.shape[1] - 1)

    def _windows(self, source: np.ndarray, starts: np.ndarray) -> torch.Tensor:
        windows = source[starts[:, None] + np.arange(self.context + 1)]
        return torch.from_numpy(windows.astype(np.int64))


def whole(name: str, value: Any, low: int, high: int) -> int:
    """`value` as an int in [low, high], or ValueError naming the option."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}; it must be a whole number from {low} to {high}")
    return value


def corpus_of(data: Path) -> np.ndarray:
    """All files under `data` as one memory-mapped uint8 array, in the order of their relative paths.

    Joined into one unlinked file in the working folder: a mapping per file would need as many descriptors as files.
    """
    files = [data] if data.is_file() else [path for path in data.rglob("*") if path.is_file()]
    with tempfile.TemporaryFile(dir=".") as joined:
        for path in sorted(files, key=lambda path: path.relative_to(data).as_posix()):
            joined.write(path.read_bytes())
        joined.flush()
        if joined.tell() == 0:
            raise ValueError("the data folder holds no bytes")
        return np.frombuffer(mmap.mmap(joined.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)
