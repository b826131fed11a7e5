"""A customer's workload for jobs that are to last: it leaves the cores to whatever the test is about."""

import time

import torch

from trainers.workloads.byte_lm import ByteLM

PAUSE_S = 0.1


class Gentle(ByteLM):
    """The byte model, with a rest at every step."""

    def batch(self, seed: int, step: int, worker: int) -> torch.Tensor:
        """See `ByteLM.batch`."""
        time.sleep(PAUSE_S)
        return super().batch(seed, step, worker)
