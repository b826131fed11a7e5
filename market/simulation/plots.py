"""Plots as inline SVG: lines over days, bars, bars on a logarithmic scale. No script, no network; colours are the page's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final

WIDTH: Final = 720
HEIGHT: Final = 260
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 14, 34
BAR: Final = 18
GAP: Final = 8

Line = tuple[str, str, Sequence[float | None]]
"""(name, class of its colour, values)."""


def lines(title: str, unit: str, series: Sequence[Line], *, filled: bool = False) -> str:
    """Values over days, from zero; the first series is filled if asked. A gap in a series is a gap in its line."""
    most = max((value for _, _, values in series for value in values if value is not None), default=0.0)
    top, step = _scale(most)
    days = max((len(values) for _, _, values in series), default=0)
    inner, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(day: float, value: float) -> tuple[float, float]:
        return LEFT + inner * day / max(1, days - 1), TOP + high * (1 - value / top)

    parts = [_opened(title, WIDTH, HEIGHT)]
    for number in range(round(top / step) + 1):
        value = number * step
        _, y = at(0, value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_number(value)}</text>')
    stride = _day_stride(days)
    for day in range(0, days, stride):
        x, _ = at(day, 0)
        parts.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 12}" text-anchor="middle">{"day " if not day else ""}{day}</text>')
    for number, (name, colour, values) in enumerate(series):
        for run in _unbroken(values):
            points = [at(day, value) for day, value in run]
            path = " ".join(f"{'L' if place else 'M'}{x:.1f},{y:.1f}" for place, (x, y) in enumerate(points))
            if filled and not number:
                floor = TOP + high
                parts.append(f'<path class="area {colour}" d="{path} L{points[-1][0]:.1f},{floor} L{points[0][0]:.1f},{floor} Z"/>')
            parts.append(f'<path class="line {colour}" d="{path}"><title>{escape(name)}</title></path>')
    parts.append(f'<text class="unit" x="{LEFT}" y="{TOP - 3}">{escape(unit)}</text></svg>')
    return "".join(parts)


def bars(title: str, rows: Sequence[tuple[str, str, float, str]]) -> str:
    """One bar a row: (name, class of its colour, value, what is written beside it). From zero; none for what is below."""
    most = max([0.0, *(value for _, _, value, _ in rows)]) or 1.0
    left = _room([name for name, _, _, _ in rows])
    height = len(rows) * (BAR + GAP) + GAP
    inner = WIDTH - left - 120
    parts = [_opened(title, WIDTH, height)]
    for number, (name, colour, value, written) in enumerate(rows):
        y = GAP + number * (BAR + GAP)
        long = max(0.0, inner * value / most)
        parts.append(f'<text class="name" x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(_cut(name))}</text>')
        parts.append(f'<rect class="bar {colour}" x="{left}" y="{y}" width="{max(1.0, long):.1f}" height="{BAR}" rx="3"><title>{escape(f"{name}: {written}")}</title></rect>')
        parts.append(f'<text class="value" x="{left + long + 6:.1f}" y="{y + 13}">{escape(written)}</text>')
    return "".join(parts) + "</svg>"


def ranges(title: str, groups: Sequence[tuple[str, Sequence[tuple[str, str, float | None, float | None, str]]]]) -> str:
    """Per group one row a run: (run, class of its colour, p50, p99, what is written), in seconds on a logarithmic scale.

    A dot at the one, a line to a ring at the other. Below a minute all is drawn at a minute.
    """
    whole = [value for _, rows in groups for _, _, p50, p99, _ in rows for value in (p50, p99) if value is not None]
    most = max([*whole, 3_600.0])
    floor, ceiling = math.log(60.0), math.log(most)
    left, row, head = 92, 17, 10
    inner = WIDTH - left - 130
    height = sum(len(rows) * row + head for _, rows in groups) + 34

    def at(seconds: float) -> float:
        return left + inner * (math.log(max(60.0, seconds)) - floor) / (ceiling - floor)

    parts = [_opened(title, WIDTH, height)]
    for seconds, text in ((60, "≤ 1 min"), (600, "10 min"), (3_600, "1 h"), (36_000, "10 h"), (345_600, "4 d"), (2_592_000, "30 d")):
        if seconds <= most:
            x = at(seconds)
            parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{height - 28}"/>')
            parts.append(f'<text class="tick" x="{x:.1f}" y="{height - 10}" text-anchor="middle">{text}</text>')
    y = 4.0
    for name, rows in groups:
        parts.append(f'<text class="name" x="{left - 12}" y="{y + len(rows) * row / 2 + 8:.1f}" text-anchor="end">{escape(_cut(name))}</text>')
        for run, colour, p50, p99, written in rows:
            y += row
            if p50 is not None and p99 is not None:
                parts.append(f'<g class="{colour}"><title>{escape(f"{run}: {written}")}</title>')
                parts.append(f'<line class="span" x1="{at(p50):.1f}" x2="{at(p99):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
                parts.append(f'<circle class="dot" cx="{at(p50):.1f}" cy="{y:.1f}" r="4.5"/><circle class="ring" cx="{at(p99):.1f}" cy="{y:.1f}" r="4"/></g>')
            x = at(p99) if p99 is not None else left
            parts.append(f'<text class="value" x="{x + 10:.1f}" y="{y + 4:.1f}">{escape(written)}</text>')
        y += head
    return "".join(parts) + "</svg>"


def _opened(title: str, width: int, height: int) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}" xmlns="http://www.w3.org/2000/svg">'


def _scale(most: float) -> tuple[float, float]:
    """The top of an axis and its step: 3 to 6 steps of 1, 2 or 5 × a power of ten."""
    if most <= 0:
        return 1.0, 1.0
    step = 10.0 ** math.floor(math.log10(most / 3))
    step = next(step * size for size in (1, 2, 5, 10) if most / (step * size) <= 5)
    return math.ceil(most / step) * step, step


def _day_stride(days: int) -> int:
    return next((stride for stride in (1, 2, 7, 14, 28, 56, 112) if days / stride <= 12), 365)


def _unbroken(values: Sequence[float | None]) -> list[list[tuple[int, float]]]:
    found: list[list[tuple[int, float]]] = []
    for day, value in enumerate(values):
        if value is None:
            continue
        if found and found[-1][-1][0] == day - 1:
            found[-1].append((day, value))
        else:
            found.append([(day, value)])
    return found


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.2g}"


def _cut(name: str) -> str:
    return name if len(name) <= 26 else name[:25] + "…"


def _room(names: Sequence[str]) -> int:
    return 24 + 7 * max((len(_cut(name)) for name in names), default=0)
