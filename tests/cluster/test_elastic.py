"""A job grows into cheap capacity, shrinks and pauses when others bid more, and goes on when they have left, training on."""

from __future__ import annotations

import math

import pytest

from tests.cluster.plaza import USD, Json, Plaza, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


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
