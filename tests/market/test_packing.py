"""Data as one tar: the same bytes everywhere, and nothing but files comes out."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.packing import STDLIB_BYTES, PackingError, pack, pack_stdlib, unpack

NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/\\\0", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12
)


@settings(deadline=None, max_examples=40)
@given(
    st.dictionaries(NAMES.filter(lambda name: name not in (".", "..")), st.binary(min_size=1, max_size=50), min_size=1)
)
def test_a_folder_comes_back_and_packs_the_same(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    home = tmp_path_factory.mktemp("pack")
    for name, content in files.items():
        (home / "in" / "deep").mkdir(parents=True, exist_ok=True)
        (home / "in" / "deep" / name).write_bytes(content)
    first = pack(home / "in", home / "one.tar")
    with first.path.open("rb") as archive:
        assert unpack(archive, home / "out") == len(files)
    for name, content in files.items():
        assert (home / "out" / "deep" / name).read_bytes() == content
    os.utime(home / "out" / "deep", (1, 1))
    assert pack(home / "out", home / "two.tar").digest == first.digest


def test_one_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    packed = pack(tmp_path / "a.txt", tmp_path / "a.tar")
    assert (packed.label, packed.files, packed.bytes) == ("a.txt", 1, packed.path.stat().st_size)


def test_what_cannot_be_packed(tmp_path: Path) -> None:
    with pytest.raises(PackingError, match="does not exist"):
        pack(tmp_path / "none", tmp_path / "a.tar")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PackingError, match="is empty"):
        pack(tmp_path / "empty", tmp_path / "b.tar")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "passwd").symlink_to("/etc/passwd")
    with pytest.raises(PackingError, match="no regular file"):
        pack(tmp_path / "linked", tmp_path / "c.tar")


def test_the_standard_library_is_one_text_without_tests_and_strangers(tmp_path: Path) -> None:
    root = tmp_path / "lib"
    for name, text in {"b.py": "B", "a/c.py": "C", "test/x.py": "X", "site-packages/y.py": "Y", "z.txt": "Z"}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    packed = pack_stdlib(tmp_path / "lib.tar", root)
    with packed.path.open("rb") as archive:
        unpack(archive, tmp_path / "out")
    assert (tmp_path / "out" / "stdlib.txt").read_text() == "CB"
    real = pack_stdlib(tmp_path / "real.tar")
    assert real.label == "stdlib"
    assert 1_000_000 < real.bytes <= STDLIB_BYTES + 10_240


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", content: bytes = b"x") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, link, len(content) if kind == tarfile.REGTYPE else 0
        archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        entry("/abs"),
        entry("../up"),
        entry("a/../../up"),
        entry("link", tarfile.SYMTYPE, "/etc/passwd"),
        entry("hard", tarfile.LNKTYPE, "/etc/passwd"),
        entry("device", tarfile.CHRTYPE),
        entry("pipe", tarfile.FIFOTYPE),
        entry("big", content=b"x" * 2_000),
        entry("cut", content=b"x" * 900)[:1_000],
        b"no tar at all" * 100,
    ],
    ids=["absolute", "up", "deep up", "symlink", "hard link", "device", "pipe", "big", "broken", "no tar"],
)
def test_what_is_not_unpacked(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(PackingError):
        unpack(io.BytesIO(data), tmp_path / "in" / "out", most_bytes=1_000)
    assert [path for path in tmp_path.rglob("*") if path.is_file() and "out" not in path.parts] == []


def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for text in (b"a", b"b"):
            info = tarfile.TarInfo("same")
            info.size = 1
            archive.addfile(info, io.BytesIO(text))
    out.seek(0)
    with pytest.raises(PackingError):
        unpack(out, tmp_path / "out")
