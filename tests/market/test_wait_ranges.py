"""By when those who wait have begun, by how it went: counted by hand, and against waits that are drawn."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.commands import CancelJob
from market.wait_ranges import MOST_SAID_MS, Wait, wait_range
from storage.units import MS_PER_HOUR
from tests.market.scene import USD, Scene, make_spec

WAITS = st.lists(st.builds(Wait, st.integers(0, 50), st.integers(1, 100), st.booleans()), max_size=40)


def test_by_hand() -> None:
    # Of four who wait one begins after 10, one leaves after 20, one begins after 30: 1 - 1/5, then (1 - 1/3) of that.
    seen = [Wait(0, 10, True), Wait(0, 20, False), Wait(0, 30, True), Wait(0, 40, False)]
    assert wait_range(seen, (19, 20, 46)) == [10, 10, 30]
    # After that two begin in a hundred: 0.5333 falls to 0.1 in ln(5.333) of fifty.
    assert wait_range(seen, (90,)) == [round(30 + 50 * 1.6740)]


def test_where_nobody_began_nothing_is_said() -> None:
    assert wait_range([]) is None
    assert wait_range([Wait(0, 10, False)]) is None
    assert wait_range([Wait(5, 5, True)]) is None


def test_who_waits_since_before_what_was_seen_counts_only_from_then_on() -> None:
    # Two have waited for a thousand already; they say nothing of how it goes at first.
    begun = [Wait(0, number, True) for number in range(1, 10)]
    assert wait_range([*begun, Wait(1_000, 1_010, False), Wait(1_000, 1_010, False)], (50,)) == wait_range(begun, (50,))


@given(WAITS)
def test_a_range_is_in_order_and_those_who_gave_up_never_make_it_shorter(seen: list[Wait]) -> None:
    found = wait_range(seen)
    if found is None:
        return
    assert 0 < found[0] <= found[1] <= found[2] <= MOST_SAID_MS
    for more in (Wait(0, 100, False), Wait(0, 7, False)):
        later = wait_range([*seen, more])
        assert later is not None
        assert all(now >= before for now, before in zip(later, found, strict=True))


@pytest.mark.parametrize("patience", [5.0, 0.7])
def test_as_many_begin_within_a_range_as_it_says_whoever_gives_up(patience: float) -> None:
    source = random.Random(3)
    seen = []
    for _ in range(4_000):
        wait, leaves = source.expovariate(1.0), source.expovariate(1 / patience)
        seen.append(Wait(0, max(1, round(MS_PER_HOUR * min(wait, leaves))), wait <= leaves))
    low, middle, high = wait_range(seen) or [0, 0, 0]
    assert low == pytest.approx(0.0202 * MS_PER_HOUR, rel=0.3)
    assert middle == pytest.approx(0.693 * MS_PER_HOUR, rel=0.1)
    assert high == pytest.approx(2.303 * MS_PER_HOUR, rel=0.15)


def told_after(gave_up: int) -> dict[str, int]:
    """What a plan says where one machine is let for an hour at a time, and so many gave up."""
    scene = Scene(funds_nanos=1_000 * USD)
    scene.offer()
    one = {"workers__min": 1, "workers__max": 1, "limits__budget_nanos": USD}
    for number in range(12):
        scene.submit(f"job-{number:02}", **one)
    for number in range(gave_up):
        scene.submit(f"left-{number}", **one, limits__max_price_nanos_per_gpu_hour=6 * USD // 10)
    for number in range(10):
        scene.now_ms += MS_PER_HOUR
        scene.clear()
        scene.do(CancelJob(f"job-{number:02}", "ann"))
    for number in range(gave_up):
        scene.do(CancelJob(f"left-{number}", "ann"))
    found = scene.exchange.quote(make_spec(**one), "ann", scene.now_ms)
    assert isinstance(found, dict)
    assert scene.replayed().quote(make_spec(**one), "ann", scene.now_ms)["outlook"] == found["outlook"]  # type: ignore[index]
    begins: dict[str, int] = found["outlook"]["begins"]
    assert begins.pop("basis") == "recent"
    return begins


def test_a_plan_says_later_where_others_have_given_up() -> None:
    few, many = told_after(0), told_after(12)
    assert all(many[name] >= few[name] for name in few)
    assert many["high_ms"] > few["high_ms"]
