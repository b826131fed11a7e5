"""A workload is cut at every operation on the disk, and whatever a power cut may then leave holds all that was promised."""

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from storage.blobs import BlobStore
from storage.disk import DISK, Disk
from storage.journal import Journal, read_journal, verify_journal
from storage.sealing import seal_segment, sealable
from tests.storage.crash_disk import CrashDisk, Stopped

VARIANTS = 3
APPENDS = [[f"append {number} record {place} ".encode() + b"." * 30 for place in range(1 + number % 3)] for number in range(5)]
TOGETHER = [f"with others {number} ".encode() * 9 for number in range(3)]
FILES = [f"file {number} ".encode() * (1 + number * 20) for number in range(4)]


class Account:
    """What was asked and what was acknowledged: kept apart from the code under test."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.promised = 0
        self.blobs: set[str] = set()


def write_journal(home: Path, disk: Disk, account: Account) -> None:
    """Two lives, so that an open over records is cut, too; the segments are small, so that some are begun and sealed in between."""
    for part in (APPENDS[:3], APPENDS[3:]):
        with Journal.open(home / "journal", disk=disk, segment_bytes=300) as journal:
            account.asked = account.asked[: journal.records]
            for payloads in part:
                account.asked += payloads
                journal.append(payloads)
                account.promised = journal.records
                for first in sealable(home / "journal", journal.durable.first):
                    seal_segment(home / "journal", first, disk=disk, block_bytes=100)


def write_blobs(home: Path, disk: Disk, account: Account) -> None:
    store = BlobStore(home / "blobs", disk=disk)
    for place, data in enumerate(FILES):
        if place % 2:
            account.blobs.add(store.put(data))
        else:
            digest, half = hashlib.sha256(data).hexdigest(), len(data) // 2
            stands = store.upload(digest, store.partial(digest), len(data), data[store.partial(digest) : half]).offset
            if store.upload(digest, stands, len(data), data[stands:]).whole:
                account.blobs.add(digest)
    swept = hashlib.sha256(FILES[0]).hexdigest()
    account.blobs.discard(swept)
    store.delete(swept)
    account.blobs.add(store.put(FILES[0]))  # what was swept comes again
    together = [(hashlib.sha256(data).hexdigest(), [data[:7], data[7:]]) for data in TOGETHER]
    assert store.put_all([*together, ("ab" * 32, [b"not that"])]) == ["ab" * 32]
    account.blobs |= {digest for digest, _ in together}
    swept_too = {digest for digest, _ in together[1:]}
    account.blobs -= swept_too
    assert store.delete_all([*swept_too, "ab" * 32]) == len(swept_too)
    store.put_all(together)
    account.blobs |= swept_too


def check(home: Path, account: Account) -> None:
    with Journal.open(home / "journal") as journal:
        found = [record.payload for record in read_journal(home / "journal")]
        assert len(found) >= account.promised, "acknowledged and lost"
        assert found == account.asked[: len(found)], "what was never asked, or not in this order"
        journal.append([b"and on it goes"])
    assert verify_journal(home / "journal").ok
    store = BlobStore(home / "blobs")
    for digest in account.blobs:
        assert store.verify(digest), "acknowledged and lost"
    for digest in store.digests():
        assert store.verify(digest), "half a blob under a digest"


Workload = Callable[[Path, Disk, Account], None]


def prepared(home: Path) -> CrashDisk:
    for name in ("journal", "blobs/partial", "blobs/temporary"):
        (home / name).mkdir(parents=True)
    disk = CrashDisk()
    disk.adopt(home)
    return disk


def cut(workload: Workload, home: Path, disk: CrashDisk) -> Account:
    account = Account()
    with contextlib.suppress(Stopped):
        workload(home, disk, account)
    return account


def operations(workload: Workload, home: Path) -> list[str]:
    disk = prepared(home)
    cut(workload, home, disk)
    return disk.operations


@pytest.mark.parametrize("workload", [write_journal, write_blobs])
def test_nothing_that_was_promised_is_lost_wherever_the_power_fails(tmp_path: Path, workload: Workload) -> None:
    whole = operations(workload, tmp_path / "whole")
    assert {"write", "rename", "sync folder"} <= set(whole)
    for stop_at in range(len(whole) + 1):
        home = tmp_path / str(stop_at)
        disk = prepared(home)
        disk.stop_at = stop_at
        account = cut(workload, home, disk)
        assert disk.operations == whole[:stop_at], "the cut is where it should be"
        for variant in range(VARIANTS):
            left = tmp_path / f"{stop_at}-{variant}"
            disk.crash(home, left, Random(f"{stop_at} {variant}"))
            check(left, account)


@pytest.mark.parametrize("workload", [write_journal, write_blobs])
def test_a_death_and_then_a_power_cut_lose_nothing_either(tmp_path: Path, workload: Workload) -> None:
    """The next process finds what the dead one never synced, and must not promise it before it is durable."""
    whole = operations(workload, tmp_path / "whole")
    for stop_at in range(len(whole)):
        home = tmp_path / str(stop_at)
        disk = prepared(home)
        disk.stop_at = stop_at
        before = cut(workload, home, disk)
        disk.stop_at = None
        if workload is write_blobs:
            account = Account()
            write_blobs(home, disk, account)
            assert len(account.blobs) == len(FILES) + len(TOGETHER)
        else:
            account = before
            with Journal.open(home / "journal", disk=disk) as journal:
                account.promised = journal.records
        for variant in range(VARIANTS):
            left = tmp_path / f"{stop_at}-{variant}"
            disk.crash(home, left, Random(f"{stop_at} {variant}"))
            check(left, account)


def test_a_recovery_that_is_cut_itself_is_recovered_from(tmp_path: Path) -> None:
    whole = operations(write_journal, tmp_path / "whole")
    cuts = 0
    for stop_at in range(0, len(whole), 5):
        home = tmp_path / str(stop_at)
        disk = prepared(home)
        disk.stop_at = stop_at
        account = cut(write_journal, home, disk)
        for again in range(8):
            left, after = tmp_path / f"{stop_at}-{again}", tmp_path / f"{stop_at}-{again}-after"
            disk.crash(home, left, Random(f"{stop_at} {again}"))
            (left / "blobs").mkdir(exist_ok=True)
            second = CrashDisk(stop_at=again)
            second.adopt(left)
            try:
                with Journal.open(left / "journal", disk=second):
                    pass
            except Stopped:
                cuts += 1
            second.crash(left, after, Random(f"{again} {stop_at}"))
            check(after, account)
    assert cuts


class Careless(CrashDisk):
    """A writer that promises before anything is durable."""

    def sync_data(self, handle: int) -> None:
        pass

    def sync_folder(self, folder: Path) -> None:
        pass


@pytest.mark.parametrize("workload", [write_journal, write_blobs])
def test_a_writer_that_promises_too_early_is_found(tmp_path: Path, workload: Workload) -> None:
    home = tmp_path / "home"
    prepared(home)
    disk = Careless()
    disk.adopt(home)
    account = cut(workload, home, disk)
    lost = 0
    for variant in range(20):
        left = tmp_path / str(variant)
        disk.crash(home, left, Random(variant))
        try:
            check(left, account)
        except Exception as error:  # noqa: BLE001 - however it shows
            lost += bool(error)
    assert lost
    assert DISK is not disk
