"""The ladder of refusals row by row, and the ledger against a plain dict that believes only arithmetic."""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from storage.ledger import KINDS, Ledger, Status, Transfer, account_class
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
