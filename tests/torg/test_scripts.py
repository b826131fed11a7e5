"""A script's loop as a workload: the bits of the bare loop, batches by number whoever asks, and errors that say what to do."""

import importlib.util
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset, WeightedRandomSampler

import torg
from market.form_errors import FormError
from market.forms import digest_only, parse_job, resolve
from torg.batches import numbered
from torg.rates import Rates
from trainers.child_process import JobPackage, TrainerChild
from trainers.loop import InnerLoop
from trainers.simulation import Script, simulate

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_digits.py"
INPUTS = torch.arange(96, dtype=torch.float32).reshape(24, 4) / 96
SAMPLES = TensorDataset(INPUTS, INPUTS.sum(1, keepdim=True))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """As in a trainer child; more threads than idle cores would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def example():
    described = importlib.util.spec_from_file_location("train_digits", EXAMPLE)
    module = importlib.util.module_from_spec(described)
    sys.modules["train_digits"] = module
    described.loader.exec_module(module)
    return module


def mean_squares(model, batch):
    return F.mse_loss(model(batch[0]), batch[1])


def parts(batches=None, schedule=None, **others):
    """A small loop; `schedule` makes one of its optimizer."""
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    made = {
        "model": model, "optimizer": optimizer, "loss": mean_squares, "held_out": [SAMPLES[:]],
        "batches": DataLoader(SAMPLES, batch_size=6) if batches is None else batches,
    }  # fmt: skip
    return torg.Training(**made | {"schedule": schedule and schedule(optimizer)} | others)


def flat(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_importing_torg_imports_no_torch():
    code = "import sys, torg; assert not {'torch', 'numpy', 'ray'} & set(sys.modules), 'heavy'; print(*torg.__all__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == torg.__all__
    with pytest.raises(AttributeError, match="torg has no 'trian'"):
        torg.trian


@pytest.mark.parametrize("clip", [0, 0.05])
def test_alone_it_has_the_bits_of_the_bare_loop(clip):
    halves = lambda optimizer: lr_scheduler.StepLR(optimizer, 5, 0.5)  # noqa: E731
    trained = torg.train(
        lambda: parts(schedule=halves), steps=23, seed=7, train={"clip": clip}, device="cpu", told=lambda _: None
    )

    torch.manual_seed(7)
    bare, losses = parts(schedule=halves), []
    bare.model.train()
    for batch in itertools.islice(itertools.chain.from_iterable(itertools.repeat(bare.batches)), 23):
        loss = mean_squares(bare.model, batch)
        bare.optimizer.zero_grad()
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(bare.model.parameters(), clip)
        bare.optimizer.step()
        bare.schedule.step()
        losses.append(loss.item())
    assert torch.equal(flat(trained.model), flat(bare.model))
    assert trained.losses == losses
    assert trained.held_out_loss == mean_squares(bare.model, SAMPLES[:]).item()


def test_a_shuffled_loader_gives_each_sample_once_an_epoch_whoever_asks_for_which_number():
    asked = [numbered(DataLoader(SAMPLES, batch_size=6, shuffle=True, num_workers=2), 5) for _ in range(2)]
    seen = [asked[index % 2](index)[0] for index in (3, 0, 2, 1)]  # two members, any order
    assert sorted(torch.cat(seen)[:, 0].tolist()) == INPUTS[:, 0].tolist()
    assert not torch.equal(torch.cat(seen), torch.cat([asked[0](index)[0] for index in (7, 4, 6, 5)]))


class Noisy(IterableDataset):
    """Passes of seven samples, each with noise from all three generators."""

    def __iter__(self):
        import random

        for number in range(7):
            yield torch.tensor([number, float(torch.rand(())), random.random(), np.random.random()])


def weighted():
    return DataLoader(SAMPLES, batch_size=5, sampler=WeightedRandomSampler(range(1, 25), 20))


SOURCES = {
    "iterable": lambda: DataLoader(Noisy(), batch_size=3),
    "its own batches": Noisy,
    "another sampler": weighted,
    "augmented": lambda: DataLoader(SAMPLES, 6, shuffle=True, collate_fn=lambda _: torch.rand(2)),
    "a function": lambda: lambda index: torch.rand(2) + index,
    "a list": lambda: [torch.tensor([number]) for number in range(3)],
}


@pytest.mark.parametrize("source", SOURCES)
@settings(max_examples=15, deadline=None)
@given(indices=st.lists(st.integers(0, 25), min_size=1, max_size=12))
def test_a_number_is_the_same_batch_in_any_order_and_no_generator_of_the_loop_notices(source, indices):
    straight, jumping = numbered(SOURCES[source](), 5), numbered(SOURCES[source](), 5)
    wanted = [straight(index) for index in range(26)]
    torch.manual_seed(1)
    expected = torch.rand(4)
    torch.manual_seed(1)
    found = [jumping(index) for index in indices]
    assert torch.equal(torch.rand(4), expected)
    for index, batch in zip(indices, found, strict=True):
        assert torch.equal(*(one[0] if isinstance(one, list) else one for one in (batch, wanted[index])))
    others = numbered(SOURCES[source](), 6)
    if source not in ("a list",):
        assert any(
            not torch.equal(*(one[0] if isinstance(one, list) else one for one in (others(index), wanted[index])))
            for index in range(8)
        )


SCHEDULERS = {
    "cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 20),
    "one cycle": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.1, 30, cycle_momentum=False),
    "sequence": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer,
        [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=4), lr_scheduler.ExponentialLR(optimizer, 0.9)],
        [4],
    ),
}


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_rates_are_those_of_the_scheduler_at_any_step(kind):
    bare, expected = parts(schedule=SCHEDULERS[kind]), []
    for _ in range(25):
        expected.append(bare.optimizer.param_groups[0]["lr"])
        bare.optimizer.step()
        bare.schedule.step()
    made = parts(schedule=SCHEDULERS[kind])
    rates = Rates(made.schedule)
    for step in (17, 3, 24, 0):  # a member that came late, and one that goes back
        assert rates.at(step) == [expected[step]]
        made.optimizer.param_groups[0]["lr"] = 99.0  # whatever the loop does with them


def ended():
    return parts(iter([SAMPLES[:6]] * 3))


WRONG = {
    "iterator ends": (ended, ValueError, "ended after 3 batches, and batch 3 is wanted; let setup"),
    "empty pass": (lambda: parts(DataLoader(Noisy(), 9, drop_last=True)), ValueError, "gave nothing in pass 1"),
    "empty list": (lambda: parts([]), ValueError, "batches is empty"),
    "no batches": (lambda: parts(3), TypeError, "of type int; it must be a DataLoader"),
    "samples": (lambda: parts(SAMPLES), TypeError, "wrap it: DataLoader"),
    "distributed": (
        lambda: parts(DataLoader(SAMPLES, sampler=DistributedSampler(SAMPLES, 2, 0))), TypeError, "DistributedSampler",
    ),
    "no scalar": (lambda: parts(loss=lambda model, batch: model(batch[0])), TypeError, r"not a tensor of shape \(6, 1\)"),
    "nothing held out": (lambda: parts(held_out=[]), ValueError, "no batches as held_out"),
    "plateau": (lambda: parts(schedule=lr_scheduler.ReduceLROnPlateau), TypeError, "ReduceLROnPlateau"),
    "momentum": (
        lambda: parts(schedule=lambda one: lr_scheduler.OneCycleLR(one, 0.1, 30)), ValueError, "schedule changes 'betas'",
    ),
    "other optimizer": (
        lambda: parts(optimizer=torch.optim.SGD(nn.Linear(1, 1).parameters())), ValueError, "its model does not have",
    ),
    "no model": (lambda: parts(model=3), TypeError, "gave int as model"),
    "no loss": (lambda: parts(loss=3), TypeError, "gave int as loss"),
    "too few": (lambda: (1, 2), TypeError, "gave 2 parts; it must give model, optimizer, batches, loss and held_out"),
    "nothing": (lambda: None, TypeError, "gave NoneType; it must give"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_with_a_script_is_said(what):
    setup, kind, words = WRONG[what]
    with pytest.raises(kind, match=words):
        torg.train(setup, steps=20, device="cpu", told=lambda _: None)


def test_a_model_that_changes_shape_is_named():
    made = torg.workload(lambda: parts())({}, None, 1)
    loop = InnerLoop(made, 1, 10)
    made.training.model.append(nn.Linear(1, 1))
    with pytest.raises(Exception, match=r"changed after it was loaded: 3\.bias"):
        loop.write_parameters(np.zeros(loop.flat.elements, np.float32))


def test_a_setup_that_wants_more_than_there_is_is_refused_at_once():
    with pytest.raises(TypeError, match="setup wants 'config'; it may take options, data, seed"):
        torg.workload(lambda options, config: None)
    with pytest.raises(TypeError, match="not int"):
        torg.workload(3)


def test_the_example_trains_alone_and_tells(example):
    lines = []
    trained = torg.train(example.Job, steps=200, device="cpu", told=lines.append)
    assert len(lines) == 10
    assert lines[0].startswith("step  20/200   loss ")
    assert trained.metrics["accuracy"] > 0.9 > 0.5 > trained.held_out_loss


def test_the_example_trains_by_diloco_and_a_member_that_joins_agrees(example):
    diloco = {"name": "diloco", "inner_steps": 25, "outer_lr": 0.7, "outer_momentum": 0.5, "codec": "int8"}
    script = Script({1: [0, 1], 3: [0, 2], 4: [0, 1, 2]}, {1: diloco})
    told = simulate(lambda: example.Job({"width": 32}, None, 1), diloco, steps=150, seed=1, script=script)
    assert all(len(set(one.digests.values())) == 1 for one in told)
    assert told[-1].held_out < 0.5 < told[0].loss


def test_a_trainer_child_makes_the_bits_of_the_loop_here(example, tmp_path):
    spec = {
        "workload": {"kind": "file", "digest": "", "class_name": "Job", "filename": "train_digits.py"},
        "options": {"width": 16}, "seed": 3, "steps": 8, "data": {"kind": "none"},
    }  # fmt: skip
    (tmp_path / "data").mkdir()
    child = TrainerChild.spawn(scratch=tmp_path, threads=1, memory_limit_bytes=1 << 30, shares={}, isolation="process")
    try:
        child.wait_ready(120)
        initial = child.load(JobPackage(spec, EXAMPLE.read_bytes(), None), 60).initial
        there = child.train(initial, round=1, first_step=0, steps=8, worker=0, evaluate=True, timeout_s=60)
    finally:
        child.kill()
    loop, parameters = InnerLoop(example.Job({"width": 16}, None, 3), 3, 8), np.empty_like(initial)
    assert loop.evaluate() == there.held_out_loss  # of what the round began with
    assert loop.train(0, 8, 0).losses == list(there.losses)
    loop.write_parameters(parameters)
    assert np.array_equal(parameters, there.parameters)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("Job = torg.workload(setup)", "Job"),
        ("@torg.workload\ndef job(options): ...", "job"),
        ("class Job: ...", "Job"),
    ],
)
def test_a_job_file_may_name_what_torg_made(tmp_path, source, name):
    (tmp_path / "train.py").write_text(source)
    job = "{name: a, workload: './train.py:%s', steps: 3, limits: {max_usd_per_gpu_hour: 1, budget_usd: 1}}"
    assert resolve(parse_job(job % name), digest_only, folder=tmp_path)["workload"]["class_name"] == name
    with pytest.raises(FormError, match=f"did you mean {name}"):
        resolve(parse_job(job % (name + "s")), digest_only, folder=tmp_path)
