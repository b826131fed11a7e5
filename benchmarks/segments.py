"""What sealing does to a journal: how small segments get, what it costs, and how fast they are read again.

    python -m benchmarks.segments [--deposits 40000] [--batches 120] [--json]

Two journals, made by the market's own writer: single deposits, and batches of 8,190 transfers. Each is read as it was written,
sealed (`storage/sealing.py`), and read again, in turns; the median of the turns counts. Rates are of the segment's bytes by
processor seconds of this process, since a busy machine makes walls mean nothing. `read_us` is one record at random, as a proof
reads it. Recovery is the exchange's start without a snapshot, from both.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.ledger import MAX_BATCH, Books, rows_of
from benchmarks.report import finish, parser, say
from market.api.desk import Desk
from market.api.feed import Feed
from market.recollection import new_exchange
from storage.journal import Journal, Walk
from storage.sealing import seal_segment, sealable
from storage.segment_files import RecordFiles, segment_bytes

TURNS: Final = 3
RECORDS: Final = 200
END: Final = 1 << 62


def main() -> int:
    """See the module."""
    arguments = parser(__doc__)
    arguments.add_argument("--deposits", type=int, default=40_000)
    arguments.add_argument("--batches", type=int, default=120)
    chosen = arguments.parse_args()
    figures: dict[str, float] = {}
    for name, size, count in (("deposits", 1, chosen.deposits), ("batches", MAX_BATCH, chosen.batches)):
        with tempfile.TemporaryDirectory() as folder:
            found = _measured(_written(Path(folder), size, count))
        figures |= {f"{name}_{one}": value for one, value in found.items()}
        said = ", ".join(f"{one} {value:,.2f}" for one, value in found.items())
        say(chosen.json, f"{name}: {said}")
    return finish(figures, {}, chosen.json)


def _written(folder: Path, size: int, count: int) -> Path:
    """A journal of so many requests, whose last segment is empty."""
    books = Books(folder / "books")
    rows = rows_of(random.Random(1), size)
    for _ in range(count):
        books.book(books.prepare(next(rows)))
    books.close()
    journal = folder / "books" / "journal"
    with Journal.open(journal):
        return journal


def _measured(folder: Path) -> dict[str, float]:
    firsts = sealable(folder, END)
    written = sum(segment_bytes(folder, first) for first in firsts)
    walk = Walk(folder)
    places = [(place.first, place.offset) for place in (walk.place(record) for record in walk)]
    drawn = random.Random(2).choices(places, k=RECORDS)

    def read_all() -> None:
        assert sum(1 for _ in Walk(folder)) == len(places)

    def read_some() -> None:
        files = RecordFiles(folder)
        for place in drawn:
            files.read(*place)
        files.close()

    def recover() -> None:
        with Journal.open(folder) as journal:
            assert Desk(journal, new_exchange, Feed(), now_ms=lambda: 0, broken=_broken).replayed == len(places)

    before = _cpu_s(read_all), _cpu_s(read_some), _cpu_s(recover)
    began = time.process_time()
    made = [seal_segment(folder, first) for first in firsts]
    sealing_s = time.process_time() - began
    after = _cpu_s(read_all), _cpu_s(read_some), _cpu_s(recover)
    return {
        "times_smaller": written / sum(one.sealed_bytes for one in made), "seal_mb_per_s": written / sealing_s / 1e6,
        "walk_mb_per_s": written / before[0] / 1e6, "sealed_walk_mb_per_s": written / after[0] / 1e6,
        "read_us": before[1] / RECORDS * 1e6, "sealed_read_us": after[1] / RECORDS * 1e6,
        "recovery_cpu_s": before[2], "sealed_recovery_cpu_s": after[2],
    }  # fmt: skip


def _cpu_s(work: Callable[[], None]) -> float:
    taken = []
    for _ in range(TURNS):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return statistics.median(taken)


def _broken(error: Exception) -> None:
    raise SystemExit(f"the journal is broken: {error}")


if __name__ == "__main__":
    sys.exit(main())
