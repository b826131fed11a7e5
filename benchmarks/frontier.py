"""What runs of one kind take to a held-out loss, and which kinds nothing beats in both hours and dollars. Pure.

A point is a whole training run: (seconds or steps it took, the held-out loss at its end, at the end of its learning-rate
schedule). Several budgets of steps give several points, and between two of them time is taken as exponential in the loss:
that is the shape of learning curves, a constant factor of data for a constant step of loss. Nothing is said of losses
outside the points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from market.traffic import FRAMING
from trainers.options import round_steps

Point = tuple[float, float]
"""(seconds or steps, held-out loss)."""


def effort_to(points: Sequence[Point], loss: float) -> float | None:
    """The seconds or steps in which runs of this kind end with that loss; None outside what was run."""
    ordered = sorted(points)
    for (short, high), (long, low) in pairwise(ordered):
        if low <= loss <= high and high > low:
            share = (high - loss) / (high - low)
            return math.exp((1 - share) * math.log(short) + share * math.log(long))
    return next((effort for effort, reached in ordered if reached == loss), None)


def round_seconds(options: Mapping[str, Any], sent_bytes: float, compute_s: float, bits_per_s: int | None) -> float:
    """One round's, of so many bytes sent by the worker with most. An exchange in every step hides behind nothing."""
    steps = round_steps(options)
    if bits_per_s is None:
        return steps * compute_s
    exchange_s = FRAMING * sent_bytes * 8 / bits_per_s
    return steps * compute_s + max(0.0, exchange_s - int(options.get("overlap_steps", 0)) * compute_s)


def undominated(costs: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of those than which none is better in one of (hours, dollars) and at least as good in the other, soonest first."""
    found: list[str] = []
    cheapest = math.inf
    for name, (_, dollars) in sorted(costs.items(), key=lambda item: (item[1], item[0])):
        if dollars < cheapest:
            found.append(name)
            cheapest = dollars
    return found
