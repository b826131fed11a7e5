"""Reliability by the record: a prior for newcomers, evidence that fades, whole numbers, and the same after a replay."""

from decimal import Decimal, localcontext

from hypothesis import given, settings
from hypothesis import strategies as st

from market.commands import ChangeOffer, EndLease
from market.reliability import DAY_MS, KEEP, UNIT, ProviderRecord, decayed
from tests.market.scene import Scene

NEWCOMER = 0.95
TIMES = st.integers(0, 400 * DAY_MS)


def record(kept: int = 0, lost: int = 0, at_ms: int = 0) -> ProviderRecord:
    made = ProviderRecord()
    for faulted, count in ((False, kept), (True, lost)):
        for _ in range(count):
            made.lease_ended(at_ms, faulted=faulted, began=True)
    return made


def test_newcomers_are_neither_banned_nor_trusted() -> None:
    assert (record().reliability, record().newcomer) == (NEWCOMER, True)
    assert record(lost=1).reliability == 0.9047
    assert (record(kept=79).reliability < 0.99, record(kept=80).reliability) == (True, 0.99)
    assert not record(kept=5).newcomer
    never_began = record()
    never_began.lease_ended(0, faulted=False, began=False)
    assert never_began.reliability == NEWCOMER


def test_the_factor_of_a_day_is_what_it_says() -> None:
    with localcontext() as exact:
        exact.prec = 60
        assert int(Decimal(2) ** 64 * Decimal(2) ** (Decimal(-1) / 30)) == KEEP
    assert abs(decayed(UNIT, 0, 30 * DAY_MS) * 2 - UNIT) < 100


@settings(deadline=None)
@given(kept=st.integers(0, 200), lost=st.integers(0, 200))
def test_more_kept_is_never_worse_and_more_lost_never_better(kept: int, lost: int) -> None:
    here = record(kept, lost).reliability
    assert 0 <= here <= 1
    assert record(kept + 1, lost).reliability >= here
    assert record(kept, lost + 1).reliability <= here


@settings(deadline=None)
@given(events=st.lists(st.tuples(TIMES, st.booleans()), max_size=30), later=TIMES)
def test_what_was_long_ago_fades_towards_what_newcomers_are_given(events: list[tuple[int, bool]], later: int) -> None:
    made = ProviderRecord()
    for at_ms, faulted in sorted(events):
        made.lease_ended(at_ms, faulted=faulted, began=True)
    before = made.reliability
    last = max([at for at, _ in events], default=0)
    made.heard(last + later, last + later)  # something of no weight, so that time passes
    assert min(before, NEWCOMER) - 0.0001 <= made.reliability <= max(before, NEWCOMER) + 0.0001
    made.heard(last + 5_000 * DAY_MS, last + 5_000 * DAY_MS)
    assert abs(made.reliability - NEWCOMER) <= 0.0001


@settings(deadline=None)
@given(from_ms=TIMES, steps=st.lists(st.integers(0, 40 * DAY_MS), max_size=8), weight=st.integers(0, 10**6 * UNIT))
def test_how_often_somebody_looks_changes_nothing(from_ms: int, steps: list[int], weight: int) -> None:
    at, left = from_ms, weight
    for step in steps:
        left, at = decayed(left, at, at + step), at + step
    assert left == decayed(weight, from_ms, at)


def test_idling_alone_makes_nobody_trusted_and_offers_of_one_machine_count_once() -> None:
    idle = ProviderRecord()
    for day in range(1, 1_000):
        for _ in range(8):  # offers
            idle.heard((day - 1) * DAY_MS, day * DAY_MS)
    assert 0.966 < idle.reliability < 0.968
    assert idle.heard_ms == 999 * DAY_MS
    for _ in range(8):
        idle.fell_silent(1_000 * DAY_MS)
    assert idle.silences == 1


@settings(deadline=None)
@given(gap=st.integers(0, 100 * DAY_MS), others=st.integers(0, 5))
def test_a_forgiven_loss_is_as_if_it_had_been_kept(gap: int, others: int) -> None:
    made, kept = record(others, others), record(others, others)
    made.lease_ended(0, faulted=True, began=True)
    kept.lease_ended(0, faulted=False, began=True)
    made.forgive(0, gap)
    kept.heard(gap, gap)
    assert abs(made.reliability - kept.reliability) <= 0.0001
    assert (made.ended, made.faulted) == (kept.ended, kept.faulted)


def test_a_market_learns_from_signs_of_life_silences_and_leases_and_replays_it() -> None:
    scene = Scene()
    scene.running(offers=4)
    shown = {offer["provider"]: offer for offer in scene.exchange.offers(scene.now_ms)}
    assert {(offer["reliability"], offer["record"]["newcomer"]) for offer in shown.values()} == {(NEWCOMER, True)}
    scene.do(EndLease("lease-000001", 1, "worker_killed", "", "p1"))
    scene.do(ChangeOffer("offer-4", "drain", "p4"))
    for _ in range(30):
        scene.wait(8 * 3_600_000)  # all are heard of in time, as far as the market can tell
    for _ in range(3):
        scene.wait(6_000, silent=("offer-3", "offer-4"))
    found = {offer["provider"]: offer for offer in scene.exchange.offers(scene.now_ms)}
    assert [found[f"p{number}"]["record"]["silences"] for number in (1, 2, 3, 4)] == [0, 0, 1, 0], "p4 had said that it goes"
    assert found["p1"]["reliability"] < found["p3"]["reliability"] < found["p2"]["reliability"]
    assert found["p2"]["record"]["heard_ms"] == 30 * 8 * 3_600_000
    assert (found["p4"]["state"], found["p4"]["record"]["heard_ms"]) == ("offline", 0)
    assert NEWCOMER < found["p2"]["reliability"] < 0.97
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()


def test_time_in_which_the_market_was_away_is_nobodys_merit() -> None:
    scene = Scene()
    scene.offer()
    scene.now_ms += 20 * DAY_MS
    scene.restart()
    scene.wait(1)
    assert scene.of_type("offer_heard") == []
    scene.wait(7 * 3_600_000)
    assert [event["heard_ms"] for event in scene.of_type("offer_heard")] == [7 * 3_600_000]
