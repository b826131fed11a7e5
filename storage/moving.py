"""What a batch of transfers does to accounts: exact loops over its rows, and for large batches the same over whole columns.

Columns are numpy's, which is imported with the first large batch. Their sums are integers of 64 bits, which wrap around: a balance
that was decided fits, so what is taken from a running sum that wrapped is exact all the same.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from storage.large import is_large
from storage.transfer_batches import TransferBatch
from storage.units import MAX_NANOS

if TYPE_CHECKING:
    import numpy as np

Columns = dict[str, "array[int]"]


def move(batch: TransferBatch, places: Sequence[int], balances: list[int], last: list[int], before: int) -> Columns:
    """Book the rows in order: `places` are the batch's names in `balances` and `last` (the number of each account's newest entry),
    which move; `before` transfers were booked before. The columns `debits` and `credits` in these places, and of each side
    `*_after`, the balance after each row, and `*_before`, the number of the account's entry before."""
    return (_move_columns if is_large(batch) else _move_rows)(batch, places, balances, last, before)


def _move_rows(batch: TransferBatch, places: Sequence[int], balances: list[int], last: list[int], before: int) -> Columns:
    n = len(batch)
    debits, credits = [places[one] for one in batch.debits], [places[one] for one in batch.credits]
    debit_after, credit_after, debit_before, credit_before = ([0] * n for _ in range(4))
    for row, payer, payee, amount in zip(range(n), debits, credits, batch.amounts, strict=True):
        number = before + row + 1
        debit_after[row] = balances[payer] = balances[payer] - amount
        debit_before[row] = last[payer]
        last[payer] = number
        credit_after[row] = balances[payee] = balances[payee] + amount
        credit_before[row] = last[payee]
        last[payee] = number
    return {
        "debits": array("I", debits), "credits": array("I", credits), "debit_after": array("q", debit_after),
        "credit_after": array("q", credit_after), "debit_before": array("I", debit_before), "credit_before": array("I", credit_before),
    }  # fmt: skip


def _move_columns(batch: TransferBatch, places: Sequence[int], balances: list[int], last: list[int], before: int) -> Columns:
    """Every row has two entries, its debit and then its credit. Sorted by account they are runs, in each of which a running sum
    gives the balances and the neighbour the entry before."""
    import numpy as np

    n, there = len(batch), np.array(places)
    amounts = np.asarray(batch.amounts, np.int64)
    entries, nanos = np.empty((n, 2), np.int64), np.empty((n, 2), np.int64)
    entries[:, 0], entries[:, 1] = there[np.asarray(batch.debits, np.intp)], there[np.asarray(batch.credits, np.intp)]
    nanos[:, 0], nanos[:, 1] = -amounts, amounts
    bits = (2 * n).bit_length()
    sorted_ = np.sort(entries.ravel() << bits | np.arange(2 * n))  # an account's entries in their order
    order, accounts = sorted_ & (1 << bits) - 1, sorted_ >> bits
    begins = np.flatnonzero(np.diff(accounts, prepend=-1))
    ends = np.append(begins[1:], 2 * n)
    touched = accounts[begins].tolist()
    moved = nanos.ravel()[order]
    sums = np.cumsum(moved)
    base = np.array([balances[one] for one in touched], np.int64) - (sums[begins] - moved[begins])
    sums += np.repeat(base, ends - begins)
    numbers = (order >> 1) + (before + 1)
    earlier = np.empty_like(numbers)
    earlier[1:] = numbers[:-1]
    earlier[begins] = [last[one] for one in touched]
    for account, balance, number in zip(touched, sums[ends - 1].tolist(), numbers[ends - 1].tolist(), strict=True):
        balances[account], last[account] = balance, number
    nanos.ravel()[order] = sums
    after, numbers[order] = nanos, earlier
    numbers = numbers.reshape(n, 2)
    return {
        "debits": _column("I", entries[:, 0]), "credits": _column("I", entries[:, 1]), "debit_after": _column("q", after[:, 0]),
        "credit_after": _column("q", after[:, 1]), "debit_before": _column("I", numbers[:, 0]), "credit_before": _column("I", numbers[:, 1]),
    }  # fmt: skip


def _column(kind: str, values: np.ndarray[Any, Any]) -> array[int]:
    return array(kind, values.astype(kind).tobytes())


def are_amounts(nanos: Sequence[int]) -> bool:
    """Whether every one is from 1 to MAX_NANOS."""
    if not is_large(nanos):
        return min(nanos) > 0 and max(nanos) <= MAX_NANOS
    import numpy as np

    try:
        return bool(np.asarray(nanos, np.int64).min() > 0)
    except OverflowError:
        return False


def places_named(batch: TransferBatch) -> set[int]:
    """The names that are an account of some row."""
    if not is_large(batch):
        return {*batch.debits, *batch.credits}
    import numpy as np

    is_named = np.zeros(len(batch.names), bool)
    is_named[np.asarray(batch.debits, np.intp)] = is_named[np.asarray(batch.credits, np.intp)] = True
    return set(np.flatnonzero(is_named).tolist())


def unsure_rows(
    batch: TransferBatch, balances: Sequence[int], lowest: Sequence[int], debit_kinds: Sequence[int], credit_kinds: Sequence[int]
) -> Sequence[int]:  # fmt: skip
    """Rows that may have to be refused, in order, of a large batch whose amounts are from 1 to MAX_NANOS; all by the batch's names.

    Of the others the form is right, and neither account can come below its `lowest` or over MAX_NANOS, whichever of the batch's rows
    are booked: it could pay all of its rows without being paid, and be paid all without paying.
    """
    import numpy as np

    amounts, kinds = np.asarray(batch.amounts, np.int64), np.frombuffer(batch.kinds, np.uint8)
    debits, credits = np.asarray(batch.debits, np.intp), np.asarray(batch.credits, np.intp)
    if len(batch) * int(amounts.max()) > MAX_NANOS:  # then a sum might not fit
        return range(len(batch))
    held, least = np.array(balances, np.int64), np.array(lowest, np.int64)
    # What lies between two numbers of 64 bits fits into 64 bits without a sign.
    below, above = held.view(np.uint64) - least.view(np.uint64), np.uint64(MAX_NANOS) - held.view(np.uint64)
    sure = (held >= least) & (_sums(debits, amounts, len(held)) <= below) & (_sums(credits, amounts, len(held)) <= above)
    allowed = (np.array(debit_kinds)[debits] & np.array(credit_kinds)[credits]) >> kinds & 1
    good = sure[debits] & sure[credits] & (debits != credits) & (allowed == 1)
    unsure: list[int] = np.flatnonzero(~good).tolist()
    return unsure


def _sums(places: np.ndarray[Any, Any], amounts: np.ndarray[Any, Any], n: int) -> np.ndarray[Any, Any]:
    """What each of `n` places has in all, exactly: `bincount` adds floats, in which sums of halves of 32 bits are whole numbers."""
    import numpy as np

    low, high = (np.bincount(places, half, n).astype(np.uint64) for half in (amounts & 2**32 - 1, amounts >> 32))
    found: np.ndarray[Any, Any] = low + (high << np.uint64(32))
    return found
