"""Large batches, decided and booked by columns, come to what they come to row by row, to the last byte."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import large
from storage.ledger import KINDS, Ledger, Status, Transfer
from storage.moving import unsure_rows
from storage.transfer_batches import TransferBatch
from storage.transfers import may_move
from storage.units import MAX_NANOS
from tests.storage.test_ledger import Batches

NAMES = ["world", "grants", "fee", "wallet:a", "wallet:b", "escrow:i", "escrow:j", "earnings:a", "credit:g"]
USUAL = [
    ("deposit", "world", "wallet:a"), ("deposit", "world", "wallet:b"), ("hold", "wallet:a", "escrow:i"), ("hold", "wallet:b", "escrow:i"),
    ("charge", "escrow:i", "earnings:a"), ("fee", "escrow:i", "fee"), ("release", "escrow:i", "wallet:a"), ("payout", "earnings:a", "world"),
]  # fmt: skip
AMOUNT = st.one_of(st.integers(1, 30), st.integers(1, 2**40), st.sampled_from([MAX_NANOS, MAX_NANOS - 7, 2**62, 2**32]))
ANY = st.tuples(st.sampled_from([*KINDS]), st.sampled_from([*NAMES, "purse", "wallet:"]), st.sampled_from(NAMES))
ROWS = st.lists(st.tuples(st.one_of(st.sampled_from(USUAL), st.sampled_from(USUAL), ANY), AMOUNT), min_size=1, max_size=40)


def transfers(rows: Sequence[tuple[tuple[str, str, str], int]], mark: str) -> list[Transfer]:
    return [Transfer(f"{mark}{number}", *sides, nanos) for number, (sides, nanos) in enumerate(rows)]


def both_ways(ledger: Ledger, batch: TransferBatch, at_ms: int, floors: dict[str, int]) -> tuple[list[Status], Ledger]:
    """What is decided, and the ledger with what is kept; by columns and by rows the same."""
    told = []
    for least in (1, 1 << 30):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(large, "LARGE", least)
            books = Ledger.from_bytes(ledger.to_bytes())
            found = books.decide(batch, at_ms, floors=floors)
            kept = books.storable(batch, found)
            if kept is not None:
                books.book(TransferBatch.decode(kept.encode(at_ms))[1], at_ms)
            told.append((found, books, books.to_bytes()))
    assert told[0][0] == told[1][0]
    assert told[0][2] == told[1][2]
    return told[0][:2]


@settings(max_examples=150, deadline=None)
@given(batches=st.lists(ROWS, min_size=1, max_size=3), held=st.integers(0, 40), most=st.sampled_from([50, 2**41, 2**62]))
def test_columns_and_rows_decide_and_book_alike(batches, held: int, most: int) -> None:
    floors = {"earnings:a": held, "world": -most}
    ledger, singly = Ledger(), Ledger()
    for at_ms, rows in enumerate(batches):
        made = transfers(rows, f"{at_ms}-")
        found, ledger = both_ways(ledger, TransferBatch.of(made), at_ms, floors)
        for one, status in zip(made, found, strict=True):
            if status is Status.CREATED:
                assert singly.apply(one, at_ms) is status
            elif singly.check(one, at_ms) is not status:  # then a floor says so, that the ledger does not know
                assert status in (Status.TOO_MUCH_MONEY, Status.WOULD_OVERDRAW, Status.HOLD_RELEASED)
                assert singly.balance(one.debit) - one.amount_nanos < floors.get(one.debit, 0)
        assert ledger.balances() == {name: singly.balance(name) for name in ledger.balances()}
        assert ledger.total() == 0


def test_a_whole_batch_of_deposits_holds_charges_and_payouts() -> None:
    draw = random.Random(5)
    ledger = Ledger()
    for at_ms in range(3):
        rows = [((kind, *sides), draw.randrange(1, 10**9)) for kind, *sides in draw.choices(USUAL, k=8_190)]
        found, ledger = both_ways(ledger, TransferBatch.of(transfers(rows, f"{at_ms}-")), at_ms, {"world": -(10**13)})
        assert {Status.CREATED, Status.WOULD_OVERDRAW} <= {*found}
    assert ledger.total() == 0


@pytest.mark.parametrize(
    ("balance", "least", "amounts", "unsure"),
    [
        (0, 0, [1], [0]), (1, 0, [1], []), (2, 0, [1, 2], [0, 1]), (3, 0, [1, 2], []), (3, 1, [1, 2], [0, 1]), (-1, 0, [1], [0]),
        (0, -MAX_NANOS, [MAX_NANOS], []), (0, -MAX_NANOS, [1, MAX_NANOS], [0, 1]), (MAX_NANOS, -MAX_NANOS, [MAX_NANOS], []),
        (2**61, 0, [2**60, 2**60], []), (2**61, 0, [2**60, 2**60 + 1], [0, 1]),
    ],
)  # fmt: skip
def test_a_payer_is_sure_when_it_could_pay_all_of_its_rows(balance: int, least: int, amounts: list[int], unsure: list[int]) -> None:
    batch = TransferBatch(["earnings:a", "world"], ["x"] * len(amounts), bytes([7] * len(amounts)), [0] * len(amounts), [1] * len(amounts), amounts)
    assert [*unsure_rows(batch, [balance, -MAX_NANOS], [least, -MAX_NANOS], *may_move(batch.names))] == unsure


@pytest.mark.parametrize(("balance", "unsure"), [(0, []), (MAX_NANOS - 3, []), (MAX_NANOS - 2, [0, 1]), (MAX_NANOS, [0, 1])])
def test_a_payee_is_sure_when_it_could_be_paid_all_of_its_rows(balance: int, unsure: list[int]) -> None:
    batch = TransferBatch(["world", "wallet:a"], ["x", "y"], bytes(2), [0, 0], [1, 1], [1, 2])
    assert [*unsure_rows(batch, [0, balance], [-MAX_NANOS, 0], *may_move(batch.names))] == unsure


class LargeBatches(Batches):
    """The same machine, with columns for every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(large, "LARGE", 1)

    def teardown(self) -> None:
        self.patch.undo()


TestLargeBatches = LargeBatches.TestCase
TestLargeBatches.settings = settings(deadline=None, max_examples=60, stateful_step_count=12)
