"""What a mirror of the journal costs: batches of records that become durable alone, with an asynchronous mirror, with a synchronous one.

    python -m benchmarks.mirrors [--seconds 3] [--records 20] [--bytes 400] [--place PLACE] [--endpoint URL] [--json]

Each batch is appended and synced, and with a synchronous mirror confirmed by it (`market/mirroring.py`), before the next one. The
three take turns on one disk; the median of the turns counts, as a ratio to the journal alone, with processor seconds beside. `--place`
is a folder (default: beside the journal, on the same disk, so that both wait for one device) or a bucket. At the end the mirrors are
restored, and must give all that was confirmed.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.report import finish, parser, say
from market.homes import Home
from market.mirroring import Mirroring
from storage.canonical import canonical_bytes
from storage.journal import Journal
from storage.mirror_places import MirrorPlace, Mirrors, open_place
from storage.mirrored_homes import restore_journal
from storage.object_stores import S3Access

TURNS: Final = 3
KINDS: Final = ("alone", "asynchronous", "synchronous")
OPENED: Final = {"type": "market_opened", "market_id": "market-1", "fee_ppm": 0, "version": "1"}


def main() -> int:
    """See the module."""
    arguments = parser(__doc__)
    arguments.add_argument("--seconds", type=float, default=3.0, help="of each turn")
    arguments.add_argument("--records", type=int, default=20, help="of a batch")
    arguments.add_argument("--bytes", type=int, default=400, help="of a record, about")
    arguments.add_argument("--place", help="where the mirrors go; default: beside the journal")
    arguments.add_argument("--endpoint", help="the server of a bucket")
    chosen = arguments.parse_args()
    rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
    cpu: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for turn in range(TURNS):
        for kind in KINDS:
            with tempfile.TemporaryDirectory() as name:
                place = _place(chosen.place or name, f"{kind}-{turn}", kind, chosen.endpoint)
                batches, seconds, cpu_seconds = _run(Path(name), place, chosen.seconds, chosen.records, chosen.bytes)
            rates[kind].append(batches / seconds)
            cpu[kind].append(1000 * cpu_seconds / batches)
    figures: dict[str, float] = {}
    for kind in KINDS:
        figures[f"{kind}_batches_per_s"] = statistics.median(rates[kind])
        figures[f"{kind}_cpu_ms_a_batch"] = statistics.median(cpu[kind])
        figures[f"{kind}_ratio"] = figures[f"{kind}_batches_per_s"] / figures["alone_batches_per_s"]
        say(chosen.json, f"{kind:>13}: {figures[f'{kind}_batches_per_s']:8.0f} batches/s, {figures[f'{kind}_ratio']:.2f} of alone")
    return finish(figures, {}, chosen.json)


def _place(root: str, name: str, kind: str, endpoint: str | None) -> MirrorPlace | None:
    if kind == "alone":
        return None
    place = f"{root.rstrip('/')}/{name}"
    if "://" not in place:
        Path(place).mkdir()
    return MirrorPlace(place, S3Access(endpoint=endpoint), sync=kind == "synchronous")


def _run(folder: Path, place: MirrorPlace | None, seconds: float, records: int, size: int) -> tuple[int, float, float]:
    """Batches, seconds and processor seconds of one turn."""
    record = canonical_bytes({"v": 1, "at_ms": 1, "events": [{"type": "market_stopped", "by": "x" * size}]})
    with Journal.open(folder / "journal") as journal:
        journal.append([canonical_bytes({"v": 1, "at_ms": 1, "events": [OPENED]})])
        mirrors = Mirrors((place,) if place else ())
        mirroring = Mirroring(Home(folder), mirrors, lambda: "market-1", lambda: journal.durable, lambda: 0)
        mirroring.start()
        assert mirroring.confirm(journal.records, 60), mirroring.why()
        began_s, cpu_s, batches = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() < began_s + seconds:
            journal.append([record] * records)
            assert mirroring.confirm(journal.records, 60), mirroring.why()
            batches += 1
        took = time.perf_counter() - began_s, time.process_time() - cpu_s
        mirroring.close()
        if place is not None:
            (folder / "back").mkdir()
            assert restore_journal(open_place(place), folder / "back").records == journal.records
    return batches, *took


if __name__ == "__main__":
    sys.exit(main())
