"""The offers that fit a bid: those of the constraints, cheapest first, however many bids look for them at once."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from market.book import OrderBook
from market.constraints import CONSTRAINTS, PERSONAL, Reason, passes
from market.orders import Bid, Offer, Requirements
from market.owner_terms import OwnerTerms
from market.serving import Auction
from market.wishes import Wishes
from tests.market.test_clearing import BIDS, OFFERS

HOUR_MS = 3_600_000
CUSTOMERS = st.sampled_from(["ann", "bob", "cleo"])
TERMS = st.builds(
    OwnerTerms,
    own=st.sampled_from([(), (), ("ann",)]),
    allow=st.sampled_from([(), (), ("ann", "bob")]),
    deny=st.sampled_from([(), (), ("bob",)]),
    max_units_per_customer=st.sampled_from([None, None, 1]),
    max_unit_ms_per_customer_day=st.sampled_from([None, None, 1_000]),
    min_lease_ms=st.sampled_from([None, None, 2 * HOUR_MS]),
    max_lease_ms=st.sampled_from([None, None, 2 * HOUR_MS]),
)


@st.composite
def books(draw: st.DrawFn) -> tuple[list[Offer], list[Bid]]:
    offers = draw(st.lists(OFFERS, max_size=12, unique_by=lambda one: one.id))
    offers = [
        replace(
            one, terms=draw(st.one_of(st.just(OwnerTerms()), TERMS)), closes_ms=draw(st.sampled_from([None, None, HOUR_MS])),
            units_of=draw(st.sampled_from([{}, {"ann": 4, "bob": 1}])), unit_ms_of=draw(st.sampled_from([{}, {"cleo": 2_000}])),
        )
        for one in offers
    ]  # fmt: skip
    bids = [
        replace(
            one, customer=draw(CUSTOMERS), avoid=draw(st.sampled_from([frozenset(), frozenset({"o1", "o2"})])),
            requires=replace(one.requires, own=draw(st.sampled_from([(), (), ("p",)]))),
            expected_ms=draw(st.sampled_from([HOUR_MS, 3 * HOUR_MS])), lasts_ms=draw(st.sampled_from([0, 3 * HOUR_MS])),
        )
        for one in draw(st.lists(BIDS, max_size=6, unique_by=lambda one: one.job))
    ]  # fmt: skip
    return offers, bids


@settings(deadline=None)
@given(books())
def test_a_bid_finds_what_meets_every_constraint_whoever_has_looked_before(found: tuple[list[Offer], list[Bid]]) -> None:
    offers, bids = found
    book = OrderBook(offers)
    together = Wishes(book)
    looks = 0
    for bid in bids:
        alone = Wishes(book)
        fitting = _all(together, bid)
        assert fitting == _all(alone, bid) == _all(together, bid)
        looks += alone.looks
        assert together.looks == looks
        free = [one for one in offers if one.matchable and one.gpus_free and _meets(one, bid)]
        own = sorted(one.id for one in free if bid.customer in one.terms.own)
        others = sorted((one.price_nanos_per_gpu_hour, one.id) for one in free if bid.customer not in one.terms.own)
        assert [one.id for one in fitting] == own + [name for _, name in others]


@given(OFFERS, BIDS)
def test_an_offer_for_all_meets_what_depends_on_the_customer_for_every_bid_that_names_nobody(offer: Offer, bid: Bid) -> None:
    assert offer.is_for_all
    assert passes(offer, bid, PERSONAL - {Reason.CUSTOMER_LIMIT})
    assert passes(offer, bid, [Reason.CUSTOMER_LIMIT]) == passes(offer, bid, [Reason.OFFER_TOO_SMALL])


def _all(wishes: Wishes, bid: Bid) -> list[Offer]:
    ids, wish = wishes.all_of(bid), wishes.of(bid)
    found = wish.ladder.offers[: wish.reach]
    assert {one.id for one in found} == ids
    return found


def _meets(offer: Offer, bid: Bid) -> bool:
    """But an owner pays nothing at home, whatever its ask."""
    asked = offer.seen_by(bid.customer)
    return all(test(asked, bid) for _, test in CONSTRAINTS)


class EachForItself(Auction):
    """Whoever went empty tries again whenever somebody was lifted, though it has no more room than before."""

    def _looks_in_vain(self, state: Any) -> int | None:
        return None


class Counted(Auction):
    """Says how often nobody needed to."""

    spared = 0

    def _seat_others(self, state: Any, bid: Bid, lifted: list[Bid], vain: int | None) -> None:
        Counted.spared += vain is not None
        super()._seat_others(state, bid, lifted, vain)


def test_who_would_try_in_vain_is_counted_and_spared() -> None:
    source = random.Random(7)
    for _ in range(3_000):
        means = source.choice([[10**12], [10**12, 2 * 10**8, 6 * 10**8]])
        offers = [
            Offer(f"o{n}", "p", "A", free := source.randint(1, 4), free, 24.0, source.choice(["eu", "us"]), 0.99, "process", source.randint(1, 5) * 10**8)
            for n in range(source.randint(1, 5))
        ]
        kinds = [Requirements(gpus=source.choice([1, 1, 2]), region=source.choice([(), ("eu",)])) for _ in range(3)]
        bids = [
            Bid(
                f"j{n}", source.randint(0, 3), least := source.choice([1, 1, 2, 3]), least + source.choice([0, 0, 1]), source.choice(kinds),
                source.randint(1, 9) * 10**8, source.choice(means), HOUR_MS, due=source.random() < 0.1, expected_ms=source.randint(1, 9) * HOUR_MS,
            )
            for n in range(source.randint(2, 16))
        ]  # fmt: skip
        effort = source.choice([50, 300, 10_000])
        book = OrderBook(offers)
        assert Counted(book, bids, (), effort).serve() == EachForItself(book, bids, (), effort).serve()
    assert Counted.spared > 100
