"""Rows of text become offers and jobs, or a refusal that names the row, the column and the remedy.

Money is held in nano-dollars, time in nano-hours (billionths of an hour), both whole numbers. What has more than nine
decimals is rounded to the nearest, half to even.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

NANOS = 1_000_000_000
MAX_USD_PER_GPU_HOUR = 1_000
MAX_HOURS = 100_000
MAX_GPUS = 100_000
MAX_VRAM_GIB = 4_096
MAX_ROWS = 2_000_000
MAX_ID_LETTERS = 200
SHOWN_LETTERS = 40
MAX_BUDGET_USD = 1_000_000_000
MAX_STEPS_PER_SECOND = 1_000_000
MAX_CURVE_GPUS = 4_096
MAX_CURVE_POINTS = 256
FOREVER = MAX_HOURS * NANOS * 4
"""Nano-hours of a limit that was left empty: above every hour that may be written, and any sum of two."""

INTERCONNECTS = ("none", "nvlink", "nvswitch")
OFFER_COLUMNS = (
    "id", "gpu", "vram_gib", "usd_per_gpu_hour", "gpus", "region", "reliability", "max_hours", "available_in_hours",
    "interconnect",
)  # fmt: skip
JOB_COLUMNS = (
    "id", "gpus_min", "gpus_max", "gpu", "regions", "reliability_min", "max_usd_per_gpu_hour", "hours",
    "deadline_hours", "interconnect_min", "same_region", "gang",
)  # fmt: skip
OPTIONAL_JOB_COLUMNS = (
    "vram_gib_min", "budget_usd", "team", "waited_hours", "goodput", "speeds", "usd_per_million_steps",
)  # fmt: skip

_PLAIN = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,9}))?")


@dataclass(slots=True)
class BadRow(ValueError):
    """What is written cannot be taken. `row` counts the data rows from 1, and is 0 for the heading."""

    table: str
    row: int
    column: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        where = f"row {self.row}" if self.row else "heading"
        return f"{self.table}: {where}, {self.column}: {self.message}"


class _Bad(ValueError):
    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


@dataclass(slots=True)
class Offers:
    """One entry for each offer, in the order of the rows. Prices in nano-dollars per GPU-hour, times in nano-hours."""

    ids: list[str] = field(default_factory=list)
    gpu: list[str] = field(default_factory=list)
    vram_gib: list[float] = field(default_factory=list)
    price_nanos: list[int] = field(default_factory=list)
    gpus: list[int] = field(default_factory=list)
    region: list[str] = field(default_factory=list)
    reliability: list[float] = field(default_factory=list)
    max_hours: list[int] = field(default_factory=list)
    available_in: list[int] = field(default_factory=list)
    interconnect: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Jobs:
    """One entry for each job, in the order of the rows. An empty tuple of models or regions stands for any.

    `budget_nanos` None is no budget. `goodput` are (GPUs, billionths of steps per second), upwards; empty: the job is worth
    its limit for every GPU and hour. `speeds` are (model, billionths of the speed that `goodput` is of), by name.
    `usd_per_million_steps` is in nano-dollars.
    """

    ids: list[str] = field(default_factory=list)
    gpus_min: list[int] = field(default_factory=list)
    gpus_max: list[int] = field(default_factory=list)
    gpu: list[tuple[str, ...]] = field(default_factory=list)
    regions: list[tuple[str, ...]] = field(default_factory=list)
    reliability_min: list[float] = field(default_factory=list)
    limit_nanos: list[int] = field(default_factory=list)
    hours: list[int] = field(default_factory=list)
    deadline: list[int] = field(default_factory=list)
    interconnect_min: list[int] = field(default_factory=list)
    same_region: list[bool] = field(default_factory=list)
    gang: list[bool] = field(default_factory=list)
    vram_gib_min: list[float] = field(default_factory=list)
    budget_nanos: list[int | None] = field(default_factory=list)
    team: list[str] = field(default_factory=list)
    waited: list[int] = field(default_factory=list)
    goodput: list[tuple[tuple[int, int], ...]] = field(default_factory=list)
    speeds: list[tuple[tuple[str, int], ...]] = field(default_factory=list)
    usd_per_million_steps: list[int] = field(default_factory=list)


def _shown(text: str) -> str:
    """Of a cell as much as a line has room for."""
    return text if len(text) <= SHOWN_LETTERS else f"{text[:SHOWN_LETTERS]}…"


def _decimal(text: str) -> Decimal:
    """A finite number in ASCII digits; comparing such a one never rounds it, so none is too large for that."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise _Bad(f"{_shown(text)!r} is not a number") from None
    if not value.is_finite() or not text.isascii() or "_" in text:
        raise _Bad(f"{_shown(text)!r} is not a number")
    return value


def _nanos(text: str, least: int, most: int, unit: str) -> int:
    allowed = f"allowed: {'above 0' if least else '0'} to {most:,} {unit}"
    plain = _PLAIN.fullmatch(text)
    if plain is not None:
        value = int(plain[1]) * NANOS + int((plain[2] or "").ljust(9, "0"))
    else:
        number = _decimal(text)
        if number < 0:
            raise _Bad(f"{_shown(text)} cannot be negative", allowed)
        if number > most:
            raise _Bad(f"{_shown(text)} is out of range", allowed)
        value = int((number * NANOS).to_integral_value())
    if not least <= value <= most * NANOS:
        raise _Bad(f"{_shown(text)} is out of range", allowed)
    return value


def amount_nanos(text: str, most: int) -> int | None:
    """A number from 0 to `most` in billionths; None where it is none, or out of range."""
    try:
        return _nanos(text, 0, most, "")
    except _Bad:
        return None


def _price(text: str) -> int:
    return _nanos(text, 0, MAX_USD_PER_GPU_HOUR, "dollars per GPU-hour")


def _hours(text: str) -> int:
    return _nanos(text, 1, MAX_HOURS, "hours")


def _limit_of_hours(text: str) -> int:
    return _nanos(text, 1, MAX_HOURS, "hours, or empty for no limit") if text else FOREVER


def _wait(text: str) -> int:
    return _nanos(text, 0, MAX_HOURS, "hours") if text else 0


def _count(text: str) -> int:
    allowed = f"allowed: a whole number from 1 to {MAX_GPUS:,}"
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        number = _decimal(text)
        if number < 0:
            raise _Bad(f"{_shown(text)} cannot be negative", allowed)
        if number > MAX_GPUS or number != number.to_integral_value():
            raise _Bad(f"{_shown(text)} is no number of GPUs", allowed)
        text = str(int(number))
    if not 1 <= int(text) <= MAX_GPUS:
        raise _Bad(f"{text} is out of range", allowed)
    return int(text)


def _real(text: str, most: int, allowed: str) -> float:
    number = _decimal(text or "0")
    if not 0 <= number <= most:
        raise _Bad(f"{_shown(text)} is out of range", allowed)
    return float(number)


def _share(text: str) -> float:
    return _real(text, 1, "allowed: 0 to 1, such as 0.99")


def _memory(text: str) -> float:
    return _real(text, MAX_VRAM_GIB, f"allowed: 0 to {MAX_VRAM_GIB:,} GiB")


def _name(text: str) -> str:
    if len(text) > MAX_ID_LETTERS:
        raise _Bad(f"{text[:20]!r}… is longer than {MAX_ID_LETTERS} letters")
    return text


def _needed_name(text: str) -> str:
    if not text:
        raise _Bad("is empty", "write a name")
    if "|" in text:
        raise _Bad(f"{_shown(text)!r} has a | in it", "| joins names in the list of a job")
    return _name(text)


def _identifier(text: str) -> str:
    if not text:
        raise _Bad("is empty", "each row needs an id of its own")
    return _name(text)


def _region(text: str) -> str:
    return _needed_name(text) if text else ""


def _names(text: str) -> tuple[str, ...]:
    parts = {part.strip() for part in text.split("|")} if text else set()
    if "" in parts:
        raise _Bad(f"{_shown(text)!r} has an empty name in it", "names joined by |, or nothing for any")
    return tuple(sorted(_name(part) for part in parts))


def _budget(text: str) -> int | None:
    return _nanos(text, 0, MAX_BUDGET_USD, "dollars, or empty for no limit") if text else None


def _optional_name(text: str) -> str:
    return _name(text)


def _pairs(text: str, what: str) -> list[tuple[str, str]]:
    """`key:value|key:value` as pairs."""
    found = []
    for part in text.split("|") if text else ():
        key, colon, value = part.rpartition(":")
        if not colon or not key.strip() or not value.strip():
            raise _Bad(f"{_shown(part.strip())!r} is not {what}", f"{what}, joined by |")
        found.append((key.strip(), value.strip()))
    if len({key for key, _ in found}) < len(found):
        raise _Bad(f"{text[:40]!r} names something twice", f"{what}, joined by |")
    if len(found) > MAX_CURVE_POINTS:
        raise _Bad(f"there are more than {MAX_CURVE_POINTS} parts")
    return found


def _goodput(text: str) -> tuple[tuple[int, int], ...]:
    pairs = _pairs(text, "GPUs:steps per second")
    curve = sorted((_count(gpus), _nanos(steps, 0, MAX_STEPS_PER_SECOND, "steps per second")) for gpus, steps in pairs)
    if len({gpus for gpus, _ in curve}) < len(curve):
        raise _Bad(f"{text[:40]!r} names a number of GPUs twice", "GPUs:steps per second, joined by |")
    return tuple(curve)


def _speeds(text: str) -> tuple[tuple[str, int], ...]:
    return tuple(
        sorted(
            (_name(model), _nanos(speed, 0, 1_000, "times the speed")) for model, speed in _pairs(text, "model:speed")
        )
    )


def _per_million(text: str) -> int:
    return _nanos(text, 0, MAX_BUDGET_USD, "dollars per million steps") if text else 0


def _interconnect(text: str) -> int:
    if text and text not in INTERCONNECTS:
        raise _Bad(f"{_shown(text)!r} is no interconnect", f"one of {', '.join(INTERCONNECTS)}")
    return INTERCONNECTS.index(text) if text else 0


_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _truth(default: bool) -> Callable[[str], bool]:
    def parse(text: str) -> bool:
        if not text:
            return default
        if text.lower() not in _TRUTH:
            raise _Bad(f"{_shown(text)!r} is neither true nor false", "true or false")
        return _TRUTH[text.lower()]

    return parse


_OFFER_PARSERS: dict[str, Callable[[str], object]] = {
    "id": _identifier, "gpu": _needed_name, "vram_gib": _memory, "usd_per_gpu_hour": _price, "gpus": _count,
    "region": _region, "reliability": _share, "max_hours": _limit_of_hours, "available_in_hours": _wait,
    "interconnect": _interconnect,
}  # fmt: skip
_JOB_PARSERS: dict[str, Callable[[str], object]] = {
    "id": _identifier, "gpus_min": _count, "gpus_max": _count, "gpu": _names, "regions": _names,
    "reliability_min": _share, "max_usd_per_gpu_hour": _price, "hours": _hours, "deadline_hours": _limit_of_hours,
    "interconnect_min": _interconnect, "same_region": _truth(False), "gang": _truth(True),
    "vram_gib_min": _memory, "budget_usd": _budget, "team": _optional_name, "waited_hours": _wait, "goodput": _goodput,
    "speeds": _speeds, "usd_per_million_steps": _per_million,
}  # fmt: skip


def offers_of(heading: Sequence[str], rows: Iterable[Sequence[str]], table: str = "offers") -> Offers:
    """The offers of a table of text; raises BadRow."""
    return Offers(*_columns(table, heading, rows, _OFFER_PARSERS))


def jobs_of(heading: Sequence[str], rows: Iterable[Sequence[str]], table: str = "jobs") -> Jobs:
    """The jobs of a table of text; raises BadRow."""
    jobs = Jobs(*_columns(table, heading, rows, _JOB_PARSERS))
    for row, (least, most) in enumerate(zip(jobs.gpus_min, jobs.gpus_max, strict=True), 1):
        if least > most:
            raise BadRow(table, row, "gpus_min", f"{least} is above gpus_max, which is {most}", "gpus_min ≤ gpus_max")
    for row, curve in enumerate(jobs.goodput, 1):
        _check_curve(jobs, row, curve, table)
    return jobs


def _check_curve(jobs: Jobs, row: int, curve: tuple[tuple[int, int], ...], table: str) -> None:
    if jobs.speeds[row - 1] and not curve:
        raise BadRow(table, row, "speeds", "speeds are of a goodput, and there is none", "state goodput, or no speeds")
    if curve and not jobs.usd_per_million_steps[row - 1]:
        raise BadRow(
            table,
            row,
            "usd_per_million_steps",
            "is empty or 0, and goodput is stated",
            "say what a million steps are worth",
        )
    if jobs.usd_per_million_steps[row - 1] and not curve:
        raise BadRow(
            table,
            row,
            "goodput",
            "is empty, and usd_per_million_steps is stated",
            "steps per second, such as 1:2.5|4:9",
        )
    if curve and jobs.gpus_max[row - 1] > MAX_CURVE_GPUS:
        raise BadRow(
            table,
            row,
            "gpus_max",
            f"{jobs.gpus_max[row - 1]} is too many for a job with goodput",
            f"at most {MAX_CURVE_GPUS:,}",
        )


def _columns(
    table: str, heading: Sequence[str], rows: Iterable[Sequence[str]], parsers: dict[str, Callable[[str], object]]
) -> list[list[Any]]:
    order = _checked_heading(table, [name.strip() for name in heading], parsers)
    found: list[list[Any]] = [[] for _ in order]
    seen: dict[str, int] = {}
    steps: list[tuple[str, int, Callable[[str], object], dict[str, object], list[Any]]] = [
        (name, place, parsers[name], {}, into) for (name, place), into in zip(order, found, strict=True) if place >= 0
    ]
    count = 0
    for row, cells in enumerate(rows, 1):
        count = row
        if row > MAX_ROWS:
            raise BadRow(table, row, "id", f"there are more than {MAX_ROWS:,} rows", "split the file")
        if len(cells) != len(heading):
            raise BadRow(table, row, "id", f"the row has {len(cells)} cells and the heading {len(heading)}")
        for name, place, parse, known, into in steps:
            text = cells[place].strip()
            value = known.get(text)
            if value is None:  # budgets without a limit are looked up again
                try:
                    value = parse(text)
                except _Bad as bad:
                    raise BadRow(table, row, name, str(bad), bad.remedy) from None
                if name != "id":
                    known[text] = value
                elif text in seen:
                    raise BadRow(table, row, "id", f"{_shown(text)!r} is the id of row {seen[text]} too", "ids are unique")
                else:
                    seen[text] = row
            into.append(value)
    for (name, place), into in zip(order, found, strict=True):
        if place < 0:
            into.extend([parsers[name]("")] * count)
    return found


def no_such_column(table: str, name: str, known: Iterable[str]) -> BadRow:
    """What is wrong with a heading that names this column; of one that joins its names by `;` or tabs, that too."""
    other = next((word for mark, word in ((";", "semicolons"), ("\t", "tabs")) if mark in name), None)
    commas = "" if other is None else f"join columns by commas, not by {other}; "
    return BadRow(table, 0, name[:40] or "(empty)", "no such column", f"{commas}columns: {','.join(known)}")


def _checked_heading(table: str, heading: list[str], parsers: Collection[str]) -> list[tuple[str, int]]:
    wanted = f"columns: {','.join(parsers)}"
    for name in heading:
        if name not in parsers:
            raise no_such_column(table, name, parsers)
        if heading.count(name) > 1:
            raise BadRow(table, 0, name, "the column is there twice", wanted)
    for name in parsers:
        if name not in heading and name not in OPTIONAL_JOB_COLUMNS:
            raise BadRow(table, 0, name, "the column is missing", wanted)
    return [(name, heading.index(name) if name in heading else -1) for name in parsers]
