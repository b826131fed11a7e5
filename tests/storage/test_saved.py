"""Manifests of what commands save: read back as written, an older job's too, and anything else is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.artifacts import Artifact, Artifacts
from storage.canonical import canonical_bytes
from storage.saved import Block, Saved, SavedError, SavedFile, block_lengths

DIGEST, OTHER = "ab" * 32, "cd" * 32
SIZE = 4096
GOOD = Saved("job-1", 2, (SavedFile("a/b", (Block(DIGEST, SIZE), Block(OTHER, 7)), True, 5),), 1, SIZE)
FILE = GOOD.to_json()["files"][0]


@st.composite
def manifests(draw: st.DrawFn) -> Saved:
    block_bytes = 1 << draw(st.integers(12, 24))
    paths = draw(
        st.lists(st.text("abé", min_size=1, max_size=4).map(lambda name: f"f/{name}"), unique=True, max_size=4)
    )
    files = []
    for path in paths:
        size = draw(st.integers(0, 3 * block_bytes))
        lengths = block_lengths(size, block_bytes)
        blocks = tuple(Block(f"{draw(st.integers(0, 3))}{length:063x}", length) for length in lengths)
        files.append(SavedFile(path, blocks, draw(st.booleans()), draw(st.integers(0, 2**62))))
    return Saved("job-1", draw(st.integers(0, 9)), tuple(files), draw(st.integers(0, 9)), block_bytes)


@given(manifests())
def test_a_manifest_is_read_as_it_was_written(made: Saved) -> None:
    assert Saved.decode(made.encode()) == made
    assert made.total_bytes == sum(file.bytes for file in made.files)


@given(size=st.integers(0, 10 * SIZE))
def test_blocks_make_up_the_file(size: int) -> None:
    lengths = block_lengths(size, SIZE)
    assert sum(lengths) == size
    assert all(length == SIZE for length in lengths[:-1])
    assert all(0 < length <= SIZE for length in lengths)


def test_a_manifest_of_whole_files_is_read_as_one_block_each() -> None:
    older = Artifacts("job-1", 3, (Artifact("a", DIGEST, 5_000_000, True), Artifact("empty", OTHER, 0)), (), 2)
    found = Saved.decode(older.encode())
    assert found.files == (SavedFile("a", (Block(DIGEST, 5_000_000),), True), SavedFile("empty", ()))
    assert (found.job, found.number, found.left_out) == ("job-1", 3, 2)
    assert not found.files[0].is_cut()


@pytest.mark.parametrize(
    "change",
    [
        {"format": "torg-saved-2"}, {"job": 1}, {"number": -1}, {"number": True}, {"left_out": None}, {"files": {}}, {"more": 1},
        *({"block_bytes": size} for size in (0, 2048, 4097, 1 << 25, True, "4096")),
        *({"files": [FILE | {"path": path}]} for path in ("../a", "/a", "a//b", "", "a\\b", "a\nb", 7)),
        {"files": [FILE | {"blocks": [DIGEST]}]}, {"files": [FILE | {"blocks": [DIGEST] * 3}]},
        {"files": [FILE | {"blocks": ["zz", DIGEST]}]}, {"files": [FILE | {"blocks": [DIGEST, DIGEST]}]},
        {"files": [FILE | {"bytes": -1}]}, {"files": [FILE | {"bytes": SIZE * 2 + 1}]}, {"files": [FILE | {"bytes": 10**30}]},
        {"files": [FILE | {"executable": 1}]}, {"files": [FILE | {"modified_ns": -1}]}, {"files": [FILE | {"modified_ns": 2**63}]},
        {"files": [{name: FILE[name] for name in FILE if name != "modified_ns"}]}, {"files": [FILE, FILE]},
        {"files": [FILE | {"path": "a"}, FILE]},
    ],
)  # fmt: skip
def test_what_is_no_manifest_is_refused(change: dict[str, Any]) -> None:
    assert Saved.from_json(GOOD.to_json()) == GOOD
    with pytest.raises(SavedError):
        Saved.from_json({**GOOD.to_json(), **change})


def test_more_blocks_than_are_allowed_are_refused() -> None:
    many = SavedFile("a", (Block(DIGEST, SIZE),) * (1 << 14))
    with pytest.raises(SavedError, match="blocks"):
        Saved.from_json(
            Saved("job-1", 1, (many, SavedFile("b", many.blocks), SavedFile("c", many.blocks)), 0, SIZE).to_json()
        )


@given(data=st.binary(max_size=60), place=st.integers(0, 400))
def test_whatever_the_bytes_are_they_are_read_or_refused(data: bytes, place: int) -> None:
    whole = GOOD.encode()
    for damaged in (data, whole[: place % len(whole)], whole[:place] + data + whole[place:]):
        try:
            found = Saved.decode(damaged)
        except SavedError:
            continue
        assert found.encode() == canonical_bytes(found.to_json())
