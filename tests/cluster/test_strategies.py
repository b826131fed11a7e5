"""Every strategy trains through a death, goes over into another one while it runs, and comes back from nothing."""

from __future__ import annotations

import os
import signal

import psutil
import pytest

from tests.cluster.plaza import Plaza, until
from trainers.options import STRATEGIES, strategy_options

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

SMALL = {"options": {"size": "20k", "context": 16, "batch": 4}, "checkpoint": {"every_rounds": 2, "keep": 2}}
INNER_STEPS = {"streaming_diloco": 16, "ddp": 4, "demo": 4, "distro": 4}
ENOUGH = 5


def strategy(name: str) -> dict:
    return strategy_options({"name": name, "inner_steps": INNER_STEPS.get(name, 6)})


def kill_one(plaza: Plaza, job: str) -> tuple[str, int]:
    """SIGKILL to one of the job's two workers; the other's lease, and the newest epoch until now."""
    victim, survivor = plaza.worker_of(job, 0), plaza.worker_of(job, 1)
    actor = psutil.Process(victim["pid"])
    actor.kill()
    until(lambda: not psutil.pid_exists(actor.pid) or actor.status() == psutil.STATUS_ZOMBIE, "the kill has fired")
    return survivor["id"], max(victim["epoch"], survivor["epoch"])


@pytest.mark.timeout(400)
def test_one_job_goes_through_every_strategy_and_a_worker_is_killed_in_each(plaza: Plaza) -> None:
    first, *others = sorted(STRATEGIES)
    job = plaza.submit(**SMALL, strategy=strategy(first), steps=20_000, rounds=20_000)
    plaza.wait_rounds(job, 2)
    for number, name in enumerate([first, *others]):
        if number > 0:
            options = {"inner_steps": INNER_STEPS.get(name, 6)}
            plaza.local("customer").retune_job(job, id=f"retune-{number}", strategy=name, options=options)
            until(lambda name=name: plaza.rounds(job)[-1]["strategy"] == name, f"a round of {name}")
        before = len(plaza.rounds(job))

        survivor, newest = kill_one(plaza, job)
        with_newcomer = plaza.wait_newcomer(job, newest)
        plaza.wait_rounds(job, with_newcomer["round"] + 1)

        since = plaza.rounds(job)[before:]
        assert {one["strategy"] for one in since} == {name}
        assert [lost["reason"] for one in since for lost in one["lost"]] == ["worker_killed"], name
        assert any(survivor in [m["lease"] for m in one["members"]] for one in since[-2:]), "the survivor trained on"
        both = [one for one in since if len(one["members"]) == 2]
        assert all(member["sent_bytes"] > 0 for one in both for member in one["members"]), name
    rounds = plaza.rounds(job)
    assert [one["round"] for one in rounds] == list(range(1, len(rounds) + 1)), "no round is missing or repeated"
    plaza.local("customer").cancel_job(job)
    plaza.wait_state(job, "cancelled")


def test_all_workers_die_at_once_and_the_job_comes_back_from_its_delta_log(plaza: Plaza) -> None:
    checkpoint = {"every_rounds": 1, "keep": 3, "base_every_rounds": 50}
    job = plaza.submit(**{**SMALL, "checkpoint": checkpoint}, strategy=strategy("sparseloco"), steps=20_000, rounds=20_000)
    plaza.wait_rounds(job, 4)
    durable = until(lambda: plaza.job(job)["round_durable"] >= 3 and plaza.job(job), "a delta is durable")
    assert isinstance(durable, dict)
    pids = [worker["pid"] for worker in durable["workers"] if worker["state"] == "active"]

    for pid in pids:
        os.kill(pid, signal.SIGKILL)

    until(lambda: not any(psutil.pid_exists(pid) for pid in pids), "both are gone")
    newest = max(worker["epoch"] for worker in durable["workers"])
    with_newcomer = plaza.wait_newcomer(job, newest)
    assert with_newcomer["round"] > durable["round_durable"]
    assert "joins from the checkpoint of round" in plaza.log_of_run(job)
    kept = plaza.local("customer").checkpoints(job)["items"]
    assert "delta" in {one["kind"] for one in kept}
    plaza.local("customer").cancel_job(job)
    plaza.wait_state(job, "cancelled")
