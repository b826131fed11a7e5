"""The strategy battery: every strategy in the registry must pass it."""

import numpy as np
import pytest

from tests.trainers.lockstep import ELEMENTS, LAYOUT, TARGET, Job, noisy_target
from trainers.options import INNER_STATE_AGREES, OptionError
from trainers.options import STRATEGIES as OPTIONS
from trainers.strategies import STRATEGIES, Update, strategy

# So coarse a problem needs more of its 824 elements than a large model does.
SMALL = {
    "demo": {"top_k": 32, "chunk": 8},
    "distro": {"top_k": 2, "chunk": 8},
    "sparseloco": {"codec": "top_k:128/512+int2", "outer_lr": 0.5},
    "streaming_diloco": {"outer_momentum": 0.5},
}
NAMES = sorted(STRATEGIES)
ROUNDS = [name for name in NAMES if strategy({"name": name}, LAYOUT).cadence == "round"]
KEEPING = [name for name in NAMES if "keep_unsent" in OPTIONS[name]]
every_strategy = pytest.mark.parametrize("name", NAMES)


def options(name: str, **more: object) -> dict[str, object]:
    return {"name": name, **SMALL.get(name, {}), **more}


def agreed(job: Job) -> bool:
    """All members hold the same bits in what they share."""
    held = {slot: [state[name].tobytes() for name in sorted(job.strategy.shared)] for slot, state in job.states.items()}
    return len({b"".join(vectors) for vectors in held.values()}) == 1


def test_the_registry_and_the_options_name_the_same():
    assert set(STRATEGIES) == set(OPTIONS)
    assert {strategy({"name": name}, LAYOUT).name for name in NAMES} == set(NAMES)


@every_strategy
def test_members_converge_on_a_quadratic_agree_to_the_bit_and_keep_the_dtype(name):
    job = Job(options(name), (0, 1, 2, 3))
    for _ in range(80):
        job.advance()
        assert agreed(job)
    for state in job.states.values():
        assert np.abs(state["parameters"] - TARGET).max() < 0.2
        assert {vector.dtype for vector in state.values()} == {np.dtype(np.float32)}


@every_strategy
def test_the_same_calls_give_the_same_bits(name):
    outcomes = set()
    for slots in ((0, 3, 5), (5, 0, 3)):
        job = Job(options(name), slots)
        for _ in range(6):
            job.advance()
        outcomes.add(job.bits())
    assert len(outcomes) == 1


@every_strategy
def test_a_void_round_leaves_nothing_behind(name):
    job, other = (Job(options(name), (0, 1)) for _ in range(2))
    for twin in (job, other):
        for _ in range(3):
            twin.advance()
    before = job.bits()
    job.round += 1
    for slot, state in job.states.items():  # everything up to a merge that then comes to nothing
        moment = job.moment(slot)
        vectors, tentative = job.strategy.contribute(state, job.work(slot), moment)
        decoded = job.decoded(vectors, moment)
        job.strategy.merge(job.strategy.sent(tentative, decoded, moment), [Update(slot, 1.0, decoded)], moment)
    assert job.bits() == before
    job.round -= 1
    for twin in (job, other):
        twin.advance()
    assert job.bits() == other.bits()


@every_strategy
def test_one_member_alone_learns(name):
    job = Job(options(name), (4,))
    for _ in range(80):
        job.advance()
    assert np.abs(job.states[4]["parameters"] - TARGET).max() < 0.2


@every_strategy
def test_members_come_and_go(name):
    job = Job(options(name), (0, 1, 2))
    for _ in range(5):
        job.advance()
    job.leave(1)
    job.advance()
    for slot in (1, 7):
        job.join(slot)
    far = np.abs(job.states[0]["parameters"] - TARGET).mean()
    for _ in range(40):
        job.advance()
        assert agreed(job)
    assert all(np.abs(state["parameters"] - TARGET).mean() < far for state in job.states.values())


@every_strategy
def test_what_only_needs_the_mean_merges_the_mean_alike(name):
    job = Job(options(name), (0, 1, 2))
    for _ in range(2):
        job.advance()
    made = job.strategy
    if made.exchange != "reduce":
        assert made.exchange in ("gather", "pairs")
        return
    moment, states = job.moment(0), job.states
    sent = {slot: made.contribute(states[slot], job.work(slot), job.moment(slot))[0] for slot in states}
    updates = [Update(slot, 1.0 + slot, sent[slot]) for slot in sorted(sent)]
    total = sum(update.weight for update in updates)
    mean = sum(update.vectors[0].astype(np.float64) * update.weight for update in updates) / total
    one = made.merge(states[0], [Update(0, total, (mean.astype(np.float32),))], moment)
    for name_of, vector in made.merge(states[0], updates, moment).items():
        np.testing.assert_allclose(vector, one[name_of], atol=1e-6)


@pytest.mark.parametrize("before", NAMES)
@pytest.mark.parametrize("after", NAMES)
def test_a_job_goes_on_from_any_strategy_with_any_other(before, after):
    job = Job(options(before), (0, 1))
    for _ in range(3):
        job.advance()
    following = Job(options(after), (0, 1))
    following.round = job.round
    for slot, state in job.states.items():
        switched = following.strategy.switch_from(state)
        assert np.array_equal(switched["parameters"], state["parameters"])
        fresh = set(following.strategy.init(state["parameters"]))
        assert fresh <= set(switched) <= fresh | {"residual"}
        following.states[slot], following.locals[slot] = switched, switched["parameters"]
    if before == after:
        for slot, state in job.states.items():
            assert all(np.array_equal(following.states[slot][name], state[name]) for name in following.states[slot])
    following.advance()
    assert all(np.isfinite(vector).all() for state in following.states.values() for vector in state.values())


def test_momentum_of_one_meaning_survives_a_switch_and_of_another_does_not():
    job = Job(options("diloco"), (0, 1))
    job.advance()
    momentum = job.states[0]["momentum"]
    assert np.array_equal(
        strategy({"name": "streaming_diloco"}, LAYOUT).switch_from(job.states[0])["momentum"], momentum
    )
    assert not strategy({"name": "noloco"}, LAYOUT).switch_from(job.states[0])["velocity"].any()


@pytest.mark.parametrize(("name", "keeps"), [(name, False) for name in ROUNDS] + [(name, True) for name in KEEPING])
@pytest.mark.parametrize("codec", ["int8", "top_k:8/64+fp16", "fp4", "sign1"])
def test_error_feedback_and_late_work_lose_nothing(name, keeps, codec):
    exact = {"sparseloco": {"decay": 1.0}, "streaming_diloco": {"fragments": 1, "mixing": 0.0}}.get(name, {})
    more = {"keep_unsent": True} if keeps else exact
    job = Job({"name": name, "codec": codec, "error_feedback": True, **more}, (0, 1, 2))
    owed = {slot: np.zeros(ELEMENTS) for slot in job.states}
    for round in range(1, 7):
        began = dict(job.locals)
        job.advance(late=frozenset({1}) if round in (2, 3) else frozenset())
        for slot in job.states:
            owed[slot] += began[slot].astype(np.float64) - job.made[-1][slot]
            sign = -1.0 if name == "noloco" else 1.0  # NoLoCo sends where training went, the others where it came from
            if slot in job.heard[-1]:
                owed[slot] -= sign * job.heard[-1][slot][0]
    for slot, state in job.states.items():
        np.testing.assert_allclose(state["residual"], owed[slot], atol=2e-5)


@pytest.mark.parametrize("name", ROUNDS)
def test_late_work_without_error_feedback_goes_whole_into_the_next_contribution(name):
    more = {"fragments": 1} if name == "streaming_diloco" else {"decay": 1.0} if name == "sparseloco" else {}
    job = Job({"name": name, "codec": "identity", "error_feedback": False, **more}, (0, 1))
    began = job.locals[1]
    job.advance(late=frozenset({1}))
    late = began - job.made[0][1]
    merged = job.states[1]["parameters"] - began  # mixing leaves a share of the own parameters behind this
    job.advance(idle=True)
    sent = job.heard[1][1][0] if name != "noloco" else -job.heard[1][1][0]
    np.testing.assert_allclose(sent, late + np.float32(job.strategy.keep) * merged, atol=1e-5)
    assert "residual" not in job.states[1]


@pytest.mark.parametrize("name", KEEPING)
def test_what_a_member_could_not_send_stays_in_what_it_trains_on_and_in_nobody_elses(name):
    job = Job({"name": name, "codec": "top_k:8/64+fp16", "keep_unsent": True}, (0, 1))
    for _ in range(5):
        job.advance()
    assert agreed(job)
    assert not np.array_equal(job.locals[0], job.locals[1])
    for slot, state in job.states.items():
        assert state["residual"].any()
        np.testing.assert_array_equal(job.locals[slot], state["parameters"] - state["residual"])
    before = job.states[1]["parameters"]
    job.advance(late=frozenset({1}))  # it goes on from where it came to, and what the others moved
    moved = job.states[1]["parameters"] - before
    np.testing.assert_allclose(job.locals[1] - job.made[-1][1], moved, atol=1e-5)


@pytest.mark.parametrize("name", ["ddp", "demo", "distro"])
def test_gradients_that_were_not_sent_yet_are_kept(name):
    more = {"ddp": {"codec": "sign1", "error_feedback": True}}.get(
        name, {"decay": 1.0, "lr": 1.0, "top_k": 8, "chunk": 8}
    )
    job = Job({"name": name, **more}, (0, 1))
    made, heard = np.zeros(ELEMENTS), np.zeros(ELEMENTS)
    for _ in range(5):
        job.advance()
        made += job.made[-1][0] if name == "ddp" else job.strategy.dct.forward(job.made[-1][0])
        heard += job.states[0]["accepted"] if name == "distro" else job.heard[-1][0][0]
    kept = job.states[0]["gradient_residual" if name == "ddp" else "unsent"].astype(np.float64)
    if name == "distro":
        kept -= job.states[0]["accepted"]
    np.testing.assert_allclose(kept, made - heard, atol=2e-5)


@pytest.mark.parametrize("merge", ["trimmed_mean", "centered_clip"])
@pytest.mark.parametrize("name", ["diloco", "local_sgd", "fedavg", "streaming_diloco"])
def test_a_robust_merge_gathers_and_a_liar_moves_nobody_far(name, merge):
    job = Job(options(name, merge=merge, codec="identity"), range(5))
    assert job.strategy.exchange == "gather"
    honest = Job(options(name, merge=merge, codec="identity"), range(4))
    job.work = lambda slot: np.full(ELEMENTS, 1e18, np.float32) if slot == 4 else Job.work(job, slot)  # type: ignore[method-assign]
    for each in (job, honest):
        each.advance()
    assert np.abs(job.states[0]["parameters"] - honest.states[0]["parameters"]).max() < 0.2


def test_an_unknown_strategy_names_the_nearest():
    with pytest.raises(OptionError, match="did you mean diloco"):
        strategy({"name": "dilocco"}, LAYOUT)


def test_members_see_different_data():
    assert not np.array_equal(noisy_target(0, 1), noisy_target(1, 1))


def test_checkpoints_keep_the_inner_state_where_the_inner_optimiser_is_a_part_of_what_all_agree_on():
    assert (
        tuple(name for name in STRATEGIES if strategy({"name": name}, LAYOUT).applies == "gradient")
        == INNER_STATE_AGREES
    )
