"""Handwritten digits, 8 × 8 pixels, as they ship with scikit-learn: the smallest image classifier that is one."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from trainers.workloads.bundled import digit_images
from trainers.workloads.options import workload_options
from trainers.workloads.supervised import Samples, Supervised

LABELS = 10
HELD_OUT_FRACTION = 0.2


class Digits(Supervised):
    """Options: see `trainers.workloads.options`. The held-out fifth is the same for every seed; data are not read.

    With `labels_per_worker: K` worker w draws only the digits w·K … w·K+K−1 (modulo 10): what federated learning finds
    hard (McMahan et al., arXiv 1602.05629, section 3).
    """

    def __init__(self, options: dict[str, Any], data: Path | None, seed: int) -> None:
        known = workload_options("digits", options)
        super().__init__(known, data, seed)
        self.labels_per_worker = known["labels_per_worker"]
        if self.labels_per_worker is not None and self.reading != "random":
            raise ValueError(f"labels_per_worker needs reading: random, not {self.reading}")
        images, labels = digit_images()
        drawn = np.random.default_rng(0).permutation(len(labels))
        held, rest = np.split(drawn, [round(len(labels) * HELD_OUT_FRACTION)])
        self.hold(Samples.of(images[rest], labels[rest]), Samples.of(images[held], labels[held]))
        self.by_label = [np.flatnonzero(labels[rest] == label) for label in range(LABELS)]

    def model(self) -> nn.Module:
        """[B, 8, 8] -> [B, 10]."""
        width: int = self.options["width"]
        if self.options["model"] == "mlp":
            return nn.Sequential(nn.Flatten(), nn.Linear(64, 4 * width), nn.GELU(), nn.Linear(4 * width, LABELS))
        return nn.Sequential(
            nn.Unflatten(1, (1, 8)),
            nn.Conv2d(1, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(32 * width, LABELS),
        )

    def numbers(self, random: np.random.Generator, worker: int) -> np.ndarray:
        """Samples of all labels, or of this worker's."""
        if self.labels_per_worker is None:
            return super().numbers(random, worker)
        labels = [(worker * self.labels_per_worker + j) % LABELS for j in range(self.labels_per_worker)]
        return random.choice(np.concatenate([self.by_label[label] for label in labels]), size=self.stream.batch)
