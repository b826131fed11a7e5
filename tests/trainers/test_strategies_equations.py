"""Each strategy's step by hand, from the equations in its file, and the traps that others fell into."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainers.lockstep import ELEMENTS, LAYOUT, Job
from trainers.layout import flat_layout
from trainers.strategies import Moment, Update, strategy
from trainers.strategies.noloco import pairs
from trainers.strategies.streaming_diloco import fragments_of, gathered

NOW = Moment(1, 0, 0, (0, 1))


def made(size: int = 1, **options: object):
    return strategy({"codec": "identity", "error_feedback": False, **options}, flat_layout(size))


def vector(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def updates(*values: np.ndarray, weights: tuple[float, ...] | None = None) -> list[Update]:
    return [
        Update(slot, weight, (value,))
        for slot, (value, weight) in enumerate(zip(values, weights or (1.0,) * len(values), strict=True))
    ]


def test_diloco_is_the_nesterov_of_the_paper():
    diloco = made(name="diloco", outer_lr=0.5, outer_momentum=0.5)
    state = diloco.merge(diloco.init(vector(10)), updates(vector(1), vector(3)), NOW)
    assert (state["momentum"][0], state["parameters"][0]) == (2.0, 10.0 - 0.5 * (2.0 + 0.5 * 2.0))
    state = diloco.merge(state, updates(vector(2)), NOW)
    assert (state["momentum"][0], state["parameters"][0]) == (3.0, 8.5 - 0.5 * (2.0 + 0.5 * 3.0))


def test_diloco_with_rate_one_and_no_momentum_is_local_sgd():
    jobs = [Job({"name": "diloco", "outer_lr": 1.0, "outer_momentum": 0.0}, (0, 1)), Job({"name": "local_sgd"}, (0, 1))]
    for job in jobs:
        for _ in range(5):
            job.advance()
    np.testing.assert_allclose(jobs[0].states[0]["parameters"], jobs[1].states[0]["parameters"], atol=1e-6)


def test_local_sgd_alone_is_plain_training_and_together_the_mean():
    local_sgd, state = made(name="local_sgd"), {"parameters": vector(10)}
    ((one,), _), ((two,), _) = (local_sgd.contribute(state, vector(value), NOW) for value in (7, 8))
    assert local_sgd.merge(state, updates(one), NOW)["parameters"][0] == 7.0
    assert local_sgd.merge(state, updates(one, two), NOW)["parameters"][0] == 7.5


def test_fedavg_counts_by_tokens():
    fedavg = made(name="fedavg")
    merged = fedavg.merge({"parameters": vector(0)}, updates(vector(1), vector(5), weights=(300.0, 100.0)), NOW)
    assert merged["parameters"][0] == -2.0


def test_ddp_gives_the_mean_gradient_and_leaves_the_parameters_to_the_optimiser():
    ddp = made(name="ddp")
    merged = ddp.merge(ddp.init(vector(10)), updates(vector(1), vector(3)), NOW)
    assert (ddp.cadence, ddp.applies, merged["gradient"][0], merged["parameters"][0]) == ("step", "gradient", 2.0, 10.0)


def test_noloco_goes_where_training_went_and_towards_the_partner():
    noloco = made(name="noloco", slow_codec="identity", alpha=0.5, beta=0.7, gamma=0.6)
    state = {"parameters": vector(1.0), "velocity": vector(0.2)}
    (progress, slow), _ = noloco.contribute(state, vector(1.5), NOW)
    assert (progress[0], slow[0]) == (0.5, 1.0)
    both = [Update(0, 1.0, (progress, slow)), Update(1, 1.0, (vector(0.3), vector(2.0)))]
    merged = noloco.merge(state, both, NOW)
    velocity = 0.5 * 0.2 + 0.7 * (0.5 + 0.3) / 2 + 0.6 * ((1.0 + 2.0) / 2 - 1.0)
    assert merged["velocity"][0] == pytest.approx(velocity)
    assert merged["parameters"][0] == pytest.approx(1.0 + velocity)


def test_noloco_alone_has_nobody_to_be_drawn_to_and_late_meets_half_way():
    noloco, state = made(name="noloco", slow_codec="identity"), {"parameters": vector(1.0), "velocity": vector(0)}
    alone = noloco.merge(state, [Update(0, 1.0, (vector(0.5), vector(9.0)))], NOW)
    assert alone["velocity"][0] == pytest.approx(0.7 * 0.5)
    late = noloco.merge(state, [Update(1, 1.0, (vector(0.0), vector(2.0)))], NOW)
    assert late["velocity"][0] == pytest.approx(0.7 * 0.5 * (2.0 - 1.0))


def test_noloco_members_of_equal_slow_weights_are_not_pushed_by_a_lossy_codec():
    noloco = made(name="noloco", slow_codec="bf16")
    state = {"parameters": vector(0.123456), "velocity": vector(0)}
    seen = noloco.slow_codec.decode(noloco.slow_codec.encode(state["parameters"]), 1)
    assert seen[0] != state["parameters"][0]
    same = noloco.merge(state, [Update(slot, 1.0, (vector(0), seen)) for slot in (0, 1)], NOW)
    assert same["parameters"][0] == state["parameters"][0]


@given(
    slots=st.sets(st.integers(0, 1000), min_size=1, max_size=40), seed=st.integers(0, 2**53), round=st.integers(1, 9999)
)
def test_noloco_pairs_everybody_once(slots, seed, round):
    drawn = pairs(tuple(slots), seed, round)
    assert sorted(slot for pair in drawn for slot in pair) == sorted(slots)
    assert sum(len(pair) == 1 for pair in drawn) == len(slots) % 2
    assert all(list(pair) == sorted(pair) for pair in drawn)


def test_noloco_draws_other_pairs_every_round():
    assert len({pairs(range(8), 1, round) for round in range(1, 20)}) > 10


def test_sparseloco_counts_its_rate_once():
    sparse = made(name="sparseloco", outer_lr=0.5, decay=0.5, codec="top_k:1/2+identity", error_feedback=True, size=2)
    (owed,), tentative = sparse.contribute({"parameters": vector(0, 0)}, vector(-4, -2), NOW)
    state = sparse.sent(tentative, (vector(4, 0),), NOW)
    assert list(owed) == [4, 2]
    assert list(state["residual"]) == [0, 2]
    assert list(sparse.merge(state, updates(vector(4, 0)), NOW)["parameters"]) == [-2, 0]
    (owed,), _ = sparse.contribute(state, vector(0, 0), NOW)
    assert list(owed) == [0, 1]


@pytest.mark.parametrize(("over", "second"), [("workers", -3.0), ("senders", -6.0)])
def test_sparseloco_averages_over_workers_or_senders(over, second):
    sparse = made(name="sparseloco", codec="top_k:1/2+identity", average_over=over, size=2)
    both = updates(vector(8, 6), vector(10, 0))  # of one norm, so that neither is scaled
    assert list(sparse.merge({"parameters": vector(0, 0)}, both, NOW)["parameters"]) == [-9.0, second]


def test_sparseloco_scales_the_loud_down_to_the_median():
    sparse = made(name="sparseloco", codec="identity")
    merged = sparse.merge({"parameters": vector(0)}, updates(vector(1), vector(1), vector(1000)), NOW)
    assert merged["parameters"][0] == pytest.approx(-1.0)


def test_demo_steps_by_the_sign_and_keeps_what_it_did_not_send():
    demo = strategy(
        {"name": "demo", "decay": 0.5, "top_k": 1, "chunk": 4, "codec": "identity", "weight_decay": 0.5},
        flat_layout(16),
    )
    state = demo.init(np.full(16, 2, np.float32))
    moment = Moment(1, 0, 0, (0,), rate=0.1)
    gradient = demo.dct.inverse(vector(8, 1, *[0] * 14))
    (coefficients,), tentative = demo.contribute(state, gradient, moment)
    np.testing.assert_allclose(coefficients[:2], [0.8, 0.1], atol=1e-6)
    seen = demo.codec.decode(demo.codec.encode(coefficients), 16)
    assert np.count_nonzero(seen) == 1
    state = demo.merge(demo.sent(tentative, (seen,), moment), updates(seen), moment)
    np.testing.assert_allclose(state["unsent"][:2], [0.0, 0.1], atol=1e-6)
    signs = np.sign(demo.dct.inverse(seen))
    np.testing.assert_allclose(state["parameters"], 2 * (1 - 0.1 * 0.5) - 0.1 * signs, atol=1e-6)


@pytest.mark.parametrize("accepted", [True, False])
def test_distro_lets_go_one_step_later_and_only_of_what_was_accepted(accepted):
    options = {"name": "distro", "decay": 1.0, "top_k": 1, "chunk": 4, "lr": 0.1}
    distro = strategy(options, flat_layout(4))
    gradient = distro.dct.inverse(vector(8, 1, 0, 0))
    (coefficients,), tentative = distro.contribute(distro.init(np.zeros(4, np.float32)), gradient, NOW)
    seen = distro.codec.decode(distro.codec.encode(coefficients), 4)
    state = distro.sent(tentative, (seen,), NOW)
    other = Update(1, 1.0, (seen,))
    state = distro.merge(state, [Update(0, 1.0, (seen,)), other] if accepted else [other], NOW)
    np.testing.assert_allclose(state["unsent"], [0.8, 0.1, 0, 0], atol=1e-6)
    _, later = distro.contribute(state, np.zeros(4, np.float32), NOW)
    expected = [0.0 if accepted else 0.8, 0.1, 0, 0]
    np.testing.assert_allclose(later["unsent"], expected, atol=1e-6)


def test_distro_counts_signs_and_not_magnitudes():
    distro = strategy({"name": "distro", "chunk": 2, "top_k": 1, "lr": 1.0}, flat_layout(2))
    state = {**distro.init(vector(0, 0))}
    votes = updates(vector(1000, 0), vector(-1, 0), vector(-1, 0))
    assert (distro.merge(state, votes, Moment(1, 0, 0, (0, 1, 2)))["parameters"] > 0).all()


def test_streaming_fragments_are_whole_strided_tensors_and_cover_the_model_once():
    fragments = fragments_of(LAYOUT, 3)
    offsets = sorted((tensor.offset, tensor.size) for fragment in fragments for tensor in fragment)
    assert offsets == [(tensor.offset, tensor.size) for tensor in LAYOUT]
    assert len({next(index for index, one in enumerate(fragments) if tensor in one) for tensor in LAYOUT[:3]}) == 3


@given(count=st.integers(1, 30))
def test_streaming_cuts_a_model_of_few_tensors_into_equal_pieces(count):
    fragments = fragments_of(flat_layout(20), count)
    assert sum(tensor.size for fragment in fragments for tensor in fragment) == 20
    sizes = [tensor.size for fragment in fragments for tensor in fragment]
    assert max(sizes) - min(sizes) <= 1


def test_streaming_exchanges_one_fragment_a_round_and_leaves_the_rest_to_the_worker():
    job = Job({"name": "streaming_diloco", "fragments": 2, "inner_steps": 20, "outer_lr": 1.0, "outer_momentum": 0.0,
               "mixing": 0.25, "codec": "identity"}, (0, 1))  # fmt: skip
    job.advance()
    ranges = job.strategy.mixed(job.moment(0))
    [rest] = set(job.strategy.fragments) - {ranges}
    outer = job.states[0]["parameters"]
    mean = (job.made[0][0] + job.made[0][1]) / 2
    np.testing.assert_allclose(gathered(outer, ranges), gathered(mean, ranges), atol=1e-6)
    assert not gathered(outer, rest).any()
    mixed = 0.25 * gathered(job.made[0][1], ranges) + 0.75 * gathered(outer, ranges)
    np.testing.assert_allclose(gathered(job.locals[1], ranges), mixed, atol=1e-6)
    assert np.array_equal(gathered(job.locals[1], rest), gathered(job.made[0][1], rest))
    job.advance()
    assert job.strategy.mixed(job.moment(0)) == rest


def test_streaming_of_one_fragment_without_mixing_is_diloco():
    common = {"codec": "int8", "outer_lr": 0.7, "outer_momentum": 0.9}
    jobs = [Job({"name": "diloco", **common}, (0, 1)),
            Job({"name": "streaming_diloco", "fragments": 1, "mixing": 0.0, **common}, (0, 1))]  # fmt: skip
    for job in jobs:
        for _ in range(4):
            job.advance()
    for name in ("parameters", "momentum"):
        assert np.array_equal(jobs[0].states[0][name], jobs[1].states[0][name])
    assert jobs[1].strategy.mixed(NOW)[0][1] == ELEMENTS
