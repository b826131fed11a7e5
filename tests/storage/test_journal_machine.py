"""A journal against a plain list: appends, rolls, full disks, failed syncs, kills, power cuts and readers in any order."""

import errno
import os
import shutil
import tempfile
from pathlib import Path
from random import Random

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from storage.journal import Journal, JournalBroken, JournalFull, Walk, read_journal, verify_journal
from storage.sealing import seal_segment, sealable
from tests.storage.crash_disk import CrashDisk, Stopped


class FaultyDisk(CrashDisk):
    """`full` takes so many more bytes and then none; `bad_sync` fails the next sync of data."""

    full: int | None = None
    bad_sync = False

    def write(self, handle: int, data: memoryview) -> int:
        if self.full is None:
            return super().write(handle, data)
        taken = min(self.full, len(data))
        if not taken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.full -= taken
        return super().write(handle, data[:taken])

    def sync_data(self, handle: int) -> None:
        if self.bad_sync:
            self.bad_sync = False
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync_data(handle)


class JournalMachine(RuleBasedStateMachine):
    """`durable` is what was acknowledged; `doubtful` came after it and was not: of that a beginning may be there."""

    @initialize(segment_bytes=st.sampled_from([200, 500, 100_000]))
    def begin(self, segment_bytes: int) -> None:
        self.root = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.lives = 0
        self.home = self.root / "0"
        (self.home / "journal").mkdir(parents=True)
        self.disk = FaultyDisk()
        self.disk.adopt(self.home)
        self.segment_bytes = segment_bytes
        self.durable: list[bytes] = []
        self.doubtful: list[bytes] = []
        self.term = 0
        self.random = Random(segment_bytes)
        self.journal: Journal | None = None
        self.reader = Walk(self.home / "journal")
        self.read: list[bytes] = []
        self.recover()

    def teardown(self) -> None:
        if hasattr(self, "root"):
            if self.journal is not None:
                self.journal.close()
            shutil.rmtree(self.root)

    @property
    def folder(self) -> Path:
        return self.home / "journal"

    @precondition(lambda self: self.journal is None)
    @rule()
    def recover(self) -> None:
        self.disk.stop_at, self.disk.full, self.disk.bad_sync = None, None, False
        self.journal = Journal.open(self.folder, disk=self.disk, segment_bytes=self.segment_bytes)
        found = [record.payload for record in read_journal(self.folder)]
        assert found[: len(self.durable)] == self.durable, "acknowledged and lost"
        assert found == (self.durable + self.doubtful)[: len(found)], "never written, or not in this order"
        assert self.journal.term > self.term
        assert self.journal.records == len(found)
        self.durable, self.doubtful, self.term = found, [], self.journal.term

    @precondition(lambda self: self.journal is None)
    @rule(operations=st.integers(0, 7))
    def die_while_recovering(self, operations: int) -> None:
        self.disk.stop_at, self.disk.full, self.disk.bad_sync = len(self.disk.operations) + operations, None, False
        try:
            Journal.open(self.folder, disk=self.disk, segment_bytes=self.segment_bytes).close()
        except Stopped:
            pass
        else:
            self.disk.stop_at = None
            self.term += 1

    @precondition(lambda self: self.journal is not None)
    @rule(payloads=st.lists(st.binary(max_size=120), max_size=4), stop=st.none() | st.integers(0, 9))
    def append(self, payloads: list[bytes], stop: int | None) -> None:
        assert self.journal is not None
        self.disk.stop_at = None if stop is None else len(self.disk.operations) + stop
        try:
            self.journal.append(payloads)
        except Stopped:
            self.doubtful = payloads
            self.journal.close()
            self.journal = None
        except JournalFull:
            pass
        except JournalBroken:
            self.doubtful = payloads
            self.journal.close()
            self.journal = None
        else:
            self.durable += payloads
        self.disk.stop_at = None  # it may not have come that far, and whoever closes the journal writes, too

    @rule(stop=st.none() | st.integers(0, 6), block_bytes=st.sampled_from([100, 10_000]))
    def seal(self, stop: int | None, block_bytes: int) -> None:
        """Another process seals what it can, and may end anywhere in it; the writer and its disk's faults go on beside."""
        full, bad_sync, self.disk.full, self.disk.bad_sync = self.disk.full, self.disk.bad_sync, None, False
        self.disk.stop_at = None if stop is None else len(self.disk.operations) + stop
        for first in sealable(self.folder, 1 << 60):
            try:
                seal_segment(self.folder, first, disk=self.disk, block_bytes=block_bytes)
            except Stopped:
                break
        self.disk.stop_at, self.disk.full, self.disk.bad_sync = None, full, bad_sync

    @precondition(lambda self: self.journal is not None)
    @rule(room=st.integers(0, 300))
    def fill_the_disk(self, room: int) -> None:
        self.disk.full = room

    @rule()
    def make_room(self) -> None:
        self.disk.full = None

    @precondition(lambda self: self.journal is not None)
    @rule()
    def fail_the_next_sync(self) -> None:
        self.disk.bad_sync = True

    @precondition(lambda self: self.journal is not None)
    @rule()
    def close(self) -> None:
        assert self.journal is not None
        self.journal.close()
        self.journal = None

    @precondition(lambda self: self.journal is None)
    @rule()
    def cut_the_power(self) -> None:
        self.lives += 1
        after = self.root / str(self.lives)
        self.disk.crash(self.home, after, self.random)
        self.home = after
        self.folder.mkdir(exist_ok=True)
        self.disk = FaultyDisk()
        self.disk.adopt(self.home)
        self.reader, self.read = Walk(self.folder), []

    @precondition(lambda self: self.journal is not None)
    @rule()
    def tail(self) -> None:
        """A reader goes on where it stood; while the writer lives it sees what was acknowledged, and all of it."""
        if self.read != self.durable[: len(self.read)]:
            self.reader, self.read = Walk(self.folder), []  # it was ahead of what became durable, and a recovery tells it so
        self.read += [record.payload for record in self.reader]
        self.reader.check()
        assert self.read == self.durable

    @invariant()
    def what_lies_there_is_sound(self) -> None:
        if getattr(self, "journal", None) is not None:
            found = verify_journal(self.folder)
            assert (found.ok, found.records) == (True, len(self.durable)), found.first_bad


# Shrinking takes minutes where each try writes a disk: the steps as they were drawn must do.
JournalMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None, phases=[Phase.generate])
TestJournalMachine = JournalMachine.TestCase
