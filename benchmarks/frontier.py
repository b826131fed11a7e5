"""How long runs of one kind take to a held-out loss. Pure.

A point is a whole training run: (hours or seconds it took, the held-out loss at its end, at the end of its learning-rate
schedule). Several budgets of steps give several points, and between two of them time is taken as exponential in the loss:
that is the shape of learning curves, a constant factor of data for a constant step of loss. Nothing is said of losses
outside the points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

Point = tuple[float, float]
"""(seconds, held-out loss)."""


def seconds_for(points: Sequence[Point], loss: float) -> float | None:
    """The time in which runs of this kind end with that loss; None outside what was run."""
    ordered = sorted(points)
    for (short_s, high), (long_s, low) in pairwise(ordered):
        if low <= loss <= high and high > low:
            share = (high - loss) / (high - low)
            return math.exp((1 - share) * math.log(short_s) + share * math.log(long_s))
    return next((seconds for seconds, reached in ordered if reached == loss), None)
