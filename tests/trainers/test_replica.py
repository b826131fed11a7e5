"""One member's outer state: agrees with its peers to the bit, refuses other rounds, survives a move."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.codecs import BadPayload
from trainers.replica import Replica, ReplicaError

SPEC = {"strategy": {"name": "diloco", "inner_steps": 30, "codec": "int8"}, "steps": 100}
INITIAL = np.random.default_rng(0).normal(size=1000).astype(np.float32)


def trained(slot: int) -> np.ndarray:
    return INITIAL + np.random.default_rng(slot + 1).normal(size=1000).astype(np.float32) * np.float32(0.01)


def payloads_of(replica: Replica, *slots: int) -> dict[int, bytes]:
    return {slot: replica.contribute(trained(slot))[0] for slot in slots}


@given(order=st.permutations([0, 1, 4]))
def test_members_agree_whatever_order_contributions_came_in(order):
    first, second = Replica(SPEC, INITIAL), Replica(SPEC, INITIAL)
    payloads = payloads_of(first, 0, 1, 4)
    first.hold(1, payloads)
    for slot in order:
        second.hold(1, {slot: payloads[slot]})
    assert first.commit(1, (0, 1, 4)) == second.commit(1, order)
    assert first.parameters.tobytes() == second.parameters.tobytes()


def test_commit_merges_only_the_accepted_and_repeats_for_the_last_round():
    some, only = Replica(SPEC, INITIAL), Replica(SPEC, INITIAL)
    payloads = payloads_of(some, 0, 1)
    some.hold(1, payloads)
    only.hold(1, {0: payloads[0]})
    digest = some.commit(1, (0,))
    assert digest == only.commit(1, (0,)) == some.commit(1, (0,)) == some.digest()
    assert (some.round, some.step, some.accepted) == (1, 30, (0,))


@pytest.mark.parametrize(
    ("round", "accepted"), [(0, (0,)), (2, (0,)), (1, (0, 1)), (1, ())], ids=["old", "ahead", "not held", "nobody"]
)
def test_commit_refuses_and_changes_nothing(round, accepted):
    replica = Replica(SPEC, INITIAL)
    replica.hold(1, payloads_of(replica, 0))
    before = replica.export()
    with pytest.raises(ReplicaError):
        replica.commit(round, accepted)
    assert replica.export() == before
    replica.commit(1, (0,))


def test_a_broken_contribution_is_refused_when_it_is_held_and_named():
    replica = Replica(SPEC, INITIAL)
    payloads = payloads_of(replica, 0, 1)
    held = replica.hold(1, {0: payloads[0], 1: payloads[1][:-1]})
    assert held.slots == (0,)
    assert "bytes" in held.refused[1]
    with pytest.raises(ReplicaError):
        replica.hold(2, payloads)


def test_parameters_that_are_not_finite_are_never_sent():
    replica = Replica(SPEC, INITIAL)
    bad = INITIAL.copy()
    bad[7] = np.nan
    with pytest.raises(BadPayload):
        replica.contribute(bad)


def test_the_last_round_may_be_short_and_step_says_so():
    replica = Replica(SPEC, INITIAL)
    for round in range(1, 5):
        replica.hold(round, payloads_of(replica, 0))
        replica.commit(round, (0,))
    assert (replica.round, replica.step) == (4, 100)


def test_restore_gives_round_momentum_and_last_commit():
    replica = Replica(SPEC, INITIAL)
    replica.hold(1, payloads_of(replica, 0, 1))
    digest = replica.commit(1, (0, 1))
    moved = Replica.restore(replica.export())
    assert moved.digest() == digest == moved.commit(1, (0, 1))
    assert (moved.round, moved.step) == (1, 30)
    assert moved.export() == replica.export()


@given(cut=st.integers(0, 9000), noise=st.binary(max_size=100))
def test_restore_refuses_what_is_not_an_export(cut, noise):
    exported = Replica(SPEC, INITIAL).export()
    for bad in (exported[: min(cut, len(exported) - 1)], noise, noise + exported):
        if bad != exported:
            with pytest.raises(ReplicaError):
                Replica.restore(bad)


def test_restore_refuses_tensors_that_are_not_finite():
    replica = Replica(SPEC, INITIAL)
    exported = bytearray(replica.export())
    exported[-4:] = np.array([np.nan], "<f4").tobytes()
    with pytest.raises(ReplicaError, match="not finite"):
        Replica.restore(bytes(exported))
