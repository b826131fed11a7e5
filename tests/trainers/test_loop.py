"""The inner loop's options, in this process: what each changes and, above all, what it must not change."""

import contextlib
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainers.customers_model import Customer
from trainers.inner_options import InnerOptions, inner_options
from trainers.inner_state import InnerStateError
from trainers.light_torch import postpone_compiler
from trainers.loop import InnerLoop, NotFinite
from trainers.precision import LossScale
from trainers.preparing import CannotPrepare
from trainers.ranks import Ranks

STEPS = 40


class Deep(Customer):
    """Blocks in a list, as deep models have them; batches by number; one plain step down the gradient at a time."""

    def model(self):
        model = torch.nn.Module()
        model.blocks = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(2))
        model.forward = lambda inputs: model.blocks[1](torch.tanh(model.blocks[0](inputs))).sum(dim=1, keepdim=True)
        return model

    def stream_batch(self, seed, index):
        self.drawn = [*getattr(self, "drawn", []), index]
        return self.batch(seed, index, 0)

    def optimizer(self, model, total_steps):
        return torch.optim.SGD(model.parameters(), lr=0.1)

    def schedule(self, step, total_steps):
        return 1.0


class OneOf(Ranks):
    """A rank whose fellows only seem to be there."""

    def average(self, gradients):
        pass

    def totals(self, numbers):
        return list(numbers)


@pytest.fixture(autouse=True, scope="module")
def light():
    """As in a trainer child."""
    postpone_compiler()


def deep(**options):
    return InnerLoop(Deep({}, None, 3), 3, STEPS, options=InnerOptions(**options))


def flat_of(loop):
    flat = np.empty(loop.flat.elements, dtype=np.float32)
    loop.write_parameters(flat)
    return flat


def gradient_of(batches):
    """The mean gradient over batches at the parameters that everybody begins with."""
    loop = deep()
    for index in batches:
        (loop.workload.loss(loop.model, loop.workload.stream_batch(3, index)) / len(batches)).backward()
    return np.concatenate([parameter.grad.reshape(-1).numpy() for parameter in loop.model.parameters()])


def test_a_step_goes_down_the_mean_gradient_of_its_micro_batches():
    loop = deep(accumulate=3, clip=0.0)
    before = flat_of(loop)
    done = loop.train(0, 1, 0, position=5)
    assert loop.workload.drawn == [15, 16, 17]
    assert flat_of(loop) == pytest.approx(before - 0.1 * gradient_of([15, 16, 17]), abs=1e-6)
    assert (len(done.losses), done.tokens) == (1, 3 * 16 * 4)


def test_a_loss_that_is_no_scalar_is_refused():
    loop = deep()
    loop.workload.factor = torch.ones(3)
    with pytest.raises(TypeError, match=r"must return a scalar tensor, not a tensor of shape \(3,\)"):
        loop.train(0, 1, 0)


@pytest.mark.parametrize(("accumulate", "count"), [(1, 1), (1, 3), (2, 2), (4, 1)])
def test_no_two_ranks_steps_or_micro_batches_ever_draw_the_same_batch(accumulate, count):
    drawn = []
    for rank in range(count):
        options = InnerOptions(accumulate=accumulate, processes=count)
        loop = InnerLoop(Deep({}, None, 3), 3, STEPS, options=options, ranks=OneOf(rank, count))
        loop.train(7, 3, 0, position=2)
        drawn += loop.workload.drawn
    assert sorted(drawn) == list(range(2 * accumulate * count, 5 * accumulate * count))


@pytest.mark.parametrize(("clip", "length"), [(0.0, None), (0.01, 0.01)])
def test_clipping_bounds_the_length_of_a_step_and_none_does_not(clip, length):
    loop = deep(clip=clip)
    before = flat_of(loop)
    loop.train(0, 1, 0)
    wanted = np.linalg.norm(gradient_of([0])) if length is None else length
    assert np.linalg.norm(flat_of(loop) - before) == pytest.approx(0.1 * wanted, rel=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_keeps_parameters_in_float32_and_learns_nearly_the_same(precision):
    exact, mixed = deep(), deep(precision=precision)
    losses = [loop.train(0, 10, 0).losses for loop in (exact, mixed)]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert {parameter.dtype for parameter in mixed.model.parameters()} == {torch.float32}
    assert mixed.evaluate() == pytest.approx(exact.evaluate(), rel=0.02)


def test_a_step_that_overflows_is_done_again_with_half_the_scale_and_counts_once():
    loop, plain = deep(precision="fp16"), deep(precision="fp16")
    loop.scale.value = 2.0**130  # beyond float32
    done = loop.train(0, 2, 0)
    assert loop.scale.value < 2.0**128
    assert done.losses == plain.train(0, 2, 0).losses
    assert flat_of(loop) == pytest.approx(flat_of(plain), rel=1e-5)


def test_an_overflow_that_no_scale_cures_is_the_models_own():
    loop = deep(precision="fp16")
    next(loop.model.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(NotFinite, match="the gradient is inf at step 3"):
        loop.train(3, 1, 0)
    assert loop.scale.value == 1.0


def test_the_scale_grows_after_many_good_steps():
    scale, good = LossScale(), [torch.ones(1)]
    before = scale.value
    for _ in range(2000):
        assert scale.take_off(good)
    assert scale.value == 2 * before


def test_recomputed_activations_change_neither_bits_nor_names():
    plain, recomputing = deep(), deep(activation_checkpointing=True)
    assert plain.flat.shapes == recomputing.flat.shapes
    assert plain.train(0, 3, 0).losses == recomputing.train(0, 3, 0).losses
    assert np.array_equal(flat_of(plain), flat_of(recomputing))


def test_options_that_cannot_be_had_are_refused_with_a_reason():
    shallow = Customer({}, None, 3)
    with pytest.raises(CannotPrepare, match=r"define checkpointed\(model\)"):
        InnerLoop(shallow, 3, STEPS, options=InnerOptions(activation_checkpointing=True))
    with pytest.raises(CannotPrepare, match="may start no process"):
        deep(compile=True)


@pytest.mark.parametrize("wrong", [{"precision": "fp8"}, {"accumulate": 0}, {"processes": True}, {"clip": -1},
                                   {"compile": 1}, {"sharding": "zero"}, {"speed": 9}])  # fmt: skip
def test_a_section_train_that_makes_no_sense_is_refused_by_name(wrong):
    with pytest.raises(ValueError, match=f"train.{next(iter(wrong))}"):
        inner_options({"train": wrong})


def test_a_spec_without_a_section_train_has_the_defaults():
    assert inner_options({}) == inner_options({"train": {}}) == InnerOptions()


# the inner optimiser's state

OPTIMISERS = {
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, amsgrad=True),
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
    "NAdam": lambda parameters: torch.optim.NAdam(parameters, lr=0.01),
    "Adafactor": lambda parameters: torch.optim.Adafactor(parameters, lr=0.01),
    "ASGD": lambda parameters: torch.optim.ASGD(parameters, lr=0.01),
    "Rprop": lambda parameters: torch.optim.Rprop(parameters, lr=0.01),
}


def loop_with(name):
    workload = Deep({}, None, 3)
    workload.optimizer = lambda model, total_steps: OPTIMISERS[name](model.parameters())
    return InnerLoop(workload, 3, STEPS)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_another_workers_optimiser_goes_on_to_the_bit_from_an_exported_state(name):
    donor, newcomer = loop_with(name), loop_with(name)
    donor.train(0, 4, 0)
    exported = donor.export_inner()
    newcomer.read_parameters(flat_of(donor))
    newcomer.import_inner(exported)
    assert newcomer.export_inner() == exported
    assert donor.train(4, 3, 0).losses == newcomer.train(4, 3, 0).losses
    assert np.array_equal(flat_of(donor), flat_of(newcomer))


def test_importing_replaces_what_was_there():
    fresh, used = loop_with("AdamW"), loop_with("AdamW")
    used.train(0, 2, 0)
    used.import_inner(fresh.export_inner())
    assert not used.optimizer.state


ODD = {
    "a list": ("old_dirs", [torch.zeros(3)], "as list; only tensors and numbers"),
    "another shape": ("preconditioner", torch.zeros(7, 7), r"with shape \[7, 7\]"),
    "an object": ("history", object(), "as object"),
}


@pytest.mark.parametrize("odd", ODD)
def test_a_state_that_cannot_be_handed_over_is_named(odd):
    name, value, words = ODD[odd]
    loop = loop_with("AdamW")
    loop.optimizer.state[next(iter(loop.model.parameters()))][name] = value
    with pytest.raises(InnerStateError, match=f"AdamW keeps '{name}' of parameter 'blocks.0.weight' {words}"):
        loop.export_inner()


def test_a_state_of_another_optimiser_or_with_bad_numbers_is_refused_and_changes_nothing():
    donor, loop = loop_with("SGD"), loop_with("AdamW")
    donor.train(0, 1, 0)
    loop.train(0, 1, 0)
    before = loop.export_inner()
    with pytest.raises(InnerStateError, match="the state of SGD, not of AdamW"):
        loop.import_inner(donor.export_inner())
    poisoned = loop_with("AdamW")
    poisoned.train(0, 1, 0)
    poisoned.optimizer.state[next(iter(poisoned.model.parameters()))]["exp_avg"].fill_(float("nan"))
    with pytest.raises(InnerStateError, match=r"'exp_avg' of 'blocks\.0\.weight' is not finite"):
        loop.import_inner(poisoned.export_inner())
    assert loop.export_inner() == before


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_changed_bytes_are_refused_or_are_a_state(data):
    loop = loop_with("SGD")
    loop.train(0, 1, 0)
    exported = bytearray(loop.export_inner())
    header = 8 + int.from_bytes(exported[:8], "little")
    cut = data.draw(st.integers(0, len(exported)))
    for at in data.draw(st.lists(st.integers(0, header - 1), max_size=4)):
        exported[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InnerStateError):
        loop.import_inner(bytes(exported[:cut]))
    assert np.isfinite(loop.train(1, 1, 0).losses[0])


def test_the_exported_header_says_what_it_is():
    loop = loop_with("SGD")
    loop.train(0, 1, 0)
    exported = loop.export_inner()
    size = int.from_bytes(exported[:8], "little")
    described = json.loads(json.loads(exported[8 : 8 + size])["__metadata__"]["torg"])
    assert described["parameters"][0] == ["blocks.0.weight", [4, 4]]
    assert (described["v"], described["optimizer"]) == (1, "SGD")


def test_unequal_shares_never_draw_one_batch_twice():
    drawn = []

    class Draws(Customer):
        def batch(self, seed, step, worker):
            drawn.append((step, worker))
            return super().batch(seed, step, worker)

    loop = InnerLoop(Draws({}, None, 3), 3, STEPS)
    loop.train(0, 3, 0, position=0)  # a round of 3 steps of each of two workers,
    loop.train(3, 5, 0, position=6, uneven=True)  # a fast worker's share of one of which two make 6 steps,
    loop.train(6, 5, 0, position=12, uneven=True)  # and of the next: the schedule goes on at step 6
    assert [step for step, _ in drawn] == [0, 1, 2, *range(6, 11), *range(12, 17)]
