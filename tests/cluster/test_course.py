"""The life of a job with nobody dying: done, paused and resumed, cancelled, failed by the customer's own code."""

from __future__ import annotations

import json
from collections.abc import Iterator

import psutil
import pytest

from storage.checkpoints import Manifest
from storage.meter_readings import is_signed
from storage.provenance import verify_bundle
from tests.cluster.plaza import ELSEWHERE, ELSEWHERE_NANOS, USD, Plaza, until
from trainers.member import Member

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

MINUTE_NANOS = ELSEWHERE_NANOS // 60 + 2

RAISES_LATE = """
import torch
from trainers.workload import Workload

class Mine(Workload):
    def model(self):
        return torch.nn.Linear(4, 1)
    def batch(self, seed, step, worker):
        if step >= 12:
            raise RuntimeError("the cat sat on the data")
        return torch.randn(8, 4, generator=torch.Generator().manual_seed(seed + step + worker))
    def held_out(self):
        return [torch.ones(8, 4)]
    def loss(self, model, batch):
        print("a line of the customer's")
        return model(batch).square().mean()
"""


@pytest.fixture(scope="module", autouse=True)
def poor(square: Plaza) -> Iterator[str]:
    """A job with money for a minute, the least that is taken, which runs out elsewhere while the tests here go on."""
    with square.elsewhere():
        job = square.submit_lasting(
            MINUTE_NANOS, limits__budget_nanos=MINUTE_NANOS, workers__min=1, workers__max=1, workers__region=[ELSEWHERE]
        )
        square.aside.add(job)
        yield job


def test_a_job_trains_to_done_and_the_loss_falls(plaza: Plaza) -> None:
    job = plaza.submit(steps=120, rounds=12, strategy__inner_steps=10)
    done = plaza.wait_state(job, "done")

    assert done["rounds_committed"] == 12
    assert done["loss_last"] < done["loss_first"]
    assert done["escrow_nanos"] == 0
    assert done["billed_nanos"] > 0
    rounds = plaza.rounds(job)
    assert [one["round"] for one in rounds] == list(range(1, 13))
    assert len({one["digest"] for one in rounds}) == 12
    assert all(len(one["members"]) == 2 and not one["lost"] for one in rounds)
    assert {lease["provider"] for lease in done["leases"]} == {"ada", "ben"}, "the two cheapest"
    for lease in done["leases"]:
        signed = lease["signed"]
        assert is_signed(lease["meter_key"], lease["id"], lease["epoch"], signed, signed["signature"])
        assert 0 < signed["leased_ms"] <= lease["metered_ms"]
        assert lease["questioned_ms"] == 0, "worker and run agree"
    assert len({lease["meter_key"] for lease in done["leases"]}) == 2, "a key for each lease"

    bundle = plaza.local("customer").provenance(job)
    found = {check.name: check for check in verify_bundle(bundle).checks}
    assert found["workers"].ok
    assert found["workers"].detail == "24 of 24 members' rounds are signed by the workers that made them"
    assert found["machines"].ok, "each provider has signed the key of its lease with its machine"

    result = plaza.local("customer").result(job)
    manifest = Manifest.from_json(result["manifest"])
    state = plaza.local("customer").read_blob(manifest.state)
    assert manifest.kind == "base", "so that any number of workers can go on from it"
    assert {Member.restore(state, slot=slot).digest() for slot in range(3)} == {manifest.parameters}
    member = Member.restore(state)
    assert (member.round, member.step, member.position) == (12, 120, 240)
    assert member.digest() == manifest.parameters == rounds[-1]["digest"], "the model is the one that all agreed on"


def test_a_cancelled_job_leaves_no_process(plaza: Plaza) -> None:
    job = plaza.submit_lasting()
    plaza.wait_rounds(job, 2)
    found = plaza.job(job)
    pids = [worker["pid"] for worker in found["workers"]] + [found["run_pid"]]
    assert all(psutil.pid_exists(pid) for pid in pids)

    plaza.local("customer").cancel_job(job)

    cancelled = plaza.wait_state(job, "cancelled")
    assert cancelled["escrow_nanos"] == 0
    until(lambda: not any(psutil.pid_exists(pid) for pid in pids), "run and workers are gone")


def test_the_customers_exception_fails_the_job_with_its_traceback(plaza: Plaza) -> None:
    digest = plaza.local("customer").upload(RAISES_LATE.encode())
    workload = {"kind": "file", "digest": digest, "class_name": "Mine", "filename": "mine.py"}
    job = plaza.submit(workload=workload, options={}, data={"kind": "none"})
    failed = plaza.wait_state(job, "failed")

    assert failed["reason"] == "exception"
    assert "the cat sat on the data" in failed["detail"]
    assert "mine.py" in failed["detail"]
    assert failed["rounds_committed"] == 2
    assert {lease["fault"] for lease in failed["leases"]} == {"customer"}
    text = until(lambda: plaza.local("customer").job_logs(job)["text"], "the job's log")
    assert "a line of the customer's" in text
    assert json.dumps(failed), "all of it is plain JSON"


def test_a_job_pauses_when_its_escrow_runs_out_and_goes_on_with_more(square: Plaza, poor: str) -> None:
    plaza, minute = square, MINUTE_NANOS
    paused = plaza.wait_state(poor, "paused")

    assert paused["reason"] == "escrow_exhausted"
    assert paused["round_durable"] == paused["rounds_committed"] > 2
    assert {one["state"] for one in paused["workers"]} == {"ended"}
    assert 0 <= paused["escrow_nanos"] < minute // 5

    plaza.local("operator").deposit(f"more-{poor}", "customer", USD)
    plaza.local("customer").add_budget(poor, id="more", add_nanos=USD)
    on = plaza.wait_rounds(poor, paused["rounds_committed"] + 2)
    assert on["run"] == 2
    rounds = plaza.rounds(poor)
    assert [one["round"] for one in rounds] == list(range(1, len(rounds) + 1))
    plaza.local("customer").cancel_job(poor)
    plaza.wait_state(poor, "cancelled")
