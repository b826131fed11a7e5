"""Traces: who wanted which GPUs when, for how long, at what price; and which machines came and went. Rows in, values out.

Times are whole milliseconds from the start of the trace, money is nano-dollars per GPU-hour.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from market.checking import MAX_VRAM_GIB, MAX_WORKERS, NAME, is_name
from market.engine.columns import BadRow, no_such_column
from market.hardware import listed_name
from storage.units import MS_PER_SECOND, UnitError, parse_usd

MAX_JOBS: Final = 5_000_000
MAX_SECONDS: Final = 10 * 365 * 86_400
MAX_GANG: Final = MAX_WORKERS
MAX_CHURN: Final = 1_000_000
PHILLY_COLUMNS: Final = ("timestamp", "duration", "num_gpus", "gpu_time", "cluster")
TORG_COLUMNS: Final = (
    "id", "tenant", "submitted_s", "duration_s", "gpus_min", "gpus_max", "gpu", "regions", "vram_gib",
    "max_usd_per_gpu_hour", "estimate_s", "patience_s",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TraceJob:
    """One job as its customer knows it, and `duration_ms`, which only the trace does: its time on `gpus_max` GPUs.

    Empty `models` and `regions`: any. `patience_ms`: after so long without a GPU the customer gives up; None: never.
    `interruptible`: it may be outbid.
    """

    id: str
    tenant: str
    submitted_ms: int
    duration_ms: int
    gpus_min: int
    gpus_max: int
    models: tuple[str, ...]
    regions: tuple[str, ...]
    vram_gib: float
    limit_nanos: int
    estimate_ms: int
    patience_ms: int | None
    interruptible: bool = False

    @property
    def gpu_ms(self) -> int:
        """The work that it is: GPU-milliseconds."""
        return self.gpus_max * self.duration_ms


@dataclass(frozen=True, slots=True)
class BareJob:
    """A job of a trace that knows no prices."""

    id: str
    tenant: str
    submitted_ms: int
    duration_ms: int
    gpus: int


@dataclass(frozen=True, slots=True)
class Churn:
    """A machine comes (`joins`) or goes."""

    at_ms: int
    joins: bool
    machine: str


Rows = Iterable[Sequence[str]]


def philly_jobs(heading: Sequence[str], rows: Rows, table: str = "trace") -> list[BareJob]:
    """`timestamp,duration,num_gpus,gpu_time,cluster`: seconds, GPUs, GPU-seconds (not read), tenant. Raises BadRow.

    Rows may come in any order; a job's id is its row. Timestamps are `YYYY-MM-DD HH:MM:SS`, taken as UTC.
    """
    at = _places(table, heading, PHILLY_COLUMNS, PHILLY_COLUMNS[:3], )
    found: list[tuple[int, int, int, int, str]] = []
    tenants: dict[str, str] = {}
    for row, cells in _checked(table, heading, rows):
        begin = _timestamp(table, row, cells[at["timestamp"]])
        duration = _seconds(table, row, "duration", cells[at["duration"]])
        gpus = _whole(table, row, "num_gpus", cells[at["num_gpus"]], 1, MAX_GANG)
        tenant = cells[at["cluster"]].strip() if "cluster" in at else ""
        known = tenants.get(tenant)
        if known is None:
            known = tenants[tenant] = _tenant(table, row, "cluster", tenant)
        found.append((begin, row, duration, gpus, known))
    found.sort()
    start = found[0][0] if found else 0
    if found and found[-1][0] - start > MAX_SECONDS * MS_PER_SECOND:
        raise BadRow(table, found[-1][1], "timestamp", f"is more than ten years after that of row {found[0][1]}", "a trace is of ten years at most")
    return [BareJob(f"job-{row}", tenant, begin - start, ms, gpus) for begin, row, ms, gpus, tenant in found]


def torg_jobs(heading: Sequence[str], rows: Rows, table: str = "trace") -> list[TraceJob]:
    """The columns of TORG_COLUMNS; raises BadRow. `id`, `submitted_s`, `duration_s`, `gpus_max` and
    `max_usd_per_gpu_hour` are needed; of the others the column, or the cell, may be missing."""
    needed = ("id", "submitted_s", "duration_s", "gpus_max", "max_usd_per_gpu_hour")
    at = _places(table, heading, TORG_COLUMNS, needed)
    seen: dict[str, int] = {}
    found: list[TraceJob] = []
    for row, cells in _checked(table, heading, rows):
        text = {name: cells[place].strip() for name, place in at.items()}
        name = _name(table, row, "id", text["id"])
        if name in seen:
            raise BadRow(table, row, "id", f"{name!r} is the id of row {seen[name]} too", "ids are unique")
        seen[name] = row
        most = _whole(table, row, "gpus_max", text["gpus_max"], 1, MAX_GANG)
        least = _whole(table, row, "gpus_min", text.get("gpus_min") or str(most), 1, MAX_GANG)
        if least > most:
            raise BadRow(table, row, "gpus_min", f"{least} is above gpus_max, which is {most}", "gpus_min ≤ gpus_max")
        duration = _seconds(table, row, "duration_s", text["duration_s"])
        patience = text.get("patience_s", "")
        found.append(
            TraceJob(
                id=name,
                tenant=_tenant(table, row, "tenant", text.get("tenant", "")),
                submitted_ms=_seconds(table, row, "submitted_s", text["submitted_s"], least_ms=0),
                duration_ms=duration,
                gpus_min=least,
                gpus_max=most,
                models=tuple(sorted(map(listed_name, _names(table, row, "gpu", text.get("gpu", ""))))),
                regions=_names(table, row, "regions", text.get("regions", "")),
                vram_gib=_number(table, row, "vram_gib", text.get("vram_gib") or "0", MAX_VRAM_GIB),
                limit_nanos=_price(table, row, "max_usd_per_gpu_hour", text["max_usd_per_gpu_hour"]),
                estimate_ms=_seconds(table, row, "estimate_s", text.get("estimate_s") or text["duration_s"]),
                patience_ms=_seconds(table, row, "patience_s", patience) if patience else None,
            )
        )
    found.sort(key=lambda job: (job.submitted_ms, job.id))
    return found


def churn_of(rows: Rows, table: str = "churn") -> list[Churn]:
    """`milliseconds,add or remove,machine`, without a heading; raises BadRow."""
    found: list[Churn] = []
    there: set[str] = set()
    last_ms = 0
    for row, cells in enumerate(rows, 1):
        if row > MAX_CHURN:
            raise BadRow(table, row, "time", f"there are more than {MAX_CHURN:,} rows", "split the file")
        if len(cells) != 3:
            raise BadRow(table, row, "row", f"it has {len(cells)} cells", "milliseconds,add or remove,machine")
        at_ms = _whole(table, row, "time", cells[0].strip(), 0, MAX_SECONDS * MS_PER_SECOND)
        if at_ms < last_ms:
            raise BadRow(table, row, "time", f"{at_ms} is before the row above, {last_ms}", "rows in order of time")
        last_ms, word, machine = at_ms, cells[1].strip(), cells[2].strip()
        if word not in ("add", "remove"):
            raise BadRow(table, row, "event", f"{word!r} is neither add nor remove")
        if (word == "add") == (machine in there):
            raise BadRow(table, row, "machine", f"{machine!r} {'is there already' if word == 'add' else 'is not there'}")
        there.symmetric_difference_update((machine,))
        found.append(Churn(at_ms, word == "add", machine))
    return found


def _places(table: str, heading: Sequence[str], known: Sequence[str], needed: Sequence[str]) -> dict[str, int]:
    names = [name.strip() for name in heading]
    wanted = f"columns: {','.join(known)}"
    for name in names:
        if name not in known:
            raise no_such_column(table, name, known)
        if names.count(name) > 1:
            raise BadRow(table, 0, name, "the column is there twice", wanted)
    for name in needed:
        if name not in names:
            raise BadRow(table, 0, name, "the column is missing", wanted)
    return {name: place for place, name in enumerate(names)}


def _checked(table: str, heading: Sequence[str], rows: Rows) -> Iterator[tuple[int, Sequence[str]]]:
    for row, cells in enumerate(rows, 1):
        if row > MAX_JOBS:
            raise BadRow(table, row, "id", f"there are more than {MAX_JOBS:,} rows", "split the file")
        if len(cells) != len(heading):
            raise BadRow(table, row, "row", f"it has {len(cells)} cells and the heading {len(heading)}")
        yield row, cells


def _timestamp(table: str, row: int, text: str) -> int:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise BadRow(table, row, "timestamp", f"{text[:40]!r} is no time", "such as 2017-10-09 07:01:55") from None
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * MS_PER_SECOND)


def _seconds(table: str, row: int, column: str, text: str, least_ms: int = 1) -> int:
    seconds = _number(table, row, column, text, MAX_SECONDS)
    ms = round(seconds * MS_PER_SECOND)
    if ms < least_ms:
        raise BadRow(table, row, column, f"{text} is not above 0", "seconds")
    return ms


def _number(table: str, row: int, column: str, text: str, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadRow(table, row, column, f"{text[:40]!r} is not a number")
    if not 0 <= value <= most:
        raise BadRow(table, row, column, f"{text[:40]} is out of range", f"allowed: 0 to {most:,.0f}")
    return value


def _whole(table: str, row: int, column: str, text: str, least: int, most: int) -> int:
    value = int(text) if text.isdecimal() and len(text) < 20 else -1
    if not least <= value <= most:
        raise BadRow(table, row, column, f"{text[:40]!r} is no whole number from {least} to {most:,}")
    return value


def _price(table: str, row: int, column: str, text: str) -> int:
    try:
        nanos = parse_usd(text)
    except UnitError as error:
        raise BadRow(table, row, column, str(error)) from None
    if not 1 <= nanos <= 10_000 * 10**9:
        raise BadRow(table, row, column, f"{text} is out of range", "allowed: above 0, to 10,000")
    return nanos


def _name(table: str, row: int, column: str, text: str) -> str:
    if not is_name(text):
        raise BadRow(table, row, column, f"{text[:40]!r} is no name", "1 to 64 letters, digits, dots, dashes")
    return text


def _tenant(table: str, row: int, column: str, text: str) -> str:
    return _name(table, row, column, text) if text else "nobody"


def _names(table: str, row: int, column: str, text: str) -> tuple[str, ...]:
    names = sorted({part.strip() for part in text.split("|")}) if text else []
    if len(names) > 64 or not all(NAME.fullmatch(name) for name in names):
        raise BadRow(table, row, column, f"{text[:40]!r} is no list of names", "at most 64 names joined by |, or nothing")
    return tuple(names)


Parse = Callable[[Sequence[str], Rows, str], list[TraceJob]]
