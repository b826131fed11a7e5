"""Sealed segments: the same bytes, read alike by every reader; damage is found and named; a crash leaves one form or both."""

import contextlib
import os
import zlib
from dataclasses import replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from random import Random

import pytest

from storage.backups import check_backup, unpack_backup, write_backup
from storage.journal import Journal, JournalCorrupt, JournalNewer, Place, Walk, read_journal, segments, verify_journal
from storage.journal_format import RECORD_HEADER
from storage.sealed_segments import ENTRY, HEAD, read_head
from storage.sealing import TEMPORARY, seal_segment, sealable, sealing
from storage.segment_files import open_segment, read_segment, segment_bytes
from storage.transparency import LogIndex
from tests.storage.books_examples import example_story, write
from tests.storage.crash_disk import CrashDisk, Stopped

BLOCK_BYTES = 400


def written(folder: Path, records: int = 30, segment_bytes: int = 1_000) -> list[bytes]:
    payloads = [b"record %d " % number + b"." * (number * 7 % 90) for number in range(records)]
    with Journal.open(folder, segment_bytes=segment_bytes) as journal:
        for begin in range(0, records, 3):
            journal.append(payloads[begin : begin + 3])
    return payloads


def sealed(folder: Path, block_bytes: int = BLOCK_BYTES) -> list[int]:
    """Every segment but the last; their first records."""
    firsts = sealable(folder, 1 << 60)
    for first in firsts:
        seal_segment(folder, first, block_bytes=block_bytes)
    return firsts


def test_every_byte_of_a_segment_comes_back_from_wherever_it_is_read(tmp_path: Path) -> None:
    written(tmp_path)
    before = {int(path.stem): path.read_bytes() for path in segments(tmp_path)}
    firsts = sealed(tmp_path)
    assert len(firsts) > 2
    assert [path.suffix for path in segments(tmp_path)] == [".sealed"] * len(firsts) + [".journal"]
    random = Random(1)
    for first, data in before.items():
        assert segment_bytes(tmp_path, first) == len(data)
        with open_segment(tmp_path, first) as file:
            assert file.read() == data
        for _ in range(40):
            begin, end = sorted(random.choices(range(len(data) + 9), k=2))
            assert read_segment(tmp_path, first, begin, end) == data[begin:end]


def test_a_place_in_a_sealed_segment_is_found_and_the_journal_goes_on(tmp_path: Path) -> None:
    payloads = written(tmp_path)
    walk = Walk(tmp_path)
    places = [walk.place(record) for record in walk]
    sealed(tmp_path)
    for place in places:
        behind = Walk(tmp_path, place=place)
        assert [record.payload for record in behind] == payloads[place.number :]
    assert [record.payload for record in read_journal(tmp_path, after=7)] == payloads[7:]
    with Journal.open(tmp_path, since=lambda: Place(**{name: getattr(places[4], name) for name in Place.__slots__})) as journal:
        journal.append([b"one more"])
    assert [record.payload for record in read_journal(tmp_path)] == [*payloads, b"one more"]
    assert verify_journal(tmp_path).ok


def test_deposits_become_small(tmp_path: Path) -> None:
    write(tmp_path, example_story().records * 15)
    with Journal.open(tmp_path):
        pass
    (made,) = [seal_segment(tmp_path, first) for first in sealable(tmp_path, 1 << 60)]
    assert made.sealed_bytes * 8 < made.written_bytes


def test_only_what_is_over_and_behind_the_record_is_sealed(tmp_path: Path) -> None:
    written(tmp_path)
    firsts = [int(path.stem) for path in segments(tmp_path)]
    assert sealable(tmp_path, firsts[2]) == firsts[:2]
    assert sealable(tmp_path, firsts[2] - 1) == firsts[:1]
    assert sealable(tmp_path, 1 << 60) == firsts[:-1]
    sealed(tmp_path)
    assert sealable(tmp_path, 1 << 60) == []


def test_readers_that_stand_in_a_segment_go_on_when_it_is_sealed(tmp_path: Path) -> None:
    payloads = written(tmp_path)
    walk = Walk(tmp_path)
    read = [next(iter(walk)).payload]
    listed = segments(tmp_path)
    sealed(tmp_path)
    assert not listed[0].exists()
    assert read + [record.payload for record in walk] == payloads
    assert [record.payload for record in walk] == []


def test_one_seals_at_a_time_and_none_beside_a_backup(tmp_path: Path) -> None:
    with sealing(tmp_path) as mine, sealing(tmp_path) as second:
        assert (mine, second) == (True, False)
    with sealing(tmp_path, shared=True) as backup, sealing(tmp_path, shared=True) as another, sealing(tmp_path) as mine:
        assert (backup, another, mine) == (True, True, False)
    with sealing(tmp_path / "nowhere") as mine:
        assert not mine


def test_a_damaged_segment_is_not_sealed_and_stays_as_it_is(tmp_path: Path) -> None:
    written(tmp_path)
    path = segments(tmp_path)[1]
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        changed = bytearray(whole)
        changed[place] ^= 4
        path.write_bytes(changed)
        with pytest.raises(JournalCorrupt, match=path.name):
            seal_segment(tmp_path, int(path.stem))
        assert path.read_bytes() == changed
        assert not path.with_suffix(".sealed").exists()


def test_a_block_that_says_more_records_than_it_has_room_for_is_damaged(tmp_path: Path) -> None:
    """As somebody may forge it who can write in an archive: its CRC is right, only the chain is not."""
    written(tmp_path)
    sealed(tmp_path, 1 << 20)
    path = segments(tmp_path)[1]
    head = read_head(path.name, lambda at, size: path.read_bytes()[at : at + size])
    (block,), length = head.blocks, head.segment_bytes - head.blocks[0].begin
    count = length // RECORD_HEADER.size + 1  # so many heads, and no record, in as many bytes as the length asks for
    data = zlib.compress(count.to_bytes(4, "little") + bytes(length - 40 * count))
    forged = replace(head, blocks=(replace(block, length=len(data), crc=zlib.crc32(data)),))
    path.write_bytes(forged.encode() + data)
    with pytest.raises(JournalCorrupt, match=r"record \d+, offset \d+: block 0 does not give the records"):
        read_segment(tmp_path, head.first, 0, 1 << 20)


def test_every_byte_of_a_sealed_segment(tmp_path: Path) -> None:
    payloads = written(tmp_path, 25)
    sealed(tmp_path)
    path = segments(tmp_path)[1]
    first, whole, random = int(path.stem), path.read_bytes(), Random(3)
    blocks = HEAD.unpack(whole[: HEAD.size])[-3]
    behind = HEAD.size + ENTRY.size * blocks
    assert blocks > 1
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << random.randrange(8)
        path.write_bytes(changed)
        found = verify_journal(tmp_path)
        assert not found.ok
        assert found.first_bad is not None
        assert path.name in found.first_bad
        if place >= behind:
            assert f"record {found.records + 1}," in found.first_bad
            assert "block" in found.first_bad
        else:
            assert found.records == first - 1
        read: list[bytes] = []
        with contextlib.suppress(JournalCorrupt):
            for one in read_journal(tmp_path):
                read.append(one.payload)
            raise AssertionError("it was read to its end")
        assert read == payloads[: found.records]
        if place % 50 == 0:
            with pytest.raises(JournalCorrupt, match=path.name):
                Journal.open(tmp_path)
    path.write_bytes(whole[:-1])
    assert not verify_journal(tmp_path).ok


def test_a_sealed_segment_of_a_newer_torg_is_refused_by_name(tmp_path: Path) -> None:
    written(tmp_path)
    sealed(tmp_path)
    path = segments(tmp_path)[0]
    path.write_bytes(b"TORGSEG2" + path.read_bytes()[8:])
    told = f"the sealed segment {path.name} has format 2, and this torg reads up to 1: use the torg that wrote it, or a newer one"
    assert verify_journal(tmp_path).first_bad == told
    with pytest.raises(JournalNewer, match="has format 2"):
        list(read_journal(tmp_path))


def test_proofs_are_the_same(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    write(journal, example_story().records)
    with Journal.open(journal):
        pass
    log = LogIndex(journal, tmp_path / "log.tree", bytes(32))
    log.catch_up()
    size = len(log)
    before = [log.show(number, [0], size) for number in range(1, size + 1)]
    assert sealed(journal)
    assert [log.show(number, [0], size) for number in range(1, size + 1)] == before
    log.close()
    again = LogIndex(journal, tmp_path / "log.tree", bytes(32))
    assert len(again) == size, "its file still fits"
    assert [again.show(number, [0], size) for number in range(1, size + 1)] == before
    again.close()


def test_a_backup_takes_sealed_segments_as_they_are(tmp_path: Path) -> None:
    home = tmp_path / "home"
    write(home / "journal", example_story().records)
    with Journal.open(home / "journal"):
        pass
    sealed(home / "journal")
    made = BytesIO()
    facts = write_backup(home, made, made_at_ms=1)
    file = tmp_path / "made.backup"
    file.write_bytes(made.getvalue())
    with file.open("rb") as content:
        assert check_backup(content) == facts
        (tmp_path / "back").mkdir()
        content.seek(0)
        unpack_backup(content, tmp_path / "back")
    assert [path.suffix for path in segments(tmp_path / "back" / "journal")] == [".sealed", ".journal"]
    theirs, ours = (list(read_journal(one / "journal")) for one in (home, tmp_path / "back"))
    assert ours == theirs


# crashes


def prepared(folder: Path) -> CrashDisk:
    (folder / "journal").mkdir(parents=True)
    written(folder / "journal", 9, 300)
    disk = CrashDisk()
    disk.adopt(folder)
    return disk


def work(folder: Path, disk: CrashDisk) -> None:
    for first in sealable(folder / "journal", 1 << 60):
        seal_segment(folder / "journal", first, disk=disk, block_bytes=BLOCK_BYTES)


def test_cut_at_any_operation_the_record_is_whole_and_sealing_ends_its_work(tmp_path: Path) -> None:
    disk = prepared(tmp_path / "whole")
    expected = list(read_journal(tmp_path / "whole" / "journal"))
    names = {path.stem for path in segments(tmp_path / "whole" / "journal")}
    work(tmp_path / "whole", disk)
    whole = disk.operations
    assert whole.count("unlink") == len(names) - 1 >= 2
    both = 0
    for stop_at in range(len(whole) + 1):
        home = tmp_path / str(stop_at)
        disk = prepared(home)
        disk.stop_at = stop_at
        with contextlib.suppress(Stopped):
            work(home, disk)
        assert disk.operations == whole[:stop_at]
        lefts = [home]
        for variant in range(3):
            lefts.append(tmp_path / f"{stop_at}-{variant}")
            disk.crash(home, lefts[-1], Random(f"{stop_at} {variant}"))
        for left in lefts:
            folder = left / "journal"
            both += len([*folder.glob("*.journal"), *folder.glob("*.sealed")]) > len(names)
            assert list(read_journal(folder)) == expected
            assert verify_journal(folder).ok
            after = CrashDisk()
            after.adopt(left)
            work(left, after)
            assert {path.stem for path in folder.glob("*.sealed")} | {max(names)} == names
            assert len(list(folder.glob("*.journal"))) == 1
            assert list(read_journal(folder)) == expected
            with Journal.open(folder) as journal:
                journal.append([b"on"])
            assert verify_journal(folder).ok
    assert both, "a crash left both forms at least once"


def test_a_sealed_file_that_does_not_give_the_segment_is_made_again(tmp_path: Path) -> None:
    """The segment as it was written is still there, and counts."""
    payloads = written(tmp_path)
    first, *_ = sealable(tmp_path, 1 << 60)
    beside = tmp_path / f"{first:020d}.sealed"
    beside.write_bytes(b"TORGSEG1 and nonsense")
    assert [record.payload for record in read_journal(tmp_path)] == payloads
    sealed(tmp_path)
    assert [record.payload for record in read_journal(tmp_path)] == payloads
    assert segments(tmp_path)[0] == beside


def test_a_full_disk_leaves_the_segment_and_nothing_beside_it(tmp_path: Path) -> None:
    class Full(CrashDisk):
        def write(self, handle: int, data: memoryview) -> int:
            raise OSError(28, os.strerror(28))

    written(tmp_path)
    disk = Full()
    disk.adopt(tmp_path)
    before = {path.name: sha256(path.read_bytes()).digest() for path in tmp_path.iterdir()}
    with pytest.raises(OSError, match=os.strerror(28)):
        seal_segment(tmp_path, sealable(tmp_path, 1 << 60)[0], disk=disk)
    assert {path.name: sha256(path.read_bytes()).digest() for path in tmp_path.iterdir()} == before
    assert not (tmp_path / TEMPORARY).exists()
