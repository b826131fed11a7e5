"""Several processes in one child: they compute as one would, see nothing more than one would, and end together."""

import os
import select
import signal
from pathlib import Path

import numpy as np
import pytest

from tests.trainers.customers_model import Customer
from trainers.child_process import ChildFailed, JobPackage, NotFiniteNumbers, TrainerChild
from trainers.inner_options import InnerOptions
from trainers.light_torch import postpone_compiler
from trainers.loop import InnerLoop
from trainers.sandbox import isolation_level

SOURCE = (
    Path(__file__).with_name("customers_model.py").read_bytes()
    + b"""

class Failing(Customer):
    def batch(self, seed, step, worker):
        if step == 41:  # of step 20, the second rank's
            raise RuntimeError("my own mistake")
        if step == 61:  # of step 30, the second rank's
            return tuple(part * float("nan") for part in super().batch(seed, step, worker))
        return super().batch(seed, step, worker)
"""
)
SPEC = {
    "workload": {"kind": "file", "digest": "", "class_name": "Failing", "filename": "customers_model.py"},
    "options": {}, "seed": 3, "steps": 40, "data": {"kind": "none"},
}  # fmt: skip
LIMIT = 512 << 20


@pytest.fixture(scope="module", params=["ddp", "fsdp2"])
def pair(request, tmp_path_factory):
    """A loaded child of two ranks, what it began with, and how its parameters are kept."""
    made = {"memory_limit_bytes": LIMIT, "shares": {}, "isolation": isolation_level()}
    scratch = tmp_path_factory.mktemp("scratch")
    with TrainerChild.spawn(threads=2, processes=2, scratch=scratch, **made) as child:
        child.wait_ready(120)
        spec = {**SPEC, "train": {"processes": 2, "sharding": request.param}}
        yield child, child.load(JobPackage(spec, SOURCE, None), 60).initial, request.param


def order(first_step, steps):
    return {"round": 1, "first_step": first_step, "steps": steps, "worker": 0, "evaluate": True, "timeout_s": 60.0}


def further_ranks(child):
    return [int(pid) for pid in Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()]


def test_two_ranks_compute_what_one_does_with_two_micro_batches(pair):
    child, initial, _ = pair
    postpone_compiler()
    alone = InnerLoop(Customer({}, None, 3), 3, 40, options=InnerOptions(accumulate=2))
    trained = child.train(initial, **order(0, 4))
    expected = alone.train(0, 4, 0)
    flat = np.empty_like(initial)
    alone.write_parameters(flat)
    assert trained.losses == pytest.approx(expected.losses, rel=1e-5)
    assert trained.tokens == expected.tokens
    assert trained.parameters == pytest.approx(flat, rel=1e-4)
    assert child.evaluate(trained.parameters) == pytest.approx(alone.evaluate(), rel=1e-4)
    exported = child.export_inner().content()
    alone.import_inner(exported)  # whole tensors, however they are kept
    child.import_inner(exported)
    after = child.train(None, **order(4, 2)), alone.train(4, 2, 0)
    assert after[0].losses == pytest.approx(after[1].losses, rel=1e-4)


def test_both_ranks_exchange_one_gradient_and_let_a_step_go_together(pair):
    child, initial, _ = pair
    first = []

    def synchronise(step, rate, gradient):
        first.append(gradient.copy())
        if len(first) > 2:
            raise TimeoutError("nobody answered")
        return initial

    with pytest.raises(TimeoutError):
        child.train(initial, **order(0, 4), synchronise=synchronise)
    child.mix(np.zeros_like(initial), [(0, 3)], 0.5)
    expected = np.where(np.arange(initial.size) < 3, initial / 2, initial)
    returned = child.train(
        None, **order(3, 1), synchronise=lambda _step, _rate, gradient: 0 * gradient, applies="gradient"
    )
    assert returned.parameters == pytest.approx(expected, abs=0.01)


def test_numbers_of_one_rank_that_are_not_finite_cost_the_call_and_all_serve_on(pair):
    child, initial, _ = pair
    for first_step in (30, 29):
        with pytest.raises(NotFiniteNumbers, match="the loss is nan at step 30"):
            child.train(initial, **order(first_step, 4))
    assert child.train(initial, **order(0, 1)).tokens > 0


def test_every_rank_is_filtered_and_counts_towards_the_memory_limit(pair):
    child, _, _ = pair
    (other,) = further_ranks(child)
    for pid in (child.pid, other):
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert status["Seccomp"].strip() == "2"
    pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in (child.pid, other)]
    assert child.rss_bytes() > max(pages) * 4096 * 1.5


def test_what_becomes_of_another_rank_becomes_of_the_child(pair):
    """With ddp the second rank's code fails; with fsdp2 its process is killed."""
    child, initial, sharding = pair
    (other,) = further_ranks(child)
    alive = [os.pidfd_open(pid) for pid in (child.pid, other)]

    def synchronise(step, rate, gradient):
        if sharding == "fsdp2":
            os.kill(other, signal.SIGKILL)
        return initial

    with pytest.raises(ChildFailed) as failed:
        child.train(initial, **order(19, 2), synchronise=synchronise)
    if sharding == "fsdp2":
        assert failed.value.kind == "died"
        assert "rank 1 was killed by signal 9" in failed.value.message
    else:
        assert failed.value.kind == "exception"
        assert 'raise RuntimeError("my own mistake")' in failed.value.traceback
    for process in alive:
        ended, _, _ = select.select([process], [], [], 60)
        os.close(process)
        assert ended
