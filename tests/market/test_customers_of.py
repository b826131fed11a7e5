"""Whom an owner rents to, and how much to one: enforced by the clearing, said without naming anybody."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.clearing import clear, explain
from market.commands import CancelJob, Deposit, SubmitJob
from market.orders import BookSnapshot
from market.owner_terms import OwnerTerms
from tests.market.scene import USD, Scene, make_spec
from tests.market.test_clearing import bid, offer

ANN_ONLY, NOT_ANN = OwnerTerms(allow=("ann",)), OwnerTerms(deny=("ann",))
NAMES = st.sampled_from(["ann", "bob", "cleo"])


@pytest.mark.parametrize(
    ("allow", "deny", "customer", "lets"),
    [
        ((), (), "ann", True),
        (("ann",), (), "ann", True),
        (("ann",), (), "bob", False),
        ((), ("ann",), "ann", False),
        ((), ("ann",), "bob", True),
        (("ann",), ("ann",), "ann", False),
    ],
)
def test_who_may_rent(allow: tuple[str, ...], deny: tuple[str, ...], customer: str, lets: bool) -> None:
    assert OwnerTerms(allow=allow, deny=deny).lets(customer) is lets


OFFERS = st.lists(
    st.tuples(st.integers(1, 4), st.none() | st.integers(1, 3), st.sets(NAMES, max_size=2), st.sets(NAMES, max_size=1)),
    min_size=1, max_size=4,
)  # fmt: skip
BIDS = st.lists(st.tuples(NAMES, st.integers(1, 3), st.integers(1, 2)), min_size=1, max_size=5)


@given(OFFERS, BIDS)
def test_nobody_gets_what_an_owner_does_not_let_to_him(rows: list[Any], asked: list[Any]) -> None:
    offers = {
        f"p{at}": replace(
            offer(f"p{at} {units}xcpu/0 0.10 eu 0.99 process"),
            terms=OwnerTerms(allow=tuple(allow), deny=tuple(deny), max_units_per_customer=most),
        )
        for at, (units, most, allow, deny) in enumerate(rows)
    }
    bids = {
        f"j{at}": replace(bid(f"j{at} 1-{workers}x{gpus} any 1.00"), customer=customer)
        for at, (customer, workers, gpus) in enumerate(asked)
    }
    found = clear(BookSnapshot(tuple(offers.values()), tuple(bids.values())))
    taken: dict[tuple[str, str], int] = {}
    for match in found.matches:
        for name in match.offers:
            customer = bids[match.job].customer
            assert offers[name].terms.lets(customer)
            taken[name, customer] = taken.get((name, customer), 0) + match.gpus
    for (name, _), units in taken.items():
        assert units <= (offers[name].terms.max_units_per_customer or offers[name].gpus)
    for one in found.unmatched:
        assert one.reason != "budget_too_small", "whoever gets nothing hears which rule it was"


def test_the_reason_names_nobody() -> None:
    closed = replace(offer("p1 2xcpu/0 0.10 eu 0.99 process"), terms=OwnerTerms(allow=("cleo",), deny=("dora",)))
    why = explain([closed], replace(bid("j1 1-1x1 any 1.00"), customer="ann"))
    assert why.detail == "too few providers rent to you: 1 x 1 GPU wanted, 2 GPU offered; removed by not_for_you 2"
    assert why.relaxations == ()


def fund(scene: Scene) -> None:
    scene.do(Deposit("bobs", "bob", 100 * USD, "op"))


def test_a_customer_that_nobody_rents_to_hears_so_and_may_wait() -> None:
    scene = Scene()
    fund(scene)
    scene.offer(terms=ANN_ONLY)
    refusal = scene.refused(SubmitJob("job-b", make_spec(workers__min=1, workers__max=1), "bob"))
    assert (refusal.code, refusal.field) == ("never_fits_not_for_you", "workers")
    assert refusal.message == "too few providers rent to you: 1 x 1 GPU wanted, 1 GPU offered; removed by not_for_you 1"
    scene.submit("job-b", "bob", workers__min=1, workers__max=1, wait=True)
    assert [str(one.reason) for one in scene.clear().unmatched] == ["not_for_you"]
    scene.submit(workers__min=1, workers__max=1)
    assert [match.job for match in scene.clear().matches] == ["job-1"]
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()


def test_one_customer_gets_no_more_units_than_its_owner_says_and_another_the_rest() -> None:
    scene = Scene()
    fund(scene)
    scene.offer(gpus=3, terms=OwnerTerms(max_units_per_customer=2))
    scene.submit(workers__min=1, workers__max=3)
    assert [len(match.offers) for match in scene.clear().matches] == [2]
    scene.submit("job-2", workers__min=1, workers__max=1)
    assert [str(one.reason) for one in scene.clear().unmatched] == ["customer_limit"]
    scene.submit("job-b", "bob", workers__min=1, workers__max=1)
    assert [match.job for match in scene.clear().matches] == ["job-b"]
    scene.restart()
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()
    assert not scene.clear().matches, "it is known after a restart, too"


@pytest.mark.parametrize(
    ("terms", "field"),
    [
        (OwnerTerms(allow=("a b",)), "allow"),
        (OwnerTerms(deny=("",)), "deny"),
        (OwnerTerms(deny=tuple(f"m{at}" for at in range(257))), "deny"),
        (OwnerTerms(max_units_per_customer=0), "max_units_per_customer"),
    ],
)
def test_terms_that_cannot_be(terms: OwnerTerms, field: str) -> None:
    scene = Scene()
    refusal = scene.refused(scene.make_offer("o", "p1", 0.5, 1, terms=terms))
    assert (refusal.code, refusal.field) == ("invalid", field)


OWN = OwnerTerms(own=("ann",), deny=("ann",), max_units_per_customer=1)


def test_an_owners_job_comes_to_its_own_machine_first_and_costs_nothing() -> None:
    scene = Scene()
    scene.offer("offer-1", "p1", usd=0.1)
    scene.offer("offer-2", "p2", usd=0.6, gpus=2, terms=OWN)
    plan = scene.exchange.quote(make_spec(workers__min=2, workers__max=3), "ann", scene.now_ms)
    assert isinstance(plan, dict)
    assert [(one["offer"], one["price_nanos_per_gpu_hour"]) for one in plan["candidates"]] == [
        ("offer-2", 0),
        ("offer-2", 0),
        ("offer-1", USD // 10),
    ]
    scene.submit(workers__min=2, workers__max=2)
    [match] = scene.clear().matches
    assert (match.offers, match.prices_nanos_per_gpu_hour) == (("offer-2", "offer-2"), (0, 0))
    scene.start_all()
    scene.wait(60_000)
    scene.round(1, {0: 60_000, 1: 60_000})
    scene.checkpoint(1)
    job = scene.view()
    assert [(one["metered_ms"], one["charged_ms"], one["charged_nanos"]) for one in job["leases"]] == [(60_000, 60_000, 0)] * 2
    assert (job["billed_nanos"], job["escrow_nanos"]) == (0, job["budget_nanos"])
    charges = scene.of_type("lease_charged")
    assert {(one["amount_nanos"], one["fee_nanos"], one["to_ms"]) for one in charges} == {(0, 0, 60_000)}
    before = scene.exchange.offer("offer-2")
    scene.do(CancelJob("job-1", "ann"))
    after = scene.exchange.offer("offer-2")
    assert before is not None
    assert after is not None
    assert after["reliability"] == before["reliability"], "its own jobs make it no name"
    assert scene.exchange.balance("ann")["wallet_nanos"] == scene.funds_nanos
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()


def test_an_owners_job_displaces_nobody_and_rents_elsewhere_meanwhile() -> None:
    scene = Scene()
    fund(scene)
    scene.offer("offer-1", "p1", usd=0.5, terms=OwnerTerms(own=("ann",)))
    scene.submit("job-b", "bob", workers__min=1, workers__max=1)
    assert [match.prices_nanos_per_gpu_hour for match in scene.clear().matches] == [(USD // 2,)]
    scene.submit(workers__min=1, workers__max=1)
    assert [str(one.reason) for one in scene.clear().unmatched] == ["busy"]
    scene.offer("offer-2", "p2", usd=0.6)
    assert [(match.job, match.offers) for match in scene.clear().matches] == [("job-1", ("offer-2",))]
