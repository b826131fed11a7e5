"""docs/FORMATS.md is true of what commands leave and save: a reader made from the page agrees with ours, also on damage."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.artifacts import Artifacts, ArtifactsError
from storage.saved import Saved, SavedError
from tests.docs.specimens import GOLDEN, make_artifacts, make_saved

DIGEST = re.compile(r"[0-9a-f]{64}")
ARTIFACTS, SAVED = ((GOLDEN / name).read_bytes() for name in ("artifacts.json", "saved.json"))


class Refuse(ValueError):
    """The page says that a reader must refuse this."""


def demand(holds: bool) -> None:
    if not holds:
        raise Refuse


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    demand(len({name for name, _ in pairs}) == len(pairs))
    return dict(pairs)


def count(value: object) -> bool:
    return type(value) is int and value >= 0


def path_is_good(path: object) -> bool:
    if not isinstance(path, str) or not path.isprintable() or "\\" in path or path.startswith("/"):
        return False
    return all(part not in ("", ".", "..") for part in path.split("/"))


def no_path_twice(paths: list[str]) -> None:
    demand(len(set(paths)) == len(paths))
    demand(not any(other.startswith(f"{path}/") for path in paths for other in paths))


def parsed(data: bytes, fields: set[str], mark: str) -> dict[str, Any]:
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=once, parse_constant=lambda _: demand(False))
    except (ValueError, RecursionError):
        raise Refuse from None
    demand(isinstance(value, dict) and set(value) == fields and value["format"] == mark)
    demand(isinstance(value["job"], str) and count(value["number"]) and count(value["left_out"]))
    demand(isinstance(value["files"], list) and len(value["files"]) <= 10_000)
    return dict(value)


def artifacts_by_the_page(data: bytes) -> list[tuple[str, int]]:
    value = parsed(data, {"format", "job", "number", "files", "unmatched", "left_out"}, "torg-artifacts-1")
    demand(isinstance(value["unmatched"], list) and all(isinstance(one, str) for one in value["unmatched"]))
    for file in value["files"]:
        demand(isinstance(file, dict) and set(file) == {"path", "blob", "bytes", "executable"})
        demand(path_is_good(file["path"]) and count(file["bytes"]) and type(file["executable"]) is bool)
        demand(isinstance(file["blob"], str) and DIGEST.fullmatch(file["blob"]) is not None)
    no_path_twice([file["path"] for file in value["files"]])
    return [(file["path"], file["bytes"]) for file in value["files"]]


def saved_by_the_page(data: bytes) -> list[tuple[str, int]]:
    value = parsed(data, {"format", "job", "number", "block_bytes", "files", "left_out"}, "torg-saved-1")
    size = value["block_bytes"]
    demand(count(size) and size in {1 << power for power in range(12, 25)})
    lengths: dict[str, int] = {}
    blocks = 0
    for file in value["files"]:
        demand(isinstance(file, dict) and set(file) == {"path", "bytes", "executable", "modified_ns", "blocks"})
        demand(path_is_good(file["path"]) and count(file["bytes"]) and type(file["executable"]) is bool)
        demand(count(file["modified_ns"]) and file["modified_ns"] <= 1 << 62)
        demand(isinstance(file["blocks"], list) and len(file["blocks"]) == -(-file["bytes"] // size))
        blocks += len(file["blocks"])
        left = file["bytes"]
        for digest in file["blocks"]:
            demand(isinstance(digest, str) and DIGEST.fullmatch(digest) is not None)
            demand(lengths.setdefault(digest, min(size, left)) == min(size, left))
            left -= size
    demand(blocks <= 32_768)
    no_path_twice([file["path"] for file in value["files"]])
    return [(file["path"], file["bytes"]) for file in value["files"]]


def theirs(read: Any, data: bytes) -> object:
    try:
        return read(data)
    except Refuse:
        return None


def ours(decode: Any, data: bytes) -> object:
    try:
        return [(file.path, file.bytes) for file in decode(data).files]
    except (ArtifactsError, SavedError):
        return None


def test_both_readers_read_the_golden_manifests() -> None:
    assert Artifacts.decode(ARTIFACTS) == make_artifacts()
    assert Saved.decode(SAVED) == make_saved()
    assert artifacts_by_the_page(ARTIFACTS) == ours(Artifacts.decode, ARTIFACTS)
    assert saved_by_the_page(SAVED) == ours(Saved.decode, SAVED)


VALUES = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        1,
        20,
        4096,
        1 << 20,
        1 << 63,
        1.5,
        "",
        "a",
        "../a",
        "/a",
        "a/b",
        "step-500",
        "run.sh",
        "zz",
        [],
        {},
        "ab" * 32,
    ]
)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """The golden manifest with some values changed, fields gone or new, or bytes cut."""
    value: Any = json.loads(whole)
    for _ in range(draw(st.integers(1, 2))):
        place = (
            value
            if draw(st.booleans()) or not value["files"]
            else value["files"][draw(st.integers(0, len(value["files"]) - 1))]
        )
        if not isinstance(place, dict):
            continue
        name = draw(st.sampled_from([*sorted(place), "more"]))
        if draw(st.booleans()):
            place.pop(name, None)
        else:
            place[name] = draw(VALUES)
        if not isinstance(value.get("files"), list) or not value["files"]:
            break
    data = json.dumps(value).encode()
    return data[: draw(st.sampled_from([len(data), len(data) // 2]))]


@given(damaged(ARTIFACTS))
def test_what_the_page_refuses_of_artifacts_is_refused(data: bytes) -> None:
    assert ours(Artifacts.decode, data) == theirs(artifacts_by_the_page, data)


@given(damaged(SAVED))
def test_what_the_page_refuses_of_a_saved_folder_is_refused(data: bytes) -> None:
    assert ours(Saved.decode, data) == theirs(saved_by_the_page, data)


@pytest.mark.parametrize("read", [Artifacts.decode, Saved.decode])
@given(data=st.binary(max_size=40))
def test_bytes_that_are_no_manifest_are_refused(read: Any, data: bytes) -> None:
    assert ours(read, data) is None
