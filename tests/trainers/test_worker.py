"""A worker's life without Ray: the plain class, with a real trainer child."""

import os

import numpy as np
import pytest

from tests.cluster.plaza import tar_of
from trainers.actors.course import CUSTOMER_FAILURES
from trainers.actors.worker import Worker
from trainers.codecs import codec

STRATEGY = {"name": "diloco", "inner_steps": 2, "outer_lr": 0.7, "outer_momentum": 0.9, "codec": "int8"}
SPEC = {
    "workload": {"kind": "builtin", "name": "byte_lm"}, "options": {"size": "10k", "context": 16, "batch": 2},
    "data": {"kind": "blob"}, "strategy": STRATEGY, "steps": 4, "rounds": 2, "seed": 1,
}  # fmt: skip
ORDER = {"round": 1, "first_step": 0, "steps": 2, "evaluate": True, "timeout_s": 60.0, "fresh": False}
TEXT = {"a.txt": b"the same line again and again\n" * 200}


@pytest.fixture
def worker(tmp_path):
    made = Worker(
        name="worker-1", host_pid=os.getpid(), scratch=str(tmp_path / "scratch"), threads_per_unit=1, devices=[],
        memory_limit_bytes=1 << 30, shares={}, isolation="process", orphan_after_s=600.0,
    )  # fmt: skip
    assert made.ready()["error"] is None
    made.assign({"id": "lease-000001", "epoch": 1, "slot": 0, "job": "job-1", "share": None, "gpus": 1})
    yield made
    made.stop()


def test_a_round_from_load_to_commit_and_every_call_may_be_repeated(worker):
    loaded = worker.load(SPEC, None, tar_of(TEXT))
    assert loaded["ok"]
    assert worker.load(SPEC, None, tar_of(TEXT)) == loaded
    info, payload = worker.train(ORDER)
    assert info["ok"]
    assert (info["steps"], info["bytes"]) == (2, len(payload))
    assert worker.train(ORDER) == (info, payload)
    assert np.isfinite(codec("int8").decode(payload, loaded["elements"])).all()
    assert worker.hold(1, [0, 1], payload, b"noise")["slots"] == [0]
    committed = worker.commit(1, [0])
    assert committed["round"] == 1
    assert committed["digest"] != loaded["digest"]
    assert worker.commit(1, [0])["digest"] == committed["digest"]
    told = worker.reading(0)
    assert [one["round"] for one in told["evaluated"]] == [0]
    assert told["trained_ms"] <= told["leased_ms"]
    assert worker.reading(told["seen"])["evaluated"] == []
    kept = worker.snapshot()
    assert worker.restore(worker.staged(kept["round"]))["digest"] == committed["digest"]


@pytest.mark.parametrize("data", [tar_of({"../out.txt": b"x"}), b"no tar at all"], ids=["above", "no tar"])
def test_data_that_do_not_unpack_are_the_customers_failure_each_time_it_is_asked(worker, tmp_path, data):
    first, again = worker.load(SPEC, None, data), worker.load(SPEC, None, data)
    assert first == again
    assert not first["ok"]
    assert first["kind"] in CUSTOMER_FAILURES
    assert "the job's data cannot be unpacked" in first["message"]
    assert not (tmp_path / "scratch" / "out.txt").exists()
