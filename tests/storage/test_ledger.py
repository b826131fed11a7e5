"""The ladder of refusals row by row, and the ledger against a plain dict that believes only arithmetic."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from storage.ledger import KINDS, Ledger, Status, Transfer, account_class
from storage.ledger_bytes import BadLedger
from storage.transfer_batches import BadBatch, TransferBatch
from storage.transfers import KEPT, check_form, compare
from storage.units import MAX_NANOS

ROWS = """
d1 deposit world            wallet:ann      100  created
d1 deposit world            wallet:ann      100  exists
d1 hold    world            wallet:ann      100  exists_with_different_kind
d1 deposit wallet:bob       wallet:ann      100  exists_with_different_debit
d1 deposit world            wallet:bob      100  exists_with_different_credit
d1 deposit world            wallet:ann      101  exists_with_different_amount
t1 hold    wallet:ann       escrow:j          0  amount_not_positive
t1 hold    wallet:ann       escrow:j         -5  amount_not_positive
t1 hold    wallet:ann       escrow:j 9223372036854775808 amount_too_large
t1 gift    wallet:ann       escrow:j          1  kind_unknown
t1 hold    purse:ann        escrow:j          1  debit_malformed
t1 hold    wallet:          escrow:j          1  debit_malformed
t1 hold    wallet:ann       escrow            1  credit_malformed
t1 hold    wallet:ann       wallet:ann        1  accounts_equal
t1 hold    world            escrow:j          1  debit_not_of_kind
t1 hold    wallet:ann       wallet:bob        1  credit_not_of_kind
t1 hold    wallet:ann       escrow:j        101  would_overdraw
t1 hold    wallet:ann       escrow:j         60  created
t2 charge  escrow:j         earnings:p       61  would_overdraw
t2 charge  escrow:j         earnings:p       38  created
t3 fee     escrow:j         fee               2  created
t4 release escrow:j         wallet:ann       20  created
t5 payout  earnings:p       world            39  would_overdraw
t6 charge  escrow:j         earnings:p        1  hold_released
t6 charge  escrow:k         earnings:p        1  would_overdraw
t5 payout  earnings:p       world            38  created
d2 deposit world            wallet:ann 9223372036854775800 would_overflow
"""


def test_the_ladder_row_by_row() -> None:
    ledger = Ledger()
    for row in ROWS.strip().splitlines():
        id, kind, debit, credit, amount, expected = row.split()
        transfer = Transfer(id, kind, debit, credit, int(amount))
        before = ledger.balances()
        assert ledger.check(transfer) == expected, row
        assert ledger.apply(transfer) == expected, row
        assert (ledger.balances() == before) is (expected != "created"), row
        assert ledger.total() == 0
    assert {k: v for k, v in ledger.balances().items() if v} == {"world": -62, "wallet:ann": 60, "fee": 2}


def test_an_empty_id_is_refused() -> None:
    assert Ledger().apply(Transfer("", "deposit", "world", "wallet:a", 1)) is Status.ID_EMPTY


@pytest.mark.parametrize(
    ("field", "expected"), [("job", "exists_with_different_job"), ("lease", "exists_with_different_lease")]
)
def test_the_same_id_for_another_job_or_lease_is_refused(field, expected) -> None:
    ledger = Ledger()
    transfer = Transfer("a", "deposit", "world", "wallet:a", 1, job="j", lease="l")
    ledger.apply(transfer)
    assert ledger.apply(replace(transfer, **{field: "other"})) == expected


def test_entries_are_newest_first_and_paged() -> None:
    ledger = Ledger()
    for number in range(1, 6):
        ledger.apply(Transfer(f"d{number}", "deposit", "world", "wallet:a", number), at_ms=number)
    shown = [(e.transfer.id, e.amount_nanos, e.balance_nanos, e.at_ms) for e in ledger.entries("wallet:a", limit=2)]
    assert shown == [("d5", 5, 15, 5), ("d4", 4, 10, 4)]
    assert [entry.transfer.id for entry in ledger.entries("wallet:a", after="d4", limit=2)] == ["d3", "d2"]
    assert [entry.transfer.id for entry in ledger.entries("wallet:a", after="d1")] == []
    assert [entry.transfer.id for entry in ledger.entries("wallet:a", after="unknown")] == []
    assert [entry.amount_nanos for entry in ledger.entries("world", limit=1)] == [-5]


ACCOUNTS = ["world", "fee", "wallet:a", "wallet:b", "escrow:i", "escrow:j", "earnings:a", "purse:x"]


class Books(RuleBasedStateMachine):
    """Any transfers in any order: the ledger agrees with a dict of numbers and a dict of ids."""

    @initialize()
    def start(self) -> None:
        self.ledger = Ledger()
        self.balances = dict.fromkeys(ACCOUNTS, 0)
        self.known: dict[str, Transfer] = {}

    @rule(
        id=st.integers(0, 12).map(lambda n: f"t{n}"),
        kind=st.sampled_from([*KINDS, "gift"]),
        debit=st.sampled_from(ACCOUNTS),
        credit=st.sampled_from(ACCOUNTS),
        amount=st.one_of(st.integers(-1, 30), st.sampled_from([MAX_NANOS, MAX_NANOS - 3])),
    )
    def transfer(self, id, kind, debit, credit, amount) -> None:
        made = Transfer(id, kind, debit, credit, amount)
        status = self.ledger.apply(made)
        if id in self.known:
            assert status.startswith("exists")
            assert (status == "exists") is (self.known[id] == made)
            return
        debits, credits = KINDS.get(kind, (frozenset(), frozenset()))
        possible = (
            0 < amount <= MAX_NANOS
            and debit != credit
            and account_class(debit) in debits
            and account_class(credit) in credits
            and (debit == "world" or self.balances[debit] >= amount)
            and self.balances[credit] + amount <= MAX_NANOS
            and self.balances[debit] - amount >= -MAX_NANOS
        )
        assert (status == "created") is possible
        if possible:
            self.known[id] = made
            self.balances[debit] -= amount
            self.balances[credit] += amount

    @invariant()
    def agrees(self) -> None:
        assert self.ledger.total() == 0
        assert all(self.ledger.balance(account) == nanos for account, nanos in self.balances.items())
        assert all(nanos >= 0 for account, nanos in self.ledger.balances().items() if account != "world")


TestBooks = Books.TestCase
TestBooks.settings = settings(deadline=None, max_examples=60, stateful_step_count=40)


class Careful:
    """A plain ledger that believes only arithmetic: a dict of balances, a list of transfers, refusals by id."""

    def __init__(self) -> None:
        self.balances: dict[str, int] = {}
        self.booked: dict[str, Transfer] = {}
        self.failed: dict[str, tuple[Transfer, Status]] = {}
        self.order: list[tuple[int, Transfer]] = []
        self.closed_ms = -1

    def one(self, transfer: Transfer, at_ms: int) -> Status:
        for known, again in ((self.booked.get(transfer.id), Status.EXISTS), self.failed.get(transfer.id, (None, None))):
            if known is not None:
                return again if known == transfer else compare(known, transfer)
        debits, credits = KINDS[transfer.kind]
        if not 0 < transfer.amount_nanos <= MAX_NANOS or transfer.debit == transfer.credit:
            return check_form(transfer)
        if account_class(transfer.debit) not in debits or account_class(transfer.credit) not in credits:
            return check_form(transfer)
        status = self._money(transfer, at_ms)
        if status is Status.CREATED:
            self.balances[transfer.debit] = self.balances.get(transfer.debit, 0) - transfer.amount_nanos
            self.balances[transfer.credit] = self.balances.get(transfer.credit, 0) + transfer.amount_nanos
            self.booked[transfer.id] = transfer
            self.order.append((at_ms, transfer))
        elif status in KEPT:
            self.failed[transfer.id] = (transfer, status)
        return status

    def _money(self, transfer: Transfer, at_ms: int) -> Status:
        if at_ms <= self.closed_ms:
            return Status.PERIOD_CLOSED
        left = self.balances.get(transfer.debit, 0) - transfer.amount_nanos
        if left < 0 and transfer.debit not in ("world", "grants"):
            of_it = [one for _, one in self.order if transfer.debit in (one.debit, one.credit)]
            ended = transfer.debit.startswith("escrow:") and of_it and of_it[-1].kind == "release"
            empty = left + transfer.amount_nanos == 0
            return Status.HOLD_RELEASED if ended and empty else Status.WOULD_OVERDRAW
        if left < -MAX_NANOS or self.balances.get(transfer.credit, 0) + transfer.amount_nanos > MAX_NANOS:
            return Status.WOULD_OVERFLOW
        return Status.CREATED

    def chain(self, transfers: list[Transfer], at_ms: int) -> list[Status]:
        """All or nothing; the one that failed keeps its refusal, the others none."""
        before = (dict(self.balances), dict(self.booked), dict(self.failed), list(self.order))
        found = []
        for transfer in transfers:
            found.append(self.one(transfer, at_ms))
            if not found[-1].good and len(transfers) > 1:
                self.balances, self.booked, self.failed, self.order = before
                if found[-1] in KEPT:
                    self.failed.setdefault(transfer.id, (transfer, found[-1]))
                told = [Status.LINKED_FAILED] * len(transfers)
                told[len(found) - 1] = found[-1]
                return told
        if len(set(found)) > 1:  # a part of it was booked before
            self.balances, self.booked, self.failed, self.order = before
            return [one if one is Status.EXISTS else Status.LINKED_FAILED for one in found]
        return found

    def batch(self, transfers: list[Transfer], linked: list[bool], at_ms: int) -> list[Status]:
        found: list[Status] = []
        chain: list[Transfer] = []
        for transfer, goes_on in zip(transfers, linked, strict=True):
            chain.append(transfer)
            if not goes_on:
                found += self.chain(chain, at_ms)
                chain = []
        return found + [Status.LINKED_OPEN] * len(chain)


TRANSFERS = st.builds(
    Transfer,
    id=st.integers(0, 40).map(lambda n: f"t{n}"),
    kind=st.sampled_from([*KINDS]),
    debit=st.sampled_from([*ACCOUNTS, "grants", "credit:g"]),
    credit=st.sampled_from([*ACCOUNTS, "grants", "credit:g"]),
    amount_nanos=st.one_of(st.integers(-1, 30), st.sampled_from([MAX_NANOS, MAX_NANOS + 1])),
    job=st.sampled_from([None, "i"]),
)
USUAL = st.sampled_from(
    [("deposit", "world", "wallet:a"), ("hold", "wallet:a", "escrow:i"), ("charge", "escrow:i", "earnings:a"),
     ("release", "escrow:i", "wallet:a"), ("payout", "earnings:a", "world"), ("correction", "earnings:a", "wallet:a")]
)  # fmt: skip
LIKELY = st.builds(
    lambda sides, id, amount: Transfer(f"t{id}", *sides, amount), USUAL, st.integers(0, 40), st.integers(1, 30)
)
AGAIN = LIKELY.map(lambda one: replace(one, id=f"t{len(one.id) + one.amount_nanos % 5}"))
ROW = st.tuples(st.one_of(LIKELY, LIKELY, TRANSFERS), st.booleans())


class Batches(RuleBasedStateMachine):
    """Batches with and without chains, closed periods, snapshots: the packed ledger agrees with the plain one."""

    @initialize()
    def start(self) -> None:
        self.ledger, self.plain, self.now_ms, self.fresh = Ledger(), Careful(), 10, 0

    @rule(rows=st.lists(LIKELY, min_size=1, max_size=12))
    def new_ids(self, rows) -> None:
        """No chains, no retries: the short loop."""
        self.fresh += 1
        made = [replace(one, id=f"n{self.fresh}-{place}") for place, one in enumerate(rows)]
        self.batch([(one, False) for one in made], chains=False, ahead_ms=1)

    @rule(rows=st.lists(ROW, min_size=1, max_size=12), chains=st.booleans(), ahead_ms=st.integers(0, 3))
    def any_batch(self, rows, chains, ahead_ms) -> None:
        self.batch(rows, chains, ahead_ms)

    def batch(self, rows, chains, ahead_ms) -> None:
        self.now_ms += ahead_ms
        transfers = [one for one, _ in rows]
        linked = [goes_on and chains for _, goes_on in rows]
        batch = TransferBatch.of(transfers)
        before = self.ledger.to_bytes()
        found = self.ledger.decide(batch, self.now_ms, linked)
        assert self.ledger.to_bytes() == before
        assert found == self.plain.batch(transfers, linked, self.now_ms)
        kept = self.ledger.storable(batch, found)
        if kept is not None:
            at_ms, again = TransferBatch.decode(kept.encode(self.now_ms))
            self.ledger.book(again, at_ms)

    @rule(behind_ms=st.integers(0, 5))
    def close(self, behind_ms) -> None:
        through_ms = self.now_ms - behind_ms
        count, balances = self.ledger.balances_at(through_ms)
        booked = [one for at_ms, one in self.plain.order if at_ms <= through_ms]
        assert count == len(booked)
        sums: dict[str, int] = {}
        for one in booked:
            sums[one.debit] = sums.get(one.debit, 0) - one.amount_nanos
            sums[one.credit] = sums.get(one.credit, 0) + one.amount_nanos
        assert balances == sums
        self.ledger.closed_ms = self.plain.closed_ms = max(self.plain.closed_ms, through_ms)

    @rule()
    def recall(self) -> None:
        self.ledger = Ledger.from_bytes(self.ledger.to_bytes())

    @invariant()
    def agrees(self) -> None:
        assert self.ledger.total() == 0
        assert self.ledger.balances() == {
            account: nanos for account, nanos in self.plain.balances.items() if self.ledger.touched(account)
        }
        assert [one.id for _, one in self.plain.order] == [*self.plain.booked]
        assert all(self.ledger.transfer(id) == one for id, one in self.plain.booked.items())
        assert len(self.ledger) == len(self.plain.booked)
        assert {one.transfer.id: (one.transfer, one.status) for one in self.ledger.all_refused()} == self.plain.failed
        for account in ("wallet:a", "escrow:i"):
            shown = [entry.transfer for entry in self.ledger.entries(account)][::-1]
            assert shown == [one for _, one in self.plain.order if account in (one.debit, one.credit)]
            balance = 0
            for entry in [*self.ledger.entries(account)][::-1]:
                balance += entry.amount_nanos
                assert entry.balance_nanos == balance


TestBatches = Batches.TestCase
TestBatches.settings = settings(deadline=None, max_examples=100, stateful_step_count=15)


def test_a_batch_of_new_ids_is_decided_as_one_by_one() -> None:
    """The short loop for batches without chains and the whole ladder agree; see TestBatches for everything else."""
    rows = [Transfer(f"d{n}", "deposit", "world", f"wallet:{n % 3}", n + 1) for n in range(9)]
    rows += [Transfer("h", "hold", "wallet:0", "escrow:j", 12), Transfer("h2", "hold", "wallet:0", "escrow:j", 1)]
    rows += [Transfer("r", "release", "escrow:j", "wallet:0", 12), Transfer("c", "charge", "escrow:j", "earnings:p", 1)]
    rows += [Transfer("x", "charge", "wallet:0", "earnings:p", 1), Transfer("y", "hold", "wallet:0", "purse", 1)]
    batched, singly = Ledger(), Ledger()
    assert batched.decide(TransferBatch.of(rows), 1) == [singly.apply(one, 1) for one in rows]


def test_bytes_that_are_no_batch_or_no_ledger_are_refused() -> None:
    whole = TransferBatch.of([Transfer("a", "deposit", "world", "wallet:a", 1, job="j")]).encode(5)
    for cut in range(len(whole)):
        with pytest.raises(BadBatch):
            TransferBatch.decode(whole[:cut])
    for at in (4, 16, 20, 24, 28, 32, 33, 34, 38):
        with pytest.raises(BadBatch):
            TransferBatch.decode(whole[:at] + b"\xff" + whole[at + 1 :])
    ledger = Ledger()
    ledger.apply(Transfer("a", "deposit", "world", "wallet:a", 1))
    data = ledger.to_bytes()
    for at in range(len(data)):
        with pytest.raises(BadLedger):
            Ledger.from_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


SIDES = {
    "from the world": [("deposit", "world", f"wallet:{n % 3}") for n in range(7)],
    "to the world": [("payout", f"earnings:{n % 2}", "world") for n in range(5)],
    "from many to many": [("hold", f"wallet:{n % 3}", f"escrow:{n % 2}") for n in range(6)],
    "there and back": [("hold", "wallet:0", "escrow:0"), ("release", "escrow:0", "wallet:1"), ("hold", "wallet:1", "escrow:1")],
}


@pytest.mark.parametrize("sides", SIDES.values(), ids=SIDES)
def test_a_batch_books_what_its_transfers_book_one_by_one(sides: list[tuple[str, str, str]]) -> None:
    """To the last entry: whoever is on one side alone is booked apart from the others."""
    rich = [Transfer(f"d{n}", "deposit", "world", f"wallet:{n}", 1_000) for n in range(3)]
    for account in ("escrow:0", "escrow:1"):
        rich.append(Transfer(f"h-{account}", "hold", "wallet:2", account, 100))
    rich += [Transfer(f"e{n}", "charge", f"escrow:{n}", f"earnings:{n}", 50) for n in range(2)]
    batched, singly = Ledger(), Ledger()
    for at_ms in (1, 2):
        rows = rich if at_ms == 1 else [Transfer(f"x{n}", *side, n + 1) for n, side in enumerate(sides)]
        assert all(singly.apply(one, at_ms) is Status.CREATED for one in rows)
        batched.book(TransferBatch.of(rows), at_ms)
    assert batched.to_bytes() == singly.to_bytes()


@settings(max_examples=200, deadline=None)
@given(
    before=st.lists(AGAIN, max_size=8), asked=st.lists(AGAIN, min_size=1, max_size=6), refused=st.sampled_from(["", "t4"]),
    closed_ms=st.sampled_from([-1, 7]), floor_nanos=st.sampled_from([-MAX_NANOS, -20, 0, 5]), keeps=st.booleans(), recalled=st.booleans(),
)  # fmt: skip
def test_a_new_one_is_booked_as_it_is_checked_and_booked(before, asked, refused, closed_ms, floor_nanos, keeps, recalled) -> None:
    ledger = Ledger(keep_history=keeps)
    for one in before:
        ledger.apply(one, 5)
    if refused and ledger.transfer(refused) is None:
        ledger.refuse(Transfer(refused, "deposit", "world", "wallet:a", 1), Status.WOULD_OVERFLOW, 5)
    ledger.closed_ms = closed_ms
    plain = Ledger.from_bytes(ledger.to_bytes())
    ledger = Ledger.from_bytes(ledger.to_bytes()) if recalled else ledger
    for at_ms, one in enumerate(asked, 6):
        if check_form(one) is not None or (floor_nanos < 0 and one.debit != "world"):
            continue
        is_good = plain.check(one, at_ms) is Status.CREATED and plain.balance(one.debit) - one.amount_nanos >= floor_nanos
        if is_good:
            plain.book_one(one, at_ms)
        assert ledger.book_new(one, at_ms, floor_nanos) is is_good
        assert ledger.balances() == plain.balances()
        assert Ledger.from_bytes(ledger.to_bytes()).to_bytes() == ledger.to_bytes()
        assert [*ledger.entries(one.debit)] == [*plain.entries(one.debit)]
