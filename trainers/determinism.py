"""How a trainer child is made to compute the same again, as it says it of itself. No torch."""

from typing import Final, Literal

DETERMINISTIC: Final[Literal["warn"]] = "warn"
"""torch.set_deterministic_debug_mode: deterministic kernels where there are any, a warning where there are none."""
RANDOMNESS: Final = "torch.manual_seed(SeedSequence(seed, slot, first step of the round))"
"""How a worker's generator is seeded before each round (trainers/loop.py)."""
