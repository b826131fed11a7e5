"""A backup is a prefix of the record with all that it needs, whole or refused with the place."""

import io
import itertools
import random
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import backups
from storage.artifacts import Artifact, Artifacts
from storage.backups import BackupError, check_backup, generation_after, unpack_backup, write_backup
from storage.blobs import BlobStore
from storage.canonical import canonical_bytes
from storage.journal import Journal, JournalCorrupt, read_journal, segments
from storage.parts import Parts
from storage.sealed import PIECE_BYTES, SealedReader, SealedWriter, SealError

SECRET = b"correct horse"


def record(*events: dict[str, object], at_ms: int = 7) -> bytes:
    return canonical_bytes({"v": 1, "at_ms": at_ms, "events": list(events)})


OPENED = {"type": "market_opened", "market_id": "market-1", "fee_ppm": 0, "version": "1"}


def left(manifest: str) -> dict[str, object]:
    return {"type": "attempt_ended", "job": "j", "manifest": manifest}


def saved(manifest: str) -> dict[str, object]:
    return {"type": "files_saved", "job": "j", "manifest": manifest}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a journal of three records, six blobs of which one is nobody's, and a key."""
    found = tmp_path / "home"
    store = BlobStore(found / "blobs")
    data, file = store.put(b"data"), store.put(b"a file that a command left")
    store.put(b"nobody's")
    manifest = Artifacts("j", 1, (Artifact("out.txt", file, 26),)).encode()
    workdir = store.put(Parts(((store.put(b"a part"), 6),)).encode())
    spec = {"data": {"digest": data}, "command": {"workdir": {"digest": workdir, "parts": 1}}}
    submitted = {"type": "job_submitted", "job": "j", "spec": spec}
    with Journal.open(found / "journal") as journal:
        journal.append([record(OPENED)])
        journal.append([record(submitted), record(left(store.put(manifest)))])
    (found / "keys.json").write_text("{}")
    (found / "keys.json").chmod(0o600)
    for name in (
        "run/exchange.pid",
        "logs/exchange.log",
        "logs/jobs/j.log",
        "providers/p/provider.json",
        ".keys.json.1f",
    ):
        (found / name).parent.mkdir(parents=True, exist_ok=True)
        (found / name).write_text(name)
    return found


def taken(home: Path, **how: object) -> bytes:
    made = io.BytesIO()
    write_backup(home, made, made_at_ms=9, **how)  # type: ignore[arg-type]
    return made.getvalue()


def opened(content: bytes, folder: Path) -> object:
    folder.mkdir()
    file = folder.with_suffix(".backup")
    file.write_bytes(content)
    with file.open("rb") as stream:
        return unpack_backup(stream, folder)


@given(data=st.binary(max_size=300), split=st.integers(1, 50), piece=st.sampled_from([1, 7, 64]), secret=st.booleans())
@settings(deadline=None, max_examples=30)
def test_a_sealed_stream_comes_back_and_no_change_of_it_does(data: bytes, split: int, piece: int, secret: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("storage.sealed.PIECE_BYTES", piece)
        patch.setattr("storage.sealed._SCRYPT", {"name": "scrypt", "n": 2, "r": 1, "p": 1})
        passphrase = SECRET if secret else None
        made = io.BytesIO()
        with SealedWriter(made, passphrase) as writer:
            for at in range(0, len(data), split):
                writer.write(data[at : at + split])
        sealed = made.getvalue()
        assert SealedReader(io.BytesIO(sealed), passphrase).readall() == data
        for at in random.Random(split).sample(range(len(sealed)), min(len(sealed), 20)):
            broken = bytearray(sealed)
            broken[at] ^= 1 << (at % 8)
            for bad in (bytes(broken), sealed[:at]):
                with pytest.raises(SealError):
                    SealedReader(io.BytesIO(bad), passphrase).readall()
        with pytest.raises(SealError, match="bytes follow"):
            SealedReader(io.BytesIO(sealed + b"x"), passphrase).readall()


def test_what_is_wrong_with_a_stream_is_named() -> None:
    made = io.BytesIO()
    with SealedWriter(made, SECRET) as writer:
        writer.write(bytes(3 * PIECE_BYTES))
    sealed = bytearray(made.getvalue())

    def said(content: bytes, passphrase: bytes | None = SECRET) -> tuple[str, str]:
        with pytest.raises(SealError) as refused:
            SealedReader(io.BytesIO(content), passphrase).readall()
        return refused.value.code, str(refused.value)

    assert said(bytes(sealed), None) == ("passphrase_missing", "the backup is encrypted")
    assert said(bytes(sealed), b"another")[0] == "passphrase_wrong"
    assert said(bytes(sealed[: 2 * PIECE_BYTES])) == ("torn", "the backup ends inside piece 1, of 1048576 bytes each")
    sealed[2 * PIECE_BYTES + 5000] ^= 1
    assert said(bytes(sealed)) == ("changed", "a byte of piece 2 was changed, of 1048576 bytes each")
    assert said(b"TORGBAK2" + bytes(sealed[8:])) == ("newer", "the backup has format 2, and this torg reads format 1")
    assert said(b"PK\x03\x04 and so on")[0] == "other"


def test_a_backup_holds_what_is_alive_and_nothing_of_processes(home: Path, tmp_path: Path) -> None:
    facts = opened(taken(home), tmp_path / "new")
    new = tmp_path / "new"
    assert facts == check(taken(home), tmp_path)
    assert (facts.records, facts.blobs, facts.missing, facts.market) == (3, 5, (), "market-1")  # type: ignore[attr-defined]
    files = {path.relative_to(new).as_posix() for path in new.rglob("*") if path.is_file()}
    assert {name for name in files if not name.startswith(("blobs", "journal"))} == {"keys.json", "logs/jobs/j.log"}
    assert (new / "keys.json").stat().st_mode & 0o777 == 0o600
    assert BlobStore(new / "blobs").read(next(BlobStore(new / "blobs").digests()))
    assert [r.payload for r in read_journal(new / "journal")] == [r.payload for r in read_journal(home / "journal")]
    assert not list((home / "blobs" / "pinned").iterdir()), "the links that held them are gone"
    assert check(taken(home, with_blobs=False), tmp_path).blobs == 0  # type: ignore[attr-defined]


def check(content: bytes, folder: Path, passphrase: bytes | None = None) -> object:
    file = folder / "checked.backup"
    file.write_bytes(content)
    with file.open("rb") as stream:
        return check_backup(stream, passphrase)


def test_segments_of_the_old_market_are_never_taken_for_the_new_ones(home: Path, tmp_path: Path) -> None:
    term = opened(taken(home), tmp_path / "new").term  # type: ignore[attr-defined]
    with Journal.open(tmp_path / "new" / "journal") as new:
        assert new.term == generation_after(term) + 1 > backups.TERMS_A_GENERATION
        new.append([record()])
    with Journal.open(home / "journal") as old:
        old.append([record()])  # the very same, so that the chain alone would not tell
    with Journal.open(home / "journal") as old:
        old.append([record()])
    later = segments(home / "journal")[-1]
    (tmp_path / "new" / "journal" / later.name).write_bytes(later.read_bytes())
    with pytest.raises(
        JournalCorrupt, match=f"record 5, offset 16: term {term + 2} after term {generation_after(term) + 1}"
    ):
        list(read_journal(tmp_path / "new" / "journal"))


def test_a_changed_or_torn_backup_leaves_no_home_and_names_the_place(home: Path, tmp_path: Path) -> None:
    content = taken(home)
    numbers = itertools.count()
    for bad in (content[:-1], content[: len(content) // 2], content[:2000] + b"\xff" + content[2001:]):
        with pytest.raises(BackupError, match="piece 0") as refused:
            opened(bad, tmp_path / f"bad-{next(numbers)}")
        assert refused.value.code == "backup_damaged"


def test_a_name_that_leads_out_of_the_home_is_refused(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backups, "whole_small_files", lambda home: [("../outside", b"x", 0o600)])
    with pytest.raises(BackupError, match="no name inside a home"):
        opened(taken(home), tmp_path / "new")
    assert not (tmp_path / "outside").exists()


def test_a_home_without_a_market_and_a_damaged_one_give_no_backup(home: Path, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="no market"):
        taken(tmp_path / "empty")
    path = segments(home / "journal")[0]
    data = bytearray(path.read_bytes())
    data[96 + 60] ^= 1
    path.write_bytes(data)
    with pytest.raises(BackupError, match="record 1, offset 96") as refused:
        taken(home)
    assert refused.value.code == "damaged"


def test_a_backup_taken_while_commands_come_in_is_a_prefix_with_all_that_it_names(home: Path, tmp_path: Path) -> None:
    """A job saves again and again, and what it had saved before goes at once, as in the exchange."""
    store, over, number, before = BlobStore(home / "blobs"), threading.Event(), itertools.count(), ""
    saved_again = threading.Semaphore(0)
    with Journal.open(home / "journal", segment_bytes=20_000) as journal:

        def save() -> None:
            nonlocal before
            while not over.is_set():
                file = store.put(f"saved {next(number)}".encode())
                manifest = Artifacts("j", 1, (Artifact("c", file, store.size(file) or 0),)).encode()
                digest = store.put(manifest)
                journal.append([record(saved(digest)), record()])
                saved_again.release()
                if before:
                    for gone in (before, *Artifacts.decode(store.read(before)).blobs):
                        store.delete(gone)
                before = digest

        writer = threading.Thread(target=save)
        writer.start()
        try:
            for round in range(8):
                while saved_again.acquire(blocking=False):
                    pass
                for _ in range(2):  # the first may have been durable, and in the last cut, before it was counted
                    assert saved_again.acquire(timeout=60), "the job saves on"
                content = taken(home)
                facts = opened(content, tmp_path / f"cut-{round}")
                assert facts.missing == (), "what the cut needs is here, though the job saved on"  # type: ignore[attr-defined]
        finally:
            over.set()
            writer.join()
    whole = [one.hash for one in read_journal(home / "journal")]
    lengths = []
    for round in range(8):
        cut = [one.hash for one in read_journal(tmp_path / f"cut-{round}" / "journal")]
        assert cut == whole[: len(cut)]
        shelf = BlobStore(tmp_path / f"cut-{round}" / "blobs")
        assert all(shelf.verify(digest) for digest in shelf.digests())
        lengths.append(len(cut))
    assert lengths == sorted(set(lengths)), "commands came in between"


def test_only_one_backup_at_a_time_and_a_killed_ones_links_go(home: Path) -> None:
    pinned = home / "blobs" / "pinned"
    pinned.mkdir()
    (pinned / ("0" * 64)).write_text("left by one that was killed")
    made = io.BytesIO()

    def meanwhile(done: int, total: int) -> None:
        with pytest.raises(BackupError, match="another backup") as refused:
            taken(home)
        assert refused.value.code == "busy"

    assert write_backup(home, made, made_at_ms=9, progress=meanwhile).blobs == 5
    assert not list(pinned.iterdir())
