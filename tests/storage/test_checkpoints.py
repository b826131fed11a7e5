"""A manifest names everything by digest, reads back as written, and the newest one is never let go."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.canonical import canonical_bytes
from storage.checkpoints import Manifest, ManifestError, TensorEntry, removable, removable_blobs

MANIFEST = Manifest(
    job="job-1", round=2, step=60, parent="a" * 64, tensors=(TensorEntry("wte", (256, 8), "float32"),), state="b" * 64,
    state_bytes=99, parameters="c" * 64, strategy={"name": "diloco", "outer_lr": 0.7}, code=None, data="d" * 64,
    created_at_ms=5,
)  # fmt: skip


def test_a_manifest_reads_back() -> None:
    assert Manifest.decode(MANIFEST.encode()) == MANIFEST
    assert Manifest.decode(MANIFEST.encode()).digest == MANIFEST.digest
    assert MANIFEST.tensors[0].elements == 2048


@pytest.mark.parametrize("name", list(MANIFEST.to_json()))
def test_a_field_that_is_missing_or_odd_is_named(name) -> None:
    whole = MANIFEST.to_json()
    with pytest.raises(ManifestError, match=name):
        Manifest.decode(canonical_bytes({key: value for key, value in whole.items() if key != name}))
    with pytest.raises(ManifestError):
        Manifest.decode(canonical_bytes({**whole, name: -1.5}))


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{", b"\xff", b'{"format":"other"}'])
def test_what_is_no_manifest_is_refused(data) -> None:
    with pytest.raises(ManifestError):
        Manifest.decode(data)


@given(st.integers(0, 3), st.integers(1, 1000))
def test_any_other_field_is_another_digest(field, value) -> None:
    name = ("round", "step", "state_bytes", "created_at_ms")[field]
    assert (replace(MANIFEST, **{name: value}).digest == MANIFEST.digest) is (getattr(MANIFEST, name) == value)


@given(rounds=st.lists(st.integers(1, 30), min_size=1, max_size=10, unique=True), keep=st.integers(0, 12))
def test_only_older_ones_go_and_the_newest_stays(rounds, keep) -> None:
    manifests = [replace(MANIFEST, round=number) for number in rounds]
    gone = removable(manifests, keep)
    assert [manifest.round for manifest in gone] == sorted(rounds)[: max(0, len(rounds) - max(keep, 1))]
    assert max(rounds) not in {manifest.round for manifest in gone}


def test_a_state_that_a_kept_checkpoint_shares_stays() -> None:
    old, new = replace(MANIFEST, round=1), replace(MANIFEST, round=2)
    assert removable_blobs([old, new], keep=1) == (old.digest,)
    other = replace(MANIFEST, round=1, state="e" * 64)
    assert removable_blobs([other, new], keep=1) == (other.digest, "e" * 64)
