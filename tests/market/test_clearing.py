"""The book and its clearing, read as rows."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.book import OrderBook
from market.clearing import clear, fits
from market.orders import Bid, BookSnapshot, Offer, Requirements

USD = 1_000_000_000


def offer(row: str) -> Offer:
    """`p1 2xH100/80 1.95 eu 0.99 sandbox [off]`: id, free GPUs of a model with VRAM, price, region, reliability."""
    id, hardware, price, region, reliability, isolation, *rest = row.split()
    count, _, model = hardware.partition("x")
    gpu, _, vram = model.partition("/")
    free, _, total = count.partition("of")
    return Offer(
        id=id, provider=id, gpu=gpu, gpus=int(total or free), gpus_free=int(free), vram_gib=float(vram), region=region,
        reliability=float(reliability), isolation=isolation, price_nanos_per_gpu_hour=round(float(price) * USD),
        shares=("corpus",) if "corpus" in rest else (), network="net" in rest, environments="env" in rest, matchable="off" not in rest,
    )  # fmt: skip


def bid(row: str) -> Bid:
    """`j1 1-2x1 H100 2.10 [vram=…] [region=…] [reliability=…] [isolation=…] [share=…] [budget=…] [avoid=…]`"""
    job, gang, gpu, price, *rest = row.split()
    workers, _, gpus = gang.partition("x")
    low, _, high = workers.partition("-")
    options = dict(word.split("=") for word in rest)
    requires = Requirements(
        gpus=int(gpus),
        gpu=() if gpu == "any" else tuple(gpu.split(",")),
        vram_gib=float(options.get("vram", 0)),
        region=tuple(options["region"].split(",")) if "region" in options else (),
        reliability=float(options.get("reliability", 0)),
        isolation=options.get("isolation", "process"),
        share=options.get("share"),
        network="network" in options,
        environments="requirements" in options,
    )
    return Bid(
        job=job, submitted_ms=int(job[1:]), workers_min=int(low), workers_max=int(high), requires=requires,
        max_price_nanos_per_gpu_hour=round(float(price) * USD),
        spendable_nanos=round(float(options.get("budget", 100)) * USD),
        avoid=frozenset(options["avoid"].split(",")) if "avoid" in options else frozenset(),
    )  # fmt: skip


BOOK = """
p1 2xH100/80    2.50 eu 0.99 sandbox
p2 8xH100/80    1.95 us 0.97 process
p3 4xA100/40    1.10 eu 0.99 sandbox corpus net env
p4 1xA100/40    0.90 us 0.90 process
p5 0of4xcpu/0   0.10 eu 0.99 sandbox
p6 2xcpu/0      0.20 eu 0.99 sandbox off
"""


def market(*bids: str, book: str = BOOK) -> list[str]:
    offers = tuple(offer(row) for row in book.strip().splitlines() if row)
    found = clear(BookSnapshot(offers, tuple(bid(row) for row in bids)))
    rows = [f"{match.job} | matched {' '.join(match.offers)}" for match in found.matches]
    return rows + [f"{one.job} | {one.reason}" for one in found.unmatched]


@pytest.mark.parametrize(
    "row",
    [
        "j1 1-1x1 H100      2.10                  | matched p2",
        "j1 1-1x1 any       9.00                  | matched p4",
        "j1 2-2x1 A100      9.00                  | matched p4 p3",
        "j1 1-4x1 A100      9.00                  | matched p4 p3 p3 p3",
        "j1 1-1x4 any       9.00                  | matched p3",
        "j1 1-1x4 H100,A100 9.00 region=us        | matched p2",
        "j1 1-1x1 any       9.00 share=corpus     | matched p3",
        "j1 1-1x1 any       9.00 isolation=sandbox | matched p3",
        "j1 1-1x1 A100      9.00 avoid=p4         | matched p3",
        "j1 1-1x1 any       9.00 network=out      | matched p3",
        "j1 1-1x1 H100      9.00 network=out      | network",
        "j1 1-1x1 any       9.00 requirements=yes | matched p3",
        "j1 1-1x1 H100      9.00 requirements=yes | environments",
        "j1 1-9x1 A100      1.00                  | matched p4",
        "j1 1-1x1 B200      9.00                  | gpu_model",
        "j1 1-1x1 any       9.00 vram=81          | vram_too_small",
        "j1 1-1x1 any       9.00 region=asia      | region",
        "j1 1-1x1 H100      9.00 region=us isolation=sandbox | isolation",
        "j1 1-1x1 H100      9.00 region=us reliability=0.98  | reliability",
        "j1 1-1x1 any       9.00 share=secret     | share_missing",
        "j1 1-1x9 any       9.00                  | offer_too_small",
        "j1 1-1x1 H100      1.94                  | price_too_low",
        "j1 2-2x1 A100      1.00                  | price_too_low",
        "j1 5-5x1 cpu       9.00                  | not_available",
        "j1 1-1x1 cpu       9.00                  | busy",
        "j1 1-1x1 A100      9.00 avoid=p3,p4      | avoided",
        "j1 6-6x1 A100      9.00                  | gpu_model",
        "j1 22-22x1 any     9.00                  | gang_too_big",
        "j1 1-1x1 H100      9.00 budget=0.03      | budget_too_small",
    ],
)
def test_one_bid(row: str) -> None:
    asked, _, expected = row.partition("|")
    [found] = market(asked.strip())
    assert found == f"j1 | {expected.strip()}"


def test_earlier_jobs_come_first_and_pay_the_ask() -> None:
    rows = market("j2 1-1x1 A100 9.00", "j1 1-1x1 A100 9.00", "j3 3-3x1 A100 9.00", "j4 1-1x1 A100 0.85")
    assert rows == ["j1 | matched p4", "j2 | matched p3", "j3 | matched p3 p3 p3", "j4 | price_too_low"]


def test_a_gang_that_is_worth_more_than_two_earlier_jobs_gets_their_seats() -> None:
    rows = market("j1 1-1x1 A100 9.00", "j2 1-1x1 A100 9.00", "j3 4-4x1 A100 9.00")
    assert rows == ["j3 | matched p4 p3 p3 p3", "j1 | matched p3", "j2 | outbid"]


def test_a_gang_that_cannot_be_whole_takes_nothing() -> None:
    assert market("j1 6-6x1 A100 9.00", "j2 5-5x1 A100 9.00") == [
        "j2 | matched p4 p3 p3 p3 p3",
        "j1 | gpu_model",
    ]


def test_a_budget_seats_as_many_as_it_pays_for_a_minute() -> None:
    # p4 and one card of p3 cost 2.00 USD an hour: 0.0334 USD a minute.
    assert market("j1 1-4x1 A100 9.00 budget=0.034") == ["j1 | matched p4 p3"]


@pytest.mark.parametrize(
    ("asked", "change"),
    [
        ("j1 1-1x1 H100 1.90", "limits.max_usd_per_gpu_hour 1.95"),
        ("j1 1-1x1 any 9.00 vram=96", "workers.vram_gib 80"),
        ("j1 1-1x1 A100 9.00 region=asia", "workers.region also us"),
        ("j1 1-1x1 B200 9.00", "workers.gpu also A100"),
        ("j1 1-1x1 any 9.00 reliability=0.999", "workers.reliability 0.99"),
        ("j1 1-1x1 H100 9.00 region=us isolation=sandbox", "workers.isolation process"),
        ("j1 1-1x1 H100 9.00 network=out", "network false"),
        ("j1 1-1x1 H100 9.00 requirements=yes", "no requirements"),
        ("j1 6-6x1 A100 9.00", "workers.min 5"),
        ("j1 1-1x9 H100 9.00", "workers.gpus 8"),
        ("j1 1-1x1 A100 9.00 budget=0.01", "0.005 USD more budget"),
    ],
)
def test_the_reason_names_a_change_that_is_enough(asked: str, change: str) -> None:
    offers = tuple(offer(row) for row in BOOK.strip().splitlines())
    [why] = clear(BookSnapshot(offers, (bid(asked),))).unmatched
    assert change in why.relaxations
    assert change in why.detail


def test_a_machine_without_a_region_is_had_by_asking_for_none() -> None:
    offers = tuple(replace(offer(row), region="") for row in BOOK.strip().splitlines())
    [why] = clear(BookSnapshot(offers, (bid("j1 1-1x1 A100 9.00 region=asia"),))).unmatched
    assert "workers.region also where none is named (leave it out)" in why.relaxations


def test_the_reason_counts_the_gpus_that_each_constraint_removed() -> None:
    offers = tuple(offer(row) for row in BOOK.strip().splitlines())
    [why] = clear(BookSnapshot(offers, (bid("j1 1-1x1 H100 1.00 region=us"),))).unmatched
    assert [(str(one.reason), one.gpus) for one in why.removed] == [
        ("gpu_model", 11),
        ("region", 2),
        ("price_too_low", 8),
    ]
    assert "8 GPU" not in why.detail
    assert "price_too_low 8" in why.detail


def test_an_empty_market_says_so() -> None:
    assert market("j1 1-1x1 any 9.00", book="") == ["j1 | no_offers"]


def test_a_clearing_that_runs_out_of_work_says_so() -> None:
    offers = tuple(offer(f"p{n} 1xcpu/0 1.00 eu 0.50 sandbox") for n in range(10))
    bids = (bid("j1 1-1x1 cpu 9.00 reliability=0.9"), bid("j2 1-1x1 cpu 9.00"))
    assert [str(one.reason) for one in clear(BookSnapshot(offers, bids), 5).unmatched] == [
        "reliability",
        "not_considered",
    ]


OFFERS = st.builds(
    Offer,
    id=st.sampled_from([f"o{n}" for n in range(30)]),
    provider=st.just("p"),
    gpu=st.sampled_from(["cpu", "T4", "A100"]),
    gpus=st.just(4),
    gpus_free=st.integers(0, 4),
    vram_gib=st.sampled_from([0.0, 16.0, 40.0]),
    region=st.sampled_from(["eu", "us", ""]),
    reliability=st.sampled_from([0.5, 0.9]),
    isolation=st.sampled_from(["process", "sandbox"]),
    price_nanos_per_gpu_hour=st.integers(1, 5).map(lambda n: n * USD),
    matchable=st.booleans(),
)
BIDS = st.builds(
    Bid,
    job=st.sampled_from([f"j{n}" for n in range(9)]),
    submitted_ms=st.integers(0, 3),
    workers_min=st.integers(1, 3),
    workers_max=st.integers(3, 5),
    requires=st.builds(
        Requirements,
        gpus=st.integers(1, 2),
        gpu=st.sampled_from([(), ("cpu",), ("T4", "A100")]),
        vram_gib=st.sampled_from([0.0, 16.0]),
        region=st.sampled_from([(), ("eu",)]),
    ),
    max_price_nanos_per_gpu_hour=st.integers(1, 5).map(lambda n: n * USD),
    spendable_nanos=st.integers(0, 2 * USD),
)


@settings(deadline=None)
@given(
    offers=st.lists(OFFERS, max_size=12, unique_by=lambda one: one.id),
    bids=st.lists(BIDS, max_size=6, unique_by=lambda one: one.job),
    seed=st.randoms(use_true_random=False),
)
def test_any_clearing_is_right_and_blind_to_order(offers: list[Offer], bids: list[Bid], seed: random.Random) -> None:
    found = clear(BookSnapshot(tuple(offers), tuple(bids)))
    seed.shuffle(offers)
    seed.shuffle(bids)
    assert clear(BookSnapshot(tuple(offers), tuple(bids))) == found
    by_offer = {one.id: one for one in offers}
    by_job = {one.job: one for one in bids}
    used = dict.fromkeys(by_offer, 0)
    for match in found.matches:
        wants = by_job[match.job]
        assert wants.workers_min <= len(match.offers) <= wants.workers_max
        for name, price in zip(match.offers, match.prices_nanos_per_gpu_hour, strict=True):
            used[name] += match.gpus
            assert fits(by_offer[name], wants)
            assert price == by_offer[name].price_nanos_per_gpu_hour
        assert sum(match.prices_nanos_per_gpu_hour) * match.gpus // 60 <= wants.spendable_nanos
    assert all(used[name] <= one.gpus_free for name, one in by_offer.items())
    assert len(found.matches) + len(found.unmatched) == len(bids)
    # What is left would match none of those who got nothing.
    left = tuple(replace(one, gpus_free=one.gpus_free - used[one.id]) for one in offers)
    for why in found.unmatched:
        assert clear(BookSnapshot(left, (by_job[why.job],))).matches == ()


@settings(deadline=None)
@given(st.lists(OFFERS, max_size=15), st.sets(st.integers(0, 29)))
def test_the_book_lists_the_cheapest_first_whatever_came_and_went(offers: list[Offer], gone: set[int]) -> None:
    book, model = OrderBook(), {}
    for one in offers:
        book.put(one)
        model[one.id] = one
    for number in gone:
        if f"o{number}" in model:
            book.remove(f"o{number}")
            del model[f"o{number}"]
    wants = Requirements(gpu=("cpu", "T4"), region=("eu", "us"), vram_gib=16.0)
    listed = [one for one in model.values() if one.gpu in wants.gpu and one.region in wants.region]
    by_price = sorted(listed, key=lambda one: (one.price_nanos_per_gpu_hour, one.id))
    in_order = [one for one in by_price if one.vram_gib >= 16]
    assert list(book.cheapest(wants)) == in_order
    assert sorted(entry for own in book.too_small(wants, free=False) for entry in own) == [
        (one.price_nanos_per_gpu_hour, one.id) for one in by_price if one not in in_order
    ]
    assert list(book.cheapest_free(wants)) == [one for one in in_order if one.matchable and one.gpus_free]
    assert len(book) == len(model)
    assert sorted(one.id for one in OrderBook(model.values())) == sorted(model)
    made_at_once = OrderBook(model.values())
    assert list(made_at_once.cheapest_free(wants)) == list(book.cheapest_free(wants))


class PlainBook(OrderBook):
    """Without an order by memory: everything of the wanted models and regions is looked at."""

    def cheapest(self, requires: Requirements) -> Iterator[Offer]:
        return super().cheapest(replace(requires, vram_gib=0.0))

    def cheapest_free(self, requires: Requirements) -> Iterator[Offer]:
        return super().cheapest_free(replace(requires, vram_gib=0.0))

    def too_small(self, requires: Requirements, free: bool) -> list[tuple[tuple[int, str], ...]]:
        return []


@settings(deadline=None)
@given(
    st.lists(OFFERS, max_size=12, unique_by=lambda one: one.id),
    st.lists(BIDS, max_size=6, unique_by=lambda one: one.job),
    st.sampled_from([5, 40, 1_000]),
)
def test_the_order_by_memory_changes_no_clearing_and_counts_as_many_looks(offers: list[Offer], bids: list[Bid], effort: int) -> None:
    plain, ordered = (BookSnapshot((), tuple(bids), book=book(offers)) for book in (PlainBook, OrderBook))
    assert clear(ordered, effort) == clear(plain, effort)


@settings(deadline=None)
@given(st.lists(OFFERS, max_size=15), st.lists(OFFERS, max_size=15), st.sets(st.integers(0, 29)))
def test_what_happens_to_a_copy_of_the_book_is_not_seen_in_it(
    offers: list[Offer], later: list[Offer], gone: set[int]
) -> None:
    book = OrderBook({one.id: one for one in offers}.values())
    wants = Requirements()
    before = [list(book), list(book.cheapest(wants)), list(book.cheapest_free(wants))]
    copied = book.copy()
    for one in later:
        copied.put(one)
    for number in gone:
        if copied.get(f"o{number}") is not None:
            copied.remove(f"o{number}")
    assert [list(book), list(book.cheapest(wants)), list(book.cheapest_free(wants))] == before
    left = {one.id: one for one in [*offers, *later] if int(one.id[1:]) not in gone}
    assert list(copied.cheapest_free(wants)) == list(OrderBook(left.values()).cheapest_free(wants))
