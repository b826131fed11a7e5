"""A manifest names everything by digest, reads back as written, and the newest one is never let go."""

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.canonical import canonical_bytes
from storage.checkpoints import (
    Chain,
    Delta,
    Manifest,
    ManifestError,
    TensorEntry,
    next_kind,
    removable,
    removable_blobs,
)
from storage.restore_plans import restore_plan, restore_plans

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


BASE = replace(MANIFEST, round=10, step=300, created_at_ms=10)


def name(text: str) -> str:
    """A digest to name something by."""
    return hashlib.sha256(text.encode()).hexdigest()


def delta_manifest(round: int, base: Manifest = BASE) -> Manifest:
    deltas = tuple(
        Delta(one, 30 * one, name(f"delta {one}"), 7, name(f"parameters {one}"))
        for one in range(base.round + 1, round + 1)
    )
    return replace(
        base, kind="delta", round=round, step=30 * round, parent=base.digest, base=base.digest, deltas=deltas,
        parameters=deltas[-1].parameters, created_at_ms=round,
    )  # fmt: skip


def test_a_delta_reads_back_and_knows_what_it_needs() -> None:
    beside = {"inner": "f" * 64, "inner_bytes": 5, "buffers": "e" * 64, "buffers_bytes": 3}
    delta = replace(delta_manifest(12), **beside, tied={"head": "wte"})
    assert Manifest.decode(delta.encode()) == delta
    assert (delta.base_round, delta.total_bytes) == (10, 99 + 5 + 3 + 14)
    assert delta.blobs == (BASE.state, "f" * 64, "e" * 64, name("delta 11"), name("delta 12"))
    with pytest.raises(ManifestError, match="buffers_bytes without"):
        Manifest.from_json(replace(delta, buffers=None).to_json())


def test_a_manifest_of_version_1_keeps_its_bytes_and_a_newer_one_is_refused() -> None:
    first, second = replace(MANIFEST, version=1), replace(MANIFEST, version=2)
    assert set(MANIFEST.to_json()) - set(second.to_json()) == {"buffers", "buffers_bytes", "chunks"}
    assert set(second.to_json()) - set(first.to_json()) == {"kind", "base", "deltas", "inner", "inner_bytes", "tied"}
    assert Manifest.decode(first.encode()) == first
    assert first.digest != MANIFEST.digest
    with pytest.raises(ManifestError, match="torg-checkpoint-5, and this torg reads up to torg-checkpoint-4: use the torg that wrote it"):
        Manifest.from_json({**MANIFEST.to_json(), "format": "torg-checkpoint-5"})


def test_a_chain_leads_to_every_round_on_it_and_around_what_is_missing() -> None:
    manifests = [BASE, delta_manifest(13)]
    assert [plan.round for plan in restore_plans(manifests)] == [13, 12, 11, 10]
    newest = restore_plan(manifests)
    assert newest is not None
    assert (newest.round, newest.step, newest.parameters) == (13, 390, name("parameters 13"))
    assert newest.blobs == (BASE.state, *(name(f"delta {one}") for one in (11, 12, 13)))
    earlier = restore_plan(manifests, without={name("delta 12")})
    assert earlier is not None
    assert (earlier.round, earlier.parameters, len(earlier.deltas)) == (11, name("parameters 11"), 1)
    asked = restore_plan(manifests, round=10)
    assert asked is not None
    assert (asked.manifest, asked.deltas) == (BASE, ())
    assert restore_plan(manifests, round=12, without={name("delta 11")}) is None
    assert restore_plan(manifests, without={BASE.state}) is None
    assert restore_plan([manifests[1]], without={name("delta 11")}) is None, "the base's own manifest knows its digest"


@pytest.mark.parametrize(
    ("chain", "round", "last", "kind"),
    [
        (None, 1, False, "base"),
        (Chain(4, 2, 20, 100), 5, False, "delta"),
        (Chain(4, 2, 20, None), 5, False, "delta"),
        (Chain(4, 2, 20, 100), 5, True, "base"),
        (Chain(4, 2, 20, 100), 6, False, "base"),
        (Chain(4, 2, 20, 100), 4, False, "base"),
        (Chain(4, 8, 20, 100), 5, False, "delta"),
        (Chain(4, 9, 20, 100), 5, False, "base"),
        (Chain(4, 2, 100, 100), 5, False, "base"),
    ],
)
def test_when_a_base_is_due(chain: Chain | None, round: int, last: bool, kind: str) -> None:
    assert next_kind(chain, round, last=last, base_every_rounds=10) == kind


def test_a_delta_cannot_build_on_version_1() -> None:
    assert Chain.of(replace(MANIFEST, version=1)) is None
    assert Chain.of(delta_manifest(12)) == Chain(12, 2, 14, 99)


@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=5), keep=st.integers(1, 8))
def test_what_may_go_is_needed_by_nothing_that_stays(lengths: list[int], keep: int) -> None:
    manifests: list[Manifest] = []
    for length in lengths:
        round = manifests[-1].round + 1 if manifests else 1
        base = replace(MANIFEST, round=round, state=name(f"state {round}"), created_at_ms=round)
        manifests += [base, *(delta_manifest(round + more, base) for more in range(1, length))]
    gone, blobs = removable(manifests, keep), set(removable_blobs(manifests, keep))
    kept = [manifest for manifest in manifests if manifest not in gone]
    assert manifests[-keep:] == kept[-keep:]
    assert len(kept) <= keep + 1 + sum(1 for one in manifests[-keep:] if one.kind == "base")
    for manifest in kept:
        assert not blobs & {manifest.digest, *manifest.blobs, *({manifest.base} - {None})}
    assert blobs >= {manifest.digest for manifest in gone}
