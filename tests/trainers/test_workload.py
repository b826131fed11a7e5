"""Workloads and the inner loop, in this process: the built-in one, the example, and what the loop promises."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from trainers.loop import InnerLoop, NotFinite, ShapeChanged
from trainers.metrics import mean_metrics
from trainers.workload import built_in
from trainers.workloads.byte_lm import ByteLM, Shape

EXAMPLE = Path(__file__).parents[2] / "examples" / "my_model.py"
SMALL = {"size": "100k", "context": 32, "batch": 4}


@pytest.fixture(autouse=True)
def one_thread():
    """As in a trainer child; more threads than idle cores would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    (folder / "b.txt").write_bytes(b"b" * 3000)
    (folder / "sub" / "a.txt").write_bytes(bytes(range(256)) * 20)
    (folder / "a.txt").write_bytes(b"a" * 3000)
    return folder


def example(**options):
    described = importlib.util.spec_from_file_location("my_model", EXAMPLE)
    module = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    return module.Spirals(options, None, 1)


@pytest.mark.parametrize(
    ("size", "layers", "width"), [("100k", 2, 64), ("1M", 4, 144), ("10M", 7, 352), ("100M", 14, 768), ("1G", 23, 1920)]
)
def test_one_dial_gives_a_model_of_about_that_size(size, layers, width):
    shape = Shape.of(size)
    assert (shape.layers, shape.width) == (layers, width)
    assert shape.width % shape.heads == 0
    wanted = float(size[:-1]) * {"k": 1e3, "M": 1e6, "G": 1e9}[size[-1]]
    assert 12 * layers * width**2 == pytest.approx(wanted, rel=0.07)


class Harder(ByteLM):
    """With a loss and figures of its own."""

    def loss(self, model, batch):
        return 2 * super().loss(model, batch)

    def metrics(self, model, batch):
        return {"half": super().metrics(model, batch)["accuracy"] / 2}


@torch.no_grad()
def evaluated(workload):
    """Held-out loss and figures as the loop has them and batch by batch, and how often the loop called the model."""
    loop, calls = InnerLoop(workload, 1, 10), []
    counting = loop.model.register_forward_hook(lambda *_: calls.append(1))
    loss = loop.evaluate()
    counting.remove()
    batches = workload.held_out()
    apart = float(np.mean([workload.loss(loop.model, batch).item() for batch in batches]))
    figures = mean_metrics([workload.metrics(loop.model, batch) for batch in batches])
    return (loss, loop.metrics), (apart, figures), len(calls) / len(batches)


def test_a_held_out_batch_passes_through_the_model_once_for_its_loss_and_its_figures(text):
    told, apart, calls = evaluated(ByteLM(dict(SMALL), text, 1))
    assert told == apart
    assert list(told[1]) == ["accuracy"]
    assert calls == 1


def test_a_derived_workload_with_a_loss_and_figures_of_its_own_is_evaluated_by_those(text):
    plain = evaluated(ByteLM(dict(SMALL), text, 1))[0]
    told, apart, calls = evaluated(Harder(dict(SMALL), text, 1))
    assert told == apart
    assert told[0] == pytest.approx(2 * plain[0])
    assert told[1] == {"half": plain[1]["accuracy"] / 2}
    assert calls == 2


def test_batches_are_the_same_for_the_same_seed_step_worker_and_only_then(text):
    one, other = ByteLM(dict(SMALL), text, 1), ByteLM(dict(SMALL), text, 1)
    assert torch.equal(one.batch(1, 2, 3), other.batch(1, 2, 3))
    assert len({one.batch(*key).numpy().tobytes() for key in [(1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4)]}) == 4


def test_files_are_joined_by_name_and_held_out_bytes_are_the_last_and_never_trained_on(text):
    workload = ByteLM(dict(SMALL), text, 1)
    joined = b"a" * 3000 + b"b" * 3000 + bytes(range(256)) * 20
    assert bytes(workload.train_bytes) + bytes(workload.held_out_bytes) == joined
    assert workload.held_out_bytes.size == len(joined) // 20
    assert all(batch.shape[1] == 33 for batch in workload.held_out())
    assert workload.tokens(workload.batch(1, 0, 0)) == 4 * 32


BAD_OPTIONS = {
    "unknown": ({"contxt": 3}, "did you mean 'context'"),
    "size": ({"size": "huge"}, "100k, 1M or 10M"),
    "no size": ({"size": "1G", "context": 0}, "from 8 to 8192"),
    "batch": ({"batch": True}, "whole number"),
    "long": ({"context": 4096}, "needs"),
}


@pytest.mark.parametrize("bad", BAD_OPTIONS)
def test_bad_options_are_refused_with_help(text, bad):
    options, words = BAD_OPTIONS[bad]
    with pytest.raises(ValueError, match=words):
        ByteLM({**SMALL, **options}, text, 1)


def test_no_data_and_empty_data_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="needs data"):
        ByteLM({}, None, 1)
    with pytest.raises(ValueError, match="no bytes"):
        ByteLM({}, tmp_path, 1)


def test_an_unknown_workload_names_the_nearest():
    with pytest.raises(LookupError, match="byte_lm"):
        built_in("bytelm")


def test_the_example_learns():
    loop = InnerLoop(example(), 1, 300)
    before = loop.evaluate()
    loop.train(0, 300, 0)
    assert before == pytest.approx(np.log(10), abs=0.2)
    assert loop.evaluate() < 0.8 * before


def test_the_learning_rate_follows_the_global_step_so_that_a_late_joiner_has_everybodys():
    late = InnerLoop(example(), 1, 100)
    late.train(70, 5, 0)
    early = InnerLoop(example(), 1, 100)
    early.train(0, 75, 0)
    rates = [[group["lr"] for group in loop.optimizer.param_groups] for loop in (late, early)]
    assert rates[0] == rates[1]
    factors = [late.workload.schedule(step, 100) for step in range(100)]
    assert max(factors) == factors[4] == 1.0
    assert factors[99] == pytest.approx(0.05, abs=0.01)


def test_inner_optimiser_state_outlives_rounds():
    loop, flat = InnerLoop(example(), 1, 100), np.zeros(0, np.float32)
    flat = np.empty(sum(parameter.numel() for parameter in loop.model.parameters()), np.float32)
    loop.train(0, 3, 0)
    loop.write_parameters(flat)
    loop.read_parameters(flat)
    loop.train(3, 2, 0)
    steps = {int(state["step"]) for state in loop.optimizer.state.values()}
    assert steps == {5}


def test_parameters_come_back_as_they_went():
    loop = InnerLoop(example(), 1, 100)
    size = sum(parameter.numel() for parameter in loop.model.parameters())
    wanted, got = np.random.default_rng(0).normal(size=size).astype(np.float32), np.empty(size, np.float32)
    loop.read_parameters(wanted)
    loop.write_parameters(got)
    assert np.array_equal(wanted, got)


def test_a_gradient_or_loss_that_is_not_finite_stops_at_its_step():
    loop = InnerLoop(example(), 1, 100)
    with torch.no_grad():
        next(loop.model.parameters()).fill_(float("inf"))
    with pytest.raises(NotFinite, match="at step 7"):
        loop.train(7, 3, 0)


def test_a_model_that_changed_is_named():
    loop = InnerLoop(example(), 1, 100)
    flat = np.empty(sum(parameter.numel() for parameter in loop.model.parameters()), np.float32)
    loop.model.add_module("late", torch.nn.Linear(2, 2))
    with pytest.raises(ShapeChanged, match=r"late\.bias"):
        loop.write_parameters(flat)


def drawn_bytes(batches):
    return np.concatenate([batch[:, 1:].reshape(-1).numpy() for batch in batches])


def test_a_stream_reads_every_byte_once_an_epoch_and_cuts_the_next_epoch_elsewhere(text):
    (text / "held_out").mkdir()
    (text / "held_out" / "last.txt").write_bytes(b"0123456789" * 10)
    workload = ByteLM({**SMALL, "reading": "stream", "batch": 5}, text, 1)
    assert workload.streams
    assert bytes(workload.held_out_bytes) == b"0123456789" * 10
    assert workload.train_bytes.size == 3000 + 3000 + 256 * 20
    count = workload.stream.count
    epochs = [drawn_bytes(workload.next_batch(1, 0, 0, number) for number in range(e * count // 5, (e + 1) * count // 5))
              for e in (0, 1)]  # fmt: skip
    whole = np.bincount(workload.train_bytes, minlength=256)
    for seen in epochs:  # whole batches, so a window more or less at either end of an epoch
        missing = whole - np.bincount(seen, minlength=256)
        assert -5 * 32 <= missing.sum() <= 7 * 32
        assert (missing >= -5 * 32).all()
    assert not np.array_equal(*(seen[:160] for seen in epochs))


def test_a_worker_with_data_of_its_own_reads_them_by_its_own_steps(text):
    workload = ByteLM({**SMALL, "reading": "own"}, text, 1)
    assert not workload.streams
    first = [workload.next_batch(1, step, 0, 999).numpy().tobytes() for step in range(4)]
    assert first == [workload.next_batch(1, step, 0, 5).numpy().tobytes() for step in range(4)]
    assert len({*first, workload.next_batch(1, 0, 1, 0).numpy().tobytes()}) == 5


def test_tokenised_shards_train_as_a_stream(tmp_path):
    for number in range(3):
        np.tile(np.arange(1000, 1020, dtype="<u2"), 200).tofile(tmp_path / f"{number}.bin")
    options = {"size": "10k", "context": 16, "batch": 8, "vocabulary": 1024}
    workload = built_in("token_lm")(options, tmp_path, 1)
    held = {int(sample) for sample in range(*np.cumsum(workload.held_range))}
    assert held
    assert min(held) > workload.stream.count, "the last training window moves by less than the one left out"
    loop = InnerLoop(workload, 1, 40)
    before = loop.evaluate()
    result = loop.train(0, 40, 0)
    assert before == pytest.approx(np.log(1024), abs=0.3)
    assert loop.evaluate() < before - 1
    assert result.tokens == 40 * 8 * 16
    with pytest.raises(ValueError, match="a token 1019; vocabulary is 1019"):
        built_in("token_lm")({**options, "vocabulary": 1019}, tmp_path, 1).held_out()
    with pytest.raises(ValueError, match=r"0 \.bin and \.npy files with 0 tokens"):
        built_in("token_lm")(options, tmp_path / "nowhere", 1)
