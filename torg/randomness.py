"""The global generators of torch (on the CPU), numpy and random, seeded for a while, and then as they were before."""

import random
from types import TracebackType
from typing import Any

import numpy as np
import torch

from trainers.loop import hash_seed


class Randomness:
    """Generators of somebody's own: used inside `with`, where they go on from where the last `with` left them."""

    def __init__(self, *numbers: int) -> None:
        """Begins at the state that these numbers name."""
        outside = _states()
        seed_generators(*numbers)
        self._own, self._outside = _states(), outside
        _put_back(outside)

    def __enter__(self) -> None:
        self._outside = _states()
        _put_back(self._own)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._own = _states()
        _put_back(self._outside)


def seed_generators(*numbers: int) -> None:
    """Seed the three for good."""
    seed = hash_seed(*numbers)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)


def _states() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _put_back(states: tuple[Any, ...]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
