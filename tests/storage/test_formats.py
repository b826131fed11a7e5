"""Formats: what is newer is refused with both numbers, what is older is read and brought up in place, whenever it is killed."""

import io
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from market.exchange import Exchange, Settings
from storage import formats
from storage.artifacts import Artifacts, ArtifactsError
from storage.backups import BackupError, check_backup, unpack_backup, write_backup
from storage.canonical import canonical_bytes
from storage.formats import (
    HOME_FORMAT,
    JOURNAL_FORMAT,
    FormatDamaged,
    FormatNewer,
    check_home,
    home_format,
    upgrade_home,
)
from storage.journal import Journal, JournalCorrupt, JournalNewer, read_journal, segments, verify_journal
from storage.parts import Parts, PartsError
from storage.projection import Projection, projection_equal
from storage.records import decode_record
from storage.saved import Saved, SavedError
from storage.tables import rows_of

HOMES = Path(__file__).parents[1] / "golden" / "homes"
OPENED = {"type": "market_opened", "market_id": "market-1", "fee_ppm": 0, "version": "1"}
REMEDY = "use the torg that wrote it, or a newer one"


def record(*events: dict[str, object], v: int = 1) -> bytes:
    return canonical_bytes({"v": v, "at_ms": 7, "events": list(events)})


def restored(name: str, folder: Path) -> Path:
    with (HOMES / name).open("rb") as file:
        folder.mkdir()
        unpack_backup(file, folder)
    return folder


# homes of every format


@pytest.mark.parametrize("number", range(1, HOME_FORMAT + 1))
def test_a_home_of_every_format_is_read_and_brought_up(number: int, tmp_path: Path) -> None:
    """The files were written by the torg of their time, from a market's life with every common event in it."""
    home = restored(f"home-{number}.backup", tmp_path / "home")
    assert home_format(home) == number
    assert upgrade_home(home) == (None if number == HOME_FORMAT else number)
    assert (home_format(home), upgrade_home(home)) == (HOME_FORMAT, None)
    exchange = Exchange(Settings())
    kinds: set[str] = set()
    for one in read_journal(home / "journal"):
        body = decode_record(one.payload)
        exchange.replay(body["at_ms"], body["events"])
        kinds |= {event["type"] for event in body["events"]}
    assert exchange.journal_format == number
    assert len(kinds) > 20
    balances = exchange.fingerprint()["balances"]
    known = {"world": -99_999_999_000, "wallet:ann": 94_000_000_000, "escrow:job-1": 5_997_250_000, "fee": 137_500}
    assert {name: balances[name] for name in known} == known
    job = exchange.job("job-1")
    assert job is not None
    assert (job["state"], job["reason"], job["billed_nanos"], job["rounds_committed"]) == ("pending", "market_up", 2_750_000, 1)
    with Projection.in_memory(home / "journal") as books:
        assert projection_equal(books)[0]
    if number >= 2:
        assert (balances["grants"], balances["credit:g2"]) == (-3_000_000_000, 3_000_000_000)
        assert [one["state"] for one in exchange.invites(10**9)] == ["used", "revoked"]


def test_there_is_a_golden_home_of_every_format() -> None:
    assert sorted(path.name for path in HOMES.iterdir()) == [f"home-{n}.backup" for n in range(1, HOME_FORMAT + 1)]
    assert set(formats.STEPS) == set(range(1, HOME_FORMAT))


def test_an_empty_folder_gets_the_newest_format(tmp_path: Path) -> None:
    assert home_format(tmp_path) == HOME_FORMAT
    assert upgrade_home(tmp_path) is None
    assert json.loads((tmp_path / "format.json").read_text()) == {"home": HOME_FORMAT}


def test_a_newer_home_is_refused_and_nothing_in_it_changes(tmp_path: Path) -> None:
    home = restored("home-1.backup", tmp_path / "home")
    (home / "format.json").write_text('{"home": 4, "and": "more"}')
    for call in (check_home, upgrade_home):
        with pytest.raises(FormatNewer) as refused:
            call(home)
        assert str(refused.value) == f"the home {home} has format 4, and this torg reads up to {HOME_FORMAT}: {REMEDY}"
    with pytest.raises(BackupError) as backup:
        write_backup(home, io.BytesIO(), made_at_ms=1)
    assert backup.value.code == "home_newer"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"home": "2"}', '{"home": 0}', '{"home": true}'])
def test_a_format_that_is_none_is_said_to_be_damaged(text: str, tmp_path: Path) -> None:
    (tmp_path / "format.json").write_text(text)
    with pytest.raises(FormatDamaged, match=r"format\.json"):
        check_home(tmp_path)


def _rewrite(home: Path, mark: str) -> None:
    """A step as a real one would be: a new file beside the old one, then in its place."""
    beside = home / "settings.new"
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(descriptor, mark.encode())
    os.fsync(descriptor)
    os.close(descriptor)
    os.rename(beside, home / "settings")


STEPS: dict[int, Callable[[Path], None]] = {
    1: formats.STEPS[1],
    2: lambda home: _rewrite(home, "three"),
    3: lambda home: _rewrite(home, "four"),
}


def test_killed_at_any_call_the_home_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    """Every system call of the upgrade is once the last one; the next start brings the home up from where it is."""
    seen: set[int] = set()
    kills = 0
    for last in range(1, 200):
        home = restored("home-1.backup", tmp_path / f"home-{last}")
        before = verify_journal(home / "journal")
        if not _killed(home, last):
            break
        kills += 1
        found = home_format(home)
        seen.add(found)
        settings = (home / "settings").read_text() if (home / "settings").exists() else None
        # a step may have done its work without its number: then it is done again
        assert settings in {1: (None,), 2: (None, "three"), 3: ("three", "four"), 4: ("four",)}[found]
        assert verify_journal(home / "journal") == before
        assert upgrade_home(home, STEPS, newest=4) == (found if found < 4 else None)
        assert (home_format(home), (home / "settings").read_text()) == (4, "four")
        assert upgrade_home(home, STEPS, newest=4) is None
        shutil.rmtree(home)
    assert seen == {1, 2, 3, 4}
    assert kills > 15


def _killed(home: Path, last: int) -> bool:
    """Upgrade in a process that is gone before its call number `last`; False if it came to its end."""
    child = os.fork()
    if child == 0:
        made = 0

        def counted(call: Callable[..., object]) -> Callable[..., object]:
            def one(*args: object, **named: object) -> object:
                nonlocal made
                made += 1
                if made == last:
                    os._exit(9)
                return call(*args, **named)

            return one

        for name in ("open", "write", "fsync", "close", "rename"):
            setattr(os, name, counted(getattr(os, name)))
        upgrade_home(home, STEPS, newest=4)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


# journals


def test_a_segment_of_a_newer_torg_is_refused_and_not_cut(tmp_path: Path) -> None:
    with Journal.open(tmp_path) as journal:
        journal.append([record(OPENED)])
    with Journal.open(tmp_path) as journal:
        journal.append([record(OPENED)])
    newest = segments(tmp_path)[-1]
    content = bytearray(newest.read_bytes())
    content[7:8] = b"2"
    content[92:96] = struct.pack("<I", zlib.crc32(bytes(content[:92])))
    newest.write_bytes(content)
    before = {path.name: path.read_bytes() for path in segments(tmp_path)}
    told = f"the journal's segment {newest.name} has format 2, and this torg reads up to 1: {REMEDY}"
    with pytest.raises(JournalNewer) as refused:
        Journal.open(tmp_path)
    assert str(refused.value) == told
    with pytest.raises(JournalNewer):
        list(read_journal(tmp_path))
    assert verify_journal(tmp_path).first_bad == told
    assert {path.name: path.read_bytes() for path in segments(tmp_path)} == before
    content[7:8] = b"x"
    newest.write_bytes(content)
    with pytest.raises(JournalCorrupt) as damaged:
        Journal.open(tmp_path)
    assert not isinstance(damaged.value, JournalNewer)


NEWER = (
    (record(OPENED, v=2), "record 2 of the journal has format 2, and this torg reads up to 1"),
    (
        record({"type": "journal_format", "format": JOURNAL_FORMAT + 1, "version": "9"}),
        f"the journal has format {JOURNAL_FORMAT + 1} (from record 2 on), and this torg reads up to {JOURNAL_FORMAT}",
    ),
)


@pytest.mark.parametrize(("payload", "told"), NEWER)
def test_a_record_of_a_newer_torg_is_refused_by_every_reader(payload: bytes, told: str, tmp_path: Path) -> None:
    with Journal.open(tmp_path / "journal") as journal:
        journal.append([record(OPENED), payload])
    with pytest.raises(JournalNewer, match="and this torg reads up to") as refused:
        list(rows_of(2, payload))
    assert str(refused.value) == f"{told}: {REMEDY}"
    with pytest.raises(JournalNewer), Projection.in_memory(tmp_path / "journal"):
        pass
    with pytest.raises(BackupError) as backup:
        write_backup(tmp_path, io.BytesIO(), made_at_ms=1)
    assert (backup.value.code, str(backup.value)) == ("home_newer", f"{told}: {REMEDY}")


# backups and documents


def test_a_backup_of_a_newer_home_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = restored("home-2.backup", tmp_path / "home")
    monkeypatch.setattr("storage.backups.check_home", lambda _: HOME_FORMAT + 1)
    made = io.BytesIO()
    write_backup(home, made, made_at_ms=1)
    file = tmp_path / "newer.backup"
    file.write_bytes(made.getvalue())
    with file.open("rb") as content, pytest.raises(BackupError) as refused:
        check_backup(content)
    told = f"the home in the backup has format {HOME_FORMAT + 1}, and this torg reads up to {HOME_FORMAT}"
    assert (refused.value.code, str(refused.value)) == ("backup_newer", told)


def test_a_backup_in_a_newer_form_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = restored("home-2.backup", tmp_path / "home")
    file = tmp_path / "newer.backup"
    for name, code, told in (
        ("torg-backup-2", "backup_newer", "the backup has format torg-backup-2, and this torg reads up to torg-backup-1"),
        ("something", "backup_damaged", "the backup says that it is 'something', which is no format of a backup"),
    ):
        made = io.BytesIO()
        with monkeypatch.context() as other:
            other.setattr("storage.backups.FORMAT", name)
            write_backup(home, made, made_at_ms=1)
        file.write_bytes(made.getvalue())
        with file.open("rb") as content, pytest.raises(BackupError) as refused:
            check_backup(content)
        assert refused.value.code == code
        assert str(refused.value).startswith(told)


@pytest.mark.parametrize(
    ("read", "error", "known"),
    [
        (Artifacts.decode, ArtifactsError, "torg-artifacts-1"),
        (Saved.decode, SavedError, "torg-saved-1"),
        (Parts.decode, PartsError, "torg-parts-1"),
    ],
)
def test_documents_of_a_newer_torg_are_refused(
    read: Callable[[bytes], object], error: type[Exception], known: str
) -> None:
    newer = f"{known[:-1]}12"
    with pytest.raises(error, match=f"has format {newer}, and this torg reads up to {known}: {REMEDY}"):
        read(canonical_bytes({"format": newer}))
    for other in ({"format": "torg-other-2"}, {"format": f"{known[:-1]}x"}, {"format": 2}, [], {}):
        with pytest.raises(error, match=f"not a manifest of format {known}"):
            read(canonical_bytes(other))
