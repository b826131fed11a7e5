"""A workload of one's own: a small network learns to tell which of ten spirals a point lies on.

Everything that a job needs is here: a model, batches by (seed, step, worker), held-out batches, a loss. The file is
uploaded with the job and runs on the providers' machines, without network, in a sandbox.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from trainers.workload import Workload

SPIRALS = 10


class Spirals(Workload):
    """Options: `width` of the hidden layers (64), `batch` points a step (256), `lr` of the optimiser (0.003)."""

    def __init__(self, options, data, seed):
        """No data folder is needed: the points are made."""
        super().__init__({"lr": 3e-3, **options}, data, seed)
        self.width = int(options.get("width", 64))
        self.batch_size = int(options.get("batch", 256))

    def model(self):
        """[B, 2] -> [B, 10]."""
        width = self.width
        return nn.Sequential(
            nn.Linear(2, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, SPIRALS)
        )

    def batch(self, seed, step, worker):
        """Points [B, 2] and the numbers of their spirals [B]; every worker and step draws others."""
        return points(np.random.default_rng([seed, step, worker]), self.batch_size)

    def held_out(self):
        """One fixed batch that no worker draws: training seeds have three numbers."""
        return [points(np.random.default_rng([self.seed, 0, 0, 1]), 2048)]

    def loss(self, model, batch):
        """Cross-entropy; ln 10 = 2.3 is guessing."""
        inputs, spirals = batch
        return F.cross_entropy(model(inputs), spirals)

    def tokens(self, batch):
        """One point counts as one token."""
        return len(batch[0])


def points(random, count):
    """`count` noisy points on ten interleaved spirals, and which spiral each lies on."""
    spiral = random.integers(0, SPIRALS, size=count)
    along = np.sqrt(random.uniform(0.05, 1.0, size=count))
    angle = 2 * np.pi * (along + spiral / SPIRALS)
    place = np.stack([along * np.cos(angle), along * np.sin(angle)], axis=1)
    place += 0.01 * random.standard_normal((count, 2))
    return torch.from_numpy(place.astype(np.float32)), torch.from_numpy(spiral)
