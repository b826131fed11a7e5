"""What each price rule promises (docs/PRICES.md), on random books and on small ones that say why."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.clearing import Clearing, clear
from market.commands import ApplyClearing, ChangeOffer, SetPriceRule
from market.orders import Bid, BookSnapshot, Offer
from market.price_rules import PRICE_RULES
from tests.market.scene import Scene
from tests.market.test_clearing import BIDS, OFFERS, USD, bid, offer

RULES = sorted(PRICE_RULES)
OWN_BIDS = st.builds(replace, BIDS, expected_ms=st.integers(1, 10**8), weight_ppm=st.integers(10**6, 25 * 10**6))


def prices(book: str, *bids: str) -> dict[str, float]:
    """USD by job under `uniform`; every machine of the rows is one class unless it says otherwise."""
    offers = tuple(offer(row) for row in book.strip().splitlines())
    found = clear(BookSnapshot(offers, tuple(bid(row) for row in bids), price_rule="uniform"))
    return {match.job: match.prices_nanos_per_gpu_hour[0] / USD for match in found.matches}


TWO = "p1 1xA100/40 1.00 eu 0.99 sandbox\np2 1xA100/40 2.00 eu 0.99 sandbox"


def test_without_a_bid_that_is_left_over_the_price_is_the_highest_ask_that_trades() -> None:
    assert prices(TWO, "j1 1-1x1 A100 9.00") == {"j1": 1.0}
    assert prices(TWO, "j1 1-1x1 A100 9.00", "j2 1-1x1 A100 5.00") == {"j1": 2.0, "j2": 2.0}


def test_who_is_left_over_drives_the_price_to_between_its_limit_and_the_lowest_that_trades() -> None:
    left = ("j1 1-1x1 A100 9.00", "j2 1-1x1 A100 5.00", "j3 1-1x1 A100 3.00")
    assert prices(TWO, *left) == {"j1": 4.0, "j2": 4.0}, "half way from 3 to 5"
    assert prices(TWO, *left[:2], "j3 1-1x1 A100 1.50") == {"j1": 2.0, "j2": 2.0}, "it could not have paid what traded"


def test_a_machine_that_is_left_bounds_the_price() -> None:
    # The gang of three finds too few machines; p3 is left, and nobody needs to pay more than it asks.
    book = TWO + "\np3 1xA100/40 2.50 eu 0.99 sandbox"
    found = prices(book, "j1 1-1x1 A100 9.00", "j2 1-1x1 A100 8.00", "j3 4-4x1 A100 7.00")
    assert found == {"j1": 2.5, "j2": 2.5}


def test_where_no_price_suits_everybody_the_match_that_is_worth_least_is_given_up() -> None:
    # By worth j1 takes the cheap machine and j2 the dear one, and no single price is within 2.00 and 1.50.
    offers = tuple(offer(row) for row in TWO.splitlines())
    long = replace(bid("j1 1-1x1 A100 1.50"), expected_ms=100 * 3_600_000)
    short = bid("j2 1-1x1 A100 3.00")
    found = clear(BookSnapshot(offers, (long, short), price_rule="uniform"))
    assert [(one.job, one.prices_nanos_per_gpu_hour) for one in found.matches] == [("j1", (3 * USD // 2,))]
    # j2, which would have paid 3.00 for one of these, drives the price up to all that j1 pays.
    [why] = found.unmatched
    assert (why.job, str(why.reason)) == ("j2", "class_price")
    assert "A100 in eu at $1.50" in why.detail
    assert len(clear(BookSnapshot(offers, (long, short))).matches) == 2
    assert found.forgone_nanos == USD, "(3.00 − 2.00) for an hour"


def test_classes_have_prices_of_their_own_and_a_gang_over_two_pays_each() -> None:
    book = "p1 1xA100/40 1.00 eu 0.99 sandbox\np2 1xA100/40 2.00 us 0.99 sandbox"
    offers = tuple(offer(row) for row in book.splitlines())
    found = clear(BookSnapshot(offers, (bid("j1 2-2x1 A100 9.00"),), price_rule="uniform"))
    assert found.matches[0].prices_nanos_per_gpu_hour == (USD, 2 * USD)
    assert [(one.region, one.price_nanos_per_gpu_hour) for one in found.classes] == [("eu", USD), ("us", 2 * USD)]


def test_a_price_that_the_budget_does_not_cover_is_not_paid() -> None:
    poor = "j1 1-1x1 A100 9.00 budget=0.06"  # a minute at 3.50 is 0.058 USD, and at 4.00 0.067
    rows = ("j2 1-1x1 A100 5.00", "j3 1-1x1 A100 3.00")
    assert "j1" not in prices(TWO, poor, *rows)


@pytest.mark.parametrize("rule", RULES)
@settings(deadline=None, max_examples=60)
@given(
    offers=st.lists(OFFERS, max_size=12, unique_by=lambda one: one.id),
    bids=st.lists(OWN_BIDS, max_size=8, unique_by=lambda one: one.job),
    seed=st.randoms(use_true_random=False),
)
def test_promises(rule: str, offers: list[Offer], bids: list[Bid], seed: random.Random) -> None:
    found = clear(BookSnapshot(tuple(offers), tuple(bids), price_rule=rule))
    seed.shuffle(offers)
    seed.shuffle(bids)
    again = clear(BookSnapshot(tuple(offers), tuple(bids), price_rule=rule))
    assert (again.matches, again.classes, set(again.unmatched)) == (found.matches, found.classes, set(found.unmatched))
    by_offer, by_job = {one.id: one for one in offers}, {one.job: one for one in bids}
    used = dict.fromkeys(by_offer, 0)
    by_class: dict[tuple[str, str], set[int]] = {}
    for match in found.matches:
        wants = by_job[match.job]
        assert wants.workers_min <= len(match.offers) <= wants.workers_max, "no gang is split"
        paid = match.prices_nanos_per_gpu_hour
        assert sum(paid) * match.gpus // 60 <= wants.spendable_nanos
        for name, price, ask in zip(match.offers, paid, match.asks, strict=True):
            used[name] += match.gpus
            assert ask == by_offer[name].price_nanos_per_gpu_hour
            assert ask <= price <= wants.max_price_nanos_per_gpu_hour
            by_class.setdefault((by_offer[name].gpu, by_offer[name].region), set()).add(price)
            assert price == ask or rule != "ask"
    assert all(used[name] <= one.gpus_free for name, one in by_offer.items()), "nothing is sold twice"
    if rule == "uniform":
        assert all(len(one) == 1 for one in by_class.values())
    _never_below_the_greedy(offers, bids, found, rule)


def _never_below_the_greedy(offers: list[Offer], bids: list[Bid], found: Clearing, rule: str) -> None:
    """`ask` keeps the whole welfare; a short effort gets no more than the first pass, a long one no less."""
    if rule != "ask":
        return
    short = clear(BookSnapshot(tuple(offers), tuple(bids)), 1)

    def value(clearing: Clearing) -> int:
        by_job = {one.job: one for one in bids}
        return sum(
            by_job[match.job].weight_ppm * (by_job[match.job].max_price_nanos_per_gpu_hour - ask) * by_job[match.job].expected_ms * match.gpus
            for match in clearing.matches
            for ask in match.asks
        )

    assert value(found) >= value(short)


# the exchange


def test_what_customers_pay_is_what_providers_get_and_the_fee() -> None:
    scene = Scene()
    scene.do(SetPriceRule("uniform", "op"))
    scene.running(workers__min=2)
    assert {one["price_nanos_per_gpu_hour"] for one in scene.view()["workers"]} == {600_000_000}
    scene.wait(1_000)
    scene.round(1, {0: 60_000, 1: 60_000})
    scene.checkpoint(1)
    billed = scene.view()["billed_nanos"]
    balances = scene.balances()
    assert billed > 0
    assert balances["earnings:p1"] + balances["earnings:p2"] + balances["fee"] == billed
    assert balances["earnings:p1"] == balances["earnings:p2"], "though p1 asked less"


def test_the_rule_is_the_operators_and_kept() -> None:
    scene = Scene()
    assert scene.refused(SetPriceRule("uniform", "ann")).status == 403
    refused = scene.refused(SetPriceRule("vickrey", "op"))
    assert (refused.code, refused.field) == ("invalid", "rule")
    assert scene.do(SetPriceRule("uniform", "op"))["price_rule"] == "uniform"
    scene.restart()
    assert scene.exchange.totals()["price_rule"] == "uniform"
    assert scene.say(SetPriceRule("uniform", "op")).events == ()


@pytest.mark.parametrize("rule", RULES)
def test_a_provider_that_changes_its_price_in_mid_clearing_is_cleared_again_at_the_new_one(rule: str) -> None:
    scene = Scene()
    scene.do(SetPriceRule(rule, "op"))
    scene.offer()
    scene.submit(workers__min=1, workers__max=1)
    clearing = clear(scene.exchange.snapshot())
    scene.do(ChangeOffer("offer-1", "price", "p1", 7 * USD // 10))
    scene.do(ApplyClearing(clearing))
    assert scene.state()[0] == "pending"
    [event] = scene.of_type("clearing")
    assert ([row["offer"] for row in event["stale"]], event["matched"]) == (["offer-1"], [])
    assert scene.exchange.dirty
    scene.clear()
    assert scene.live()[0]["price_nanos_per_gpu_hour"] == 7 * USD // 10


def test_an_offer_that_vanishes_between_clearing_and_lease_is_not_granted() -> None:
    scene = Scene()
    scene.offer()
    scene.submit(workers__min=1, workers__max=1)
    clearing = clear(scene.exchange.snapshot())
    scene.do(ChangeOffer("offer-1", "withdraw", "p1"))
    scene.do(ApplyClearing(clearing))
    assert scene.of_type("lease_granted") == []
    assert scene.exchange.dirty


def test_of_two_bids_for_the_last_gpu_the_one_that_is_worth_more_gets_it_and_the_other_is_told() -> None:
    scene = Scene()
    scene.offer()
    scene.submit("job-1", workers__min=1, workers__max=1)
    scene.submit("job-2", workers__min=1, workers__max=1, limits__max_price_nanos_per_gpu_hour=89 * USD // 100)
    scene.clear()
    assert (scene.state("job-1")[0], scene.state("job-2")) == ("running", ("pending", "outbid"))
    assert "the last of them went for $0.50 per GPU-hour" in scene.view("job-2")["detail"]
