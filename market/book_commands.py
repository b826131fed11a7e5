"""Commands of operators about the books themselves; market/commands.py has them all."""

from __future__ import annotations

from collections.abc import Sequence

from storage.values import value


@value
class BookTransfers:
    """Operators only: many deposits and payouts, each answered for itself, in one record. Columns of equal length: `kinds` are
    deposit or payout, `accounts` members; `linked` (empty: none is): whether it stands and falls with the one after it."""

    by: str
    ids: Sequence[str]
    kinds: Sequence[str]
    accounts: Sequence[str]
    amounts_nanos: Sequence[int]
    linked: Sequence[bool] = ()


@value
class CorrectTransfer:
    """Operators only: reverse a booked transfer, or a part of it. `amount_nanos` None: all that is left of it."""

    id: str
    transfer: str
    amount_nanos: int | None
    reason: str
    by: str


@value
class ClosePeriod:
    """Operators only: seal the books up to an instant. `through_ms` None: up to now."""

    through_ms: int | None
    by: str
