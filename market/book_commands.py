"""Commands of operators about the books themselves; market/commands.py has them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class TransferRow(NamedTuple):
    """`kind` is deposit or payout, `account` a member; `linked`: stands and falls with the row after it."""

    id: str
    kind: str
    account: str
    amount_nanos: int
    linked: bool = False


@dataclass(frozen=True, slots=True)
class BookTransfers:
    """Operators only: many deposits and payouts, each answered for itself, in one record."""

    rows: Sequence[TransferRow]
    by: str


@dataclass(frozen=True, slots=True)
class CorrectTransfer:
    """Operators only: reverse a booked transfer, or a part of it. `amount_nanos` None: all that is left of it."""

    id: str
    transfer: str
    amount_nanos: int | None
    reason: str
    by: str


@dataclass(frozen=True, slots=True)
class ClosePeriod:
    """Operators only: seal the books up to an instant. `through_ms` None: up to now."""

    through_ms: int | None
    by: str
