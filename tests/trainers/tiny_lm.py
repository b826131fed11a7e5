"""The smallest language model whose loss tells a right protocol from a wrong one: 8 bytes in, the next one out.

A hundred thousand parameters on half a megabyte of the standard library's source; a step takes about two milliseconds, of
which little depends on the width. GELU, because it is smooth: with ReLU what fp16 rounds off an exchange moves the held-out
loss after 200 steps by 0.2 %, with GELU by 0.02 %.
"""

import sysconfig
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from trainers.workload import Workload

CONTEXT, EMBEDDING, WIDTH, SYMBOLS, BATCH, HELD_OUT = 8, 16, 384, 128, 32, 4096
SOURCES = ("argparse", "ast", "calendar", "csv", "difflib", "doctest", "gettext", "inspect", "logging/__init__",
           "pdb", "pickle", "socket", "statistics", "tarfile", "textwrap", "threading", "typing", "zipfile")  # fmt: skip


@cache
def text() -> np.ndarray:
    """ASCII codes, int64 [n]; the last fourteenth is held out."""
    library = Path(sysconfig.get_path("stdlib"))
    joined = b"".join(path.read_bytes() for name in SOURCES if (path := library / f"{name}.py").exists())
    return np.minimum(np.frombuffer(joined, dtype=np.uint8), SYMBOLS - 1).astype(np.int64)


class TinyLM(Workload):
    """Options: `lr`, `width` of the hidden layer (384; 101,632 parameters)."""

    def model(self) -> nn.Module:
        """[B, 8] -> [B, 128]."""
        width = int(self.options.get("width", WIDTH))
        return nn.Sequential(
            nn.Embedding(SYMBOLS, EMBEDDING), nn.Flatten(), nn.Linear(CONTEXT * EMBEDDING, width), nn.GELU(),
            nn.LayerNorm(width), nn.Linear(width, SYMBOLS),
        )  # fmt: skip

    def optimizer(self, model: nn.Module, total_steps: int) -> torch.optim.Optimizer:
        """AdamW in one pass over all: the default's many small ones cost more than the gradient of so small a model."""
        rate = float(self.options["lr"])
        return torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=0.1, fused=True)

    def batch(self, seed: int, step: int, worker: int) -> Any:
        """Random windows of the training text."""
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, step, worker])))
        return self._windows(random.integers(0, text().size * 13 // 14 - CONTEXT, size=BATCH))

    def held_out(self) -> Sequence[Any]:
        """Evenly spaced windows of the rest."""
        return [
            self._windows(np.linspace(text().size * 13 // 14, text().size - CONTEXT - 1, HELD_OUT).astype(np.int64))
        ]

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """Nats per byte."""
        return F.cross_entropy(model(batch[:, :-1]), batch[:, -1])

    def tokens(self, batch: Any) -> int:
        """Bytes predicted."""
        return len(batch)

    def _windows(self, starts: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(text()[starts[:, None] + np.arange(CONTEXT + 1)])
