"""What dies around the workers of a job costs at most the round in progress. Every fault proves that it fired."""

from __future__ import annotations

import os
import signal

import psutil
import pytest

from tests.cluster.plaza import Plaza, until
from trainers.options import strategy_options

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


def test_a_run_that_is_killed_and_an_exchange_that_is_killed_cost_a_job_no_round(plaza: Plaza) -> None:
    job = plaza.submit_lasting(steps=120, rounds=24)
    plaza.wait_rounds(job, 3)
    pid = until(lambda: plaza.job(job)["run_pid"], "the run says its pid")

    os.kill(pid, signal.SIGKILL)

    until(lambda: plaza.job(job)["run_pid"] not in (None, pid), "another process runs the job")
    plaza.wait_rounds(job, plaza.job(job)["rounds_committed"] + 3)
    exchange = plaza.home.read_pid("exchange")
    assert exchange is not None
    assert plaza.job(job)["state"] == "running"

    os.kill(exchange, signal.SIGKILL)

    until(lambda: plaza.home.read_pid("exchange") != exchange and plaza.answers(), "the exchange is back")
    done = plaza.wait_state(job, "done")
    rounds = plaza.rounds(job)
    assert [one["round"] for one in rounds] == list(range(1, 25)), "every round was reported"
    assert all(len(one["members"]) == 2 and not one["lost"] for one in rounds), "and with every member"
    assert len(done["leases"]) == 2, "the workers outlived the run"
    assert "living workers" in plaza.log_of_run(job).split("Deciding to go on")[-1]
    evaluated = [one["loss"] for one in rounds if one.get("loss") is not None]
    assert len(evaluated) == 24 or done["loss_last"] is not None
    last = {member["lease"]: member["leased_ms"] for member in rounds[-1]["members"]}
    for lease in done["leases"]:
        assert lease["metered_ms"] >= last[lease["id"]], "no reading is lost"
        assert lease["charged_ms"] == lease["metered_ms"], "and all of it is charged"
    checked = plaza.local("operator").verify_books()
    assert checked["ok"]
    assert checked["balanced"]


def test_a_provider_that_drains_gives_its_worker_back_at_a_boundary_and_a_cancelled_job_leaves_no_process(
    plaza: Plaza,
) -> None:
    job = plaza.submit_lasting()
    plaza.wait_rounds(job, 3)
    leaving = plaza.worker_of(job, 0)
    newest = max(worker["epoch"] for worker in plaza.job(job)["workers"])
    host = plaza.host_of(leaving["provider"])

    host.stop()

    assert host.said("drained")
    ended = plaza.lease(job, leaving["id"])
    assert (ended["state"], ended["reason"]) == ("ended", "drained")
    plaza.wait_newcomer(job, newest)

    found = plaza.job(job)
    pids = [worker["pid"] for worker in found["workers"] if worker["state"] == "active"] + [found["run_pid"]]
    assert len(pids) == 3
    assert all(psutil.pid_exists(pid) for pid in pids)
    plaza.local("customer").cancel_job(job)
    cancelled = plaza.wait_state(job, "cancelled")
    assert cancelled["escrow_nanos"] == 0
    until(lambda: not any(psutil.pid_exists(pid) for pid in pids), "run and workers are gone")


def test_a_dead_head_is_replaced_and_everybody_finds_the_new_one_and_goes_on_from_the_delta_log(plaza: Plaza) -> None:
    job = plaza.submit_lasting(
        steps=72, rounds=12, options={"size": "20k", "context": 16, "batch": 4},
        strategy=strategy_options({"name": "sparseloco", "inner_steps": 6}),
        checkpoint={"every_rounds": 1, "keep": 3, "base_every_rounds": 50},
    )  # fmt: skip
    plaza.wait_rounds(job, 4)
    durable = until(lambda: plaza.job(job)["round_durable"] >= 3 and plaza.job(job), "a delta is durable")
    assert isinstance(durable, dict)
    assert "delta" in {one["kind"] for one in plaza.local("customer").checkpoints(job)["items"]}
    pids = [worker["pid"] for worker in durable["workers"] if worker["state"] == "active"]
    pid = plaza.home.read_pid("head")
    assert pid is not None

    os.kill(pid, signal.SIGKILL)

    until(lambda: plaza.home.read_pid("head") != pid, "the head is started again")
    until(lambda: not any(psutil.pid_exists(worker) for worker in pids), "the workers went with their cluster")
    with_newcomer = plaza.wait_newcomer(job, max(worker["epoch"] for worker in durable["workers"]))
    assert with_newcomer["round"] > durable["round_durable"]
    assert "joins from the checkpoint of round" in plaza.log_of_run(job)
    done = plaza.wait_state(job, "done", timeout_s=180)
    assert [one["round"] for one in plaza.rounds(job)] == list(range(1, 13))
    assert len(done["leases"]) > 2, "the first workers went with their cluster"
    faults = {lease["fault"] for lease in done["leases"] if lease["reason"] != "done"}
    assert "customer" not in faults
