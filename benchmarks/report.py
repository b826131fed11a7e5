"""What every benchmark shares: sampling and the one JSON line at the end.

`{"figures": {name: number}, "targets": {name: {"value", "target", "ok"}}}`
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Target:
    """A figure that is promised: `at_most` or `at_least` a bound."""

    value: float
    bound: float
    at_most: bool = True

    @property
    def ok(self) -> bool:
        return self.value <= self.bound if self.at_most else self.value >= self.bound


def median_seconds(runs: int, action: Callable[[], object]) -> float:
    """Median wall-clock seconds of `runs` calls of `action`, after one that is not counted."""
    action()
    taken = []
    for _ in range(runs):
        begun = time.perf_counter()
        action()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def paired_ratio(
    pairs: int, action: Callable[[], object], baseline: Callable[[], object]
) -> tuple[float, float, float]:
    """(median of action/baseline pair by pair, median seconds of action, of baseline): in turn, so that drift cancels."""
    action()
    baseline()
    ours, theirs = [], []
    for _ in range(pairs):
        for samples, call in ((ours, action), (theirs, baseline)):
            begun = time.perf_counter()
            call()
            samples.append(time.perf_counter() - begun)
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return statistics.median(ratios), statistics.median(ours), statistics.median(theirs)


def parser(description: str | None) -> argparse.ArgumentParser:
    """Arguments that every benchmark takes."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--json", action="store_true", help="print nothing but the last JSON line")
    return made


def say(quiet: bool, line: str) -> None:
    """A line of progress on stderr."""
    if not quiet:
        print(line, file=sys.stderr, flush=True)


def finish(
    figures: Mapping[str, float], targets: Mapping[str, Target], quiet: bool, also: Mapping[str, Any] | None = None
) -> int:
    """Print the result, `also` within the JSON line; exit status 0 when every target is met, else 1."""
    if not quiet:
        width = max(map(len, figures), default=0)
        for name, value in figures.items():
            target = targets.get(name)
            mark = (
                ""
                if target is None
                else f"   {'ok' if target.ok else 'MISSED'} ({'≤' if target.at_most else '≥'} {target.bound:g})"
            )
            print(f"{name:<{width}}  {value:>12.4g}{mark}", file=sys.stderr)
    told = {name: {"value": t.value, "target": t.bound, "ok": t.ok} for name, t in targets.items()}
    print(json.dumps({"figures": dict(figures), "targets": told, **(also or {})}))
    return 0 if all(t.ok for t in targets.values()) else 1
