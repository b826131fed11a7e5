"""The process beside the exchange that keeps its record short to read: `python -m market.archiving --home HOME`.

It looks at the journal now and then, and has a snapshot made (market/snapshotting.py) when enough has come behind the newest
one: `SNAPSHOT_BYTES`, or as much as that one has, so that what is written for snapshots stays in proportion to the journal.
At its start it has one made of any journal of that size, since the newest may be another version's. Segments behind the newest
snapshot, which no start reads, it seals (storage/sealing.py), and moves those behind all snapshots to another place where the
operator has named one (storage/segment_archive.py). It may die at any time.
"""

import argparse
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from market.archive_standing import note_archive_error
from market.children import code_folder
from market.homes import Home
from storage.formats import HOME_FORMAT, FormatDamaged, home_format
from storage.journal_format import JournalCorrupt, segments
from storage.sealing import Sealed, seal_segment, sealable, sealing
from storage.segment_archive import AWAY, archivable, archive_of, archive_segment, open_archive
from storage.segment_files import about_bytes
from storage.snapshots import bytes_behind, snapshots

log = logging.getLogger("torg.archive")

NICE = 5
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
    os.nice(NICE)
    due = journal_bytes(home) >= given.snapshot_bytes
    sealer, archiver = Sealer(home), Archiver(home)
    while not over.is_set():
        wait_s = LOOK_S
        if due:
            wait_s = LOOK_S if _snapshot(home, over) else AGAIN_S
        sealer.seal(over)
        archiver.archive(over)
        over.wait(wait_s)
        due = is_due(home, given.snapshot_bytes)
    return 0


class Sealer:
    """Seals what lies behind the newest snapshot, one segment after another; a damaged one is left alone, a full disk waited for."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._left: set[int] = set()
        self._next_s = 0.0

    def seal(self, over: threading.Event) -> list[Sealed]:
        """What was sealed; ends early where `over` is set. A home that is not brought up to date yet is left alone."""
        newest = snapshots(self._home.snapshots)[-1:]
        if not newest or time.monotonic() < self._next_s or not self._is_of_today():
            return []
        made: list[Sealed] = []
        with sealing(self._home.journal) as mine:
            for first in sealable(self._home.journal, int(newest[0].stem)) if mine else ():
                if over.is_set():
                    break
                if first in self._left:
                    continue
                try:
                    made.append(self._seal(first))
                except JournalCorrupt as error:
                    log.error("the segment of record %s is not sealed: %s", first, error)
                    self._left.add(first)
                except OSError as error:
                    log.error("the segment of record %s is not sealed, and it is tried again: %s", first, error)
                    self._next_s = time.monotonic() + AGAIN_S
                    break
        return made

    def _is_of_today(self) -> bool:
        try:
            return home_format(self._home.root) == HOME_FORMAT
        except (FormatDamaged, OSError) as error:
            log.error("nothing is sealed: %s", error)
            return False

    def _seal(self, first: int) -> Sealed:
        made = seal_segment(self._home.journal, first)
        log.info("the segment of record %s is sealed: %s bytes became %s", first, made.written_bytes, made.sealed_bytes)
        return made


class Archiver:
    """Moves sealed segments behind the oldest snapshot to the place that the home names; one that is away is tried again, a
    damaged segment left alone."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._left: set[int] = set()
        self._told = ""
        self._next_s = 0.0
        self._damage: str | None = None

    def archive(self, over: threading.Event) -> list[int]:
        """First records of what was moved; ends early where `over` is set."""
        if time.monotonic() < self._next_s:
            return []
        moved, error = self._archive(over)
        if error is not None:
            self._next_s = time.monotonic() + AGAIN_S
            if self._told != error:
                log.error("nothing is archived, and it is tried again: %s", error)
        self._told = error or ""
        try:
            note_archive_error(self._home, error or self._damage)
        except OSError as unwritten:
            log.error("how the archive stands is not written down: %s", unwritten)
        return moved

    def _archive(self, over: threading.Event) -> tuple[list[int], str | None]:
        """First records of what was moved, and what kept the others."""
        known = snapshots(self._home.snapshots)
        folder, moved = self._home.journal, list[int]()
        if not known:
            return moved, None
        try:
            place = archive_of(self._home.root)
            firsts = archivable(folder, int(known[0].stem)) if place is not None else []
            firsts = [first for first in firsts if first not in self._left]
            if place is None or not firsts:
                return moved, None
            store = open_archive(self._home.root, place)
            with sealing(folder) as mine:
                for first in firsts if mine else ():
                    if over.is_set():
                        break
                    try:
                        size = archive_segment(folder, first, store)
                    except JournalCorrupt as error:
                        log.error("the segment of record %s is not archived: %s", first, error)
                        self._left.add(first)
                        self._damage = str(error)
                        continue
                    log.info("the segment of record %s is archived in %s: %s bytes", first, store.where, size)
                    moved.append(first)
        except (*AWAY, JournalCorrupt) as error:
            return moved, str(error)
        return moved, None


def journal_bytes(home: Home) -> int:
    """Of all segments."""
    return sum(about_bytes(path) for path in segments(home.journal))


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
