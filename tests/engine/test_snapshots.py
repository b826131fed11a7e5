"""A live snapshot cleared by the engine: whatever it holds, every match is one that the market itself would allow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

from market.book import OrderBook
from market.clearing import ENGINE, WELFARE, clear
from market.constraints import CONSTRAINTS, covers
from market.engine.snapshots import clear_snapshot, seat_snapshot, serve_snapshot
from market.orders import Bid, BookSnapshot, Offer, Requirements, Standing
from market.owner_terms import OwnerTerms
from market.seating import worth
from tests.engine.books import EXAMPLES

HOUR = 3_600_000
USD = 1_000_000_000
slow = settings(deadline=None, max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
CUSTOMERS = ("ann", "bob", "cleo")
names = st.lists(st.sampled_from(CUSTOMERS), max_size=2, unique=True).map(tuple)
terms = st.builds(
    OwnerTerms, allow=st.one_of(st.just(()), names), deny=st.one_of(st.just(()), names), own=st.one_of(st.just(()), names),
    max_units_per_customer=st.sampled_from((None, None, 1, 3)),
    max_unit_ms_per_customer_day=st.sampled_from((None, None, HOUR)), min_lease_ms=st.sampled_from((None, None, HOUR, 2 * HOUR)),
    max_lease_ms=st.sampled_from((None, None, HOUR, 20 * HOUR)),
)  # fmt: skip


@st.composite
def offers(draw: Any) -> tuple[Offer, ...]:
    made = []
    for number in range(draw(st.integers(0, 14))):
        gpus = draw(st.integers(1, 8))
        made.append(Offer(
            id=f"o{number}", provider=draw(st.sampled_from(("p1", "p2"))), gpu=draw(st.sampled_from(("A100", "H100"))), gpus=gpus,
            gpus_free=draw(st.integers(0, gpus)), vram_gib=draw(st.sampled_from((24.0, 80.0))), region=draw(st.sampled_from(("", "eu"))),
            reliability=draw(st.sampled_from((0.5, 0.99))), isolation=draw(st.sampled_from(("sandbox", "process"))),
            price_nanos_per_gpu_hour=draw(st.sampled_from((0, USD // 2, USD, USD + 1, 3 * USD))),
            shares=draw(st.sampled_from(((), ("corpus",)))), network=draw(st.booleans()), environments=draw(st.booleans()),
            terms=draw(st.one_of(st.just(OwnerTerms()), terms)), units_of={"bob": 1}, unit_ms_of={"bob": 2 * HOUR},
            stays_ms=draw(st.sampled_from((None, None, HOUR))), closes_ms=draw(st.sampled_from((None, None, 0, 59_999, HOUR, 10 * HOUR))),
            matchable=draw(st.sampled_from((True, True, True, False))),
        ))  # fmt: skip
    return tuple(made)


@st.composite
def bids(draw: Any) -> tuple[Bid, ...]:
    made = []
    for number in range(draw(st.integers(0, 14))):
        least = draw(st.integers(0, 3))
        requires = Requirements(
            gpus=draw(st.sampled_from((1, 1, 2, 3))), gpu=draw(st.sampled_from(((), (), ("H100",), ("A100", "H100")))),
            vram_gib=draw(st.sampled_from((0.0, 0.0, 40.0))), region=draw(st.sampled_from(((), (), ("eu",)))),
            reliability=draw(st.sampled_from((0.0, 0.9))), isolation=draw(st.sampled_from(("process", "process", "sandbox"))),
            share=draw(st.sampled_from((None, None, "corpus"))), network=draw(st.sampled_from((False, False, True))),
            environments=draw(st.sampled_from((False, False, True))), own=draw(st.sampled_from(((), (), (), ("p1",)))),
            stays_ms=draw(st.sampled_from((0, HOUR, 2 * HOUR))),
        )  # fmt: skip
        made.append(Bid(
            job=f"j{number}", submitted_ms=number, workers_min=least, workers_max=max(1, least) + draw(st.integers(0, 3)),
            requires=requires, max_price_nanos_per_gpu_hour=draw(st.sampled_from((USD // 2, USD, 2 * USD, 4 * USD))),
            spendable_nanos=draw(st.sampled_from((-1, 0, USD // 60, USD // 20, 100 * USD))),
            running_nanos_per_hour=draw(st.sampled_from((0, 0, USD))), avoid=frozenset(draw(st.sampled_from(((), (), ("o1", "o3", "x"))))),
            team=draw(st.sampled_from(("red", "blue"))), customer=draw(st.sampled_from(CUSTOMERS)),
            expected_ms=draw(st.sampled_from((60_000, HOUR, 30 * HOUR))), weight_ppm=draw(st.sampled_from((1_000_000, 3_500_000))),
            due=draw(st.sampled_from((False, False, False, True))), asked_ms=draw(st.sampled_from((0, 0, 5 * HOUR))),
            lasts_ms=draw(st.sampled_from((0, HOUR, 30 * HOUR))),
        ))  # fmt: skip
    return tuple(made)


standings = st.sampled_from((
    (), (Standing("blue", 1, 5, 2, 0), Standing("red", 2, None, 0, 0)), (Standing("blue", 1, 0, 0, 0), Standing("red", 2, 4, 0, 0)),
))  # fmt: skip
snapshots = st.builds(BookSnapshot, offers(), bids(), standings)


def check(snapshot: BookSnapshot, seats: Mapping[str, Any]) -> None:
    """Every rule of the market, one bid after the other, on offers as they are when it is seated."""
    left = {offer.id: offer for offer in snapshot.offers}
    by_job = {bid.job: bid for bid in snapshot.bids}
    units: Counter[str] = Counter()
    for job, gang in seats.items():
        bid = by_job[job]
        assert max(1, bid.workers_min) <= len(gang) <= bid.workers_max
        assert covers(bid, gang)
        for seat in gang:
            now = left[seat.id].seen_by(bid.customer)
            assert seat.price_nanos_per_gpu_hour == now.price_nanos_per_gpu_hour
            broken = [reason for reason, test in CONSTRAINTS if not test(now, bid)]
            assert not broken, (broken, now, bid)
            assert now.free_for(bid.customer) >= bid.requires.gpus
            held = {**now.units_of, bid.customer: now.units_of.get(bid.customer, 0) + bid.requires.gpus}
            left[seat.id] = replace(left[seat.id], gpus_free=now.gpus_free - bid.requires.gpus, units_of=held)
            units[bid.team] += bid.requires.gpus
    for one in snapshot.standings:
        assert one.quota_units is None or units[one.team] <= max(0, one.quota_units - one.units)


@slow
@given(snapshots)
def test_every_seat_is_one_that_the_market_allows_and_the_bound_is_above(snapshot: BookSnapshot) -> None:
    found = seat_snapshot(snapshot, 1, bound=True)
    check(snapshot, found.seats)
    by_job = {bid.job: bid for bid in snapshot.bids}
    reached = sum(by_job[job].weight_ppm * worth(by_job[job], gang) for job, gang in found.seats.items())
    assert found.bound is not None
    assert reached <= found.bound * 1_000_000 * HOUR
    taken: Counter[str] = Counter()
    for job, gang in found.seats.items():
        for seat in gang:
            taken[seat.id] += by_job[job].requires.gpus
    assert dict(taken) == dict(found.taken)


@slow
@given(snapshots)
def test_who_is_due_is_served_first_and_all_of_it_is_allowed(snapshot: BookSnapshot) -> None:
    served = serve_snapshot(snapshot, OrderBook(snapshot.offers), 100_000, 1)
    check(snapshot, served.seats)
    again = clear(snapshot, algorithm=ENGINE)
    assert {bid.job for bid in snapshot.bids if bid.essential} <= {
        *(match.job for match in again.matches), *(one.job for one in again.unmatched),
    }  # fmt: skip


@slow
@given(snapshots, st.randoms(use_true_random=False))
def test_a_clearing_goes_on_from_memory_and_the_order_is_nothing(snapshot: BookSnapshot, random: Random) -> None:
    first = seat_snapshot(snapshot, 1)
    kept = replace(snapshot, offers=tuple(one for one in snapshot.offers if random.random() < 0.8))
    mixed = replace(kept, offers=tuple(random.sample(kept.offers, len(kept.offers))), bids=kept.bids[::-1])
    one, two = seat_snapshot(kept, 1, first.memory), seat_snapshot(mixed, 1, first.memory)
    check(kept, one.seats)
    assert one.seats == two.seats
    assert one.memory.as_text() == two.memory.as_text()


@slow
@given(snapshots)
def test_it_makes_about_as_much_as_the_market_does_of_small_books(snapshot: BookSnapshot) -> None:
    plain = replace(snapshot, standings=(), bids=tuple(replace(bid, due=False) for bid in snapshot.bids))
    by_job = {bid.job: bid for bid in plain.bids}

    def total(seats: Mapping[str, Any]) -> int:
        return sum(by_job[job].weight_ppm * worth(by_job[job], gang) for job, gang in seats.items())

    offered = {offer.id: offer for offer in plain.offers}
    small = clear(plain, algorithm=WELFARE, reasons=False)
    seats = {
        one.job: tuple(offered[name].seen_by(by_job[one.job].customer) for name in one.offers) for one in small.matches
    }
    assert total(seat_snapshot(plain, 2).seats) >= 0.9 * total(seats)


def test_the_engine_prices_each_match_at_its_ask() -> None:
    made = Offer("o", "p", "H100", 8, 8, 80.0, "eu", 1.0, "sandbox", 2 * USD)
    wants = Bid("j", 0, 2, 3, Requirements(gpus=2), 3 * USD, 100 * USD)
    found, memory = clear_snapshot(BookSnapshot((made,), (wants,)), 1)
    assert [(one.job, one.offers, one.gpus, one.prices_nanos_per_gpu_hour) for one in found.matches] == [
        ("j", ("o", "o", "o"), 2, (2 * USD,) * 3)
    ]
    assert found.welfare_nanos == 6 * USD
    assert (list(memory.offers), list(memory.jobs)) == (["o"], ["j"])
