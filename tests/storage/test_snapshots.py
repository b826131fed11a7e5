"""Snapshots hold or are passed over by name, wherever their writing was cut and whatever was changed in them."""

import contextlib
import errno
import os
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.disk import DISK, Disk
from storage.journal import Journal, JournalCorrupt, Place, Walk, read_journal, segments
from storage.snapshots import SnapshotUnfit, newest_snapshot, read_snapshot, snapshots, write_snapshot
from tests.storage.crash_disk import CrashDisk, Stopped

SHAPE = bytes(range(32))


def make_journal(folder: Path, records: int = 12) -> list[Place]:
    with Journal.open(folder, segment_bytes=400) as journal:
        for number in range(records):
            journal.append([b"record %d " % number * 3])
    walk = Walk(folder)
    return [walk.place(record) for record in walk]


def sections(place: Place) -> dict[str, bytes]:
    return {"one": b"up to %d" % place.number, "two": bytes(place.number), "empty": b""}


def write(folder: Path, place: Place, disk: Disk = DISK) -> Path:
    return write_snapshot(folder, place, 1000 + place.number, SHAPE, sections(place), disk=disk)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "snapshots").mkdir()
    return tmp_path / "snapshots"


def test_the_newest_is_found_and_only_the_newest_are_kept(folder: Path, tmp_path: Path) -> None:
    places = make_journal(tmp_path / "journal")
    for place in places[3:]:
        write(folder, place)
    found, passed_over = newest_snapshot(folder, tmp_path / "journal", SHAPE)
    assert found is not None
    assert (found.place, found.at_ms, passed_over) == (places[-1], 1012, [])
    assert {name: bytes(content) for name, content in found.sections.items()} == sections(places[-1])
    assert len(snapshots(folder)) == 2


def test_a_journal_is_opened_and_read_from_behind_a_record(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    for place in (places := make_journal(journal)):
        walk = Walk(journal, place=place)
        assert [record.number for record in walk] == list(range(place.number + 1, len(places) + 1))
        walk.check()
    whole = list(read_journal(journal))
    with Journal.open(journal, since=lambda: places[5]) as opened:
        assert (opened.records, opened.head) == (12, whole[-1].hash)
        opened.append([b"and on"])
    assert len(list(read_journal(journal))) == 13


def test_damage_behind_the_record_still_stops_the_journal(tmp_path: Path) -> None:
    places = make_journal(tmp_path / "journal")
    path = tmp_path / "journal" / f"{places[8].first:020d}.journal"
    data = bytearray(path.read_bytes())
    data[places[8].offset + 50] ^= 1
    path.write_bytes(data)
    with pytest.raises(JournalCorrupt, match="record 9"):
        Journal.open(tmp_path / "journal", since=lambda: places[2])


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_byte_or_a_cut_is_named_and_the_one_before_counts(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    home = tmp_path_factory.mktemp("home")
    (home / "snapshots").mkdir()
    places = make_journal(home / "journal")
    write(home / "snapshots", places[4])
    path = write(home / "snapshots", places[9])
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        changed = bytearray(whole)
        changed[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(changed)
    else:
        path.write_bytes(whole[:at])
    found, passed_over = newest_snapshot(home / "snapshots", home / "journal", SHAPE)
    assert found is not None
    assert found.place == places[4]
    assert len(passed_over) == 1
    assert path.name in passed_over[0]


def test_what_contradicts_the_journal_is_passed_over(folder: Path, tmp_path: Path) -> None:
    places = make_journal(tmp_path / "journal")
    for place, why in (
        (Place(places[3].first, places[3].offset, 4, "ab" * 32), "has not record 4"),
        (Place(places[3].first, places[2].offset, 4, places[3].hash), "has not record 4"),
        (Place(10**9, 96, 10**9, "ab" * 32), "is not there"),
        (Place(places[-1].first, 10**6, 13, "ab" * 32), "does not hold record 13"),
    ):
        path = write(folder, place)
        found, passed_over = newest_snapshot(folder, tmp_path / "journal", SHAPE)
        assert found is None
        assert "contradicts the journal" in passed_over[0]
        assert why in passed_over[0]
        path.unlink()


def test_a_journal_that_lost_its_tail_is_not_contradicted_by_the_one_before(folder: Path, tmp_path: Path) -> None:
    places = make_journal(tmp_path / "journal")
    write(folder, places[3])
    write(folder, places[-1])
    last = segments(tmp_path / "journal")[-1]
    os.truncate(last, os.path.getsize(last) - 1)
    found, passed_over = newest_snapshot(folder, tmp_path / "journal", SHAPE)
    assert found is not None
    assert found.place == places[3]
    assert len(passed_over) == 1


def test_another_shape_and_a_newer_format_are_passed_over(folder: Path, tmp_path: Path) -> None:
    places = make_journal(tmp_path / "journal")
    path = write(folder, places[3])
    with pytest.raises(SnapshotUnfit, match="another version of torg"):
        read_snapshot(path, bytes(32))
    data = bytearray(path.read_bytes())
    data[7:8] = b"2"
    path.write_bytes(data)
    with pytest.raises(SnapshotUnfit, match="has format 2, and this torg reads up to 1"):
        read_snapshot(path, SHAPE)


class FullDisk(Disk):
    """Takes so many bytes, and no sync where it took all."""

    def __init__(self, room_bytes: int) -> None:
        self.room_bytes = room_bytes

    def write(self, handle: int, data: memoryview) -> int:
        if not self.room_bytes:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = super().write(handle, data[: self.room_bytes])
        self.room_bytes -= taken
        return taken

    def sync(self, handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("room_bytes", [0, 100, 200, 1 << 20])
def test_a_disk_that_does_not_take_it_keeps_nothing_of_it(folder: Path, tmp_path: Path, room_bytes: int) -> None:
    places = make_journal(tmp_path / "journal")
    kept = write(folder, places[3])
    with pytest.raises(OSError, match=r"No space left|Input/output error"):
        write(folder, places[-1], FullDisk(room_bytes))
    assert list(folder.iterdir()) == [kept]
    found, _ = newest_snapshot(folder, tmp_path / "journal", SHAPE)
    assert found is not None
    assert found.place == places[3]


def test_wherever_the_writing_is_cut_the_newest_that_counts_is_whole(tmp_path: Path) -> None:
    places = make_journal(tmp_path / "journal")

    def prepared(home: Path) -> CrashDisk:
        (home / "snapshots").mkdir(parents=True)
        disk = CrashDisk()
        disk.adopt(home)
        return disk

    def write_all(home: Path, disk: Disk) -> int:
        promised = 0
        with contextlib.suppress(Stopped):
            for place in places[2::3]:
                write(home / "snapshots", place, disk)
                promised = place.number
        return promised

    whole = prepared(tmp_path / "whole")
    write_all(tmp_path / "whole", whole)
    assert {"write", "sync", "rename", "sync folder", "unlink"} <= set(whole.operations)
    for stop_at in range(len(whole.operations) + 1):
        home = tmp_path / str(stop_at)
        disk = prepared(home)
        disk.stop_at = stop_at
        promised = write_all(home, disk)
        for variant in range(3):
            left = tmp_path / f"{stop_at}-{variant}"
            disk.crash(home, left, Random(f"{stop_at} {variant}"))
            found, passed_over = newest_snapshot(left / "snapshots", tmp_path / "journal", SHAPE)
            assert passed_over == [], "a name under which not everything lies"
            assert (found.place.number if found else 0) >= promised
            if found is not None:
                assert {name: bytes(content) for name, content in found.sections.items()} == sections(found.place)
