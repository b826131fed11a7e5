"""The process beside the exchange that keeps its record short to read: `python -m market.archiving --home HOME`.

It looks at the journal now and then, and has a snapshot made (market/snapshotting.py) when enough has come behind the newest
one: `SNAPSHOT_BYTES`, or as much as that one has, so that what is written for snapshots stays in proportion to the journal.
At its start it has one made of any journal of that size, since the newest may be another version's. It may die at any time.
"""

import argparse
import logging
import signal
import subprocess
import sys
import threading
from pathlib import Path

from market.children import code_folder
from market.homes import Home
from storage.journal_format import segments
from storage.snapshots import bytes_behind

log = logging.getLogger("torg.archive")

LOOK_S = 5.0
AGAIN_S = 300.0
"""After a snapshot that could not be made."""
SNAPSHOT_BYTES = 16 * 1024 * 1024


def main(arguments: list[str] | None = None) -> int:
    """Until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m market.archiving")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--snapshot-bytes", type=int, default=SNAPSHOT_BYTES, help="of journal behind a snapshot before the next")
    given = parser.parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO, stream=sys.stderr)
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    home = Home(given.home)
    home.make_folders()
    due = journal_bytes(home) >= given.snapshot_bytes
    while not over.is_set():
        wait_s = LOOK_S
        if due:
            wait_s = LOOK_S if _snapshot(home, over) else AGAIN_S
        over.wait(wait_s)
        due = is_due(home, given.snapshot_bytes)
    return 0


def journal_bytes(home: Home) -> int:
    """Of all segments."""
    return sum(path.stat().st_size for path in segments(home.journal))


def is_due(home: Home, least_bytes: int) -> bool:
    """Whether enough of the journal lies behind the newest snapshot."""
    try:
        behind, newest = bytes_behind(home.snapshots, home.journal)
    except FileNotFoundError:  # a snapshot was removed while it was looked at
        return False
    return behind >= max(least_bytes, newest)


def _snapshot(home: Home, over: threading.Event) -> bool:
    """Have one made; ends it where this process is to end."""
    command = [sys.executable, "-m", "market.snapshotting", "--home", str(home.root)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=code_folder()) as child:
        while child.poll() is None:
            if over.wait(0.2):
                child.terminate()
                break
        said = child.stdout.read().decode("utf-8", "replace").strip() if child.stdout else ""
    log.info("snapshot: %s", said or f"none, code {child.returncode}")
    return child.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
