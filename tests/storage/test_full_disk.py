"""A disk of four mebibytes that is really full: an ext4 image on a loop device, else a small tmpfs."""

import asyncio
import contextlib
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from market.api.desk import Desk
from market.api.feed import Feed
from market.api.problems import Problem
from market.commands import AddMember, Deposit, OpenMarket
from market.recollection import new_exchange
from storage.blobs import BlobStore, BlobStoreFull
from storage.journal import Journal, JournalFull, read_journal, verify_journal

MIB = 1024 * 1024
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """The folder where it is mounted. Skips where nothing may be mounted (a container without that right)."""
    where = tmp_path / "mounted"
    where.mkdir()
    image = tmp_path / "image"
    image.write_bytes(bytes(4 * MIB))
    made = shutil.which("mkfs.ext4") and _runs("mkfs.ext4", "-q", "-m", "0", str(image))
    if not (made and _runs("mount", "-o", "loop", str(image), str(where))) and not _runs("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(where)):
        pytest.skip("nothing may be mounted here: neither a loop device nor a tmpfs")
    try:
        yield where
    finally:
        subprocess.run(["umount", str(where)], check=True)


def _runs(*words: str) -> bool:
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def _fill(disk: Path, leaving: int) -> Path:
    """A file that takes all but about so many bytes."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            found = os.statvfs(disk)
            piece = min(64 * 1024, found.f_bavail * found.f_frsize - leaving)
            if piece <= 0:
                break
            file.write(bytes(piece))
        os.fsync(file.fileno())
    return ballast


def test_a_journal_keeps_everything_before_and_goes_on_after(disk: Path) -> None:
    payload, kept = b"x" * 5_000, 0
    with Journal.open(disk / "journal", segment_bytes=40_000) as journal:
        ballast = _fill(disk, 120_000)
        with pytest.raises(JournalFull):  # noqa: PT012 - how many fit is what is asked
            while True:
                journal.append([payload, payload])
                kept += 2
        assert kept > 4
        assert journal.records == kept
        assert [one.payload for one in read_journal(disk / "journal")] == [payload] * kept
        with pytest.raises(JournalFull):
            journal.append([payload] * 40)
        ballast.unlink()
        journal.append([b"after"])
    with Journal.open(disk / "journal") as again:
        assert (again.records, again.cut_bytes) == (kept + 1, 0)
    assert verify_journal(disk / "journal").ok


def test_a_journal_that_is_opened_on_a_full_disk_says_so_and_loses_nothing(disk: Path) -> None:
    with Journal.open(disk / "journal") as journal:
        journal.append([b"one", b"two"])
    ballast = _fill(disk, 0)
    with contextlib.suppress(JournalFull):  # a last block of the file system may take the 96 bytes of a segment's head
        Journal.open(disk / "journal").close()
    assert [one.payload for one in read_journal(disk / "journal")] == [b"one", b"two"]
    ballast.unlink()
    with Journal.open(disk / "journal") as journal:
        assert journal.records == 2


def test_blobs_are_refused_whole(disk: Path) -> None:
    store = BlobStore(disk / "blobs")
    first = store.put(b"a" * 10_000)
    ballast = _fill(disk, 100_000)
    with pytest.raises(BlobStoreFull):
        store.put(b"b" * 400_000)
    assert list(store.digests()) == [first]
    assert store.verify(first)
    assert not [path for path in (disk / "blobs").rglob("*") if path.is_file() and path.name != first]
    together = [(hashlib.sha256(data).hexdigest(), [data]) for data in (b"c" * 9_000, b"d" * 400_000)]
    with pytest.raises(BlobStoreFull):
        store.put_all(together)
    assert list(store.digests()) == [first], "none of those that came together"
    assert not [path for path in (disk / "blobs").rglob("*") if path.is_file() and path.name != first]
    ballast.unlink()
    assert store.verify(store.put(b"b" * 400_000))
    assert store.put_all(together) == []
    assert all(store.verify(digest) for digest, _ in together)


def test_a_market_refuses_while_it_is_full_and_heals(disk: Path) -> None:
    async def live() -> tuple[int, int]:
        journal = Journal.open(disk / "journal")
        desk = Desk(journal, new_exchange, Feed(), now_ms=lambda: 1_000_000, broken=lambda error: pytest.fail(str(error)))
        for command in (OpenMarket("m", "1"), AddMember("op", "operator", "0" * 64, "market"), AddMember("ann", "customer", "1" * 64, "market")):
            desk.decide_now(command)
        loops = [asyncio.create_task(desk.write()), asyncio.create_task(desk.tick(every_s=0.01))]
        ballast = _fill(disk, 20_000)
        told = 0
        try:
            with pytest.raises(Problem) as refused:  # noqa: PT012 - how many fit is what is asked
                for number in range(10_000):
                    await desk.ask(Deposit(f"d{number}", "ann", 7, "op"))
                    told += 1
            assert (refused.value.status, desk.full) == (507, True)
            ballast.unlink()
            while desk.full:
                await asyncio.sleep(0.01)
            await desk.ask(Deposit(f"d{told}", "ann", 7, "op"))
            return told + 1, desk.exchange.balance("ann")["wallet_nanos"]
        finally:
            for loop in loops:
                loop.cancel()
            journal.close()

    told, wallet = asyncio.run(live())
    assert told > 10
    assert wallet == 7 * told
    with Journal.open(disk / "journal") as journal:
        again = Desk(journal, new_exchange, Feed(), now_ms=lambda: 1_000_000, broken=lambda _: None)
        assert again.exchange.balance("ann")["wallet_nanos"] == wallet
