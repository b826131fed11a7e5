"""The inner optimiser's state of `ddp`, between real workers: to a newcomer, into a checkpoint and out of it again."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.plaza import tar_of
from trainers.actors.worker import Worker
from trainers.exports import AREAS, ExportAreas, Exported
from trainers.options import strategy_options

RUN = hashlib.sha256(bytes(32)).hexdigest()[:16]
STRATEGY = strategy_options({"name": "ddp", "inner_steps": 2})
SPEC = {
    "workload": {"kind": "builtin", "name": "byte_lm"}, "options": {"size": "10k", "context": 16, "batch": 2},
    "data": {"kind": "blob"}, "strategy": STRATEGY, "steps": 40, "rounds": 20, "seed": 1,
}  # fmt: skip
TEXT = {"a.txt": b"the same line again and again\n" * 200}


@pytest.fixture
def workers(tmp_path):
    """Two of one run; {slot: (worker, its place among members)}."""
    made = {}
    for slot in (0, 1):
        worker = Worker(
            name=f"worker-{slot}", host_pid=os.getpid(), scratch=str(tmp_path / str(slot)), threads_per_unit=1,
            devices=[], memory_limit_bytes=1 << 30, shares={}, isolation="process", orphan_after_s=600.0,
        )  # fmt: skip
        made[slot] = worker, []
    for slot, (worker, place) in made.items():
        assert worker.ready()["error"] is None
        worker.assign({"id": f"lease-{slot}", "epoch": slot + 1, "slot": slot, "job": "job", "share": None, "gpus": 1})
        assert worker.load(SPEC, None, tar_of(TEXT))["ok"]
        place += [slot, slot + 1, worker.connect(bytes(32))["address"]]
    yield made
    for worker, _ in made.values():
        worker.stop()


class Course:
    """Rounds one after the other, given to whoever takes part."""

    def __init__(self, workers):
        self.workers, self.round, self.step, self.digest, self.starts = workers, 0, 0, None, 0

    @property
    def base(self):
        return {"round": self.round, "digest": self.digest}

    def back_to(self, kept):
        """The next round follows on this one."""
        self.round, self.step, self.digest = kept["round"], kept["step"], kept["digest"]

    def __call__(self, *slots, newcomer=None, fresh=False):
        """One round by these; the newcomer takes the state over from the others. `fresh`: its last try is void."""
        self.starts += 1
        members = [self.workers[slot][1] for slot in slots]
        order = {
            "round": self.round + 1, "step_before": self.step, "step_after": self.step + 2,
            "position_after": self.step + 2, "slots": list(slots), "base": self.base, "strategy": STRATEGY,
            "first_step": self.step, "steps": 2, "position": self.step, "ahead": 0, "evaluate": False,
            "timeout_s": 60.0, "fresh": fresh, "switched": False, "start": [RUN, self.starts], "accepted": [],
            "members": members,
        }  # fmt: skip
        with ThreadPoolExecutor(len(slots)) as pool:
            told = list(pool.map(lambda slot: self._share(slot, order, newcomer), slots))
        assert len({answer["digest"] for answer in told}) == 1, told
        self.round, self.step, self.digest = self.round + 1, self.step + 2, told[0]["digest"]

    def _share(self, slot, order, newcomer):
        worker = self.workers[slot][0]
        donors = [one for one in order["slots"] if one != slot] if slot == newcomer else None
        info = worker.train({**order, "donors": donors})
        assert info["ok"], info
        merge = {**order, "attempt": 0}
        return worker.merge(merge)


def inner_of(worker):
    return worker._child.now.export_inner().content()


def test_a_newcomer_and_a_restored_worker_go_on_with_the_moments_of_the_others(workers):
    (first, _), (second, _) = workers[0], workers[1]
    one_round = Course(workers)
    one_round(0)
    one_round(0, 1, newcomer=1)
    assert inner_of(first) == inner_of(second)
    assert first._training._fresh_inner() == second._training._fresh_inner(), "not what it took over"
    one_round(0)  # the second one is left behind,
    kept = first.snapshot(one_round.base, "base", True)
    assert kept["inner"]
    expected = inner_of(first)
    one_round(0)  # and the first goes on before anybody asks for what was set aside
    assert inner_of(first) != expected
    state, inner = first.staged(kept["round"], "base"), first.staged_inner(kept["round"])
    assert inner == expected
    for worker in (first, second):
        assert worker.restore(state, inner, False)["digest"] == kept["digest"]
        assert inner_of(worker) == expected
    one_round.back_to(kept)
    one_round(0, 1)
    assert inner_of(first) == inner_of(second)
    again = one_round.digest
    one_round.back_to(kept)
    one_round(0, 1, fresh=True)
    assert one_round.digest == again, "a round that is void is made again from the moments that it began with"
    one_round(0, 1)


def test_at_each_boundary_the_state_is_copied_once_into_memory_that_is_there(workers, monkeypatch):
    renewed, moved, copied = [], [], []
    renew, move_out, exported = ExportAreas.renew, Exported.move_out, ExportAreas.exported
    monkeypatch.setattr(ExportAreas, "renew", lambda *one: (renewed.append(one[1:]), renew(*one))[1])
    monkeypatch.setattr(Exported, "move_out", lambda one: (moved.append(one), move_out(one))[1])
    monkeypatch.setattr(ExportAreas, "exported", lambda *one: (copied.append(one[1:]), exported(*one))[1])
    first, one_round = workers[0][0], Course(workers)
    for _ in range(6):
        one_round(0)
        kept = first.snapshot(one_round.base, "base", True)
        assert kept["ok"]
        assert first.staged_inner(kept["round"])
    assert len(copied) == 7, "one for each boundary, and one of the state before the first step"
    assert len(renewed) == 1 + AREAS
    assert not moved
