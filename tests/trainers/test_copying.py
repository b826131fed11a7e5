"""Copies as streams: whole, or nothing; nothing outside the target whoever made the stream."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainers.copying import END, CopyError, Stream, Sums, pack

NAMES = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 200
)


def packed(path: Path) -> bytes:
    out = io.BytesIO()
    pack(path, out)
    return out.getvalue()


def stream(*entries: tuple[str, Callable[[tarfile.TarInfo], None]], folder: bool = True, end: bool = True) -> bytes:
    out = io.BytesIO()
    out.write(json.dumps({"name": "n", "folder": folder, "files": 1, "bytes": 1, "left_out": 0}).encode() + b"\n")
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for name, change in entries:
            info = tarfile.TarInfo(name)
            change(info)
            tar.addfile(info, io.BytesIO(bytes(info.size)))
        if end:
            tar.addfile(tarfile.TarInfo(END))
    return out.getvalue()


def kind(type: bytes, linkname: str = "") -> Callable[[tarfile.TarInfo], None]:
    def change(info: tarfile.TarInfo) -> None:
        info.type, info.linkname = type, linkname

    return change


@settings(deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.lists(NAMES, min_size=1, max_size=3).map(tuple), st.binary(max_size=300), max_size=5))
def test_a_folder_comes_out_as_it_went_in(tmp_path_factory: pytest.TempPathFactory, files: dict[tuple[str, ...], bytes]) -> None:
    base = tmp_path_factory.mktemp("copies")
    made = base / "made"
    made.mkdir()
    for parts, content in files.items():
        try:
            made.joinpath(*parts[:-1]).mkdir(parents=True, exist_ok=True)
            made.joinpath(*parts).write_bytes(content)
        except OSError:  # a name is a file here and a folder there
            continue
    final, sums = Stream(io.BytesIO(packed(made))).unpack(str(base / "back"))
    want = {one.relative_to(made): one.read_bytes() for one in made.rglob("*") if one.is_file()}
    assert {one.relative_to(final): one.read_bytes() for one in final.rglob("*") if one.is_file()} == want
    assert sums == Sums(len(want), sum(map(len, want.values())))


def test_a_stream_that_ends_anywhere_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    for number in range(3):
        (folder / str(number)).write_bytes(os.urandom(3000))
    whole = packed(folder)
    for size in range(0, len(whole), 509):
        try:
            Stream(io.BytesIO(whole[:size])).unpack(str(tmp_path / "back"))
        except CopyError:
            assert sorted(one.name for one in tmp_path.iterdir()) == ["made"], size
        else:
            assert size > len(whole) - 10240, "only padding was missing"
            break


@pytest.mark.parametrize(
    ("entries", "folder"),
    [
        ([("../out", kind(tarfile.REGTYPE))], True), ([("/out", kind(tarfile.REGTYPE))], True),
        ([("a/../../out", kind(tarfile.REGTYPE))], True), ([("link", kind(tarfile.SYMTYPE, "../out"))], True),
        ([("link", kind(tarfile.SYMTYPE, "/etc/passwd"))], True), ([("hard", kind(tarfile.LNKTYPE, "/etc/passwd"))], True),
        ([("node", kind(tarfile.CHRTYPE))], True), ([("fifo", kind(tarfile.FIFOTYPE))], True),
        ([("a", kind(tarfile.REGTYPE)), ("a", kind(tarfile.REGTYPE))], True),
        ([("a", kind(tarfile.REGTYPE)), ("b", kind(tarfile.REGTYPE))], False), ([("a", kind(tarfile.DIRTYPE))], False),
        ([("a/b", kind(tarfile.SYMTYPE, "../../x"))], True),
    ],
)  # fmt: skip
def test_what_leads_outside_is_refused(
    tmp_path: Path, entries: list[tuple[str, Callable[[tarfile.TarInfo], None]]], folder: bool
) -> None:
    with pytest.raises((CopyError, FileExistsError)):
        Stream(io.BytesIO(stream(*entries, folder=folder))).unpack(str(tmp_path / "target"))
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_through_a_link_of_the_stream(tmp_path: Path) -> None:
    entries = [("in", kind(tarfile.DIRTYPE)), ("way", kind(tarfile.SYMTYPE, "in")), ("way/file", kind(tarfile.REGTYPE))]
    with pytest.raises((CopyError, OSError)):
        Stream(io.BytesIO(stream(*entries))).unpack(str(tmp_path / "target"))
    assert list(tmp_path.iterdir()) == []


@given(st.binary(max_size=2000))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(CopyError):
        Stream(io.BytesIO(data)).unpack("/nonexistent/folder/target")


def test_a_file_is_replaced_only_when_all_of_it_is_there(tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"new" * 9000)
    (tmp_path / "old").write_bytes(b"old")
    whole = packed(tmp_path / "new")
    with pytest.raises(CopyError):
        Stream(io.BytesIO(whole[:20000])).unpack(str(tmp_path / "old"))
    assert (tmp_path / "old").read_bytes() == b"old"
    Stream(io.BytesIO(whole)).unpack(str(tmp_path / "old"))
    assert (tmp_path / "old").read_bytes() == b"new" * 9000


@pytest.mark.parametrize("name", ["..", "a/b", "", "."])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "one").write_bytes(b"x")
    line, _, rest = packed(tmp_path / "one").partition(b"\n")
    changed = json.dumps(json.loads(line) | {"name": name}).encode() + b"\n" + rest
    (tmp_path / "into").mkdir()
    with pytest.raises(CopyError):
        Stream(io.BytesIO(changed)).unpack(str(tmp_path / "into"))
    assert not list((tmp_path / "into").iterdir())
