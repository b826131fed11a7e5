"""Whatever fails, the newest checkpoints can be restored, to the bit, and what nobody needs goes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from storage.blobs import BlobStore
from storage.checkpoints import Manifest
from tests.trainers.durable import Life, Store, digest_of, replay, spec
from trainers.restoring import NothingRestorable, restore_newest

PATIENCE_S = 30.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def settle(life: Life) -> None:
    assert life.keeper.wait(PATIENCE_S)


def read(store: Store, digest: str) -> bytes:
    return store.blobs.read(digest) if digest in store.blobs else b"missing"


def trained(store: Store, rounds: int, **options: int) -> Life:
    life = Life(store, spec(**options))
    for number in range(1, rounds + 1):
        life.train()
        settle(life)
        assert life.keeper.durable_round == number
    return life


def damage(store: Store, digest: str) -> None:
    path = store.blobs.path(digest)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_delta_every_round_and_a_base_now_and_then_the_last_round_too(store: Store) -> None:
    life = trained(store, 9)
    life.train(last=True)
    settle(life)
    assert [report["kind"][0] for report in store.reports()] == list("bdddbdddbb")
    assert [report["base_round"] for report in store.reports()] == [1, 1, 1, 1, 5, 5, 5, 5, 9, 10]
    assert [manifest.round for manifest in store.kept()] == [5, 8, 9, 10], "5 is the base of 8"


def test_deltas_that_outweigh_the_base_make_a_base_due(store: Store) -> None:
    trained(store, 9, base_every_rounds=100)
    assert [report["kind"][0] for report in store.reports()] == list("bddddddbd")


def test_rounds_between_travel_with_the_next_checkpoint_that_is_due(store: Store) -> None:
    life = Life(store, spec(every_rounds=3, base_every_rounds=20))
    for _ in range(6):
        life.train()
        settle(life)
    [base, delta] = store.kept()
    assert (base.round, base.kind, delta.round, delta.kind) == (3, "base", 6, "delta")
    assert [one.round for one in delta.deltas] == [4, 5, 6]
    assert digest_of(life.state) == delta.parameters
    assert life.restart() == ""
    assert (life.round, digest_of(life.state)) == (6, delta.parameters)


def test_a_worker_without_deltas_gives_bases_and_only_when_they_are_due(store: Store) -> None:
    life = Life(store, spec(every_rounds=2, keep=10))
    life.gives_deltas = False
    given = []
    for _ in range(8):
        given.append(life.train() is not None)
        settle(life)
    assert {report["kind"] for report in store.reports()} == {"base"}
    assert given[3:] == [True, False, True, False, True]


def test_a_worker_that_is_gone_or_a_full_disk_breaks_the_chain_and_a_base_mends_it(store: Store) -> None:
    life = trained(store, 2)
    assert life.train(gone=True) == "delta"
    settle(life)
    assert life.keeper.durable_round == 2
    assert life.train() == "base"
    settle(life)
    store.refuse_uploads = 1
    assert life.train() == "delta"
    settle(life)
    assert life.train() == "base"
    settle(life)
    assert life.keeper.durable_round == 6


@pytest.mark.parametrize("broken", ["missing", "damaged"])
def test_a_broken_chain_falls_back_to_the_newest_restorable_round_and_says_so(store: Store, broken: str) -> None:
    life = trained(store, 8, keep=2)  # bases 1, 5; deltas 6, 7, 8
    newest = store.kept()[-1]
    blob = newest.deltas[1].blob
    if broken == "missing":
        store.blobs.delete(blob)
    else:
        damage(store, blob)
    lost = life.restart()
    assert life.round == life.keeper.durable_round == 6
    assert digest_of(life.state) == newest.deltas[0].parameters
    assert blob[:12] in lost
    assert "going on from round 6 instead of 8" in store.logs[0]
    before = {report["round"] for report in store.reports()}
    for _ in range(2):
        assert life.train() is None, "the market has rounds 7 and 8 as durable: it would not record them"
    assert life.train() == "base"
    settle(life)
    assert {report["round"] for report in store.reports()} - before == {9}
    assert life.restart() == ""
    assert life.round == 9


def test_with_every_chain_broken_nothing_is_restored_and_every_reason_is_named(store: Store) -> None:
    life = trained(store, 6, keep=1)
    damage(store, store.kept()[-1].state)
    with pytest.raises(NothingRestorable, match=r"round 6: blob .*; round 5: blob"):
        life.restart()


def test_a_strategy_that_changed_begins_a_new_chain(store: Store) -> None:
    life = trained(store, 2)
    life.round += 1
    snapshot = {"round": 3, "step": 30, "digest": "0" * 64, "stall_ms": 0, "kind": "delta", "tensors": [],
                "strategy": {"name": "local_sgd"}}  # fmt: skip
    asked: list[None] = []
    life.keeper.keep(snapshot, lambda: (asked.append(None), None, None))
    settle(life)
    assert life.keeper.durable_round == 2
    assert not asked, "a delta of another strategy is serialised for nobody"
    assert life.train() == "base"


def test_the_inner_state_is_kept_with_the_base_and_named_by_its_deltas(store: Store) -> None:
    life = Life(store, spec())
    life.round = 1
    snapshot = {"round": 1, "step": 10, "digest": digest_of(life.state), "stall_ms": 0, "kind": "base",
                "tensors": [{"name": "w", "shape": [64], "dtype": "float32"}]}  # fmt: skip
    life.keeper.keep(snapshot, lambda: (life.state, b"moments", None))
    settle(life)
    life.train()
    settle(life)
    assert {manifest.kind for manifest in store.kept()} == {"base", "delta"}
    inner = life.keeper.restore().plan.inner
    assert inner is not None
    assert life.keeper.inner(inner) == b"moments"
    store.blobs.delete(inner)
    assert life.keeper.inner(inner) is None
    assert life.keeper.restore().lost == "", "training goes on without it"


def test_a_process_that_is_killed_again_and_again_loses_nothing_that_was_reported(tmp_path: Path) -> None:
    store, reached, chooser = Store(tmp_path), 0, random.Random(5)
    for _ in range(3):
        command = [sys.executable, "-m", "tests.trainers.durable", str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline().split() == ["from", str(reached)]
            for _ in range(chooser.randint(1, 12)):
                reached = int(process.stdout.readline())
            os.kill(process.pid, signal.SIGKILL)
            # What was said before the signal arrived counts too.
            reached = max([reached, *(int(line) for line in process.stdout.read().split())])
        durable = store.durable()
        assert durable is not None
        assert durable["round"] >= reached
        reached = durable["round"]
        for manifest in store.kept()[-3:]:
            found = restore_newest([manifest], store.blobs.read, replay, round=manifest.round)
            assert digest_of(found.state) == manifest.parameters


class Retention(RuleBasedStateMachine):
    """Rounds, failures, restarts and damage in any order, on a real disk."""

    @initialize(keep=st.integers(1, 4), every=st.integers(1, 2), base_every=st.sampled_from([8, 5, 3, 1]))
    def begin(self, keep: int, every: int, base_every: int) -> None:
        self.folder = TemporaryDirectory()
        self.store = Store(Path(self.folder.name))
        self.keep = keep
        self.life = Life(self.store, spec(keep, every, base_every))
        self.restarts, self.damaged = 0, set[str]()
        self.bound = keep * (base_every + 3) + 2 * (base_every + 3)

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()

    @rule(rounds=st.integers(1, 6), hurry=st.booleans())
    def train(self, rounds: int, hurry: bool) -> None:
        before = len(self.store.reports())
        for _ in range(rounds):
            self.life.train()
            if not hurry:
                settle(self.life)
        settle(self.life)
        if len(self.store.reports()) > before and not self.restarts:
            needed = {name for manifest in self.store.kept() for name in (manifest.digest, *manifest.blobs)}
            assert set(self.store.blobs.digests()) == needed, "what was uploaded in vain has gone too"

    @rule()
    def this_may_be_the_last_round(self) -> None:
        self.life.train(last=True)
        settle(self.life)

    @rule()
    def a_worker_goes(self) -> None:
        self.life.train(gone=True)
        settle(self.life)

    @rule(uploads=st.integers(1, 3))
    def the_disk_is_full(self, uploads: int) -> None:
        self.store.refuse_uploads = uploads
        self.life.train()
        settle(self.life)
        self.store.refuse_uploads = 0

    @rule()
    def everybody_is_lost(self) -> None:
        self.restarts += 1
        durable = self.store.durable()
        lost = self.life.restart()
        if not self.damaged:
            assert lost == ""
            assert self.life.round == (0 if durable is None else durable["round"])

    @rule(which=st.integers(0, 100))
    def a_delta_is_damaged(self, which: int) -> None:
        if self.store.durable() is None or self.damaged:
            return  # no precondition: what is durable already is up to a thread, and rules must not be
        newest = self.kept()[-1]
        if newest.deltas:
            self.damaged.add(newest.deltas[which % len(newest.deltas)].blob)
            damage(self.store, min(self.damaged))

    def kept(self) -> list[Manifest]:
        return sorted(self.store.kept(), key=lambda manifest: (manifest.round, manifest.created_at_ms))

    @invariant()
    def the_newest_can_be_restored(self) -> None:
        if not hasattr(self, "store") or self.store.durable() is None:
            return
        kept = self.kept()
        for manifest in kept[-self.keep :]:
            if not self.damaged & set(manifest.blobs):
                found = restore_newest([manifest], self.store.blobs.read, replay, round=manifest.round)
                assert digest_of(found.state) == manifest.parameters
        newest = restore_newest(kept, lambda digest: _sound(self.store.blobs, digest), replay)
        assert newest.plan.round == kept[-1].round or self.damaged
        assert len(list(self.store.blobs.digests())) <= self.bound + self.restarts * self.bound


def _sound(blobs: BlobStore, digest: str) -> bytes:
    if not blobs.verify(digest):
        raise ValueError("damaged")
    return blobs.read(digest)


Retention.TestCase.settings = settings(max_examples=20, stateful_step_count=12, deadline=None)
TestRetention = Retention.TestCase


@pytest.mark.parametrize("every_rounds", [1, 3])
def test_when_all_checkpoints_are_kept_any_round_since_the_first_can_be_restored(store: Store, every_rounds: int) -> None:
    """The delta log: every committed round, over bases and a process that was replaced."""
    life, states = Life(store, spec(keep=1000, every_rounds=every_rounds, base_every_rounds=7)), dict[int, str]()

    def train(rounds: int) -> None:
        for _ in range(rounds):
            life.train()
            settle(life)
            states[life.round] = digest_of(life.state)

    train(12)
    assert life.restart() == ""
    train(18)
    for round in range(every_rounds, life.round + 1):
        found = restore_newest(store.kept(), lambda digest: read(store, digest), replay, round=round)
        assert (found.plan.round, digest_of(found.state)) == (round, states[round])
    assert not [name for report in store.reports() for name in report["removed"]]


def test_what_did_not_change_is_sent_once_and_a_damaged_part_of_it_does_not_spoil_what_comes_later(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.chunking.CHUNK_BYTES", 512)
    life = trained(store, 5, base_every_rounds=4)  # bases of rounds 1 and 5
    first, second = (next(one for one in store.kept() if (one.kind, one.round) == ("base", round)) for round in (1, 5))
    frozen = {chunk.blob for chunk in first.chunks} & {chunk.blob for chunk in second.chunks}
    assert frozen, "the momentum, which is always zero here"
    shared = sum(chunk.bytes for chunk in second.chunks if chunk.blob in frozen)
    sent = {report["round"]: report["bytes"] for report in store.reports()}
    assert (sent[1], sent[5]) == (first.state_bytes, second.state_bytes - shared)
    assert life.restart() == ""
    for blob in frozen:
        damage(store, blob)
    with pytest.raises(NothingRestorable):
        life.keeper.restore()  # all machines were not lost: the job trains on
    life.keeper.rebase()
    while store.kept()[-1].kind != "base" or store.kept()[-1].round <= 5:
        life.train()
        settle(life)
    assert not frozen & set(store.kept()[-1].blobs)
    assert life.restart() == ""
    assert life.round == store.kept()[-1].round
