"""So many GPU-hours of a machine a day to one customer (UTC): looked at when a lease would begin."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.commands import CancelJob, Deposit, PlaceOffer
from market.owner_terms import OwnerTerms
from tests.market.scene import USD, Scene

HOUR = 3_600_000
DAY = 24 * HOUR


def scene_with(**terms: Any) -> Scene:
    scene = Scene()
    scene.now_ms = 10 * DAY + 20 * HOUR
    scene.do(Deposit("bobs", "bob", 100 * USD, "op"))
    scene.offer("offer-1", "p1", gpus=2, terms=OwnerTerms(**terms))
    return scene


def run(scene: Scene, job: str, by: str, ms: int, units: int = 1) -> bool:
    """Whether the job got the machine, for so long if it did."""
    scene.submit(job, by, workers__min=1, workers__max=1, workers__gpus=units)
    got = any(match.job == job for match in scene.clear().matches)
    if got:
        scene.start_all(job)
        for _ in range(ms // HOUR):
            scene.wait(HOUR)
        scene.wait(ms % HOUR)
    scene.do(CancelJob(job, by))
    return got


def test_who_has_had_its_hours_waits_for_the_next_day_and_others_do_not() -> None:
    scene = scene_with(max_unit_ms_per_customer_day=3 * HOUR)
    assert run(scene, "a", "ann", HOUR)
    assert run(scene, "b", "ann", HOUR, units=2), "an hour is left: what begins is not bounded by it"
    scene.submit("c", workers__min=1, workers__max=1)
    [why] = scene.clear().unmatched
    assert (why.job, why.reason) == ("c", "customer_hours")
    told = scene.exchange.explain("c")
    assert told is not None
    assert told["reason"] == "customer_hours"
    assert told["detail"].startswith("providers that would fit let you no more hours of their machines before the next day")
    assert run(scene, "d", "bob", HOUR)
    scene.restart()
    scene.wait(0)
    assert not scene.clear().matches, "it is known after a restart, too"
    scene.wait(HOUR - 1)
    assert not scene.exchange.dirty
    scene.wait(1)
    assert scene.exchange.dirty, "the day is over: it is cleared again without a further word"
    assert [match.job for match in scene.clear().matches] == ["c"]
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()


def test_a_lease_that_runs_counts_and_goes_on_and_a_day_counts_its_own_part() -> None:
    scene = scene_with(max_unit_ms_per_customer_day=2 * HOUR)
    scene.submit("a", workers__min=1, workers__max=1)
    scene.clear()
    scene.start_all("a")
    scene.wait(2 * HOUR)
    assert scene.live("a")
    scene.submit("b", workers__min=1, workers__max=1)
    assert [str(one.reason) for one in scene.clear().unmatched] == ["customer_hours"]
    scene.wait(2 * HOUR + HOUR)
    assert [match.job for match in scene.clear().matches] == ["b"], "of today the first has had one hour only"


def test_neither_a_new_offer_nor_another_limit_gives_the_hours_again_and_an_owner_has_no_limit() -> None:
    scene = scene_with()
    assert run(scene, "a", "ann", 2 * HOUR)
    terms = OwnerTerms(max_unit_ms_per_customer_day=HOUR)
    scene.now_ms += 20_000
    scene.wait(0, silent=("offer-1",))
    scene.offer("offer-1", "p1", gpus=2, terms=terms)
    assert not run(scene, "b", "ann", 0)
    scene.now_ms += 20_000
    scene.wait(0, silent=("offer-1",))
    scene.offer("offer-1", "p1", gpus=2, terms=replace(terms, own=("ann",)))
    assert run(scene, "c", "ann", HOUR)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["ann", "bob"]), st.integers(0, 10 * HOUR), st.integers(1, 2)), max_size=6))
def test_what_is_counted_is_what_was_had_today(uses: list[tuple[str, int, int]]) -> None:
    scene = scene_with(max_unit_ms_per_customer_day=3 * HOUR)
    had: dict[tuple[int, str], int] = {}
    for number, (by, ms, units) in enumerate(uses):
        day = scene.now_ms // DAY
        begin = scene.now_ms
        assert run(scene, f"j{number}", by, ms, units) is (had.get((day, by), 0) < 3 * HOUR)
        for one in range(begin // DAY, scene.now_ms // DAY + 1):
            part = max(0, min(scene.now_ms, (one + 1) * DAY) - max(begin, one * DAY))
            had[one, by] = had.get((one, by), 0) + part * units


@pytest.mark.parametrize("wrong", [0, -1, 2**60])
def test_limits_that_cannot_be(wrong: int) -> None:
    scene = Scene()
    offer: PlaceOffer = scene.make_offer("o", "p1", 0.5, 1, terms=OwnerTerms(max_unit_ms_per_customer_day=wrong))
    assert scene.refused(offer).field == "max_unit_ms_per_customer_day"
