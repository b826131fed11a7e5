"""A workload's own figures of held-out data, by name: what they may be, and their means. Standard library only."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

MAX_METRICS: Final = 16
MAX_METRIC_NAME: Final = 40


def wrong_metrics(found: object) -> str | None:
    """What is wrong with what `Workload.metrics` gave (or what was told of it), as the end of a sentence; None if nothing."""
    if not isinstance(found, Mapping):
        return f"gave {type(found).__name__}, no mapping of names to numbers"
    if len(found) > MAX_METRICS:
        return f"gave {len(found)} figures; {MAX_METRICS} are the most"
    for name, value in found.items():
        if not (isinstance(name, str) and 0 < len(name) <= MAX_METRIC_NAME and name.isprintable()):
            shown = repr(name)[: MAX_METRIC_NAME + 20]
            return f"gave a figure the name {shown}, which is no printable text of 1 to {MAX_METRIC_NAME} characters"
        if not is_finite(value):
            return f"gave {name!r} = {repr(value)[:60]}, which is no finite number: use float(…)"
    return None


def is_finite(value: object) -> bool:
    """Whether it is an int or float (no bool) that is a finite float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond every float
        return False


def mean_metrics(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means of what `metrics` gave for each held-out batch; ValueError, which names the trouble, for what it may not give."""
    if not found:
        return {}
    for figures in found:
        wrong = wrong_metrics(figures)
        if wrong is not None:
            raise ValueError(f"metrics() {wrong}")
        if set(figures) != set(found[0]):
            raise ValueError(f"metrics() gave {sorted(figures)} for one batch and {sorted(found[0])} for another")
    return {name: math.fsum(figures[name] / len(found) for figures in found) for name in sorted(found[0])}
