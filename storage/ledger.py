"""Double entry in integer nano-dollars: every transfer is one debit and one credit.

A balance is credits minus debits. Wallets, escrows, earnings, credits and the fee account never go below zero; `world` is
minus everything that was ever paid in and not paid out, `grants` minus everything that was granted and has not expired; so
all balances together are always zero.

`check` is a straight ladder of named refusals, idempotency first, after TigerBeetle's `create_transfer`. A refusal that hangs
on the state of the books is kept with its id (`refuse`), so that a retry gets the same answer. Transfers are kept in packed
columns, about 60 bytes each beside the id; `storage/deciding.py` decides many at once by one exact sequential loop.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import compress
from typing import Any

from storage.deciding import Floors, decide, storable
from storage.ledger_bytes import COLUMNS, read_ledger, write_ledger
from storage.moving import move, places_named
from storage.transfer_batches import TransferBatch
from storage.transfer_ids import TransferIds
from storage.transfers import (
    FEE,
    GRANTS,
    KIND_CODES,
    KIND_NAMES,
    KINDS,
    STATUS_OF_CODE,
    UNBOUNDED,
    WORLD,
    Status,
    Transfer,
    account_class,
    check_form,
    compare,
    credit,
    earnings,
    escrow,
    wallet,
)
from storage.units import MAX_NANOS

__all__ = [
    "FEE", "GRANTS", "KINDS", "WORLD", "Entry", "Ledger", "Refused", "Status", "Transfer", "account_class", "credit", "earnings",
    "escrow", "wallet",
]  # fmt: skip


_IS_BOOKED = bytes([1]) + bytes(255)  # by the code of a status


@dataclass(frozen=True, slots=True)
class Entry:
    """One side of a transfer as its account saw it: signed amount, and the balance after it.

    `number` counts the transfers of the whole ledger from 1, `at_ms` is when it was applied.
    """

    number: int
    at_ms: int
    transfer: Transfer
    amount_nanos: int
    balance_nanos: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A transfer whose id failed, and stays so."""

    transfer: Transfer
    status: Status
    at_ms: int


class Ledger:
    """All accounts in memory. `apply` checks and books one transfer, `decide` and `book` many.

    `closed_ms`: nothing books at or before it (-1: no period was closed).
    """

    def __init__(self, *, keep_history: bool = True) -> None:
        """Without `keep_history` only balances are kept: an id that comes again is then not known."""
        self.closed_ms = -1
        self._bare: dict[str, int] | None = None if keep_history else {}
        self._accounts: dict[str, int] = {}
        self._names: list[str] = []
        self._balances: list[int] = []
        self._last: list[int] = []  # number of each account's newest entry, 0 for none
        self._ids = TransferIds()
        self._texts: dict[str, int] = {}  # jobs and leases, from 1
        self._text_of: list[str] = [""]
        self._refused: dict[str, Refused] = {}
        self._kinds = bytearray()
        self._at = array("q")
        self._amounts = array("q")
        self._debits, self._credits = array("I"), array("I")
        self._jobs, self._leases = array("I"), array("I")
        # Of each side: the balance after, and the number of the account's entry before (0: none).
        self._debit_after, self._credit_after = array("q"), array("q")
        self._debit_before, self._credit_before = array("I"), array("I")

    def balance(self, account: str) -> int:
        """Credits minus debits in nano-dollars; 0 for an account that nothing has touched."""
        if self._bare is not None:
            return self._bare.get(account, 0)
        index = self._accounts.get(account)
        return 0 if index is None else self._balances[index]

    def balances_of(self, accounts: Iterable[str]) -> list[int]:
        """The same of many."""
        if self._bare is not None:
            return [self._bare.get(account, 0) for account in accounts]
        places, balances = map(self._accounts.get, accounts), self._balances
        return [0 if place is None else balances[place] for place in places]

    def balances(self) -> dict[str, int]:
        """A copy of every balance; without history of those alone that are not 0."""
        return dict(zip(self._names, self._balances, strict=True)) if self._bare is None else dict(self._bare)

    def total(self) -> int:
        """The sum of all balances: always 0."""
        return sum(self._balances if self._bare is None else self._bare.values())

    def transfer(self, id: str) -> Transfer | None:
        """The booked transfer of that id."""
        number = self._ids.number(id)
        return None if number is None else self._transfer(number)

    def at_ms(self, id: str) -> int | None:
        """When the transfer of that id was booked."""
        number = self._ids.number(id)
        return None if number is None else self._at[number - 1]

    def refused(self, id: str) -> Refused | None:
        """What of that id was refused for good."""
        return self._refused.get(id)

    def all_refused(self) -> Iterator[Refused]:
        """Every id that failed, oldest first."""
        return iter(self._refused.values())

    def touched(self, account: str) -> bool:
        """Whether the account ever had an entry."""
        return account in self._accounts

    def knows_none(self, ids: Sequence[str]) -> bool:
        """Whether none of these ids was ever booked or refused for good."""
        return self._ids.has_none(ids) and self._refused.keys().isdisjoint(ids)

    def is_released(self, account: str) -> bool:
        """Whether the last that this account saw was its release."""
        if account_class(account) != "escrow":
            return False
        newest = next(self.entries(account, limit=1), None)
        return newest is not None and newest.transfer.kind == "release"

    def __len__(self) -> int:
        return len(self._ids)

    def entries(self, account: str, *, after: str | None = None, limit: int | None = None) -> Iterator[Entry]:
        """The account's entries, newest first; with `after`, those older than the transfer of that id."""
        index = self._accounts.get(account)
        if index is None:
            return
        number = self._last[index]
        if after is not None:
            known = self._ids.number(after)
            if not known or index not in (self._debits[known - 1], self._credits[known - 1]):
                return
            number = self._before(known, index)
        while number and (limit is None or limit > 0):
            yield self._entry(number, index)
            limit = None if limit is None else limit - 1
            number = self._before(number, index)

    def balances_at(self, through_ms: int) -> tuple[int, dict[str, int]]:
        """How many transfers were booked up to and at that time, and every balance then, by account."""
        count = bisect_right(self._at, through_ms)
        found: dict[str, int] = {}
        for name, index in self._accounts.items():
            number = self._last[index]
            while number > count:
                number = self._before(number, index)
            if number:
                found[name] = self._after(number, index)
        return count, dict(sorted(found.items()))

    def check(self, transfer: Transfer, at_ms: int | None = None) -> Status:
        """What `apply` would answer at that time, changing nothing."""
        known = self._ids.number(transfer.id)
        if known is not None:
            return compare(self._transfer(known), transfer)
        failed = self._refused.get(transfer.id)
        if failed is not None:
            same = compare(failed.transfer, transfer)
            return failed.status if same is Status.EXISTS else same
        refusal = check_form(transfer)
        if refusal is not None:
            return refusal
        if at_ms is not None and at_ms <= self.closed_ms:
            return Status.PERIOD_CLOSED
        debited = self.balance(transfer.debit) - transfer.amount_nanos
        if debited < 0 and transfer.debit not in UNBOUNDED:
            released = debited + transfer.amount_nanos == 0 and self.is_released(transfer.debit)
            return Status.HOLD_RELEASED if released else Status.WOULD_OVERDRAW
        if debited < -MAX_NANOS or self.balance(transfer.credit) + transfer.amount_nanos > MAX_NANOS:
            return Status.WOULD_OVERFLOW
        return Status.CREATED

    def apply(self, transfer: Transfer, at_ms: int = 0) -> Status:
        """Book the transfer if the ladder says CREATED; EXISTS and refusals change nothing."""
        least = -MAX_NANOS if transfer.debit in UNBOUNDED else 0
        if check_form(transfer) is None and self.book_new(transfer, at_ms, least):
            return Status.CREATED
        return self.check(transfer, at_ms)

    def decide(
        self, batch: TransferBatch, at_ms: int, linked: Sequence[bool] = (), floors: Floors | None = None,
        wrong: Mapping[int, Status] | None = None,
    ) -> list[Status]:  # fmt: skip
        """What becomes of each transfer, in order, every one standing on those before it; changes nothing.

        `linked`: whether it stands and falls with the one after it. `floors`: the least that
        an account may hold, where that is not what the ledger says itself.
        `wrong`: rows that somebody else has refused already.
        """
        return decide(self, batch, at_ms, linked, floors or {}, wrong or {})

    def storable(self, batch: TransferBatch, found: Sequence[Status]) -> TransferBatch | None:
        """What the record of a decided batch holds, to be booked; None if there is nothing to keep."""
        return storable(self, batch, found)

    def refuse(self, transfer: Transfer, status: Status, at_ms: int) -> None:
        """Keep a refusal, so that the id stays failed."""
        if self._bare is None:
            self._refused[transfer.id] = Refused(transfer, status, at_ms)

    def to_bytes(self) -> bytes:
        """Everything, for a snapshot (storage/ledger_bytes.py); `from_bytes` makes an equal ledger of it."""
        return write_ledger(self._columns(), self._state(), self._ids)

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> "Ledger":
        """The ledger that `to_bytes` wrote. Raises BadLedger."""
        columns, state, ids = read_ledger(data)
        made = cls(keep_history=state["bare"] is None)
        made.closed_ms, made._bare = state["closed_ms"], state["bare"]
        made._names, made._text_of, made._balances, made._last = (
            state[name] for name in ("names", "texts", "balances", "last")
        )
        made._accounts = {name: place for place, name in enumerate(made._names)}
        made._texts = {text: place for place, text in enumerate(made._text_of) if place}
        made._refused = {one[0]: Refused(Transfer(*one[:7]), Status(one[7]), one[8]) for one in state["refused"]}
        made._ids = ids
        for name, column in columns.items():
            setattr(made, f"_{name}", column)
        return made

    def _columns(self) -> "dict[str, bytearray | array[int]]":
        return {name: getattr(self, f"_{name}") for name in COLUMNS}

    def _state(self) -> dict[str, Any]:
        refused = [[*astuple(one.transfer), str(one.status), one.at_ms] for one in self._refused.values()]
        return {
            "closed_ms": self.closed_ms, "bare": self._bare, "names": self._names, "texts": self._text_of,
            "balances": self._balances, "last": self._last, "refused": refused,
        }  # fmt: skip

    def book(self, batch: TransferBatch, at_ms: int) -> None:
        """Book, or keep as refused, what was decided: by the batch's statuses."""
        if any(batch.statuses):
            for row in compress(range(len(batch)), batch.statuses):
                self.refuse(batch.transfer(row), STATUS_OF_CODE[batch.statuses[row]], at_ms)
            good = batch.statuses.translate(_IS_BOOKED)
            batch = batch.take(good, bytes(len(good)))
        if self._bare is not None:
            for row in range(len(batch)):
                self.book_one(batch.transfer(row), at_ms)
        elif len(batch):
            self._book(batch, at_ms)

    def _book(self, batch: TransferBatch, at_ms: int) -> None:
        n = len(batch)
        assert not self._at or at_ms >= self._at[-1], f"booked at {at_ms}, before {self._at[-1]}"
        moved = move(batch, self._places(batch), self._balances, self._last, len(self._ids))
        self._ids.extend(batch.ids)
        self._kinds += batch.kinds
        self._at.extend(array("q", [at_ms]) * n)
        _extend(self._amounts, batch.amounts)
        for name, column in moved.items():
            getattr(self, f"_{name}").extend(column)
        for column, marks in ((self._jobs, batch.jobs), (self._leases, batch.leases)):
            if marks:
                _extend(column, [self._text(batch.names[mark - 1]) if mark else 0 for mark in marks])
            else:
                column.frombytes(bytes(n * column.itemsize))

    def book_one(self, transfer: Transfer, at_ms: int) -> None:
        """Book a transfer that `check` has just found to be CREATED: nothing is looked at again."""
        if self._bare is not None:
            _leave(self._bare, transfer.debit, self._bare.get(transfer.debit, 0) - transfer.amount_nanos)
            _leave(self._bare, transfer.credit, self._bare.get(transfer.credit, 0) + transfer.amount_nanos)
            return
        self._ids.append(transfer.id)
        self._enter(transfer, at_ms, self._place(transfer.debit), self._place(transfer.credit))

    def book_new(self, transfer: Transfer, at_ms: int, floor_nanos: int) -> bool:
        """Book a transfer of good form, if its id is new, its period is open, and its payer is left with `floor_nanos` or more.

        Else nothing changes, and `check` tells why, where it is not the floor. It is what `check` and `book_one` do, with one look at
        ids and accounts. `floor_nanos` is what the payer's account may hold at least, or more.
        """
        amount, balances, bare = transfer.amount_nanos, self._balances, self._bare
        if bare is not None:
            paid, got = bare.get(transfer.debit, 0) - amount, bare.get(transfer.credit, 0) + amount
            if paid < floor_nanos or got > MAX_NANOS or at_ms <= self.closed_ms:
                return False
            _leave(bare, transfer.debit, paid)
            _leave(bare, transfer.credit, got)
            return True
        payer, payee = self._accounts.get(transfer.debit), self._accounts.get(transfer.credit)
        if (0 if payer is None else balances[payer]) - amount < floor_nanos or (0 if payee is None else balances[payee]) > MAX_NANOS - amount:
            return False
        if at_ms <= self.closed_ms or transfer.id in self._refused or not self._ids.add(transfer.id):
            return False
        payer = self._place(transfer.debit) if payer is None else payer
        self._enter(transfer, at_ms, payer, self._place(transfer.credit) if payee is None else payee)
        return True

    def _enter(self, transfer: Transfer, at_ms: int, payer: int, payee: int) -> None:
        amount, balances, last = transfer.amount_nanos, self._balances, self._last
        assert not self._at or at_ms >= self._at[-1], f"booked at {at_ms}, before {self._at[-1]}"
        self._kinds.append(KIND_CODES[transfer.kind])
        self._at.append(at_ms)
        self._amounts.append(amount)
        number = len(self._at)
        balances[payer] = balance = balances[payer] - amount
        self._debits.append(payer)
        self._debit_before.append(last[payer])
        self._debit_after.append(balance)
        last[payer] = number
        balances[payee] = balance = balances[payee] + amount
        self._credits.append(payee)
        self._credit_before.append(last[payee])
        self._credit_after.append(balance)
        last[payee] = number
        self._jobs.append(0 if transfer.job is None else self._text(transfer.job))
        self._leases.append(0 if transfer.lease is None else self._text(transfer.lease))

    def _places(self, batch: TransferBatch) -> list[int]:
        """Of the batch's names that are accounts the place here; others, which no side names, may get none."""
        places = [self._accounts.get(name, -1) for name in batch.names]
        if -1 in places:
            sides = places_named(batch)
            places = [self._place(name) if place in sides else -1 for place, name in enumerate(batch.names)]
        return places

    def _place(self, account: str) -> int:
        index = self._accounts.get(account)
        if index is None:
            index = self._accounts[account] = len(self._names)
            self._names.append(account)
            self._balances.append(0)
            self._last.append(0)
        return index

    def _text(self, text: str) -> int:
        index = self._texts.setdefault(text, len(self._text_of))
        if index == len(self._text_of):
            self._text_of.append(text)
        return index

    def _before(self, number: int, index: int) -> int:
        row = number - 1
        return self._debit_before[row] if self._debits[row] == index else self._credit_before[row]

    def _after(self, number: int, index: int) -> int:
        row = number - 1
        return self._debit_after[row] if self._debits[row] == index else self._credit_after[row]

    def _entry(self, number: int, index: int) -> Entry:
        row = number - 1
        amount = -self._amounts[row] if self._debits[row] == index else self._amounts[row]
        return Entry(number, self._at[row], self._transfer(number), amount, self._after(number, index))

    def _transfer(self, number: int) -> Transfer:
        row = number - 1
        job, lease = self._jobs[row], self._leases[row]
        return Transfer(
            self._ids.of(number), KIND_NAMES[self._kinds[row]], self._names[self._debits[row]], self._names[self._credits[row]],
            self._amounts[row], self._text_of[job] if job else None, self._text_of[lease] if lease else None,
        )  # fmt: skip


def _extend(column: "array[int]", values: Sequence[int]) -> None:
    """Much faster than to extend an array by what is no array."""
    column.extend(values if isinstance(values, array) else array(column.typecode, values))


def _leave(balances: dict[str, int], account: str, nanos: int) -> None:
    """An account that has nothing is forgotten."""
    if nanos:
        balances[account] = nanos
    else:
        balances.pop(account, None)
