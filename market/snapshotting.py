"""One snapshot of a market, made beside it: `python -m market.snapshotting --home HOME`.

A process of its own reads the newest snapshot and the journal behind it, as a start does, and writes the next one. The
exchange does not wait for it and is not asked: what it costs is this process's time and memory, and it says both in one
line of JSON. Exit codes: 0 written, or nothing new; 1 the journal cannot be read.
"""

import argparse
import json
import logging
import os
import resource
import sys
import time
from pathlib import Path

from market.homes import Home
from market.recollection import Memory, body_of, keep
from storage.journal import JournalError, Walk

log = logging.getLogger("torg.snapshots")

NICE = 10


def make_snapshot(home: Home) -> dict[str, int] | None:
    """Write one up to the last whole record; what it came to, or None if there was nothing new. Raises JournalError, OSError."""
    began = time.perf_counter()
    recollection = Memory(home.snapshots, home.journal).recall()
    walk = Walk(home.journal, place=recollection.place)
    records = 0
    for record in walk:
        body = body_of(record.number, record.payload)
        recollection.take(body["at_ms"], record.number, body["events"])
        recollection.place = walk.place(record)
        records += 1
    walk.check()
    if not records or recollection.place is None:
        return None
    path = keep(recollection, home.snapshots)
    return {
        "records": recollection.place.number, "replayed": records, "bytes": path.stat().st_size,
        "took_ms": round((time.perf_counter() - began) * 1000), "cpu_ms": round(time.process_time() * 1000),
        "peak_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m market.snapshotting")
    parser.add_argument("--home", type=Path, required=True)
    given = parser.parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO, stream=sys.stderr)
    os.nice(NICE)
    home = Home(given.home)
    home.make_folders()
    try:
        made = make_snapshot(home)
    except (JournalError, OSError) as error:
        log.error("no snapshot was made: %s", error)
        return 1
    sys.stdout.write(json.dumps(made) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
