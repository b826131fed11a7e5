"""The strategy battery: every strategy in the registry must pass it. Workers here minimise a quadratic by hand."""

import itertools

import numpy as np
import pytest

from trainers.replica import Replica
from trainers.strategies import STRATEGIES, strategy

TARGET = np.linspace(-1, 1, 64, dtype=np.float32)
every_strategy = pytest.mark.parametrize("name", sorted(STRATEGIES))


def inner_steps(parameters, worker, round):
    """Ten steps of gradient descent on a noisy view of ½‖θ − target‖², so that workers disagree."""
    noise = np.random.default_rng([worker, round]).normal(size=TARGET.size).astype(np.float32) * 0.05
    for _ in range(10):
        parameters = parameters - np.float32(0.1) * (parameters - (TARGET + noise))
    return parameters


def one_round(made, state, round, slots):
    contributions = {slot: made.contribute(state, inner_steps(state["parameters"], slot, round)) for slot in slots}
    return made.merge(state, [contributions[slot] for slot in made.partners(round, slots[0], slots)])


@every_strategy
def test_converges_on_a_quadratic_and_keeps_the_dtype(name):
    made = strategy({"name": name})
    state = made.init(np.zeros_like(TARGET))
    for round in range(1, 61):
        state = one_round(made, state, round, (0, 1, 2))
    assert np.abs(state["parameters"] - TARGET).max() < 0.2
    assert {tensor.dtype for tensor in state.values()} == {np.dtype(np.float32)}


@every_strategy
def test_the_order_of_members_does_not_matter_to_a_single_bit(name):
    made = strategy({"name": name})
    outcomes = set()
    for slots in itertools.permutations((0, 3, 5)):
        state = one_round(made, made.init(np.ones_like(TARGET)), 1, slots)
        outcomes.add(b"".join(state[key].tobytes() for key in sorted(state)))
    assert len(outcomes) == 1


@every_strategy
def test_functions_are_pure(name):
    made = strategy({"name": name})
    state = one_round(made, made.init(np.ones_like(TARGET)), 1, (0, 1))
    before = {key: tensor.copy() for key, tensor in state.items()}
    one_round(made, state, 2, (0, 1))
    assert all(np.array_equal(before[key], state[key]) for key in state)


@every_strategy
def test_state_survives_export_and_restore_and_goes_on_bit_for_bit(name):
    spec = {"strategy": {"name": name, "inner_steps": 10, "codec": "int8"}, "steps": 100}
    kept, moved = Replica(spec, np.zeros_like(TARGET)), Replica(spec, np.zeros_like(TARGET))
    for round in range(1, 6):
        payloads = {}
        for slot in (0, 1):
            payloads[slot], _ = kept.contribute(inner_steps(kept.parameters, slot, round))
        moved = Replica.restore(moved.export())
        for replica in (kept, moved):
            replica.hold(round, payloads)
            replica.commit(round, (0, 1))
        assert moved.export() == kept.export()


def test_diloco_of_one_worker_with_rate_one_and_no_momentum_is_plain_training():
    made = strategy({"name": "diloco", "outer_lr": 1.0, "outer_momentum": 0.0})
    state, plain = made.init(np.zeros_like(TARGET)), np.zeros_like(TARGET)
    for round in range(1, 11):
        state = one_round(made, state, round, (0,))
        plain = inner_steps(plain, 0, round)
        np.testing.assert_allclose(state["parameters"], plain, atol=1e-6)


def test_diloco_is_the_nesterov_of_the_paper_by_hand():
    made = strategy({"name": "diloco", "outer_lr": 0.5, "outer_momentum": 0.5})
    state = made.init(np.array([10.0], dtype=np.float32))
    state = made.merge(state, [np.array([1.0], np.float32), np.array([3.0], np.float32)])
    assert (state["momentum"][0], state["parameters"][0]) == (2.0, 10.0 - 0.5 * (2.0 + 0.5 * 2.0))
    state = made.merge(state, [np.array([2.0], np.float32)])
    assert (state["momentum"][0], state["parameters"][0]) == (3.0, 8.5 - 0.5 * (2.0 + 0.5 * 3.0))


def test_an_unknown_strategy_names_the_nearest():
    with pytest.raises(LookupError, match="did you mean diloco"):
        strategy({"name": "dilocco"})
