"""A job goes from strategy to strategy while its workers die in every way; each fault costs at most the dead one's share.

Every strategy meets every moment of death in one process in `tests/trainers/test_hard_luck.py`; here real machines lose
real processes, under one strategy of each kind: gathered by rounds, at every step, overlapping, in pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil
import pytest

from tests.cluster.plaza import Json, Plaza, gone, until
from trainers.options import STRATEGIES, strategy_options

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

SMALL = {"options": {"size": "20k", "context": 16, "batch": 4}, "checkpoint": {"every_rounds": 2, "keep": 2}}
INNER_STEPS = {"streaming_diloco": 16, "ddp": 4, "demo": 4, "distro": 4}
Fault = Callable[[Plaza, Json], Callable[[], bool]]
"""Does it to a worker; what it answers says whether it has fired."""


def kill_child(plaza: Plaza, worker: Json) -> Callable[[], bool]:
    child = psutil.Process(worker["pid"]).children(recursive=True)[-1]  # the innermost: the one that trains
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


REASONS = {
    kill_child: {"worker_killed"},
    kill_worker: {"worker_killed"},
    freeze_worker: {"worker_frozen", "worker_slow"},
    kill_host: {"worker_killed", "node_died", "network_cut"},
}
JOURNEYS: tuple[dict[str, Fault | None], ...] = (
    {"diloco": freeze_worker, "sparseloco": None, "ddp": kill_worker, "streaming_diloco": kill_child},
    {"noloco": kill_host, "local_sgd": None, "demo": None, "fedavg": None, "distro": None},
)
"""What befalls a job under each strategy; a job for each journey, since it avoids providers that it has lost workers to."""
STAGES = [
    pytest.param(name, fault, id=f"{name}, {fault.__name__}" if fault else name)
    for journey in JOURNEYS for name, fault in journey.items()
]  # fmt: skip


@dataclass
class Traveller:
    """A job that goes from strategy to strategy; another one for each journey, and after a test that broke it."""

    plaza: Plaza
    job: str = ""

    def go_over_to(self, name: str) -> int:
        """Have it train two rounds with that strategy; the first of them."""
        plaza = self.plaza
        departs = any(name == next(iter(journey)) for journey in JOURNEYS)
        if departs or not self.job or plaza.job(self.job)["state"] in ("failed", "cancelled", "done"):
            plaza.ready()
            options = strategy_options({"name": name, "inner_steps": INNER_STEPS.get(name, 6)})
            self.job = plaza.submit_lasting(**SMALL, strategy=options)
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

    def exchanged(self, since: int) -> list[Json]:
        """Rounds from that one on in which both members gave to each other."""
        self.plaza.wait_rounds(self.job, 0)
        of_two = [one for one in self.plaza.rounds(self.job) if one["round"] >= since and len(one["members"]) == 2]
        return [one for one in of_two if all(member["sent_bytes"] > 0 for member in one["members"])]


@pytest.fixture(scope="module")
def traveller(square: Plaza) -> Iterator[Traveller]:
    made = Traveller(square)
    yield made
    if made.job:
        square.local("customer").cancel_job(made.job)
        square.wait_state(made.job, "cancelled", "failed", "done")


def test_every_strategy_has_its_turn() -> None:
    assert sorted(name for journey in JOURNEYS for name in journey) == sorted(STRATEGIES)


@pytest.mark.parametrize(("name", "fault"), STAGES)
def test_a_running_job_goes_over_into_a_strategy_and_trains_on_whatever_befalls_a_worker(
    traveller: Traveller, name: str, fault: Fault | None
) -> None:
    plaza = traveller.plaza
    began = traveller.go_over_to(name)
    assert not any(one["lost"] for one in plaza.rounds(traveller.job)[began - 1 :]), "nobody is lost by going over"
    reasons = REASONS[fault] if fault else set()
    since = _replaced_at(plaza, traveller.job, fault, reasons) if fault else began
    until(lambda: traveller.exchanged(since), "both members exchange")

    rounds = plaza.rounds(traveller.job)
    assert [one["round"] for one in rounds] == list(range(1, len(rounds) + 1)), "no round is missing or repeated"
    with_it = [one for one in rounds if one["round"] >= began]
    assert {one["strategy"] for one in with_it} == {name}
    lost = [one["reason"] for each in with_it for one in each["lost"]]
    assert len(lost) == (1 if fault else 0), lost
    assert set(lost) <= reasons


def _replaced_at(plaza: Plaza, job: str, fault: Fault, reasons: set[str]) -> int:
    """The round of the newcomer that comes after the fault; checks who lost what."""
    until(plaza.has_a_free_offer, "a provider is free")
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
    assert survivor["id"] in [member["lease"] for member in before[-1]["members"]], "the survivor went on"
    committed = [m["leased_ms"] for one in before for m in one["members"] if m["lease"] == victim["id"]]
    assert ended["charged_ms"] in (0, *committed), "the dead one is paid for committed rounds only"
    return replaced["round"]
