"""How several contributions become one update. All float32 [n]; weighted sums run in float64 in the order given.

Callers give the same order everywhere (by slot), so that every member gets the same bits.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from trainers.codecs.base import Vector, sum_of_squares

Merge: TypeAlias = Callable[[Sequence[Vector]], Vector]

CLIP_ITERATIONS = 3
CHUNK = 1 << 16
MOST_MEDIANS = 10.0


def mean(updates: Sequence[Vector]) -> Vector:
    """The average of one and more updates."""
    return weighted_mean(updates, [1.0] * len(updates))


def weighted_mean(updates: Sequence[Vector], weights: Sequence[float], out: Vector | None = None) -> Vector:
    """Σ w_i x_i / Σ w_i, the weights above zero; in `out`, where it is given, which is none of the updates."""
    assert updates, "nothing to merge"
    assert len(weights) == len(updates), "one weight for each"
    assert min(weights) > 0.0, "a weight that is none"
    if min(weights) == max(weights):
        return _plain_mean(updates, out)
    return _by_parts(updates, weights, lambda _: math.fsum(weights), out)


def bounded_weights(weights: Sequence[float]) -> list[float]:
    """What each may count for, whatever it says of itself: no more than `MOST_MEDIANS` times the (lower) median, and from
    three on no more than all others together.
    """
    most = MOST_MEDIANS * sorted(weights)[(len(weights) - 1) // 2]
    bounded = [min(weight, most) for weight in weights]
    if len(bounded) < 3:
        return bounded
    largest = bounded.index(max(bounded))
    bounded[largest] = min(bounded[largest], math.fsum(bounded[:largest] + bounded[largest + 1 :]))
    return bounded


def mean_over_senders(updates: Sequence[Vector], weights: Sequence[float]) -> Vector:
    """Σ w_i x_i / Σ w_i over those whose element is not zero; zero where nobody sent one."""
    assert updates, "nothing to merge"
    assert len(weights) == len(updates), "one weight for each"

    def behind(part: slice) -> NDArray[np.float64]:
        sent = np.zeros(updates[0][part].size, dtype=np.float64)
        for update, weight in zip(updates, weights, strict=True):
            sent += weight * (update[part] != 0.0)
        sent[sent == 0.0] = 1.0
        return sent

    return _by_parts(updates, weights, behind)


def clip_to_median(updates: Sequence[Vector]) -> list[Vector]:
    """Each update scaled by min(1, median_j ‖x_j‖ / ‖x_i‖), so that none outweighs the others."""
    norms = [math.sqrt(sum_of_squares(update)) for update in updates]
    median = float(np.median(norms))
    return [
        update if norm <= median else update * np.float32(median / norm)
        for update, norm in zip(updates, norms, strict=True)
    ]


def _plain_mean(updates: Sequence[Vector], out: Vector | None) -> Vector:
    """In float32, in the order given: a quarter of the time, and the same bits wherever float32 is IEEE 754's. By pieces,
    so that a piece's sum is still in the cache when it is divided.
    """
    merged = np.empty(updates[0].shape, dtype=np.float32) if out is None else out
    if len(updates) == 1:
        np.copyto(merged, updates[0])
        return merged
    share = np.float32(1.0 / len(updates))
    for start in range(0, merged.size, CHUNK):
        part = merged[start : start + CHUNK]
        first, second, *others = (update[start : start + CHUNK] for update in updates)
        np.add(first, second, out=part)
        for other in others:
            part += other
        part *= share
    return merged


def _by_parts(
    updates: Sequence[Vector],
    weights: Sequence[float],
    behind: Callable[[slice], float | NDArray[np.float64]],
    out: Vector | None = None,
) -> Vector:
    """Σ w_i x_i / `behind`, part by part: the float64 sums of all of it would be two vectors more."""
    merged = np.empty(updates[0].shape, dtype=np.float32) if out is None else out
    total, scaled = (np.empty(min(CHUNK, merged.size), dtype=np.float64) for _ in range(2))
    for start in range(0, merged.size, CHUNK):
        part = slice(start, min(start + CHUNK, merged.size))
        size = part.stop - part.start
        np.multiply(updates[0][part], weights[0], out=total[:size], dtype=np.float64)
        for update, weight in zip(updates[1:], weights[1:], strict=True):
            np.multiply(update[part], weight, out=scaled[:size], dtype=np.float64)
            total[:size] += scaled[:size]
        total[:size] /= behind(part)
        merged[part] = total[:size]
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


def centered_clip(updates: Sequence[Vector], radius: float | None = None, center: NDArray[Any] | None = None) -> Vector:
    """v ← v + mean_i (x_i − v)·min(1, τ/‖x_i − v‖), a few times (Karimireddy et al., arXiv 2012.10333, eq. 3).

    Default: v starts at the median of each element and τ = median_i ‖x_i − v‖, so that neither is kept from round to
    round: a stored centre can be walked away, or to infinity, by one finite update. One that is not finite is not used.
    """
    assert updates, "nothing to merge"
    if center is None or not np.isfinite(center).all():
        center = np.median(np.stack(updates).astype(np.float64), axis=0)
    at = center.astype(np.float64)
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
