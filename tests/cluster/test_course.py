"""The life of a job with nobody dying: done, failed by its own code, grown and outbid, paused for want of money."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import pytest

from storage.checkpoints import Manifest
from storage.chunking import joined
from storage.meter_readings import is_signed
from storage.provenance import verify_bundle
from tests.cluster.plaza import ELSEWHERE, ELSEWHERE_NANOS, USD, Json, Plaza, until
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
    read = plaza.local("customer").read_blob
    state = joined(manifest, [read(chunk.blob) for chunk in manifest.state_chunks])
    assert manifest.kind == "base", "so that any number of workers can go on from it"
    assert {Member.restore(state, slot=slot).digest() for slot in range(3)} == {manifest.parameters}
    member = Member.restore(state)
    assert (member.round, member.step, member.position) == (12, 120, 240)
    assert member.digest() == manifest.parameters == rounds[-1]["digest"], "the model is the one that all agreed on"


def test_the_customers_exception_fails_the_job_with_its_traceback(plaza: Plaza) -> None:
    digest = plaza.local("customer").upload(RAISES_LATE.encode())
    workload = {"kind": "file", "digest": digest, "class_name": "Mine", "filename": "mine.py"}
    job = plaza.submit(workload=workload, options={}, data={"kind": "none"}, workers__min=1, workers__max=1)
    failed = plaza.wait_state(job, "failed")

    assert failed["reason"] == "exception"
    assert "the cat sat on the data" in failed["detail"]
    assert "mine.py" in failed["detail"]
    assert failed["rounds_committed"] == 2
    assert {lease["fault"] for lease in failed["leases"]} == {"customer"}
    text = until(lambda: plaza.local("customer").job_logs(job)["text"], "the job's log")
    assert "a line of the customer's" in text
    assert json.dumps(failed), "all of it is plain JSON"


def living(plaza: Plaza, job: str) -> list[Json]:
    return [one for one in plaza.job(job)["leases"] if one["state"] == "active"]


def wait_workers(plaza: Plaza, job: str, wanted: set[str]) -> None:
    until(lambda: {one["provider"] for one in living(plaza, job)} == wanted, f"{job} has {sorted(wanted)}")


def wait_members(plaza: Plaza, job: str, count: int) -> Json:
    """Until a round of so many members is committed after what there is now."""
    before = plaza.job(job)["rounds_committed"]

    def found() -> Json | None:
        newest = plaza.rounds(job)[before:]
        return next((one for one in newest if len(one["members"]) == count), None)

    return until(found, f"{job} has a round of {count}")  # type: ignore[return-value]


def paid_for_committed_work_only(plaza: Plaza, job: str, lease: Json) -> None:
    ended = plaza.lease(job, lease["id"])
    assert (ended["reason"], ended["fault"]) == ("outbid", "none")
    committed = [m["leased_ms"] for one in plaza.rounds(job) for m in one["members"] if m["lease"] == lease["id"]]
    assert ended["charged_ms"] in committed


def test_a_job_grows_shrinks_pauses_and_resumes_as_prices_and_other_bids_say(plaza: Plaza) -> None:
    spot = plaza.submit_lasting(
        workers__min=1, workers__max=3, workers__grow_below_nanos_per_gpu_hour=2 * USD // 5,
        limits__interruptible=True, limits__max_price_nanos_per_gpu_hour=3 * USD // 5,
    )  # fmt: skip
    wait_workers(plaza, spot, {"ada", "ben"})  # grown; cleo asks more than growth may cost
    both = wait_members(plaza, spot, 2)
    gang, grown = sorted(living(plaza, spot), key=lambda lease: lease["epoch"])

    firm = plaza.submit_lasting(workers__min=2, workers__max=2)
    wait_workers(plaza, spot, {gang["provider"]})  # outbid: it shrinks
    wait_workers(plaza, firm, {grown["provider"], "cleo"})
    alone = wait_members(plaza, spot, 1)
    wait_members(plaza, firm, 2)
    until(lambda: plaza.lease(spot, grown["id"])["charged_ms"], "its committed rounds are durable")
    paid_for_committed_work_only(plaza, spot, grown)
    assert alone["round"] > both["round"]

    urgent = plaza.submit_lasting(workers__min=1, workers__max=1)
    wait_workers(plaza, urgent, {gang["provider"]})  # outbid once more: nobody is left, it waits
    assert living(plaza, spot) == []
    assert plaza.local("customer").explain(spot)["reason"] == "outbid"
    paid_for_committed_work_only(plaza, spot, gang)
    assert plaza.job(spot)["round_durable"] == plaza.job(spot)["rounds_committed"], "its last round is durable"
    wait_members(plaza, urgent, 1)
    left_at = plaza.job(spot)["rounds_committed"]
    plaza.local("customer").cancel_job(firm)
    plaza.local("customer").cancel_job(urgent)

    resumed = wait_members(plaza, spot, 2)  # it is back, and has grown again
    rounds = plaza.rounds(spot)
    assert [one["round"] for one in rounds[: resumed["round"]]] == [*range(1, resumed["round"] + 1)], "none is made again"
    assert resumed["round"] > left_at
    losses = [one["loss"] for one in rounds if one["loss"] is not None]
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0], "it has learnt on through all of it"
    changes = plaza.local("customer").explain(spot)["changes"]
    told = [(one["change"], one["workers"], one["reason"]) for one in changes]
    assert [one for one in told if one[0] == "shrank"] == [("shrank", 1, "outbid"), ("shrank", 0, "outbid")]
    assert told[:2] == [("grew", 1, "matched"), ("grew", 2, "matched")]
    plaza.local("customer").cancel_job(spot)
    plaza.wait_state(spot, "cancelled")
    assert plaza.local("operator").verify_books()["balanced"]


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
