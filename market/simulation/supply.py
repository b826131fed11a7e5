"""Machines for rent, as many of them as a load asks for. Rows in, values out."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import Final

from market.engine.columns import BadRow, no_such_column
from market.hardware import offered_name
from market.measurements import doubt_of
from market.simulation.trace import Rows, TraceJob

LISTED_COLUMNS: Final = ("gpu", "gpus", "vram_mib_per_gpu", "usd_per_hour_total", "region")
CLEAR_COLUMNS: Final = (
    "id", "gpu", "vram_gib", "usd_per_gpu_hour", "gpus", "region", "reliability", "max_hours", "available_in_hours",
    "interconnect",
)  # fmt: skip
"""As `torg clear` has them; the last four are not read: the live exchange learns reliability, and has no such limits."""
MAX_MACHINES: Final = 100_000
MACHINES_PER_PROVIDER: Final = 4


@dataclass(frozen=True, slots=True)
class Machine:
    """One offer: `gpus` units at `ask_nanos` per GPU-hour."""

    id: str
    provider: str
    gpu: str
    gpus: int
    vram_gib: float
    region: str
    ask_nanos: int


def machines_of(heading: Sequence[str], rows: Rows, table: str = "offers") -> list[Machine]:
    """Offers as listed (LISTED_COLUMNS, one row a machine and its whole price) or as `torg clear` reads them; raises
    BadRow."""
    names = [name.strip() for name in heading]
    listed = "usd_per_hour_total" in names
    known = LISTED_COLUMNS if listed else CLEAR_COLUMNS
    needed = LISTED_COLUMNS[:4] if listed else ("id", "gpu", "usd_per_gpu_hour", "gpus")
    for name in names:
        if name not in known:
            raise no_such_column(table, name, known)
        if names.count(name) > 1:
            raise BadRow(table, 0, name, "the column is there twice", f"columns: {','.join(known)}")
    for name in needed:
        if name not in names:
            raise BadRow(table, 0, name, "the column is missing", f"columns: {','.join(known)}")
    found: list[Machine] = []
    seen: dict[str, int] = {}
    for row, cells in enumerate(rows, 1):
        if row > MAX_MACHINES:
            raise BadRow(table, row, "id", f"there are more than {MAX_MACHINES:,} rows", "fewer machines, or a lower --load")
        if len(cells) != len(names):
            raise BadRow(table, row, "row", f"it has {len(cells)} cells and the heading {len(names)}")
        text = {name: cell.strip() for name, cell in zip(names, cells, strict=True)}
        gpus = _decimal(table, row, "gpus", text["gpus"], 4_096)
        if gpus != int(gpus) or gpus < 1:
            raise BadRow(table, row, "gpus", f"{text['gpus']} is no whole number from 1 to 4,096")
        if listed:
            price, column = _decimal(table, row, "usd_per_hour_total", text["usd_per_hour_total"], 10**6) / gpus, "usd_per_hour_total"
            vram = float(_decimal(table, row, "vram_mib_per_gpu", text["vram_mib_per_gpu"], 4_194_304) / 1024)
            name = f"offer-{row}"
        else:
            price, column = _decimal(table, row, "usd_per_gpu_hour", text["usd_per_gpu_hour"], 1_000), "usd_per_gpu_hour"
            vram = float(_decimal(table, row, "vram_gib", text.get("vram_gib") or "0", 4_096))
            name = text["id"]
        nanos = int((price * 10**9).to_integral_value())
        if nanos < 1:
            raise BadRow(table, row, column, "a price is above 0")
        if not name or name in seen:
            raise BadRow(table, row, "id", f"{name!r} is the id of row {seen.get(name, 0)} too" if name else "is empty", "ids are unique")
        seen[name] = row
        gpu = text["gpu"].replace(" ", "-")
        if not gpu:
            raise BadRow(table, row, "gpu", "is empty", "write a name")
        found.append(Machine(name, "", shown_gpu(gpu, round(vram, 3)), int(gpus), round(vram, 3), text.get("region", ""), nanos))
    return found


def shown_gpu(gpu: str, vram_gib: float) -> str:
    """The name under which the market lists such a card: a changed one has its memory in its name, as the market asks."""
    name = offered_name(gpu, vram_gib)
    return name if doubt_of(name, 1, vram_gib, {}) is None else f"{name}-{vram_gib:.0f}GB-changed"


def _decimal(table: str, row: int, column: str, text: str, most: int) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise BadRow(table, row, column, f"{text[:40]!r} is not a number") from None
    if not value.is_finite() or not 0 <= value <= most:
        raise BadRow(table, row, column, f"{text[:40]} is out of range", f"allowed: 0 to {most:,}")
    return value


def scaled(listed: Sequence[Machine], gpus: int, seed: int) -> list[Machine]:
    """The listed machines again and again, each time in another seeded order, until they have `gpus` GPUs; the last is cut
    to fit. Each four machines in a row have one provider, `provider-1` and so on.
    """
    found: list[Machine] = []
    left = gpus
    source = random.Random(seed)  # noqa: S311 (repeatable, not secret)
    while listed and left > 0:
        for one in source.sample(listed, len(listed)):
            if left <= 0 or len(found) >= MAX_MACHINES:
                return found
            number = len(found)
            size = min(one.gpus, left)
            provider = f"provider-{number // MACHINES_PER_PROVIDER + 1}"
            found.append(replace(one, id=f"machine-{number + 1}", provider=provider, gpus=size))
            left -= size
    return found


def with_providers(listed: Sequence[Machine]) -> list[Machine]:
    """The machines as they are, each four in a row of one provider."""
    return [
        replace(one, id=f"machine-{number + 1}", provider=f"provider-{number // MACHINES_PER_PROVIDER + 1}")
        for number, one in enumerate(listed)
    ]


def gpus_of(machines: Iterable[Machine]) -> int:
    """How many GPUs they have together."""
    return sum(machine.gpus for machine in machines)


def by_model(machines: Iterable[Machine]) -> Counter[str]:
    """GPUs by model."""
    found: Counter[str] = Counter()
    for machine in machines:
        found[machine.gpu] += machine.gpus
    return found


def in_the_way(job: TraceJob, machines: Iterable[Machine]) -> str:
    """What stood in the job's way for good, of the machines of the whole supply; else that others had them."""
    fitting = [
        machine for machine in machines
        if machine.vram_gib >= job.vram_gib and (not job.models or machine.gpu in job.models)
        and (not job.regions or machine.region in job.regions)
    ]  # fmt: skip
    if gpus_of(fitting) < job.gpus_min:
        return "gang_too_big"
    return "price_too_low" if gpus_of(one for one in fitting if one.ask_nanos <= job.limit_nanos) < job.gpus_min else "busy"
