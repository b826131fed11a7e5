"""The offers that fit a bid: those of the constraints, cheapest first, however many bids look for them at once."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from market.book import OrderBook
from market.constraints import CONSTRAINTS, PERSONAL, Reason, passes
from market.orders import Bid, Offer
from market.owner_terms import OwnerTerms
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
        fitting = list(together.of(bid))
        assert fitting == list(alone.of(bid)) == list(together.of(bid))
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


def _meets(offer: Offer, bid: Bid) -> bool:
    """But an owner pays nothing at home, whatever its ask."""
    asked = offer.seen_by(bid.customer)
    return all(test(asked, bid) for _, test in CONSTRAINTS)
