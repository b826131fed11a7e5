"""What a running command has closed in its checkpoint folder is found; what it is still writing is not."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from trainers import saving
from trainers.saving import Saver


def test_a_file_counts_once_nobody_writes_it_any_more(tmp_path: Path) -> None:
    saver = Saver(tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "old.pt").write_bytes(b"old")
    with (tmp_path / "new.pt").open("wb") as writing:
        writing.write(b"half")
        writing.flush()
        found = saver.look()
        assert ([file.path for file in found.files], found.open) == (["deep/old.pt"], ("new.pt",))
        writing.write(b" and half")
    found = saver.look()
    assert ([file.path for file in found.files], found.open) == (["deep/old.pt", "new.pt"], ())
    assert found.files[1].digest == hashlib.sha256(b"half and half").hexdigest()


def test_who_opens_a_file_while_it_is_looked_at_is_not_harmed_and_neither_are_we(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    saver = Saver(tmp_path)
    for number in range(50):
        saver.look()
        with (tmp_path / "a").open("ab") as file:
            file.write(str(number).encode())
    assert saver.look().files[0].bytes == (tmp_path / "a").stat().st_size


def test_a_file_is_hashed_again_only_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []
    real = saving.digest_below
    monkeypatch.setattr(saving, "digest_below", lambda descriptor: hashed.append(descriptor) or real(descriptor))
    (tmp_path / "a").write_bytes(b"one")
    saver = Saver(tmp_path)
    first = saver.look()
    assert (saver.look(), len(hashed)) == (first, 1)
    (tmp_path / "a").write_bytes(b"other")
    assert saver.look() != first
    assert len(hashed) == 2


def test_a_folder_that_is_not_there_has_nothing(tmp_path: Path) -> None:
    assert Saver(tmp_path / "none").look() == saving.Saved((), (), 0)


def test_what_is_over_the_limits_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "MAX_FILES", 1)
    for name in "abc":
        (tmp_path / name).write_bytes(b"x")
    found = Saver(tmp_path).look()
    assert ([file.path for file in found.files], found.left_out) == (["a"], 2)
