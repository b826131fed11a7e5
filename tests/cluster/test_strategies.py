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


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_a_worker_is_killed_in_mid_round_and_the_job_trains_on_with_a_newcomer(plaza: Plaza, name: str) -> None:
    job = plaza.submit(**SMALL, strategy=strategy(name), steps=20_000, rounds=20_000)
    plaza.wait_rounds(job, 2)
    victim, survivor = plaza.worker_of(job, 0), plaza.worker_of(job, 1)
    actor = psutil.Process(victim["pid"])
    newest = max(victim["epoch"], survivor["epoch"])

    actor.kill()
    until(lambda: not psutil.pid_exists(actor.pid) or actor.status() == psutil.STATUS_ZOMBIE, "the kill has fired")
    with_newcomer = plaza.wait_newcomer(job, newest)
    done = plaza.wait_rounds(job, with_newcomer["round"] + 1)

    rounds = plaza.rounds(job)
    assert [one["round"] for one in rounds[: done["rounds_committed"]]] == list(range(1, done["rounds_committed"] + 1))
    assert {one["strategy"] for one in rounds} == {name}
    assert [lost["reason"] for one in rounds for lost in one["lost"]] == ["worker_killed"]
    since = [one for one in rounds if one["round"] >= with_newcomer["round"]]
    assert any(survivor["id"] in [m["lease"] for m in one["members"]] for one in since), "the survivor lost no step"
    both = [one for one in since if len(one["members"]) == 2 and not one["lost"]]
    assert all(member["sent_bytes"] > 0 for one in both for member in one["members"])
    plaza.local("customer").cancel_job(job)
    plaza.wait_state(job, "cancelled")


def test_a_running_job_goes_over_into_other_strategies_and_keeps_what_it_learnt(plaza: Plaza) -> None:
    job = plaza.submit(**SMALL, strategy=strategy("diloco"), steps=20_000, rounds=20_000)
    customer = plaza.local("customer")
    for name in ("sparseloco", "ddp", "diloco"):
        before = plaza.wait_rounds(job, 2)
        customer.retune_job(job, id=f"to-{name}-{before['rounds_committed']}", strategy=name, options={})
        until(lambda name=name: plaza.rounds(job)[-1]["strategy"] == name, f"a round of {name}")
        plaza.wait_rounds(job, plaza.job(job)["rounds_committed"] + 2)
    names = [one["strategy"] for one in plaza.rounds(job)]
    assert [name for name, before in zip(names, [None, *names], strict=False) if name != before] == [
        "diloco", "sparseloco", "ddp", "diloco",
    ]  # fmt: skip
    assert not any(one["lost"] for one in plaza.rounds(job)), "nobody is lost by it"
    plaza.local("customer").cancel_job(job)
    plaza.wait_state(job, "cancelled")


def test_all_workers_die_at_once_and_the_job_comes_back_from_its_delta_log(plaza: Plaza) -> None:
    checkpoint = {"every_rounds": 1, "keep": 3, "base_every_rounds": 50}
    job = plaza.submit(
        **{**SMALL, "checkpoint": checkpoint}, strategy=strategy("sparseloco"), steps=20_000, rounds=20_000
    )
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
