"""A command's working folder as a tar: what goes along, what stays, what is refused and by which name."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from market import workdirs
from market.workdirs import pack_workdir
from storage.archives import PackingError, unpack


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "project"
    (made / "src").mkdir(parents=True)
    (made / "train.py").write_text("print('hello')\n")
    (made / "src" / "run.sh").write_text("#!/bin/sh\n")
    (made / "src" / "run.sh").chmod(0o755)
    (made / "src" / "empty.txt").touch()
    return made


def packed(folder: Path, tmp_path: Path) -> Path:
    made = pack_workdir(folder, tmp_path / "one.tar")
    out = tmp_path / "out"
    with made.path.open("rb") as archive:
        assert unpack(archive, out, executables=True) == made.files
    return out


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_files_go_along_and_programs_stay_programs(folder: Path, tmp_path: Path) -> None:
    out = packed(folder, tmp_path)
    assert names(out) == ["src/empty.txt", "src/run.sh", "train.py"]
    assert os.access(out / "src" / "run.sh", os.X_OK)
    assert not os.access(out / "train.py", os.X_OK)
    os.utime(folder / "train.py", (1, 1))
    again = pack_workdir(folder, tmp_path / "two.tar")
    assert again.path.read_bytes() == (tmp_path / "one.tar").read_bytes(), "the same files are the same bytes"


def test_an_empty_folder_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    assert names(packed(tmp_path / "nothing", tmp_path)) == []


def test_git_and_what_gitignore_says_stay_here(folder: Path, tmp_path: Path) -> None:
    (folder / ".git").mkdir()
    (folder / ".git" / "config").touch()
    (folder / "data").mkdir()
    (folder / "data" / "large.bin").touch()
    (folder / "src" / ".gitignore").write_text("*.txt\n")
    (folder / ".gitignore").write_text("data/\n")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "data" / "s"))
        assert names(packed(folder, tmp_path)) == [".gitignore", "src/.gitignore", "src/run.sh", "train.py"]


def test_links_inside_are_what_they_lead_to(folder: Path, tmp_path: Path) -> None:
    (folder / "main.py").symlink_to("train.py")
    (folder / "lib").symlink_to(folder / "src")
    out = packed(folder, tmp_path)
    assert names(out) == ["lib/empty.txt", "lib/run.sh", "main.py", "src/empty.txt", "src/run.sh", "train.py"]
    assert (out / "main.py").read_text() == "print('hello')\n"


def test_what_cannot_go_along_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    def refused(words: str) -> None:
        target = tmp_path / f"{len(words)}.tar"
        with pytest.raises(PackingError, match=words):
            pack_workdir(folder, target)

    odd = folder / "src" / "odd"
    odd.symlink_to("/etc/hostname")
    refused("src/odd is a link out of the folder, to /etc/hostname")
    odd.unlink()
    odd.symlink_to("gone")
    refused(r"src/odd is a link to nothing \(gone\)")
    odd.unlink()
    odd.symlink_to(folder)
    refused("src/odd is a link to a folder that it lies in")
    odd.unlink()
    os.mkfifo(odd)
    refused("src/odd is a named pipe")
    odd.unlink()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(odd))
        refused("src/odd is a socket")
    odd.unlink()
    os.close(os.open(os.fsencode(folder) + b"/src/\xff", os.O_CREAT))
    refused("name that is not UTF-8")


def test_a_name_may_have_a_newline_and_too_many_files_are_refused_with_a_remedy(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "two\nlines").write_text("x")
    assert "two\nlines" in names(packed(folder, tmp_path))
    monkeypatch.setattr(workdirs, "MAX_FILES", 3)
    with pytest.raises(PackingError, match=r"is larger than .* or 3 files; leave something out by \.gitignore"):
        pack_workdir(folder, tmp_path / "many.tar")


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(PackingError, match="does not exist"):
        pack_workdir(tmp_path / "none", tmp_path / "a.tar")
    (tmp_path / "file").touch()
    with pytest.raises(PackingError, match="is no folder"):
        pack_workdir(tmp_path / "file", tmp_path / "b.tar")
