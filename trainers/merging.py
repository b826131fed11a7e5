"""How several contributions become one update. All float32 [n]; sums run in float64 in the order given.

Callers give the same order everywhere (by slot), so that every member gets the same bits.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from trainers.codecs.base import Vector, sum_of_squares

Merge: TypeAlias = Callable[[Sequence[Vector]], Vector]

CLIP_ITERATIONS = 3
CHUNK = 1 << 16


def mean(updates: Sequence[Vector]) -> Vector:
    """The average of one and more updates."""
    assert updates, "nothing to merge"
    merged = np.empty(updates[0].shape, dtype=np.float32)
    room = np.empty(min(CHUNK, merged.size), dtype=np.float64)
    for start in range(0, merged.size, CHUNK):  # part by part: the float64 sums of all of it would be two vectors more
        total = room[: min(CHUNK, merged.size - start)]
        np.copyto(total, updates[0][start : start + CHUNK])
        for update in updates[1:]:
            total += update[start : start + CHUNK]
        total /= len(updates)
        merged[start : start + CHUNK] = total
    return merged


def trimmed_mean(updates: Sequence[Vector], trimmed: int | None = None) -> Vector:
    """The average of each element without its `trimmed` smallest and largest values (Yin et al., arXiv 1803.01498).

    Default: a quarter of the updates at each end, at least one as soon as there are three.
    """
    assert updates, "nothing to merge"
    count = len(updates)
    if trimmed is None:
        trimmed = max(count // 4, 1) if count >= 3 else 0
    assert 0 <= 2 * trimmed < count, "trimmed away all updates"
    ordered = np.sort(np.stack(updates), axis=0)
    return mean(list(ordered[trimmed : count - trimmed]))


def centered_clip(updates: Sequence[Vector], radius: float | None = None, center: Vector | None = None) -> Vector:
    """v ← v + mean_i (x_i − v)·min(1, τ/‖x_i − v‖), a few times (Karimireddy et al., arXiv 2012.10333, eq. 3).

    Default: v starts at the median of each element and τ = median_i ‖x_i − v‖, so that neither is kept from round to
    round: a stored centre can be walked away, or to infinity, by one finite update.
    """
    assert updates, "nothing to merge"
    at = (np.median(np.stack(updates), axis=0) if center is None else center).astype(np.float64)
    for _ in range(CLIP_ITERATIONS):
        norms = [math.sqrt(sum_of_squares(update - at)) for update in updates]
        allowed = float(np.median(norms)) if radius is None else radius
        step = np.zeros_like(at)
        for update, norm in zip(updates, norms, strict=True):
            step += (update - at) * min(1.0, allowed / norm if norm > 0.0 else 1.0)
        at += step / len(updates)
    return at.astype(np.float32)


MERGES: Mapping[str, Merge] = MappingProxyType(
    {"mean": mean, "trimmed_mean": trimmed_mean, "centered_clip": centered_clip}
)
