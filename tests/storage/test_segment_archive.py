"""Sealed segments in another place: history is whole, a place that is away is named, and a crash leaves one form or both."""

import asyncio
import contextlib
import io
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cli.errors import CliError
from cli.main import run
from cli.mirror_places import settle_mirrors
from cli.verbs.market import archive_line
from market.api.routes.events import _pieces
from market.archive_standing import ArchiveStanding, archive_standing
from market.archiving import Archiver, Sealer
from market.homes import Home, write_json
from storage.backups import unpack_backup, write_backup
from storage.formats import upgrade_home
from storage.journal import Journal, Walk, read_journal, segments, verify_journal
from storage.journal_format import JournalAway, JournalCorrupt, Place
from storage.mirror_places import MirrorPlace, Mirrors, read_mirrors
from storage.mirrored_homes import restore_journal
from storage.mirrors import MARK, Mirror, MirrorRefused, claim
from storage.object_stores import open_store
from storage.s3_store import S3Store
from storage.sealing import seal_segment, sealable
from storage.segment_archive import archivable, archive_segment, object_name, open_archived_file
from storage.segment_files import read_segment, segment_bytes
from storage.snapshots import snapshots, write_snapshot
from storage.transparency import LogIndex
from tests.storage.books_examples import example_story
from tests.storage.crash_disk import CrashDisk, Stopped
from tests.storage.s3_server import s3_server


def a_home(folder: Path, lives: int = 4) -> Home:
    """A market's journal of several segments and two snapshots, the older one before the last two segments."""
    home = Home(folder)
    home.make_folders()
    records = example_story().records
    size = len(records) // lives + 1
    for life in range(lives):
        with Journal.open(home.journal) as journal:
            journal.append(records[life * size : (life + 1) * size])
    upgrade_home(home.root)
    walk = Walk(home.journal)
    places = [walk.place(record) for record in walk]
    firsts = [int(path.stem) for path in segments(home.journal)]
    for number in (firsts[-2], len(places)):
        write_snapshot(home.snapshots, places[number - 1], 1, bytes(32), {})
    return home


def archived(home: Home, place: Path) -> list[int]:
    place.mkdir(exist_ok=True)
    settle_mirrors(home.root, [], [], every_ms=None, endpoint=None, passphrase_file=None, archive=str(place))
    Sealer(home).seal(threading.Event())
    return Archiver(home).archive(threading.Event())


def test_what_is_behind_all_snapshots_moves_and_everybody_still_reads_it(tmp_path: Path) -> None:
    home = a_home(tmp_path / "home")
    before = list(read_journal(home.journal))
    log = LogIndex(home.journal, None, bytes(32))
    log.catch_up()
    proofs = [log.show(number, [0], len(log)) for number in range(1, len(log) + 1)]
    whole = {int(path.stem): path.read_bytes() for path in segments(home.journal)}
    moved = archived(home, tmp_path / "place")
    assert [path.suffix for path in segments(home.journal)] == [".archived", ".archived", ".sealed", ".journal"]
    assert moved == sorted(whole)[:2]
    assert sorted(path.name for path in (tmp_path / "place" / "journal").iterdir()) == [f"{first:020d}.sealed" for first in moved]
    assert list(read_journal(home.journal)) == before
    assert verify_journal(home.journal).ok
    assert [log.show(number, [0], len(log)) for number in range(1, len(log) + 1)] == proofs
    log.close()
    for first, data in whole.items():
        assert segment_bytes(home.journal, first) == len(data)
        assert read_segment(home.journal, first, 7, 900) == data[7:900]
    with Journal.open(home.journal) as journal:
        journal.append([b"on it goes"])
    assert Archiver(home).archive(threading.Event()) == []


def test_a_place_that_is_away_is_named_and_the_market_starts_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    home = a_home(tmp_path / "home")
    count = len(list(read_journal(home.journal)))
    newest = Walk(home.journal)
    *_, place = (newest.place(record) for record in newest)
    archived(home, tmp_path / "place")
    (tmp_path / "place").rename(tmp_path / "unmounted")
    told = r"segment 0{19}1\.archived is archived, and the place does not answer: .*place is no folder: is it mounted\?"
    with pytest.raises(JournalAway, match=told):
        list(read_journal(home.journal))
    found = verify_journal(home.journal)
    assert (found.ok, "does not answer" in (found.first_bad or "")) == (False, True)

    assert run(["replay", "--home", str(home.root)]) == 3
    assert re.match(rf"torg: {told} \(mount it, or see that the bucket can be reached\)", capsys.readouterr().err)

    def since() -> Place:
        return place

    with Journal.open(home.journal, since=since) as journal:
        assert journal.records == count
        journal.append([b"on"])
    Archiver(home).archive(threading.Event())
    (tmp_path / "place").mkdir()
    assert "is not in the archive" in (verify_journal(home.journal).first_bad or ""), "an empty folder is a missing mount"
    shutil.rmtree(tmp_path / "place")
    (tmp_path / "unmounted").rename(tmp_path / "place")
    assert verify_journal(home.journal).ok
    assert not caplog.records


def test_a_damaged_sealed_segment_stays_and_the_others_go(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    home = a_home(tmp_path / "home", lives=6)
    Sealer(home).seal(threading.Event())
    before, damaged, behind = segments(home.journal)[:3]
    data = bytearray(damaged.read_bytes())
    data[-3] ^= 1
    damaged.write_bytes(data)
    moved = archived(home, tmp_path / "place")
    assert {int(before.stem), int(behind.stem)} <= set(moved)
    assert damaged.read_bytes() == data
    [told] = [one.getMessage() for one in caplog.records if "is not archived" in one.getMessage()]
    assert damaged.name in told
    assert [path.suffix for path in segments(home.journal)][:3] == [".archived", ".sealed", ".archived"]


def test_archiving_into_an_empty_mount_is_refused_once_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = a_home(tmp_path / "home")
    place = tmp_path / "place"
    place.mkdir()
    settle_mirrors(home.root, [], [], every_ms=None, endpoint=None, passphrase_file=None, archive=str(place))
    Sealer(home).seal(threading.Event())
    shutil.rmtree(place)
    archiver = Archiver(home)
    assert archiver.archive(threading.Event()) == []
    later = time.monotonic() + 1000
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert archiver.archive(threading.Event()) == []
    assert len([one for one in caplog.records if "is it mounted" in one.getMessage()]) == 1
    assert all(path.suffix != ".archived" for path in segments(home.journal))
    place.mkdir()
    monkeypatch.setattr(time, "monotonic", lambda: later + 1000)
    assert len(archiver.archive(threading.Event())) == 2


def test_the_place_may_be_a_mirror_and_a_home_comes_back_from_it(tmp_path: Path) -> None:
    home = a_home(tmp_path / "home")
    store = open_store(str(tmp_path / "place"))
    with Journal.open(home.journal) as journal:
        market = example_market(home)
        mirror = Mirror(store, home.journal, market)
        mirror.open(journal.durable, begun=False)
        mirror.ship(journal.durable)
        assert archived(home, tmp_path / "place")
        mirror.tidy(journal.durable)
        again = Mirror(store, home.journal, market)
        again.open(journal.durable, begun=True)
        again.ship(journal.durable)
    (tmp_path / "back").mkdir()
    restore_journal(store, tmp_path / "back")
    assert list(read_journal(tmp_path / "back")) == list(read_journal(home.journal))


def example_market(home: Home) -> str:
    from storage.records import market_opened

    return next(market_opened(record.payload) for record in read_journal(home.journal))


def test_a_backup_has_what_was_archived(tmp_path: Path) -> None:
    home = a_home(tmp_path / "home")
    archived(home, tmp_path / "place")
    made = io.BytesIO()
    write_backup(home.root, made, made_at_ms=1)
    file = tmp_path / "made.backup"
    file.write_bytes(made.getvalue())
    (tmp_path / "back").mkdir()
    with file.open("rb") as content:
        unpack_backup(content, tmp_path / "back")
    expected = list(read_journal(home.journal))
    (tmp_path / "place").rename(tmp_path / "unmounted")
    assert list(read_journal(tmp_path / "back" / "journal")) == expected
    assert {path.suffix for path in segments(tmp_path / "back" / "journal")} == {".sealed", ".journal"}


def test_another_place_must_have_what_was_archived(tmp_path: Path) -> None:
    home = a_home(tmp_path / "home")
    archived(home, tmp_path / "place")
    other = tmp_path / "other"
    other.mkdir()

    def settle(said: Path | str) -> None:
        settle_mirrors(home.root, [], [], every_ms=None, endpoint=None, passphrase_file=None, archive=str(said))

    for said, code in ((other, "archive_unusable"), ("none", "archive_in_use"), (tmp_path / "nowhere", "archive_away")):
        with pytest.raises(CliError) as refused:
            settle(said)
        assert refused.value.code == code
    archive = read_mirrors(home.root).archive
    assert archive is not None
    assert archive.place == str(tmp_path / "place")
    shutil.copytree(tmp_path / "place" / "journal", other / "journal")
    with pytest.raises(CliError, match="does not say whose it is") as refused:
        settle(other)
    assert MARK in str(refused.value.remedy)
    shutil.copy(tmp_path / "place" / MARK, other)
    settle(other)
    (tmp_path / "place").rename(tmp_path / "gone")
    assert verify_journal(home.journal).ok
    snapshots(home.snapshots)[0].unlink()
    assert Archiver(home).archive(threading.Event()), "and the next ones go there"


def test_an_object_of_another_market_is_left_alone_and_one_of_another_compressor_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = a_home(tmp_path / "home")
    store = open_store(str(tmp_path / "place"))
    claim(store, example_market(home), begun=False)
    first = min(int(path.stem) for path in segments(home.journal))
    written = (home.journal / f"{first:020d}.journal").read_bytes()
    seal_segment(home.journal, first)
    ours = (home.journal / f"{first:020d}.sealed").read_bytes()
    store.put_new(object_name(first), ours[:-1])
    with pytest.raises(MirrorRefused, match="another segment"):
        archive_segment(home.journal, first, store)
    assert store.get(object_name(first)) == ours[:-1]
    (home.journal / f"{first:020d}.sealed").unlink()
    (home.journal / f"{first:020d}.journal").write_bytes(written)
    monkeypatch.setattr("storage.sealed_segments.LEVEL", 1)
    seal_segment(home.journal, first, block_bytes=500)
    store.replace(object_name(first), ours)
    archive_segment(home.journal, first, store)
    settle_mirrors(home.root, [], [], every_ms=None, endpoint=None, passphrase_file=None, archive=str(tmp_path / "place"))
    assert store.get(object_name(first)) == ours
    assert read_segment(home.journal, first, 0, 1 << 30) == written


def test_how_the_archive_stands_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = a_home(tmp_path / "home")
    assert archive_standing(home) is None
    place = tmp_path / "place"
    place.mkdir()
    settle_mirrors(home.root, [], [], every_ms=None, endpoint=None, passphrase_file=None, archive=str(place))
    Sealer(home).seal(threading.Event())
    place.rename(tmp_path / "unmounted")
    archiver = Archiver(home)
    assert archiver.archive(threading.Event()) == []
    away = archive_standing(home)
    assert away is not None
    assert (away.place, away.archived, away.waiting) == (str(place), 0, 2)
    assert "is it mounted" in str(away.error)
    assert archive_line(away.to_json()) == f"archive {place}: 0 segments are there, 2 wait: {away.error}"
    (tmp_path / "unmounted").rename(place)
    assert archiver.archive(threading.Event()) == [], "it is asked again after a while"
    assert archive_standing(home) == away
    later = time.monotonic() + 1000
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert len(archiver.archive(threading.Event())) == 2
    assert archive_standing(home) == ArchiveStanding(str(place), 2, 0, None)


def test_a_segment_that_is_damaged_here_is_what_keeps_the_archive(tmp_path: Path) -> None:
    home = a_home(tmp_path / "home", lives=6)
    Sealer(home).seal(threading.Event())
    damaged = segments(home.journal)[1]
    data = bytearray(damaged.read_bytes())
    data[-3] ^= 1
    damaged.write_bytes(data)
    moved = archived(home, tmp_path / "place")
    told = archive_standing(home)
    assert told is not None
    assert (told.archived, told.waiting) == (len(moved), 1)
    assert damaged.name in str(told.error)


def test_a_changed_block_over_there_is_found_and_named(tmp_path: Path) -> None:
    home = a_home(tmp_path / "home")
    archived(home, tmp_path / "place")
    path = min((tmp_path / "place" / "journal").iterdir())
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    found = verify_journal(home.journal)
    assert found.first_bad is not None
    assert f"segment {path.stem}.archived, record " in found.first_bad
    assert "was changed (CRC)" in found.first_bad


CUT = r"segment 0{19}1\.archived: its object journal/0{19}1\.sealed in .* was cut short: %s bytes of %s are left: put a whole copy there, from a mirror or a backup"


@pytest.mark.parametrize("kept", ["nothing", "its head", "half", "all but a byte"])
@pytest.mark.parametrize("bucket", [False, True])
def test_an_object_that_was_cut_short_over_there_is_damaged_and_the_place_is_not_away(tmp_path: Path, capsys: pytest.CaptureFixture[str], kept: str, bucket: bool) -> None:
    home = a_home(tmp_path / "home")
    with s3_server() if bucket else contextlib.nullcontext() as server:
        if server is None:
            archived(home, tmp_path / "place")
            store = open_store(str(tmp_path / "place"))
        else:
            url = f"{server.make_bucket('archive')}/torg"
            write_json(home.mirrors_file, Mirrors(archive=MirrorPlace(url, server.access)).to_json(), mode=0o600)
            Sealer(home).seal(threading.Event())
            assert Archiver(home).archive(threading.Event())
            store = open_store(url, server.access)
        [stub, *_] = sorted(home.journal.glob("*.archived"))
        whole = store.get(object_name(1))
        length = {"nothing": 0, "its head": stub.stat().st_size, "half": len(whole) // 2, "all but a byte": len(whole) - 1}[kept]
        store.replace(object_name(1), whole[:length])
        told = CUT % (length, len(whole))
        found = verify_journal(home.journal)
        assert not found.ok
        assert re.search(told, found.first_bad or "")
        with pytest.raises(JournalCorrupt, match=told):
            list(read_journal(home.journal))
        with pytest.raises(JournalCorrupt, match=told):
            open_archived_file(stub)
        assert run(["replay", "--home", str(home.root)]) == 3
        assert re.match(rf"torg: {told} \(torg books verify says what of it is whole\)", capsys.readouterr().err)
        store.replace(object_name(1), whole)
        assert verify_journal(home.journal).ok
        assert open_archived_file(stub).read() == whole


def test_in_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in order, a segment is fetched in few pieces."""
    home = a_home(tmp_path / "home")
    before = list(read_journal(home.journal))
    with s3_server() as server:
        url = f"{server.make_bucket('archive')}/torg"
        access = server.access
        write_json(home.mirrors_file, Mirrors(archive=MirrorPlace(url, access)).to_json(), mode=0o600)
        for first in sealable(home.journal, int(segments(home.journal)[-2].stem)):
            seal_segment(home.journal, first, block_bytes=500)
        moved = Archiver(home).archive(threading.Event())
        assert len(moved) == 2
        asked: list[int] = []
        fetch = S3Store.get_range
        monkeypatch.setattr(S3Store, "get_range", lambda store, name, begin, end: asked.append(begin) or fetch(store, name, begin, end))
        assert list(read_journal(home.journal)) == before
        assert 2 <= len(asked) <= 4
    found = verify_journal(home.journal)
    assert "is archived, and the place does not answer" in (found.first_bad or "")


def test_cut_at_any_operation_the_record_is_whole_and_archiving_ends_its_work(tmp_path: Path) -> None:
    def prepared(folder: Path) -> Home:
        home = a_home(folder, 3)
        for first in sealable(home.journal, 1 << 60):
            seal_segment(home.journal, first)
        settle_mirrors(home.root, [], [], every_ms=None, endpoint=None, passphrase_file=None, archive=str(place))
        return home

    def work(home: Home, disk: CrashDisk) -> None:
        for first in archivable(home.journal, 1 << 60):
            archive_segment(home.journal, first, open_store(str(place)), disk=disk)

    place = tmp_path / "place"
    place.mkdir()
    home = prepared(tmp_path / "whole")
    expected = list(read_journal(home.journal))
    disk = CrashDisk()
    disk.adopt(home.root)
    work(home, disk)
    whole = disk.operations
    assert whole.count("unlink") == 2
    both = 0
    for stop_at in range(len(whole)):
        home = prepared(tmp_path / str(stop_at))
        disk = CrashDisk(stop_at)
        disk.adopt(home.root)
        with contextlib.suppress(Stopped):
            work(home, disk)
        left = Home(tmp_path / f"{stop_at}-cut")
        left.root.mkdir()
        disk.crash(home.root, left.root, Random(stop_at))
        for one in (home, left):
            both += len(list(one.journal.glob("0*.*"))) > 3
            assert list(read_journal(one.journal)) == expected
            work(one, CrashDiskOf(one.root))
            assert [path.suffix for path in segments(one.journal)] == [".archived", ".archived", ".journal"]
            assert len(list(one.journal.glob("0*.*"))) == 3
            assert list(read_journal(one.journal)) == expected
    assert both


def CrashDiskOf(folder: Path) -> CrashDisk:
    disk = CrashDisk()
    disk.adopt(folder)
    return disk


def test_the_process_beside_the_market_seals_and_archives(tmp_path: Path) -> None:
    home, place = a_home(tmp_path / "home"), tmp_path / "place"
    place.mkdir()
    settle_mirrors(home.root, [], [], every_ms=None, endpoint=None, passphrase_file=None, archive=str(place))
    expected = list(read_journal(home.journal))
    command = [sys.executable, "-m", "market.archiving", "--home", str(home.root)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        archived = 0
        for line in process.stderr:
            archived += "is archived in" in line
            if archived == 2:
                process.terminate()
    assert (process.returncode, archived) == (0, 2)
    assert list(read_journal(home.journal)) == expected


def test_older_events_that_are_away_end_the_stream_and_say_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    home = a_home(tmp_path / "home")
    archived(home, tmp_path / "place")
    (tmp_path / "place").rename(tmp_path / "unmounted")
    feed = SimpleNamespace(recent=lambda job, after: None, first_record={"job-a": 1})
    services = SimpleNamespace(desk=SimpleNamespace(records=9, folder=home.journal), feed=feed)

    async def all_pieces() -> list[str]:
        return [piece async for piece in _pieces(cast(Any, services), "job-a", 0)]

    assert asyncio.run(all_pieces()) == [": older events are archived in a place that does not answer\n\n"]
    assert "is it mounted?" in caplog.text
