"""Mixed precision: which type the forward pass computes in, and the loss scale that fp16 needs.

The scale of Micikevicius et al., Mixed Precision Training (arXiv 1710.03740), section 3.2, doubled after a number of good
steps; but a step that overflows is computed again with half the scale, never skipped: all workers count the same steps.
"""

import contextlib
from collections.abc import Iterable, Sequence
from typing import Literal

import torch

from trainers.sharding import whole

Precision = Literal["fp32", "bf16", "fp16"]

FIRST_SCALE, LEAST_SCALE, MOST_SCALE = 2.0**16, 1.0, 2.0**24
GROWS_AFTER_STEPS = 2000


def forward_in(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """A new context for one forward pass."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)


class LossScale:
    """The factor on the loss that keeps small gradients from vanishing in fp16."""

    def __init__(self) -> None:
        self.value = FIRST_SCALE
        self.good_steps = 0

    @torch.no_grad()
    def take_off(self, gradients: Sequence[torch.Tensor]) -> bool:
        """Divide by the scale, in place. False when they overflowed: the scale is halved, the step is to be done again.

        At the least scale an overflow is the model's own, and left to whoever looks at the gradient next.
        """
        for gradient in gradients:
            gradient.mul_(1.0 / self.value)
        if self.value > LEAST_SCALE and not bool(torch.isfinite(norm_of(gradients))):
            self.value, self.good_steps = max(LEAST_SCALE, self.value / 2), 0
            return False
        self.good_steps += 1
        if self.good_steps >= GROWS_AFTER_STEPS:
            self.value, self.good_steps = min(MOST_SCALE, self.value * 2), 0
        return True


def norm_of(gradients: Iterable[torch.Tensor]) -> torch.Tensor:
    """Euclidean norm of all of them together, a scalar."""
    return whole(torch.nn.utils.get_total_norm(gradients))
