"""What a running command has saved is taken when it is whole, and as it is; what it is still writing is not."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.saved import BLOCK_BYTES, Block, SavedFile
from trainers import saving
from trainers.saving import RESTLESS_FOLDER_S, RESTLESS_S, STILL_S, Saver


class Clock:
    """Time passes while somebody waits; `meanwhile` is what happens then."""

    def __init__(self) -> None:
        self.now = 100.0
        self.meanwhile: Callable[[], object] = lambda: None

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def saver(tmp_path: Path, clock: Clock) -> Saver:
    (tmp_path / "saved").mkdir()
    return Saver(tmp_path / "saved", tmp_path / "aside", clock, clock.pause)


def contents(saver: Saver, patience_s: float = 2.0) -> dict[str, bytes]:
    """What a look takes, by path, read from the blocks aside."""
    return read(saver, saver.look(patience_s).files)


def read(saver: Saver, files: tuple[SavedFile, ...]) -> dict[str, bytes]:
    found = {}
    for file in files:
        blocks = [saver.read(block.digest) for block in file.blocks]
        assert all(blocks)
        found[file.path] = b"".join(block or b"" for block in blocks)
    return found


def test_a_file_counts_once_nobody_writes_it_any_more(saver: Saver) -> None:
    (saver.folder / "deep").mkdir()
    (saver.folder / "deep" / "old.pt").write_bytes(b"old")
    with (saver.folder / "new.pt").open("wb") as writing:
        writing.write(b"half")
        writing.flush()
        found = saver.look(2.0)
        assert (read(saver, found.files), found.waiting) == ({"deep/old.pt": b"old"}, ("",))
        writing.write(b" and half")
    found = saver.look(2.0)
    assert (read(saver, found.files), found.waiting) == ({"deep/old.pt": b"old", "new.pt": b"half and half"}, ())


def test_a_save_of_several_files_is_taken_as_a_whole_or_as_it_was(saver: Saver, clock: Clock) -> None:
    step = saver.folder / "step-1"
    step.mkdir()
    (step / "model").write_bytes(b"m1")
    written = iter(["optimizer", "state"])

    def meanwhile() -> None:
        for name in written:
            (step / name).write_bytes(name.encode())
            return

    clock.meanwhile = meanwhile
    assert sorted(contents(saver, 10.0)) == ["step-1/model", "step-1/optimizer", "step-1/state"]
    numbers = iter(range(10_000))
    clock.meanwhile = lambda: (step / "model").write_bytes(b"m%d" % next(numbers))
    clock.meanwhile()
    assert contents(saver)["step-1/model"] == b"m1", "as it was taken before, while it is written"


def test_what_is_written_without_a_pause_is_taken_all_the_same_and_not_all_the_time(saver: Saver, clock: Clock) -> None:
    (saver.folder / "step").mkdir()
    numbers = iter(range(10_000))

    def write() -> None:
        number = next(numbers)
        (saver.folder / "new").write_bytes(b"%d" % number)
        (saver.folder / "new").rename(saver.folder / "count")
        (saver.folder / "step" / "log").write_bytes(b"%d" % number)

    clock.meanwhile = write
    write()
    assert contents(saver, RESTLESS_S - 1) == {}
    first = contents(saver, 2.0)
    assert list(first) == ["count"]
    assert contents(saver, RESTLESS_S - 1) == first, "not again at once"
    assert set(contents(saver, RESTLESS_FOLDER_S)) == {"count", "step/log"}


def test_a_save_that_went_stays_until_the_one_that_takes_its_place_is_whole(saver: Saver, clock: Clock) -> None:
    for name in ("one", "two"):
        (saver.folder / name).mkdir()
    (saver.folder / "one" / "model").write_bytes(b"1")
    assert list(contents(saver)) == ["one/model"]
    (saver.folder / "one" / "model").unlink()
    with (saver.folder / "two" / "model").open("wb") as writing:
        writing.write(b"2")
        assert list(contents(saver)) == ["one/model"]
    assert list(contents(saver)) == ["two/model"]
    (saver.folder / "two" / "model").unlink()
    assert contents(saver) == {}


def test_what_changes_while_it_is_read_is_read_again(saver: Saver, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saver.folder / "a"
    path.write_bytes(bytes(3 * BLOCK_BYTES))
    real, changes = saving._pieces, iter([b"x", b"y"])

    def pieces(descriptor: int) -> object:
        for number, content in enumerate(real(descriptor)):
            yield content
            if number == 1 and (change := next(changes, None)) is not None:
                with path.open("r+b") as file:  # somebody writes what was read already, and what was not
                    file.write(change)
                    file.seek(2 * BLOCK_BYTES)
                    file.write(change)

    monkeypatch.setattr(saving, "_pieces", pieces)
    assert contents(saver, 10.0) == {"a": path.read_bytes()}
    assert path.read_bytes()[0] == ord("y"), "it was changed twice"


def test_who_opens_a_file_while_it_is_looked_at_is_not_harmed_and_neither_are_we(saver: Saver) -> None:
    (saver.folder / "a").write_bytes(b"1")
    for number in range(50):
        saver.look(0.0)
        with (saver.folder / "a").open("ab") as file:
            file.write(str(number).encode())
    assert contents(saver) == {"a": (saver.folder / "a").read_bytes()}


def test_only_what_is_not_in_the_store_lies_aside(saver: Saver) -> None:
    path = saver.folder / "a"
    path.write_bytes(bytes(BLOCK_BYTES) + b"1" * BLOCK_BYTES)
    found = saver.look(2.0)
    digests = [block.digest for block in found.files[0].blocks]
    assert sorted(one.name for one in saver.aside.iterdir()) == sorted(digests)
    saver.kept(digests)
    assert list(saver.aside.iterdir()) == []
    with path.open("r+b") as file:
        file.write(b"changed")
    [changed, same] = [block.digest for block in saver.look(2.0).files[0].blocks]
    assert (same, [one.name for one in saver.aside.iterdir()]) == (digests[1], [changed])
    assert saver.read(same) == b"1" * BLOCK_BYTES, "a run that lost it gets it from the file"
    path.write_bytes(b"short")
    assert saver.read(same) is None
    assert contents(saver) == {"a": b"short"}


def test_a_file_is_read_again_only_when_it_changed(saver: Saver, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    real = saving._pieces
    monkeypatch.setattr(saving, "_pieces", lambda descriptor: opened.append(descriptor) or real(descriptor))
    (saver.folder / "a").write_bytes(b"one")
    first = saver.look(2.0).files
    assert (saver.look(2.0).files, len(opened)) == (first, 1)
    (saver.folder / "a").write_bytes(b"other")
    assert saver.look(2.0).files != first
    assert len(opened) == 2


def test_what_a_signal_cut_short_stays_as_it_was(saver: Saver) -> None:
    (saver.folder / "a").write_bytes(b"whole")
    assert contents(saver) == {"a": b"whole"}
    (saver.folder / "a").write_bytes(b"torn")
    now_ms = time.time_ns() // 1_000_000
    assert read(saver, saver.look_last(now_ms, by_itself=False).files) == {"a": b"whole"}
    assert read(saver, saver.look_last(now_ms + int(2000 * STILL_S), by_itself=False).files) == {"a": b"torn"}
    (saver.folder / "a").write_bytes(b"at the end")
    assert read(saver, saver.look_last(now_ms, by_itself=True).files) == {"a": b"at the end"}


def test_a_folder_that_is_not_there_has_nothing(tmp_path: Path) -> None:
    assert Saver(tmp_path / "none", tmp_path / "aside").look(0.0).files == ()


def test_what_is_over_the_limits_or_cannot_be_named_is_counted(saver: Saver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "MAX_FILES", 2)
    for name in ("a", "b", "c", "d\nd"):
        (saver.folder / name).write_bytes(b"x")
    os.symlink("/etc/passwd", saver.folder / "link")
    os.mkfifo(saver.folder / "pipe")
    found = saver.look(2.0)
    assert ([file.path for file in found.files], found.left_out) == (["a", "b"], 2)


def test_a_full_disk_is_told(saver: Saver, monkeypatch: pytest.MonkeyPatch) -> None:
    (saver.folder / "a").write_bytes(b"x")

    def full(self: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space"):
        saver.look(2.0)


FILES = st.dictionaries(st.sampled_from(["a", "b", "d/a", "d/e/b"]), st.binary(max_size=9), max_size=4)


@settings(max_examples=40, deadline=None)
@given(states=st.lists(FILES, min_size=1, max_size=4))
def test_what_was_taken_comes_back_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory, states: list[dict[str, bytes]]
) -> None:
    clock, root = Clock(), tmp_path_factory.mktemp("states")
    saver = Saver(root / "saved", root / "aside", clock, clock.pause)
    saver.folder.mkdir()
    store: dict[str, bytes] = {}
    for number, state in enumerate(states):
        for path, _ in saving.plain_files(saver.folder):
            (saver.folder / path).unlink()
        for path, content in state.items():
            (saver.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (saver.folder / path).write_bytes(content)
            os.utime(saver.folder / path, ns=(1, 10**18 + 7))
        found = saver.look(3.0)
        for file in found.files:
            for block in file.blocks:
                if block.digest not in store:
                    store[block.digest] = saver.read(block.digest) or b""
        saver.kept(store)
        again = Saver(root / f"again-{number}", root / "other", clock, clock.pause)
        wanted = [block.digest for file in found.files for block in file.blocks]
        for digest in again.lacks(wanted):
            again.put(store[digest])
        assert again.lacks(wanted) == []
        again.restore(found.files)
        back = {path: (again.folder / path).read_bytes() for path, _ in saving.plain_files(again.folder)}
        assert back == state
        assert all(status.st_mtime_ns == 10**18 + 7 for _, status in saving.plain_files(again.folder))
        assert again.look(3.0).files == found.files, "nothing has to travel again"


def test_a_block_is_named_by_its_bytes(saver: Saver) -> None:
    (saver.folder / "a").write_bytes(b"abc")
    assert saver.look(2.0).files[0].blocks == (Block(hashlib.sha256(b"abc").hexdigest(), 3),)
