"""For how long a machine is there: a requirement of a job, and what a plan says of machines that go before it is over."""

from __future__ import annotations

from typing import Any

import pytest

from market.commands import SubmitJob
from market.forms import digest_only, parse_job, resolve
from market.outcomes import Refusal
from market.owner_terms import OwnerTerms
from tests.market.scene import Scene, make_spec
from tests.market.test_batch import make_spec as command_spec

HOUR = 3_600_000


def going(scene: Scene, hours: float, notice_ms: int = 0) -> OwnerTerms:
    return OwnerTerms(until_ms=scene.now_ms + round(hours * HOUR), notice_ms=notice_ms)


def staying_spec(ms: int, **changes: Any) -> dict[str, Any]:
    spec = make_spec(workers__min=1, workers__max=1, **changes)
    spec["workers"]["available_ms"] = ms
    return spec


@pytest.mark.parametrize(
    ("hours", "notice_ms", "wanted_ms", "matched"),
    [
        (2, 0, 2 * HOUR, True),
        (2, 0, 2 * HOUR + 1, False),
        (2, 1_000, 2 * HOUR, False),
        (2, 1_000, 2 * HOUR - 1_000, True),
        (0.01, 0, 1, False),
    ],
)
def test_a_machine_is_taken_if_it_stays_long_enough_before_its_notice(
    hours: float, notice_ms: int, wanted_ms: int, matched: bool
) -> None:
    scene = Scene()
    scene.offer("offer-1", "p1", terms=going(scene, hours, notice_ms))
    scene.do(SubmitJob("job-1", staying_spec(wanted_ms, wait=True), "ann"))
    assert bool(scene.clear().matches) is matched


def test_a_dearer_machine_that_stays_is_taken_before_a_cheap_one_that_goes() -> None:
    scene = Scene()
    scene.offer("offer-1", "p1", usd=0.1, terms=going(scene, 2))
    scene.offer("offer-2", "p2", usd=0.5)
    scene.do(SubmitJob("job-1", staying_spec(3 * HOUR), "ann"))
    assert [match.offers for match in scene.clear().matches] == [("offer-2",)]
    scene.submit("job-2", workers__min=1, workers__max=1)
    assert [match.offers for match in scene.clear().matches] == [("offer-1",)], "who does not ask takes the cheapest"


def test_who_asks_for_too_long_hears_for_how_long_they_stay() -> None:
    scene = Scene()
    scene.offer("offer-1", "p1", terms=going(scene, 2.555))
    scene.offer("offer-2", "p2", terms=going(scene, 1))
    refusal = scene.refused(SubmitJob("job-1", staying_spec(3 * HOUR), "ann"))
    assert (refusal.code, refusal.field) == ("never_fits_leaves_too_soon", "workers.available_hours")
    assert refusal.message == (
        "too few offers stay for that long: 1 x 1 GPU wanted, 2 GPU offered; removed by leaves_too_soon 2"
    )
    assert refusal.remedy is not None
    assert refusal.remedy.startswith("workers.available_hours 2.55; ")
    scene.do(SubmitJob("job-1", staying_spec(3 * HOUR, wait=True), "ann"))
    scene.clear()
    told = scene.exchange.explain("job-1")
    assert told is not None
    assert (told["reason"], told["relaxations"]) == ("leaves_too_soon", ["workers.available_hours 2.55"])
    scene.offer("offer-3", "p3")
    assert [match.offers for match in scene.clear().matches] == [("offer-3",)]
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()


def advice(scene: Scene, spec: dict[str, Any]) -> list[str]:
    plan = scene.exchange.quote(spec, "ann", scene.now_ms)
    assert not isinstance(plan, Refusal), plan
    assert plan["feasible"]
    told: list[str] = plan["advice"]
    return told


def test_a_plan_warns_of_a_machine_that_may_go_before_a_command_is_over_and_takes_it_all_the_same() -> None:
    scene = Scene()
    scene.offer("offer-1", "p1", terms=going(scene, 2))
    long = command_spec(timeout_ms=4 * HOUR + 1)
    told = (
        "p1 lets its machine for 2 h 00 min from now on, and the job may take 4 h 00 min (its timeout): it would go on "
        "elsewhere from its last save; workers.available_hours 4.01 asks for machines that stay"
    )
    assert advice(scene, long) == [told]
    assert advice(scene, command_spec(timeout_ms=HOUR)) == []
    assert advice(scene, command_spec(timeout_ms=None)) == [], "nothing is known of it"
    scene.offer("offer-2", "p2", usd=0.1)
    assert advice(scene, long) == []


def test_a_job_file_says_hours() -> None:
    text = "{name: a, command: python a.py, workers: {available_hours: 1.5}, limits: {budget_usd: 1, max_usd_per_gpu_hour: 1}}"
    assert resolve(parse_job(text), digest_only)["workers"]["available_ms"] == 3 * HOUR // 2
    scene = Scene()
    assert scene.refused(SubmitJob("job-1", staying_spec(0), "ann")).field == "workers.available_ms"
