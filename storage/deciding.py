"""Many transfers decided at once by an exact sequential loop: each stands on those before it, as if they came one by one.

Nothing here changes the ledger. `storage/transfers.py` has the ladder; a batch whose ids are all new, which has no chains and
comes after the last closed period needs balances alone (`_decide_new`; of a large one only the rows that storage/moving.py leaves
unsure), every other one the whole ladder (`_Ladder`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import compress, repeat
from operator import is_not
from typing import TYPE_CHECKING, Final

from storage.large import is_large
from storage.moving import are_amounts, unsure_rows
from storage.transfer_batches import TransferBatch
from storage.transfers import (
    KEPT,
    KIND_CODES,
    STATUS_CODES,
    UNBOUNDED,
    Status,
    Transfer,
    account_class,
    check_form,
    compare,
    may_move,
)
from storage.units import MAX_NANOS

if TYPE_CHECKING:
    from storage.ledger import Ledger

Floors = Mapping[str, int]
_UNBOUNDED_FLOORS: Final = dict.fromkeys(UNBOUNDED, -MAX_NANOS)


def decide(
    ledger: Ledger, batch: TransferBatch, at_ms: int, linked: Sequence[bool], floors: Floors, wrong: Mapping[int, Status]
) -> list[Status]:  # fmt: skip
    """See `Ledger.decide`."""
    ids = batch.ids
    different = set(ids)
    is_new = 0 < len(ids) == len(different) and ledger.knows_none(ids) and "" not in different
    if is_new and are_amounts(batch.amounts) and not wrong and at_ms > ledger.closed_ms and not any(linked):
        return _decide_new(ledger, batch, floors)
    return _Ladder(ledger, batch, at_ms, floors, wrong).decide(linked)


def storable(ledger: Ledger, batch: TransferBatch, found: Sequence[Status]) -> TransferBatch | None:
    """Of a decided batch what its record keeps: what is booked now, and refusals whose id had none yet; None for nothing."""
    if found.count(Status.CREATED) == len(found):
        return batch
    codes = bytearray(len(found))
    stays = bytearray(b"\1" * len(found))
    failed: set[str] = set()
    for row in compress(range(len(found)), map(is_not, found, repeat(Status.CREATED))):
        id, code = batch.ids[row], STATUS_CODES.get(found[row], 0)
        codes[row] = code
        if not code or id in failed or ledger.refused(id) is not None:
            stays[row] = 0
        else:
            failed.add(id)
    return batch.take(stays, codes) if any(stays) else None


def _floor(account: str, floors: Floors) -> int:
    return floors.get(account, _UNBOUNDED_FLOORS.get(account, 0))


def _decide_new(ledger: Ledger, batch: TransferBatch, floors: Floors) -> list[Status]:
    names = batch.names
    balances = ledger.balances_of(names)
    least = {**_UNBOUNDED_FLOORS, **floors}
    lowest = [least.get(name, 0) for name in names]
    debit_kinds, credit_kinds = may_move(names)
    created = Status.CREATED
    found = [created] * len(batch)
    rows: Sequence[int] = range(len(found))
    columns: tuple[Sequence[int], ...] = (batch.kinds, batch.debits, batch.credits, batch.amounts)
    if is_large(batch):
        rows = unsure_rows(batch, balances, lowest, debit_kinds, credit_kinds)
        columns = tuple([column[row] for row in rows] for column in columns)
    for row, kind, debit, credit, amount in zip(rows, *columns, strict=True):
        debited, credited = balances[debit] - amount, balances[credit] + amount
        is_formed = (debit_kinds[debit] & credit_kinds[credit]) >> kind & 1 and debit != credit
        if is_formed and debited >= lowest[debit] and credited <= MAX_NANOS:
            balances[debit], balances[credit] = debited, credited
        else:
            wrong = None if is_formed else check_form(batch.transfer(row))
            found[row] = wrong or _by_balances(ledger, batch, found, row, debited, credited, floors)
            assert found[row] is not created, "what can be booked is booked above"
    return found


def _by_balances(
    ledger: Ledger, batch: TransferBatch, found: Sequence[Status], row: int, debited: int, credited: int, floors: Floors
) -> Status:  # fmt: skip
    """Why the transfer of a row cannot be; CREATED if it can. `found` tells of those before it.

    `debited` and `credited` are the balances after it.
    """
    account = batch.names[batch.debits[row]]
    if debited < _floor(account, floors) and account not in UNBOUNDED:
        released = debited + batch.amounts[row] == 0 and _is_released(ledger, batch, found, row)
        return Status.HOLD_RELEASED if released else Status.WOULD_OVERDRAW
    if debited < -MAX_NANOS or credited > MAX_NANOS:
        return Status.WOULD_OVERFLOW
    return Status.TOO_MUCH_MONEY if debited < _floor(account, floors) else Status.CREATED


def _is_released(ledger: Ledger, batch: TransferBatch, found: Sequence[Status], row: int) -> bool:
    """Whether the last that the debited account of a row, which is empty, saw of batch and ledger was a release."""
    place = batch.debits[row]
    account = batch.names[place]
    if account_class(account) != "escrow":
        return False
    for before in range(row - 1, -1, -1):
        if place in (batch.debits[before], batch.credits[before]) and found[before] is Status.CREATED:
            return batch.kinds[before] == KIND_CODES["release"]
    return ledger.is_released(account)


class _Ladder:
    """The whole ladder for one batch; balances and ids of the batch lie over the ledger's."""

    def __init__(self, ledger: Ledger, batch: TransferBatch, at_ms: int, floors: Floors, wrong: Mapping[int, Status]) -> None:
        self.ledger = ledger
        self.batch = batch
        self.at_ms = at_ms
        self.floors = floors
        self.wrong = wrong
        self.balances = ledger.balances_of(batch.names)
        self.known: dict[str, tuple[Transfer, Status]] = {}
        self.found: list[Status] = []

    def decide(self, linked: Sequence[bool]) -> list[Status]:
        n = len(self.batch)
        first = 0
        while first < n:
            end = first
            while linked and end < n and linked[end]:
                end += 1
            if end == n:
                self.found += [Status.LINKED_OPEN] * (n - first)
            elif end == first:
                self.found.append(self._judge(first))
            else:
                self._chain(first, end + 1)
            first = end + 1
        return self.found

    def _chain(self, first: int, end: int) -> None:
        """Rows `first` to `end` - 1, all or nothing. EXISTS is good: a chain that is said again finds itself."""
        balances, known = list(self.balances), dict(self.known)
        for row in range(first, end):
            self.found.append(self._judge(row))
            if not self.found[-1].good:
                break
        told = self.found[first:]
        failed = None if told[-1].good else len(told) - 1
        if failed is None and len(set(told)) == 1:
            return
        self.balances, self.known = balances, known
        if failed is None:  # a part of the chain was booked before, alone or in another one
            told = [status if status is Status.EXISTS else Status.LINKED_FAILED for status in told]
        else:
            self._keep(first + failed, told[failed])
            told = [told[failed] if row == first + failed else Status.LINKED_FAILED for row in range(first, end)]
        self.found[first:] = told

    def _judge(self, row: int) -> Status:
        transfer = self.batch.transfer(row)
        status = self._status(row, transfer)
        if status is Status.CREATED:
            self.balances[self.batch.debits[row]] -= transfer.amount_nanos
            self.balances[self.batch.credits[row]] += transfer.amount_nanos
        self._keep(row, status)
        return status

    def _keep(self, row: int, status: Status) -> None:
        if status is Status.CREATED or status in KEPT:
            self.known.setdefault(self.batch.ids[row], (self.batch.transfer(row), status))

    def _status(self, row: int, transfer: Transfer) -> Status:
        if row in self.wrong:
            return self.wrong[row]
        here = self.known.get(transfer.id)
        if here is not None:
            same = compare(here[0], transfer)
            return same if same is not Status.EXISTS or here[1] is Status.CREATED else here[1]
        if not self.ledger.knows_none((transfer.id,)):
            return self.ledger.check(transfer)
        wrong = check_form(transfer)
        if wrong is not None:
            return wrong
        if self.at_ms <= self.ledger.closed_ms:
            return Status.PERIOD_CLOSED
        debited = self.balances[self.batch.debits[row]] - transfer.amount_nanos
        credited = self.balances[self.batch.credits[row]] + transfer.amount_nanos
        return _by_balances(self.ledger, self.batch, self.found, row, debited, credited, self.floors)
