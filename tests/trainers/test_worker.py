"""A worker's life without Ray: the plain class, with a real trainer child."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from storage.checkpoints import Manifest
from storage.model_files import model_file
from storage.restore_plans import restore_plans
from tests.cluster.plaza import tar_of
from tests.trainers import kept_model
from tests.trainers.test_course import LocalTransport, MemoryDoor
from trainers.actors.failures import CUSTOMER_FAILURES
from trainers.actors.keeper import Keeper
from trainers.actors.outbox import Outbox
from trainers.actors.worker import Worker
from trainers.options import strategy_options

RUN = hashlib.sha256(bytes(32)).hexdigest()[:16]
STRATEGY = strategy_options({"name": "diloco", "inner_steps": 2})
SPEC = {
    "workload": {"kind": "builtin", "name": "byte_lm"}, "options": {"size": "10k", "context": 16, "batch": 2},
    "data": {"kind": "blob"}, "strategy": STRATEGY, "steps": 4, "rounds": 2, "seed": 1,
}  # fmt: skip
ORDER = {
    "round": 1, "step_before": 0, "step_after": 2, "position_after": 2, "slots": [0], "base": {"round": 0, "digest": None},
    "strategy": STRATEGY, "first_step": 0, "steps": 2, "position": 0, "ahead": 0, "donors": None, "evaluate": True,
    "timeout_s": 60.0, "fresh": False, "switched": False, "start": [RUN, 1], "accepted": [],
}  # fmt: skip
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


def test_a_round_from_load_to_merge_and_every_call_may_be_repeated(worker):
    loaded = worker.load(SPEC, None, tar_of(TEXT))
    assert loaded["ok"]
    assert worker.load(SPEC, None, tar_of(TEXT)) == loaded
    members = [[0, 1, worker.connect(bytes(32))["address"]]]
    order = {**ORDER, "members": members}
    stale = worker.train({**order, "round": 5, "base": {"round": 4, "digest": "0" * 64}})
    assert (stale["ok"], stale["kind"]) == (False, "stale"), "it builds on a state that is not here"
    info = worker.train(order)
    assert info["ok"]
    assert info["steps"] == 2
    assert worker.train(order) == info
    merge = {"round": 1, "start": [RUN, 1], "attempt": 0, "members": members, "timeout_s": 60.0}
    merged = worker.merge(merge)
    assert (merged["round"], merged["accepted"], merged["refused"]) == (1, [0], {})
    assert merged["digest"] != loaded["digest"]
    assert worker.merge(merge)["digest"] == merged["digest"]
    state = worker.state()
    assert (state["round"], state["step"], state["digest"]) == (1, 2, merged["digest"]), "merged counts, adopted or not"
    told = worker.reading(0, 0)
    assert [one["round"] for one in told["evaluated"]] == [0]
    assert told["trained_ms"] <= told["leased_ms"]
    assert worker.reading(told["seen"], 0)["evaluated"] == []
    base = {"round": 1, "digest": merged["digest"]}
    assert not worker.snapshot({**base, "digest": "0" * 64}, "base", False)["ok"]
    kept = worker.snapshot(base, "base", False)
    assert kept["kind"] == "base"
    assert worker.restore(worker.staged(kept["round"], "base"), None, False)["digest"] == merged["digest"]
    assert worker.train({**order, "round": 2, "step_before": 2, "step_after": 4, "base": base, "start": [RUN, 2]})["ok"]
    others = [[9, 10, members[0][2]]]
    assert worker.merge({**merge, "round": 2, "start": [RUN, 2], "attempt": 1, "members": others})["left"]
    assert worker.drain(60.0), "nobody waits for a worker that its round goes on without"


def test_tied_weights_and_buffers_are_in_the_result_of_one_members_checkpoint(worker):
    source = Path(kept_model.__file__).read_bytes()
    workload = {"kind": "file", "digest": "0" * 64, "class_name": "Kept", "filename": "kept_model.py"}
    checkpoint = {"every_rounds": 1, "keep": 1}
    spec = {**SPEC, "workload": workload, "options": {}, "data": {"kind": "none"}, "checkpoint": checkpoint}
    worker.load(spec, source, None)
    members = [[0, 1, worker.connect(bytes(32))["address"]]]
    assert worker.train({**ORDER, "members": members, "evaluate": False})["ok"]
    merged = worker.merge({"round": 1, "start": [RUN, 1], "attempt": 0, "members": members, "timeout_s": 60.0})
    found = worker.snapshot({"round": 1, "digest": merged["digest"]}, "base", False)
    assert (found["tied"], found["buffers"]) == ({"head.weight": "embedding.weight"}, True)
    door, transport = MemoryDoor(), LocalTransport()
    keeper = Keeper(
        job="job-1", spec=spec, door=door, transport=transport, outbox=Outbox("job-1", 1, door), wall_ms=lambda: 1
    )
    assert keeper.wants(1, last=True) == "base"
    keeper.keep(found, lambda: (worker.staged(1, "base"), None, worker.staged_buffers(1)))
    assert keeper.wait(60)
    manifest = Manifest.decode(door.blobs[keeper.manifest])
    assert set(manifest.blobs) <= set(door.blobs)
    [plan] = restore_plans([manifest])
    parts = model_file(plan, door.blobs[manifest.state], door.blobs[manifest.buffers])
    model = kept_model.Net()
    model.load_state_dict(safetensors.torch.load(b"".join(parts)), strict=True)
    assert model.head.weight is model.embedding.weight
    assert int(model.norm.num_batches_tracked) == 2, "one member's own statistics, of the two steps that it trained"
    assert torch.equal(model.mask, kept_model.Net().mask)
    flat = np.concatenate([parameter.detach().numpy().reshape(-1) for parameter in model.parameters()])
    assert hashlib.sha256(flat.tobytes()).hexdigest() == merged["digest"]


def test_data_that_do_not_unpack_are_the_customers_failure_each_time_it_is_asked(worker):
    data = b"no tar at all"
    first, again = worker.load(SPEC, None, data), worker.load(SPEC, None, data)
    assert first == again
    assert not first["ok"]
    assert first["kind"] in CUSTOMER_FAILURES
    assert "the job's data cannot be unpacked" in first["message"]
