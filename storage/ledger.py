"""Double entry in integer nano-dollars: every transfer is one debit and one credit.

Accounts: `wallet:{member}`, `escrow:{job}`, `earnings:{member}`, `credit:{grant}`, `fee`, `grants`, `world`. A balance is
credits minus debits. Wallets, escrows, earnings, credits and the fee account never go below zero; `world` is minus
everything that was ever paid in and not paid out, `grants` minus everything that was granted and has not expired; so all
balances together are always zero.

`check` is a straight ladder of named refusals, idempotency first, after TigerBeetle's `create_transfer`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from storage.units import MAX_NANOS

WORLD = "world"
GRANTS = "grants"
FEE = "fee"

# kind: (class of the debited account, class of the credited account)
KINDS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "deposit": (frozenset({"world"}), frozenset({"wallet"})),
    "grant": (frozenset({"grants"}), frozenset({"credit"})),
    "expire": (frozenset({"credit"}), frozenset({"grants"})),
    "hold": (frozenset({"wallet", "credit"}), frozenset({"escrow"})),
    "charge": (frozenset({"escrow"}), frozenset({"earnings"})),
    "fee": (frozenset({"escrow"}), frozenset({"fee"})),
    "award": (frozenset({"escrow"}), frozenset({"earnings", "fee"})),
    "refund": (frozenset({"earnings", "fee"}), frozenset({"wallet"})),
    "release": (frozenset({"escrow"}), frozenset({"wallet", "credit"})),
    "payout": (frozenset({"wallet", "earnings", "fee"}), frozenset({"world"})),
}


class Status(StrEnum):
    """What became of a transfer. CREATED and EXISTS are good; every other one is a refusal that changed nothing."""

    CREATED = "created"
    EXISTS = "exists"
    EXISTS_WITH_DIFFERENT_KIND = "exists_with_different_kind"
    EXISTS_WITH_DIFFERENT_DEBIT = "exists_with_different_debit"
    EXISTS_WITH_DIFFERENT_CREDIT = "exists_with_different_credit"
    EXISTS_WITH_DIFFERENT_AMOUNT = "exists_with_different_amount"
    EXISTS_WITH_DIFFERENT_JOB = "exists_with_different_job"
    EXISTS_WITH_DIFFERENT_LEASE = "exists_with_different_lease"
    ID_EMPTY = "id_empty"
    AMOUNT_NOT_POSITIVE = "amount_not_positive"
    AMOUNT_TOO_LARGE = "amount_too_large"
    KIND_UNKNOWN = "kind_unknown"
    DEBIT_MALFORMED = "debit_malformed"
    CREDIT_MALFORMED = "credit_malformed"
    ACCOUNTS_EQUAL = "accounts_equal"
    DEBIT_NOT_OF_KIND = "debit_not_of_kind"
    CREDIT_NOT_OF_KIND = "credit_not_of_kind"
    WOULD_OVERDRAW = "would_overdraw"
    WOULD_OVERFLOW = "would_overflow"

    @property
    def good(self) -> bool:
        """Whether the transfer is in the books now."""
        return self in (Status.CREATED, Status.EXISTS)


@dataclass(frozen=True, slots=True)
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
    if account in (WORLD, GRANTS, FEE):
        return account
    name, _, owner = account.partition(":")
    return name if owner and name in ("wallet", "escrow", "earnings", "credit") else None


class Ledger:
    """All accounts in memory. `apply` checks and books one transfer."""

    def __init__(self, *, keep_history: bool = True) -> None:
        """Without `keep_history` only balances are kept: an id that comes again is then not known."""
        self._keep_history = keep_history
        self._balances: dict[str, int] = {}
        self._transfers: dict[str, Transfer] = {}
        self._entries: dict[str, list[Entry]] = {}

    def balance(self, account: str) -> int:
        """Credits minus debits in nano-dollars; 0 for an account that nothing has touched."""
        return self._balances.get(account, 0)

    def balances(self) -> dict[str, int]:
        """A copy of every balance."""
        return dict(self._balances)

    def total(self) -> int:
        """The sum of all balances: always 0."""
        return sum(self._balances.values())

    def transfer(self, id: str) -> Transfer | None:
        """The booked transfer of that id."""
        return self._transfers.get(id)

    def __len__(self) -> int:
        return len(self._transfers)

    def entries(self, account: str, *, after: str | None = None, limit: int | None = None) -> Iterator[Entry]:
        """The account's entries, newest first; with `after`, those older than the transfer of that id."""
        found = self._entries.get(account, [])
        start = len(found) - 1
        if after is not None:
            start = next((i - 1 for i in range(len(found) - 1, -1, -1) if found[i].transfer.id == after), -1)
        stop = -1 if limit is None else max(-1, start - limit)
        return (found[i] for i in range(start, stop, -1))

    def check(self, transfer: Transfer) -> Status:
        """What `apply` would answer, changing nothing."""
        known = self._transfers.get(transfer.id)
        if known is not None:
            return _compare(known, transfer)
        refusal = _check_form(transfer)
        if refusal is not None:
            return refusal
        return self._check_balances(transfer, self._balances)

    def apply(self, transfer: Transfer, at_ms: int = 0) -> Status:
        """Book the transfer if the ladder says CREATED; EXISTS and refusals change nothing."""
        status = self.check(transfer)
        if status is Status.CREATED:
            self._book(transfer, at_ms)
        return status

    def _check_balances(self, transfer: Transfer, balances: dict[str, int]) -> Status:
        debited = balances.get(transfer.debit, 0) - transfer.amount_nanos
        credited = balances.get(transfer.credit, 0) + transfer.amount_nanos
        if debited < 0 and transfer.debit not in (WORLD, GRANTS):
            return Status.WOULD_OVERDRAW
        if debited < -MAX_NANOS or credited > MAX_NANOS:
            return Status.WOULD_OVERFLOW
        return Status.CREATED

    def _book(self, transfer: Transfer, at_ms: int) -> None:
        if not self._keep_history:
            for account, amount in ((transfer.debit, -transfer.amount_nanos), (transfer.credit, transfer.amount_nanos)):
                self._balances[account] = balance = self._balances.get(account, 0) + amount
                if not balance:
                    del self._balances[account]
            return
        number = len(self._transfers) + 1
        self._transfers[transfer.id] = transfer
        for account, amount in ((transfer.debit, -transfer.amount_nanos), (transfer.credit, transfer.amount_nanos)):
            balance = self._balances.get(account, 0) + amount
            self._balances[account] = balance
            self._entries.setdefault(account, []).append(Entry(number, at_ms, transfer, amount, balance))


def _compare(known: Transfer, transfer: Transfer) -> Status:
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


def _check_form(transfer: Transfer) -> Status | None:
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
