"""What dies while a job trains costs at most its share of the round in progress. Every fault proves that it fired."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import psutil
import pytest

from tests.cluster.plaza import Json, Plaza, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


def gone(process: psutil.Process) -> bool:
    """Whether a process has ended; a zombie has."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def trainer_of(worker: Json) -> psutil.Process:
    """The innermost process below a WorkerActor: the one that trains."""
    return psutil.Process(worker["pid"]).children(recursive=True)[-1]


def kill_child(plaza: Plaza, worker: Json) -> Callable[[], bool]:
    child = trainer_of(worker)
    child.kill()
    return lambda: gone(child)


def kill_worker(plaza: Plaza, worker: Json) -> Callable[[], bool]:
    actor = psutil.Process(worker["pid"])
    family = [actor, *actor.children(recursive=True)]
    actor.kill()
    return lambda: all(gone(process) for process in family)


def freeze_worker(plaza: Plaza, worker: Json) -> Callable[[], bool]:
    actor = psutil.Process(worker["pid"])
    actor.suspend()
    until(lambda: actor.status() == psutil.STATUS_STOPPED, "the worker is frozen")
    return lambda: gone(actor)


def kill_host(plaza: Plaza, worker: Json) -> Callable[[], bool]:
    killed = plaza.host_of(worker["provider"]).kill_tree()
    assert len(killed) >= 4, "host, raylet, worker, trainer"
    return lambda: all(gone(process) for process in killed)


@pytest.mark.parametrize(
    ("fault", "reasons"),
    [
        pytest.param(kill_child, {"worker_killed"}, id="trainer killed"),
        pytest.param(kill_worker, {"worker_killed"}, id="worker killed"),
        pytest.param(freeze_worker, {"worker_frozen", "worker_slow"}, id="worker frozen"),
        pytest.param(kill_host, {"worker_killed", "node_died", "network_cut"}, id="provider killed"),
    ],
)
def test_a_dead_worker_is_replaced_and_the_job_goes_on(
    plaza: Plaza, fault: Callable[[Plaza, Json], Callable[[], bool]], reasons: set[str]
) -> None:
    job = plaza.submit_lasting()
    plaza.wait_rounds(job, 3)
    victim, survivor = plaza.worker_of(job, 0), plaza.worker_of(job, 1)

    newest = max(victim["epoch"], survivor["epoch"])

    is_gone = fault(plaza, victim)
    replaced = plaza.wait_newcomer(job, newest)

    until(is_gone, "the victim and all that it started are gone")
    ended = plaza.lease(job, victim["id"])
    assert (ended["state"], ended["fault"]) == ("ended", "provider")
    assert ended["reason"] in reasons
    newcomer = next(one for one in replaced["members"] if one["epoch"] > newest)
    assert newcomer["provider"] not in (victim["provider"], survivor["provider"])
    before = plaza.rounds(job)[: replaced["round"]]
    assert [one["round"] for one in before] == list(range(1, replaced["round"] + 1)), "no round is missing or repeated"
    assert any(survivor["id"] in [m["lease"] for m in one["members"]] for one in before[-1:]), "the survivor went on"
    charged = plaza.lease(job, victim["id"])["charged_ms"]
    committed = [m["leased_ms"] for one in before for m in one["members"] if m["lease"] == victim["id"]]
    assert charged in (0, *committed), "the dead one is paid for committed rounds only"
    plaza.local("customer").cancel_job(job)
    plaza.wait_state(job, "cancelled")


def test_a_run_that_is_killed_goes_on_from_its_living_workers(plaza: Plaza) -> None:
    job = plaza.submit_lasting(steps=200, rounds=40)
    plaza.wait_rounds(job, 3)
    pid = until(lambda: plaza.job(job)["run_pid"], "the run says its pid")

    os.kill(pid, signal.SIGKILL)

    until(lambda: plaza.job(job)["run_pid"] not in (None, pid), "another process runs the job")
    done = plaza.wait_state(job, "done")
    rounds = plaza.rounds(job)
    assert [one["round"] for one in rounds] == list(range(1, 41))
    assert len(done["leases"]) == 2, "the workers outlived the run"
    assert not any(one["lost"] for one in rounds)
    assert "living workers" in plaza.log_of_run(job).split("Deciding to go on")[-1]


def test_the_exchange_may_die_while_a_job_trains(plaza: Plaza) -> None:
    job = plaza.submit_lasting(steps=200, rounds=40)
    plaza.wait_rounds(job, 3)
    pid = plaza.home.read_pid("exchange")
    assert pid is not None

    os.kill(pid, signal.SIGKILL)

    until(lambda: plaza.home.read_pid("exchange") != pid and plaza.answers(), "the exchange is back")
    done = plaza.wait_state(job, "done")
    rounds = plaza.rounds(job)
    assert [one["round"] for one in rounds] == list(range(1, 41)), "every round was reported"
    assert all(len(one["members"]) == 2 for one in rounds), "and with every member"
    evaluated = [one["loss"] for one in rounds if one.get("loss") is not None]
    assert len(evaluated) == 40 or done["loss_last"] is not None
    last = {member["lease"]: member["leased_ms"] for member in rounds[-1]["members"]}
    for lease in done["leases"]:
        assert lease["metered_ms"] >= last[lease["id"]], "no reading is lost"
        assert lease["charged_ms"] == lease["metered_ms"], "and all of it is charged"
    checked = plaza.local("operator").verify_books()
    assert checked["ok"]
    assert checked["balanced"]


def test_a_provider_that_drains_gives_its_worker_back_at_a_boundary(plaza: Plaza) -> None:
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
    plaza.local("customer").cancel_job(job)
    plaza.wait_state(job, "cancelled")


def test_a_dead_head_is_replaced_and_everybody_finds_the_new_one(plaza: Plaza) -> None:
    job = plaza.submit_lasting(steps=150, rounds=30)
    plaza.wait_rounds(job, 3)
    pid = plaza.home.read_pid("head")
    assert pid is not None

    os.kill(pid, signal.SIGKILL)

    until(lambda: plaza.home.read_pid("head") != pid, "the head is started again")
    done = plaza.wait_state(job, "done", timeout_s=180)
    assert [one["round"] for one in plaza.rounds(job)] == list(range(1, 31))
    assert len(done["leases"]) > 2, "the first workers went with their cluster"
    faults = {lease["fault"] for lease in done["leases"] if lease["reason"] != "done"}
    assert "customer" not in faults
