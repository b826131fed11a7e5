"""A job's data are written where they belong and never larger than allowed, whoever made the tar."""

import contextlib
import io
import resource
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.archives import PackingError, reading, unpack

BLOCK = 512


def entry(name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", link: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        made = tarfile.TarInfo(name)
        made.type, made.size, made.linkname = kind, len(content), link
        archive.addfile(made, io.BytesIO(content))
    return buffer.getvalue()


def gnu_sparse(size: int) -> bytes:
    """One entry of the old GNU format: a few bytes here, `size` once it is unpacked."""
    header = bytearray(entry("hole", tarfile.GNUTYPE_SPARSE)[:BLOCK])
    header[386:410] = b"%011o\0%011o\0" % (0, 0)
    header[483:495] = b"%011o\0" % size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(2 * BLOCK)


def pax_sparse(size: int) -> bytes:
    """One entry of the pax sparse format 0.1."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        made = tarfile.TarInfo("hole")
        made.pax_headers = {"GNU.sparse.map": f"{size},0", "GNU.sparse.size": str(size), "GNU.sparse.name": "hole"}
        archive.addfile(made)
    return buffer.getvalue()


def long_names(count: int) -> bytes:
    """A chain of long names, each of which makes a reader that recurses go one deeper."""
    one = entry("@LongLink", tarfile.GNUTYPE_LONGNAME)[:BLOCK]
    return one * count + entry("end")


def of_files(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            made = tarfile.TarInfo(name)
            made.size = len(content)
            archive.addfile(made, io.BytesIO(content))
    return buffer.getvalue()


def test_files_are_written_where_they_belong(tmp_path: Path) -> None:
    data = of_files({"text/a.txt": b"a", "b.txt": b"bb"})
    assert unpack(io.BytesIO(data), tmp_path / "data", most_bytes=3) == 2
    assert (tmp_path / "data/text/a.txt").read_bytes() == b"a"
    assert (tmp_path / "data/b.txt").read_bytes() == b"bb"


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "above":        (lambda: entry("../out.txt"),                                   "not a name inside"),
    "absolute":     (lambda: entry("/tmp/torg-out.txt"),                            "not a name inside"),
    "symlink":      (lambda: entry("link", tarfile.SYMTYPE, link="/etc/passwd"),    "not a regular file"),
    "hard link":    (lambda: entry("link", tarfile.LNKTYPE, link="b.txt"),          "not a regular file"),
    "fifo":         (lambda: entry("pipe", tarfile.FIFOTYPE),                       "not a regular file"),
    "folder":       (lambda: entry("folder", tarfile.DIRTYPE),                      "not a regular file"),
    "gnu sparse":   (lambda: gnu_sparse(2**29),                                     "not a regular file"),
    "pax sparse":   (lambda: pax_sparse(2**29),                                     "not a regular file"),
    "too large":    (lambda: of_files({"a": b"x" * 600, "b": b"x" * 600}),          "larger than 1000 bytes"),
    "cut":          (lambda: entry("a", content=b"x" * 900)[:1000],                 "not a tar as we make them"),
    "no tar":       (lambda: b"no tar at all" * 100,                                "not a tar as we make them"),
    "a name twice": (lambda: entry("a", content=b"1")[:1024] + entry("a", content=b"2"), "not a tar as we make them"),
    "file as folder": (lambda: of_files({"a": b"1", "a/b": b"2"}),                  "not a tar as we make them"),
    "long name":    (lambda: of_files({"n" * 300: b"1"}),                           "not a tar as we make them"),
    "deep chain":   (lambda: long_names(5000),                                      "not a tar as we make them"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_everything_else_is_refused_and_nothing_lies_outside(tmp_path: Path, case: str) -> None:
    make, words = BAD[case]
    with pytest.raises(PackingError, match=words):
        unpack(io.BytesIO(make()), tmp_path / "in" / "data", most_bytes=1000)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(path.is_relative_to(tmp_path / "in" / "data") for path in written)
    assert sum(path.stat().st_size for path in written) <= 1000


@given(st.binary(max_size=3000), st.integers(0, 2047))
def test_a_damaged_tar_is_refused_or_read_never_a_crash(tmp_path_factory, noise: bytes, at: int) -> None:
    whole = of_files({"a": b"x" * 700, "b/c": b"y"})
    folder = tmp_path_factory.mktemp("damaged")
    damaged = whole[:at] + noise + whole[at + len(noise) :]
    with contextlib.suppress(PackingError):
        unpack(io.BytesIO(damaged), folder / "data", most_bytes=10_000)
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 10_000


def test_a_disk_that_takes_no_more_is_not_the_tars_fault(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            unpack(io.BytesIO(of_files({"a": b"x" * 5000})), tmp_path / "data")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@given(st.binary(max_size=300), st.lists(st.tuples(st.integers(-5, 400), st.sampled_from((0, 1, 2)), st.integers(0, 400))))
def test_bytes_are_read_where_they_lie_as_a_file_of_them_is(content: bytes, moves: list[tuple[int, int, int]]) -> None:
    ours, plain = reading(memoryview(content)), io.BytesIO(content)
    for offset, whence, size in moves:
        if offset + (0, plain.tell(), len(content))[whence] < 0:
            with pytest.raises(ValueError, match="negative seek"):
                ours.seek(offset, whence)
        else:
            assert ours.seek(offset, whence) == plain.seek(offset, whence)
        assert ours.read(size) == plain.read(size)
