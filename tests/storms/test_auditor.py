"""An exchange that is broken on purpose, in one way at a time: the auditor finds it in the journal, and names it."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from market import bookkeeping, disputes, granting, jobs, lease_times, metering, order_making, reducer, timeouts
from market.api.desk import Desk
from market.faults import BY_REASON, Cause, Charged, Fault
from market.leases import Lease
from market.orders import Offer
from storage.id_table import IdTable
from storage.ledger import Ledger, Status, Transfer
from storage.transfer_ids import TransferIds
from storage.units import charge_nanos
from tests.storms.disk import StoryDisk
from tests.storms.story import Plan, tell

Break = Callable[[pytest.MonkeyPatch], None]
STORIES = 40
OUTAGES = frozenset({"kill", "power", "again", "full", "io", "clock"})
"""Without these the market is never away."""


def bills_one_nano_more(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Lease, "nanos_at", lambda self, ms: charge_nanos(self.price_nanos_per_gpu_hour, self.gpus, ms) + (ms > 0))


def takes_a_higher_fee(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(granting, "fee_step", lambda before, after, ppm: (after - before) // 10)


def sells_each_card_twice(patch: pytest.MonkeyPatch) -> None:
    real = reducer._HANDLERS["offer_placed"]
    patch.setitem(reducer._HANDLERS, "offer_placed", lambda state, event, at_ms: real(state, event | {"gpus": 2 * event["gpus"]}, at_ms))


def begins_with_half_a_gang(patch: pytest.MonkeyPatch) -> None:
    real = order_making.wish_of
    patch.setattr(order_making, "wish_of", lambda spec, living: (wish := real(spec, living)) and replace(wish, least=1, most=1))


def lets_pay_above_the_limit(patch: pytest.MonkeyPatch) -> None:
    real = order_making.wish_of
    patch.setattr(
        order_making, "wish_of",
        lambda spec, living: (wish := real(spec, living)) and replace(wish, limit_nanos_per_gpu_hour=9 * wish.limit_nanos_per_gpu_hour),
    )  # fmt: skip


def pays_below_the_ask(patch: pytest.MonkeyPatch) -> None:
    real = granting._grant_lease
    patch.setattr(granting, "_grant_lease", lambda turn, job, offer, price, terms: real(turn, job, offer, price - 1, terms))


def lends_money(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(jobs, "_check_funds", lambda turn, customer, spec: None)
    real = Ledger.check

    def check(self: Ledger, transfer: Transfer, at_ms: int | None = None) -> Status:
        status = real(self, transfer, at_ms)
        return Status.CREATED if status in (Status.WOULD_OVERDRAW, Status.HOLD_RELEASED) else status

    patch.setattr(Ledger, "check", check)


def keeps_the_escrow(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(jobs.credits, "release", lambda *_: None)


def bills_work_that_was_lost(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Cause, "charged", Charged.LAST_READING)


def forgives_what_is_owed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Lease, "payable_ms", lambda self, budget: self.charged_ms + 1)


def promises_before_it_syncs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(StoryDisk, "sync_data", lambda self, handle: None)


def answers_and_writes_nothing(patch: pytest.MonkeyPatch) -> None:
    real = Desk._stage

    def stage(self: Desk, staged: object, outcome: object, now_ms: int) -> None:
        if outcome.events and outcome.events[0]["type"] == "transfer" and outcome.events[0]["kind"] == "deposit":  # type: ignore[attr-defined]
            return
        real(self, staged, outcome, now_ms)  # type: ignore[arg-type]

    patch.setattr(Desk, "_stage", stage)


def believes_every_meter(patch: pytest.MonkeyPatch) -> None:
    def meter(turn: object, job: object, reading: object) -> bool:
        lease = metering.lease_of(turn, job, reading.lease, reading.epoch)  # type: ignore[attr-defined,arg-type]
        if lease is None or str(lease.state) != "active":
            return False
        leased_ms = max(lease.metered_ms, reading.leased_ms)  # type: ignore[attr-defined]
        metering._note_meter(turn, lease, leased_ms, min(leased_ms, reading.trained_ms), lease.rounds, lease.tokens, lease.bytes)  # type: ignore[attr-defined,arg-type]
        return True

    patch.setattr(metering, "_meter", meter)


def books_a_retry_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TransferIds, "number", lambda self, id: None)
    patch.setattr(TransferIds, "has_none", lambda self, ids: True)
    patch.setattr(IdTable, "add", lambda self, id: self.ids.append(id) or True)


def warns_of_the_budget_again(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(reducer._HANDLERS, "budget_reached", lambda state, event, at_ms: None)


def warns_of_a_limit_again(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(reducer._HANDLERS, "limit_reached", lambda state, event, at_ms: None)


def blames_the_customer(patch: pytest.MonkeyPatch) -> None:
    for reason, cause in BY_REASON.items():
        if cause.fault is Fault.PROVIDER:
            patch.setitem(BY_REASON, reason, replace(cause, fault=Fault.CUSTOMER))


def gives_the_fee_back_twice(patch: pytest.MonkeyPatch) -> None:
    real = disputes.dealt
    patch.setattr(
        disputes, "dealt", lambda payers, parts: [(payer, to, nanos * (2 if payer == "fee" else 1)) for payer, to, nanos in real(payers, parts)]
    )


def makes_money_of_credit(patch: pytest.MonkeyPatch) -> None:
    for module in (disputes, bookkeeping):
        patch.setattr(module, "parts_of", lambda job, nanos: [("", nanos)])


def closes_a_period_with_other_balances(patch: pytest.MonkeyPatch) -> None:
    real = Ledger.balances_at

    def balances_at(self: Ledger, through_ms: int) -> tuple[int, dict[str, int]]:
        booked, balances = real(self, through_ms)
        return booked, {name: nanos + 1 for name, nanos in balances.items()}

    patch.setattr(Ledger, "balances_at", balances_at)


def lets_leases_last(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(timeouts, "end_what_is_due", lambda turn: None)


def lets_in_maintenance(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Offer, "is_open_as_long_as", lambda self, bid: True)


def calls_every_window_announced(patch: pytest.MonkeyPatch) -> None:
    real = lease_times.ends
    patch.setattr(
        lease_times, "ends", lambda lease, offer: (found := real(lease, offer)) and (found[0], found[1].removesuffix("_unannounced"))
    )


BREAKS: list[tuple[Break, str]] = [
    (bills_one_nano_more, r"is billed \d+, its readings come to \d+"),
    (takes_a_higher_fee, r"the fee of lease-\d+ is \d+ and should be \d+"),
    (sells_each_card_twice, r"has \d+ GPUs, \d+ of them let"),
    (begins_with_half_a_gang, r"begins with 1 workers, its gang is [23]"),
    (lets_pay_above_the_limit, r"above the limit of"),
    (pays_below_the_ask, r"below the ask of"),
    (lends_money, r"wallet:c\d is below zero"),
    (keeps_the_escrow, r"is (done|failed|cancelled) and its escrow holds"),
    (bills_work_that_was_lost, r"neither durable nor the customer's to pay"),
    (forgives_what_is_owed, r"ms are due and the escrow could pay more"),
    (promises_before_it_syncs, r"acknowledged, and is (not there|another one)|what was acknowledged cannot be read"),
    (answers_and_writes_nothing, r"acknowledged and not in the journal: deposit"),
    (believes_every_meter, r"the meter of lease-\d+ says \d+ ms after"),
    (books_a_retry_again, r"is booked twice"),
    (warns_of_the_budget_again, r"is told of (50|80|100) % of its budget again"),
    (warns_of_a_limit_again, r"is told of (50|80|100) % of a limit again"),
    (gives_the_fee_back_twice, r"is upheld: \d+ goes back, \d+ should"),
    (makes_money_of_credit, r"of granted credit becomes money"),
    (closes_a_period_with_other_balances, r"is closed to \d+ with other balances than were booked"),
    (lets_leases_last, r"is metered \d+ ms after its offer lets"),
    (lets_in_maintenance, r"is granted at \d+, and maintenance of offer-\d is from"),
    (calls_every_window_announced, r"is told of maintenance, and knew of (None|\d+)"),
    (blames_the_customer, r"which is the fault of provider, not customer"),
]


@pytest.mark.parametrize(("broken", "finding"), BREAKS, ids=[broken.__name__ for broken, _ in BREAKS])
def test_an_exchange_that(broken: Break, finding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    without = frozenset() if broken in (promises_before_it_syncs, lets_leases_last) else OUTAGES
    # Few have used half of their budget so soon, or have a lease for so long.
    seconds = {warns_of_the_budget_again: 120.0, warns_of_a_limit_again: 120.0, lets_leases_last: 60.0}.get(broken, 30.0)
    for seed in range(STORIES):
        plan = replace(Plan.of(seed), seconds=seconds, without=without)
        if any(re.search(finding, found) for found in tell(plan).findings):
            return
    pytest.fail(f"{STORIES} stories, and nobody says {finding!r}")
