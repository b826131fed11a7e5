"""What a transfer is, which kinds there are, and the ladder of named refusals. Values only; storage/ledger.py books them.

Accounts: `wallet:{member}`, `escrow:{job}`, `earnings:{member}`, `credit:{grant}`, `fee`, `grants`, `world`.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

from storage.units import MAX_NANOS
from storage.values import value

WORLD = "world"
GRANTS = "grants"
FEE = "fee"
UNBOUNDED: Final = (WORLD, GRANTS)
"""The only accounts that are below zero."""

# kind: (classes of the debited account, classes of the credited account); their order is the kinds' code in packed bytes
KINDS: Final[Mapping[str, tuple[frozenset[str], frozenset[str]]]] = {
    "deposit": (frozenset({"world"}), frozenset({"wallet"})),
    "grant": (frozenset({"grants"}), frozenset({"credit"})),
    "expire": (frozenset({"credit"}), frozenset({"grants"})),
    "hold": (frozenset({"wallet", "credit"}), frozenset({"escrow"})),
    "charge": (frozenset({"escrow"}), frozenset({"earnings"})),
    "fee": (frozenset({"escrow"}), frozenset({"fee"})),
    "release": (frozenset({"escrow"}), frozenset({"wallet", "credit"})),
    "payout": (frozenset({"wallet", "earnings", "fee"}), frozenset({"world"})),
    "correction": (frozenset({"wallet", "world", "earnings", "fee"}), frozenset({"world", "earnings", "wallet", "credit"})),
    "award": (frozenset({"escrow"}), frozenset({"earnings", "fee"})),
    "refund": (frozenset({"earnings", "fee"}), frozenset({"wallet", "credit"})),
}
KIND_CODES: Final = {name: code for code, name in enumerate(KINDS)}
KIND_NAMES: Final = tuple(KINDS)


class Status(StrEnum):
    """What became of a transfer. CREATED and EXISTS are good; every other one is a refusal that moved nothing."""

    CREATED = "created"
    EXISTS = "exists"
    EXISTS_WITH_DIFFERENT_KIND = "exists_with_different_kind"
    EXISTS_WITH_DIFFERENT_DEBIT = "exists_with_different_debit"
    EXISTS_WITH_DIFFERENT_CREDIT = "exists_with_different_credit"
    EXISTS_WITH_DIFFERENT_AMOUNT = "exists_with_different_amount"
    EXISTS_WITH_DIFFERENT_JOB = "exists_with_different_job"
    EXISTS_WITH_DIFFERENT_LEASE = "exists_with_different_lease"
    ID_EMPTY = "id_empty"
    ID_MALFORMED = "id_malformed"
    ACCOUNT_UNKNOWN = "account_unknown"
    AMOUNT_NOT_POSITIVE = "amount_not_positive"
    AMOUNT_TOO_LARGE = "amount_too_large"
    KIND_UNKNOWN = "kind_unknown"
    DEBIT_MALFORMED = "debit_malformed"
    CREDIT_MALFORMED = "credit_malformed"
    ACCOUNTS_EQUAL = "accounts_equal"
    DEBIT_NOT_OF_KIND = "debit_not_of_kind"
    CREDIT_NOT_OF_KIND = "credit_not_of_kind"
    PERIOD_CLOSED = "period_closed"
    HOLD_RELEASED = "hold_released"
    WOULD_OVERDRAW = "would_overdraw"
    WOULD_OVERFLOW = "would_overflow"
    TOO_MUCH_MONEY = "too_much_money"
    LINKED_FAILED = "linked_failed"
    LINKED_OPEN = "linked_open"

    @property
    def good(self) -> bool:
        """Whether the transfer is in the books now."""
        return self in (Status.CREATED, Status.EXISTS)


KEPT: Final = (
    Status.WOULD_OVERDRAW, Status.WOULD_OVERFLOW, Status.TOO_MUCH_MONEY, Status.HOLD_RELEASED, Status.PERIOD_CLOSED,
)  # fmt: skip
"""Refusals that hang on the state of the books: an id that met one keeps it, so that a retry is answered alike."""

# in packed bytes: 0 is booked, k + 1 the refusal KEPT[k]
STATUS_CODES: Final = {status: code for code, status in enumerate((Status.CREATED, *KEPT))}
STATUS_OF_CODE: Final = (Status.CREATED, *KEPT)


@value
class Transfer:
    """One debit and one credit of `amount_nanos`; `id` is made by the caller, so that a retry is harmless."""

    id: str
    kind: str
    debit: str
    credit: str
    amount_nanos: int
    job: str | None = None
    lease: str | None = None

    def event(self) -> dict[str, object]:
        """The `transfer` event of the journal."""
        return {
            "type": "transfer", "id": self.id, "kind": self.kind, "debit": self.debit, "credit": self.credit,
            "amount_nanos": self.amount_nanos, "job": self.job, "lease": self.lease,
        }  # fmt: skip


def wallet(member: str) -> str:
    """The account that a member pays from."""
    return f"wallet:{member}"


def escrow(job: str) -> str:
    """The account that holds a job's budget."""
    return f"escrow:{job}"


def earnings(member: str) -> str:
    """The account that a provider earns into."""
    return f"earnings:{member}"


def credit(grant: str) -> str:
    """The account of a grant: what of it is neither spent nor held."""
    return f"credit:{grant}"


def account_class(account: str) -> str | None:
    """`wallet`, `escrow`, `earnings`, `credit`, `fee`, `grants` or `world`; None for a name that is no account."""
    name, _, owner = account.partition(":")
    if owner:
        return name if name in ("wallet", "escrow", "earnings", "credit") else None
    return account if account in (WORLD, GRANTS, FEE) else None


def compare(known: Transfer, transfer: Transfer) -> Status:
    """EXISTS, or the first field in which a transfer differs from the known one of the same id."""
    if known.kind != transfer.kind:
        return Status.EXISTS_WITH_DIFFERENT_KIND
    if known.debit != transfer.debit:
        return Status.EXISTS_WITH_DIFFERENT_DEBIT
    if known.credit != transfer.credit:
        return Status.EXISTS_WITH_DIFFERENT_CREDIT
    if known.amount_nanos != transfer.amount_nanos:
        return Status.EXISTS_WITH_DIFFERENT_AMOUNT
    if known.job != transfer.job:
        return Status.EXISTS_WITH_DIFFERENT_JOB
    if known.lease != transfer.lease:
        return Status.EXISTS_WITH_DIFFERENT_LEASE
    return Status.EXISTS


def check_form(transfer: Transfer) -> Status | None:
    """Everything that needs no balance; None if the form is good."""
    if not transfer.id:
        return Status.ID_EMPTY
    if transfer.amount_nanos <= 0:
        return Status.AMOUNT_NOT_POSITIVE
    if transfer.amount_nanos > MAX_NANOS:
        return Status.AMOUNT_TOO_LARGE
    if transfer.kind not in KINDS:
        return Status.KIND_UNKNOWN
    debit, credit = account_class(transfer.debit), account_class(transfer.credit)
    if debit is None:
        return Status.DEBIT_MALFORMED
    if credit is None:
        return Status.CREDIT_MALFORMED
    if transfer.debit == transfer.credit:
        return Status.ACCOUNTS_EQUAL
    debits, credits = KINDS[transfer.kind]
    if debit not in debits:
        return Status.DEBIT_NOT_OF_KIND
    if credit not in credits:
        return Status.CREDIT_NOT_OF_KIND
    return None


def _bits(side: int, one: str) -> int:
    return sum(1 << code for code, classes in enumerate(KINDS.values()) if one in classes[side])


_CLASSES: Final = frozenset().union(*(side for sides in KINDS.values() for side in sides))
_MAY_MOVE: Final = {(one, one not in (WORLD, GRANTS, FEE)): (_bits(0, one), _bits(1, one)) for one in _CLASSES}
"""By the class, and whether its accounts have owners."""
_NEITHER: Final = (0, 0)


def may_move(accounts: Iterable[str]) -> tuple[list[int], list[int]]:
    """Of each account a bit for each kind (1 << its code) by which it may be debited, and by which it may be credited."""
    parted = [account.partition(":") for account in accounts]
    found = [_MAY_MOVE.get((name, owner != ""), _NEITHER) for name, _, owner in parted]
    return [debited for debited, _ in found], [credited for _, credited in found]
