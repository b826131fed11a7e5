"""A folder's tar in parts: they make up the tar, a change stays within its part, and what is no manifest is refused."""

from __future__ import annotations

import hashlib
import json
import random
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.parts import MAX_BYTES, MIN_BYTES, Parts, PartsError, cut
from tests.docs.specimens import GOLDEN, make_parts

DIGEST = "ab" * 32


def write_tar(path: Path, files: dict[str, bytes]) -> bytes:
    with tarfile.open(path, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, BytesIO(content))
    return path.read_bytes()


def parts_of(path: Path) -> list[bytes]:
    whole = path.read_bytes()
    return [whole[begin:end] for begin, end in cut(path)]


SIZES = st.sampled_from([0, 1, 511, 512, 20_000, MIN_BYTES, MAX_BYTES - 512, MAX_BYTES, MAX_BYTES + 1, 3 * MAX_BYTES])


@settings(max_examples=30, deadline=None)
@given(files=st.dictionaries(st.text("abé/", min_size=1, max_size=150), SIZES, max_size=8))
def test_parts_make_up_the_tar(tmp_path_factory: pytest.TempPathFactory, files: dict[str, int]) -> None:
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    whole = write_tar(path, {name: bytes(size) for name, size in files.items()})
    parts = parts_of(path)
    assert b"".join(parts) == whole
    assert all(0 < len(part) <= MAX_BYTES for part in parts)
    store = {hashlib.sha256(part).hexdigest(): part for part in parts}
    made = Parts(tuple((hashlib.sha256(part).hexdigest(), len(part)) for part in parts))
    assert Parts.decode(made.encode()) == made
    assert made.join(store.__getitem__) == whole


def test_a_change_a_new_file_and_one_less_stay_within_their_parts(tmp_path: Path) -> None:
    draw = random.Random(1)
    files = {f"src/{number:04}.py": draw.randbytes(draw.randrange(200, 8_000)) for number in range(1_000)}
    files["large.bin"] = draw.randbytes(3 * MAX_BYTES + 5)
    before = {
        hashlib.sha256(part).hexdigest() for part in (write_tar(tmp_path / "a", files), parts_of(tmp_path / "a"))[1]
    }
    changed = {**files, "src/0500.py": files["src/0500.py"] + b"one more line\n"}
    more = {**files, "src/0500b.py": b"new"}
    less = {name: content for name, content in files.items() if name != "src/0500.py"}
    for other in (changed, more, less):
        write_tar(tmp_path / "b", other)
        new = [part for part in parts_of(tmp_path / "b") if hashlib.sha256(part).hexdigest() not in before]
        assert 1 <= len(new) <= 2
        assert sum(map(len, new)) < 0.1 * (tmp_path / "b").stat().st_size


@pytest.mark.parametrize(
    "change",
    [
        {"format": "torg-parts-2"}, {"more": 1}, {"parts": []}, {"parts": {}}, {"parts": [[DIGEST]]}, {"parts": [[DIGEST, 0]]},
        {"parts": [[DIGEST, MAX_BYTES + 1]]}, {"parts": [[DIGEST, True]]}, {"parts": [["zz", 1]]}, {"parts": [[1, 1]]},
        {"parts": [[DIGEST, 1]] * 65_537}, {"parts": [[DIGEST, MAX_BYTES]] * 2_049}, {"parts": None},
    ],
)  # fmt: skip
def test_what_is_no_manifest_is_refused(change: dict[str, Any]) -> None:
    golden = (GOLDEN / "parts.json").read_bytes()
    assert Parts.decode(golden) == make_parts()
    with pytest.raises(PartsError):
        Parts.decode(json.dumps(json.loads(golden) | change).encode())


@given(data=st.binary(max_size=60), place=st.integers(0, 300))
def test_whatever_the_bytes_are_they_are_read_or_refused(data: bytes, place: int) -> None:
    whole = make_parts().encode()
    for damaged in (data, whole[: place % len(whole)], whole[:place] + data + whole[place:]):
        try:
            found = Parts.decode(damaged)
        except PartsError:
            continue
        assert found.parts


def test_other_bytes_than_the_manifest_says_are_refused() -> None:
    made = Parts(((hashlib.sha256(b"abc").hexdigest(), 3),))
    assert made.join(lambda _: b"abc") == b"abc"
    for wrong in (b"abd", b"ab"):
        with pytest.raises(PartsError):
            made.join(lambda _, content=wrong: content)  # type: ignore[misc]
