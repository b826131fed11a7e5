"""Manifests of what commands left: read back as written, and anything else is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.artifacts import Artifact, Artifacts, ArtifactsError

DIGEST = "ab" * 32
NAMES = st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=8)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


@given(st.lists(PATHS, unique=True, max_size=6), st.lists(NAMES, max_size=2), st.integers(0, 9))
def test_a_manifest_is_read_as_it_was_written(paths: list[str], unmatched: list[str], left_out: int) -> None:
    folders = {path.rpartition("/")[0] for path in paths} | {path.partition("/")[0] for path in paths if "/" in path}
    files = tuple(Artifact(path, DIGEST, 3, True) for path in paths if path not in folders)
    made = Artifacts("job-1", 2, files, tuple(unmatched), left_out)
    assert Artifacts.decode(made.encode()) == made


@pytest.mark.parametrize(
    "change",
    [
        {"format": "torg-artifacts-2"}, {"job": 1}, {"number": -1}, {"number": True}, {"unmatched": [1]},
        {"left_out": None}, {"files": {}}, {"more": 1},
        {"files": [{"path": "a", "blob": DIGEST, "bytes": 1}]},
        *({"files": [{"path": path, "blob": DIGEST, "bytes": 1, "executable": False}]}
          for path in ("../a", "/a", "a//b", "a/./b", "", "a\\b", "a\nb", "..", 7)),
        {"files": [{"path": "a", "blob": "zz", "bytes": 1, "executable": False}]},
        {"files": [{"path": "a", "blob": DIGEST, "bytes": -1, "executable": False}]},
        {"files": [{"path": "a", "blob": DIGEST, "bytes": 1, "executable": 1}]},
        {"files": [{"path": "a", "blob": DIGEST, "bytes": 1, "executable": False}] * 2},
        {"files": [{"path": path, "blob": DIGEST, "bytes": 1, "executable": False} for path in ("a", "a/b")]},
    ],
)  # fmt: skip
def test_what_is_no_manifest_is_refused(change: dict[str, Any]) -> None:
    good = Artifacts("job-1", 1, (Artifact("out/a", DIGEST, 1),)).to_json()
    with pytest.raises(ArtifactsError):
        Artifacts.from_json({**good, **change})
