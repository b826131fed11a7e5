"""Steps whose gradients the parent exchanges, going on from the child's own parameters, mixing: one warm child for all."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainers.customers_model import Customer
from trainers.child_process import ChildFailed, InnerStateRefused, JobPackage, TrainerChild
from trainers.filled import viewed
from trainers.light_torch import postpone_compiler
from trainers.loop import InnerLoop
from trainers.sandbox import isolation_level

SOURCE = (
    Path(__file__).with_name("customers_model.py").read_bytes()
    + b"""

class Plain(Customer):  # an optimiser without state, whose steps can be foretold
    def optimizer(self, model, total_steps):
        return torch.optim.SGD(model.parameters(), lr=0.5)

    def metrics(self, model, batch):
        return {"first_bias": float(model.bias[0])}

class Broken(Customer):
    def loss(self, model, batch):
        next(model.parameters()).register_hook(lambda gradient: gradient * float("nan"))
        return super().loss(model, batch)
"""
)
SPEC = {
    "workload": {"kind": "file", "digest": "", "class_name": "Plain", "filename": "customers_model.py"},
    "options": {}, "seed": 3, "steps": 40, "data": {"kind": "none"},
}  # fmt: skip


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """One child for the file, and the parameters that it began with."""
    scratch = tmp_path_factory.mktemp("scratch")
    made = {"threads": 1, "memory_limit_bytes": 512 << 20, "shares": {}, "isolation": isolation_level()}
    with TrainerChild.spawn(scratch=scratch, **made) as child:
        child.wait_ready(120)
        yield child, child.load(JobPackage(SPEC, SOURCE, None), 60).initial


@pytest.fixture
def loop():
    """The same job in this process."""
    postpone_compiler()
    return InnerLoop(Customer({}, None, 3), 3, 40)


def train(child, parameters, first_step=0, steps=4, **further):
    order = {"round": 1, "first_step": first_step, "steps": steps, "worker": 0, "evaluate": False, "timeout_s": 60.0}
    return child.train(parameters, **{**order, **further})


def test_training_on_from_the_childs_own_parameters_is_one_long_round(warm):
    child, initial = warm
    start = train(child, initial, steps=1).parameters
    first = train(child, start, first_step=1, steps=3)
    own = train(child, None, first_step=4, steps=3)
    assert not np.array_equal(first.parameters, own.parameters)
    again = train(child, own.parameters, first_step=7, steps=1)
    assert again.losses[0] < first.losses[0]
    with pytest.raises(ValueError, match="read-only"):
        first.parameters[0] = 0


def test_batches_of_unequal_shares_are_drawn_by_their_number_in_the_job(warm):
    child, initial = warm
    drawn = [train(child, initial, first_step=2, steps=3, position=20, uneven=uneven) for uneven in (False, True)]
    by_step = train(child, initial, first_step=20, steps=1, position=7)
    assert drawn[1].losses[0] == by_step.losses[0] != drawn[0].losses[0]


def test_evaluating_other_parameters_leaves_the_childs_own(warm):
    child, initial = warm
    trained = train(child, initial)
    assert child.evaluate(np.ones_like(initial)) != child.evaluate(trained.parameters)
    assert child.metrics == {"first_bias": pytest.approx(trained.parameters[-1])}
    moved = train(child, None, first_step=4, steps=1).parameters
    assert np.abs(moved - trained.parameters).max() < np.abs(moved).max() / 2


def test_every_step_is_exchanged_with_its_global_number_and_scheduled_rate(warm, loop):
    child, initial = warm
    seen = []

    def synchronise(step, rate, gradient):
        seen.append((step, rate, gradient.copy()))
        return gradient

    train(child, initial, first_step=5, steps=3, synchronise=synchronise, applies="gradient")
    assert [step for step, _, _ in seen] == [5, 6, 7]
    rates = [0.5 * loop.workload.schedule(step, 40) for step in (5, 6, 7)]
    assert [rate for _, rate, _ in seen] == pytest.approx(rates)
    loop.read_parameters(initial.copy())
    loop.workload.loss(loop.model, loop.workload.batch(3, 5, 0)).backward()
    expected = torch.cat([parameter.grad.reshape(-1) for parameter in loop.model.parameters()]).numpy()
    assert np.array_equal(seen[0][2], expected)


def test_the_childs_optimiser_steps_with_the_gradient_that_comes_back_and_clips_it_afterwards(warm, loop):
    child, initial = warm
    rate = np.float32(0.5 * loop.workload.schedule(30, 40))
    for length, clipped in ((0.5, 0.5), (1e6, 1.0)):
        direction = np.full_like(initial, initial.size**-0.5)
        moved = train(
            child,
            initial,
            first_step=30,
            steps=1,
            applies="gradient",
            synchronise=lambda *_, d=direction, n=length: d * n,
        ).parameters
        assert moved == pytest.approx(initial - rate * clipped * direction, rel=1e-5)


def test_parameters_that_come_back_take_the_place_of_the_models(warm):
    child, initial = warm
    answers = []

    def synchronise(step, rate, gradient):
        answers.append(np.full_like(initial, step))
        return answers[-1]

    trained = train(child, initial, first_step=2, steps=3, synchronise=synchronise, applies="parameters")
    assert np.array_equal(trained.parameters, answers[-1])
    assert len(trained.losses) == 3


def test_what_synchronise_raises_passes_through_and_its_step_changed_nothing(warm):
    child, initial = warm
    kept = []

    def synchronise(step, rate, gradient):
        if step == 2:
            raise TimeoutError("nobody answered")
        kept.append(initial + np.float32(step))
        return kept[-1]

    with pytest.raises(TimeoutError, match="nobody answered"):
        train(child, initial, steps=4, synchronise=synchronise)
    assert child.progress.steps <= 2
    unchanged = train(child, None, first_step=2, steps=1, synchronise=lambda *_: kept[-1]).parameters
    assert np.array_equal(unchanged, kept[-1])
    assert np.array_equal(kept[-1], initial + 1)


def test_the_time_that_synchronise_takes_is_not_the_childs(warm):
    """A deadline of the child's own that is shorter than what the exchange waits for."""
    child, initial = warm
    waits = iter(range(100_000))

    def synchronise(step, rate, gradient):
        while child._process.poll() is None and next(waits) < 4_000:
            child.rss_bytes()
        return gradient

    assert train(child, initial, steps=2, timeout_s=2.0, synchronise=synchronise, applies="gradient").tokens > 0


def test_gradients_that_were_kept_are_not_overwritten_by_later_steps(warm):
    child, initial = warm
    kept, sent, copies = [], [], []

    def synchronise(step, rate, gradient):
        copies.append(gradient.tobytes())
        if step % 2:
            sent.append(viewed(gradient))  # as a link keeps it, which may have to send it again
        else:
            kept.append(gradient)
        return gradient

    train(child, initial, steps=8, synchronise=synchronise, applies="gradient")
    assert len(set(copies)) == 8
    assert [gradient.tobytes() for gradient in kept] == copies[::2]
    assert [bytes(part) for part in sent] == copies[1::2]


def test_an_answer_that_was_computed_in_the_childs_room_is_what_it_applies(warm):
    child, initial = warm

    def in_room(step, rate, gradient):
        np.multiply(gradient, np.float32(0.5), out=child.room)
        return child.room

    def apart(step, rate, gradient):
        return gradient * np.float32(0.5)

    inner = child.export_inner().content()
    ends = []
    for synchronise in (in_room, apart):
        child.import_inner(inner)
        ends.append(train(child, initial, steps=5, synchronise=synchronise, applies="gradient").parameters)
    assert np.array_equal(*ends)
    assert not np.array_equal(ends[0], initial)


def test_mixing_moves_only_the_ranges_and_by_as_much_as_asked(warm):
    child, initial = warm
    before = train(child, initial, steps=1, synchronise=lambda *_: initial)
    values = np.arange(initial.size, dtype=np.float32)
    child.mix(values, [(1, 2), (4, 1)], 0.25)
    after = train(child, None, steps=1, synchronise=lambda *_: np.zeros_like(initial), applies="gradient")
    expected = before.parameters.copy()
    for index in (1, 2, 4):
        expected[index] = 0.25 * expected[index] + 0.75 * values[index]
    assert after.parameters == pytest.approx(expected, rel=1e-6)


def test_an_inner_state_goes_into_the_child_and_comes_out_again(warm, loop):
    child, initial = warm
    empty = child.export_inner().content()
    loop.optimizer = torch.optim.SGD(loop.model.parameters(), lr=0.5, momentum=0.9)
    loop.rates = [0.5]
    loop.train(0, 3, 0)
    exported = loop.export_inner()
    child.import_inner(exported)
    assert child.export_inner().content() == exported
    with_momentum = train(child, initial, first_step=3, steps=2).parameters
    child.import_inner(empty)
    assert child.export_inner().content() == empty
    assert not np.array_equal(with_momentum, train(child, initial, first_step=3, steps=2).parameters)


@pytest.mark.parametrize("junk", [b"", b"junk", b"\xff" * 64, b"\2\0\0\0\0\0\0\0{}"])
def test_what_is_no_inner_state_is_refused_and_the_child_serves_on(warm, junk):
    child, initial = warm
    with pytest.raises(InnerStateRefused, match="not an exported inner state"):
        child.import_inner(junk)
    assert train(child, initial, steps=1).tokens > 0


def test_an_inner_state_that_cannot_be_handed_over_is_refused_and_the_child_serves_on(warm, loop):
    child, initial = warm
    loop.optimizer = torch.optim.AdamW(loop.model.parameters())
    with pytest.raises(InnerStateRefused, match="the state of AdamW, not of SGD"):
        child.import_inner(loop.export_inner())
    assert train(child, initial, steps=1).tokens > 0


def test_a_gradient_that_is_not_finite_is_named_even_when_the_loss_is(tmp_path):
    spec = {**SPEC, "workload": {**SPEC["workload"], "class_name": "Broken"}}
    made = {"threads": 1, "memory_limit_bytes": 512 << 20, "shares": {}, "isolation": "process"}
    with TrainerChild.spawn(scratch=tmp_path, **made) as child:
        child.wait_ready(120)
        initial = child.load(JobPackage(spec, SOURCE, None), 60).initial
        with pytest.raises(ChildFailed, match="gradients of step 7 are not all finite") as failed:
            train(child, initial, first_step=7, synchronise=lambda *_: initial)
        assert failed.value.kind == "nan"
        assert len(child.export_inner().content()) > 0, "it serves on"
        with pytest.raises(ZeroDivisionError):
            train(child, initial, first_step=7, synchronise=refuse_nan, check=False)


def refuse_nan(step, rate, gradient):
    """As who checks itself may: it gets what is not finite."""
    assert np.isnan(gradient).any()
    raise ZeroDivisionError
