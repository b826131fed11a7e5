"""What a command left is found by patterns, hashed, and read without being led out of its folder."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from trainers.collecting import collect, read_piece


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "work"
    (made / "out" / "deep").mkdir(parents=True)
    (made / "out" / "model.pt").write_bytes(b"model")
    (made / "out" / "deep" / "log.txt").write_bytes(b"")
    (made / "run.sh").write_text("#!/bin/sh\n")
    (made / "run.sh").chmod(0o755)
    (tmp_path / "secret").write_text("the provider's own")
    return made


def test_files_are_found_and_hashed_and_a_pattern_without_any_is_named(folder: Path) -> None:
    found = collect(folder, ["out", "*.sh", "*.onnx"])
    assert [(file.path, file.bytes, file.executable) for file in found.files] == [
        ("out/deep/log.txt", 0, False), ("out/model.pt", 5, False), ("run.sh", 10, True),
    ]  # fmt: skip
    assert found.files[1].digest == hashlib.sha256(b"model").hexdigest()
    assert (found.unmatched, found.left_out) == (("*.onnx",), 0)


def test_links_pipes_and_their_like_are_no_artifacts(folder: Path) -> None:
    (folder / "out" / "link").symlink_to(folder.parent / "secret")
    (folder / "linked").symlink_to(folder.parent)
    os.mkfifo(folder / "out" / "pipe")
    (folder / "out" / "two\nlines").write_text("a name that cannot be told")
    found = collect(folder, ["**"])
    assert {file.path for file in found.files} == {"out/deep/log.txt", "out/model.pt", "run.sh"}
    assert (found.left_out, found.unmatched) == (4, ()), "whoever wanted them is told that they are not there"
    assert collect(folder, ["run.sh"]).left_out == 0
    assert collect(folder, ["linked"]).unmatched == ()
    for path in ("out/link", "linked/secret", "out/pipe", "../secret", "/etc/passwd", "out", ""):
        with pytest.raises(OSError):
            read_piece(folder, path, 0, 100)


def test_a_file_that_becomes_a_link_is_not_followed(folder: Path) -> None:
    collect(folder, ["out"])
    (folder / "out" / "model.pt").unlink()
    (folder / "out" / "model.pt").symlink_to(folder.parent / "secret")
    with pytest.raises(OSError):
        read_piece(folder, "out/model.pt", 0, 100)


def test_pieces_make_the_whole(folder: Path) -> None:
    pieces = [read_piece(folder, "out/model.pt", offset, 2) for offset in (0, 2, 4, 6)]
    assert pieces == [b"mo", b"de", b"l", b""]


def test_what_is_over_the_limits_is_counted(folder: Path) -> None:
    assert collect(folder, ["**"], most_files=1).left_out == 2
    found = collect(folder, ["**"], most_bytes=9)
    assert ([file.path for file in found.files], found.left_out) == (["out/deep/log.txt", "out/model.pt"], 1)
