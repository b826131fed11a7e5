"""Every strategy trains through a death, goes over into another one while it runs, and comes back from nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import pytest

from tests.cluster.plaza import Json, Plaza, until
from trainers.options import STRATEGIES, strategy_options

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

SMALL = {"options": {"size": "20k", "context": 16, "batch": 4}, "checkpoint": {"every_rounds": 2, "keep": 2}}
INNER_STEPS = {"streaming_diloco": 16, "ddp": 4, "demo": 4, "distro": 4}


def strategy(name: str) -> dict:
    return strategy_options({"name": name, "inner_steps": INNER_STEPS.get(name, 6)})


ORDER = ("diloco", "sparseloco", "ddp", "streaming_diloco", "noloco", "local_sgd", "demo", "fedavg", "distro")


@dataclass
class Traveller:
    """A job that goes from strategy to strategy. A fresh one after every third, whose providers nobody avoids yet, and
    after a test that broke it.
    """

    plaza: Plaza
    job: str = ""
    turns: int = 0

    def go_over_to(self, name: str) -> int:
        """Have it train two rounds with that strategy; the first of them."""
        plaza = self.plaza
        self.turns += 1
        if self.turns % 3 == 1 or plaza.job(self.job)["state"] in ("failed", "cancelled", "done"):
            plaza.ready()
            self.job = plaza.submit_lasting(**SMALL, strategy=strategy(name))
        else:
            options = {"inner_steps": INNER_STEPS[name]} if name in INNER_STEPS else {}
            plaza.local("customer").retune_job(self.job, id=f"to-{name}", strategy=name, options=options)

        def first() -> int | None:
            plaza.wait_rounds(self.job, 0)
            found = [one["round"] for one in plaza.rounds(self.job) if one["strategy"] == name]
            return found[0] if found else None

        began = until(first, f"a round of {name}")
        assert began is not None
        plaza.wait_rounds(self.job, began + 1)
        return began


@pytest.fixture(scope="module")
def traveller(square: Plaza) -> Iterator[Traveller]:
    made = Traveller(square)
    yield made
    if made.job:
        square.local("customer").cancel_job(made.job)
        square.wait_state(made.job, "cancelled", "failed", "done")


def test_every_strategy_has_its_turn() -> None:
    assert sorted(ORDER) == sorted(STRATEGIES)


@pytest.mark.parametrize("name", ORDER)
def test_a_running_job_goes_over_into_a_strategy_and_trains_on_when_a_worker_is_killed(
    square: Plaza, traveller: Traveller, name: str
) -> None:
    plaza = square
    began = traveller.go_over_to(name)
    job = traveller.job
    assert not any(one["lost"] for one in plaza.rounds(job)[began - 1 :]), "nobody is lost by going over"
    until(plaza.has_a_free_offer, "a provider is free")
    victim, survivor = plaza.worker_of(job, 0), plaza.worker_of(job, 1)
    actor = psutil.Process(victim["pid"])
    newest = max(victim["epoch"], survivor["epoch"])

    actor.kill()
    until(lambda: not psutil.pid_exists(actor.pid) or actor.status() == psutil.STATUS_ZOMBIE, "the kill has fired")
    newcomer_at = plaza.wait_newcomer(job, newest)["round"]

    def exchanged() -> list[Json]:
        """Rounds that both members gave to."""
        plaza.wait_rounds(job, 0)
        since = [one for one in plaza.rounds(job) if one["round"] >= newcomer_at and len(one["members"]) == 2]
        return [one for one in since if all(member["sent_bytes"] > 0 for member in one["members"])]

    until(exchanged, "survivor and newcomer exchange")
    rounds = plaza.rounds(job)
    assert [one["round"] for one in rounds] == list(range(1, len(rounds) + 1)), "no round is missing or repeated"
    with_it = [one for one in rounds if one["round"] >= began]
    assert {one["strategy"] for one in with_it} == {name}
    assert [lost["reason"] for one in with_it for lost in one["lost"]] == ["worker_killed"]
    since = [one for one in with_it if one["round"] >= newcomer_at]
    assert any(survivor["id"] in [m["lease"] for m in one["members"]] for one in since), "the survivor lost no step"


def test_all_workers_die_at_once_and_the_job_comes_back_from_its_delta_log(plaza: Plaza) -> None:
    checkpoint = {"every_rounds": 1, "keep": 3, "base_every_rounds": 50}
    job = plaza.submit_lasting(**{**SMALL, "checkpoint": checkpoint}, strategy=strategy("sparseloco"))
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
