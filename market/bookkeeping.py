"""What an operator does to the books themselves: many transfers at once, corrections, and the closing of a period."""

from __future__ import annotations

from array import array
from contextlib import suppress
from itertools import compress
from typing import Final

from market import credits
from market.book_commands import BookTransfers, ClosePeriod, CorrectTransfer
from market.checking import are_names, invalid, is_int, is_name, is_text
from market.disputes import disputable_nanos
from market.giving_back import parts_of
from market.outcomes import Answer, Json, Refusal, conflict, unknown
from market.state import PeriodRecord, State
from market.turn import Turn
from storage.canonical import digest_of
from storage.ledger import WORLD, Status, Transfer, earnings, wallet
from storage.transfer_batches import MAX_BATCH, TransferBatch
from storage.transfers import KEPT, KIND_CODES
from storage.units import format_instant, format_usd

_SIDES: Final = {"deposit": ("customer", "operator"), "payout": ("provider",)}
"""Which roles have an account of that kind."""
_ACCOUNT_OF: Final = {"deposit": wallet, "payout": earnings}
_KIND_OF_ROLE: Final = {role: kind for kind, roles in _SIDES.items() for role in roles}
_IS_PAYOUT: Final = bytes(code == KIND_CODES["payout"] for code in range(256))
_WORDS: Final = {status: status.value for status in Status}


def book_transfers(turn: Turn, command: BookTransfers) -> Answer | Refusal:
    """Deposits and payouts, up to MAX_BATCH of them; each is answered for itself, chains all or nothing."""
    refusal = turn.require(command.by, ("operator",))
    if refusal is not None:
        return refusal
    if not 1 <= len(command.ids) <= MAX_BATCH:
        return invalid("transfers", len(command.ids), f"1 to {MAX_BATCH} transfers")
    batch, wrong = _columns(turn, command)
    linked = command.linked if any(command.linked) else ()
    # Nothing of what an open dispute holds leaves the market.
    floors = {earnings(name): held for name, held in turn.state.held_earnings.items() if held}
    floors[WORLD] = -turn.settings.max_total_nanos
    ledger = turn.state.ledger
    found = ledger.decide(batch, turn.now_ms, linked, floors, wrong)
    kept = ledger.storable(batch, found)
    if kept is not None:
        turn.emit("transfers", {"batch": kept})
    created, existed = found.count(Status.CREATED), found.count(Status.EXISTS)
    body: Json = {
        "created": created, "existed": existed, "refused": len(found) - created - existed,
        "ids": batch.ids, "statuses": [_WORDS[status] for status in found],
    }  # fmt: skip
    return Answer(body, created=created > 0)


def _columns(turn: Turn, command: BookTransfers) -> tuple[TransferBatch, dict[int, Status]]:
    """The transfers, and which rows cannot be whatever the balances are."""
    ids, kinds, amounts = command.ids, bytes(map(KIND_CODES.__getitem__, command.kinds)), command.amounts_nanos
    names, others, wrong = _sides_of_own_kind(turn, kinds, command) or _sides(turn, command)
    most = turn.settings.max_amount_nanos
    if max(amounts) > most:
        wrong |= {row: Status.AMOUNT_TOO_LARGE for row, amount in enumerate(amounts) if amount > most}
    with suppress(OverflowError):  # what does not fit is refused by its row
        amounts = array("q", amounts)
    if not are_names(ids):
        wrong |= {row: Status.ID_MALFORMED for row, id in enumerate(ids) if not is_name(id)}
    debits, credits = array("I", bytes(4 * len(others))), array("I", others)
    for row in compress(range(len(others)), kinds.translate(_IS_PAYOUT)):
        debits[row], credits[row] = others[row], 0
    return TransferBatch(names, list(ids), kinds, debits, credits, amounts), wrong


_Sides = tuple[list[str], list[int], dict[int, Status]]
"""Names of accounts, of each row the place of its own one in them, and rows whose account cannot be."""


def _sides_of_own_kind(turn: Turn, kinds: bytes, command: BookTransfers) -> _Sides | None:
    """The same as `_sides` in fewer looks, where every row is of the kind that its member has an account for; else None."""
    members = dict.fromkeys(command.accounts)
    roles = [getattr(turn.state.members.get(name), "role", "") for name in members]
    own = [_KIND_OF_ROLE.get(role, "") for role in roles]
    if "" in own:
        return None
    names = [WORLD, *(_ACCOUNT_OF[kind](name) for kind, name in zip(own, members, strict=True))]
    places = dict(zip(members, range(1, len(names)), strict=True))
    others = list(map(places.__getitem__, command.accounts))
    codes = bytes([0, *map(KIND_CODES.__getitem__, own)])
    return (names, others, {}) if bytes(map(codes.__getitem__, others)) == kinds else None


def _sides(turn: Turn, command: BookTransfers) -> _Sides:
    names = {WORLD: 0}
    places: dict[tuple[str, str], int] = {}
    problems: dict[tuple[str, str], Status] = {}
    sides = list(zip(command.kinds, command.accounts, strict=True))
    for side in dict.fromkeys(sides):
        kind, member = side
        places[side] = names.setdefault(_ACCOUNT_OF[kind](member), len(names))
        problem = _side_wrong(turn.state.members.get(member), kind)
        if problem is not None:
            problems[side] = problem
    wrong = {row: problems[side] for row, side in enumerate(sides) if side in problems}
    return list(names), [places[side] for side in sides], wrong


def _side_wrong(member: object, kind: str) -> Status | None:
    if member is None:
        return Status.ACCOUNT_UNKNOWN
    if getattr(member, "role", None) in _SIDES[kind]:
        return None
    return Status.CREDIT_NOT_OF_KIND if kind == "deposit" else Status.DEBIT_NOT_OF_KIND


def keep_refused(turn: Turn, transfer: Transfer, status: Status) -> None:
    """The id failed for what the books were then, and stays so."""
    assert status in KEPT, status
    if turn.state.ledger.refused(transfer.id) is None:
        fields = transfer.event() | {"status": str(status)}
        del fields["type"]
        turn.emit("transfer_refused", fields)


_LATEST_MS: Final = 253_402_300_799_999  # the last instant that can be written as a date
_TOLD: Final = {
    Status.WOULD_OVERDRAW: ("insufficient_funds", 402), Status.HOLD_RELEASED: ("insufficient_funds", 402),
    Status.TOO_MUCH_MONEY: ("too_much_money", 422), Status.WOULD_OVERFLOW: ("too_much_money", 422),
    Status.PERIOD_CLOSED: ("period_closed", 409),
}  # fmt: skip


def failed_before(turn: Turn, transfer: Transfer) -> Refusal | None:
    """The answer for an id that was refused for good, if it was and asks for the same."""
    failed = turn.state.ledger.refused(transfer.id)
    if failed is None or turn.state.ledger.check(transfer) is not failed.status:
        return None
    code, status = _TOLD[failed.status]
    message = f"{transfer.kind} {transfer.id!r} was refused at {format_instant(failed.at_ms)} ({failed.status}), and its id stays so"
    return Refusal(code, message, field="id", remedy="use a new id for a new try", status=status)


def correct_transfer(turn: Turn, command: CorrectTransfer) -> Answer | Refusal:
    """A reversing entry with a reason; what was booked stays booked. Money of charges and fees goes back to where the customer
    had paid it from, in several transfers if that were several accounts: the first has the id of the correction."""
    refusal = turn.require(command.by, ("operator",)) or _check_correction(command, turn.settings.max_amount_nanos)
    if refusal is not None:
        return refusal
    state = turn.state
    known = state.corrections.get(command.id)
    if known is not None:
        same = (known.transfer, known.reason) == (command.transfer, command.reason)
        same = same and command.amount_nanos in (None, known.amount_nanos)
        return Answer(correction_view(state, command.id), created=False) if same else conflict("correction", command.id)
    original = state.ledger.transfer(command.transfer)
    if original is None:
        return unknown("transfer", command.transfer)
    sides = _reversed(state, original)
    if sides is None:
        message = f"{original.id} is a {original.kind}: only deposits, payouts, charges and fees are corrected"
        return Refusal("not_correctable", message, field="transfer", status=409)
    left = original.amount_nanos - state.corrected.get(original.id, 0)
    if original.lease is not None:  # what a dispute gave back, or may give back, is not given back twice
        left = min(left, disputable_nanos(state, state.leases[original.lease]))
    amount = left if command.amount_nanos is None else command.amount_nanos
    if amount > left or not left:
        message = f"of {original.id} {format_usd(left)} USD are left to correct"
        return Refusal("corrected_already", message, field="amount_nanos", status=409)
    made = Transfer(command.id, "correction", *sides, amount, original.job, original.lease)
    status = state.ledger.check(made, turn.now_ms)
    if status is Status.CREATED and amount > state.balance(sides[0]) - _held(state, sides[0]) and sides[0] != WORLD:
        status = Status.WOULD_OVERDRAW  # the rest belongs to an open dispute
    if status in KEPT:
        before = failed_before(turn, made)
        keep_refused(turn, made, status)
        code, http = _TOLD[status]
        told = f"{sides[0]} can give {format_usd(state.balance(sides[0]) - _held(state, sides[0]))} USD, and the correction takes {format_usd(amount)} USD"
        return before or Refusal(code, told, field="amount_nanos", remedy="correct less, with a new id", status=http)
    if status is not Status.CREATED:
        return conflict("transfer", command.id)
    fields: Json = {"id": command.id, "transfer": original.id, "amount_nanos": amount, "reason": command.reason}
    turn.emit("transfer_corrected", fields | {"by": command.by})
    if original.lease is None or original.job is None:
        turn.transfer(made)
    else:
        job = state.jobs[original.job]
        found = parts_of(job, amount)
        ids = [command.id, *(_part(command.id, number) for number in range(2, 1 + len(found)))]
        moves = [(id, sides[0], name, nanos) for id, (name, nanos) in zip(ids, found, strict=True)]
        credits.give_back(turn, "correction", job, original.lease, moves)
    return Answer(correction_view(state, command.id))


def _part(correction: str, number: int) -> str:
    """The id of a correction's second transfer and the next ones; the market makes no other that is the same.

    It does not name the grant: a provider sees it.
    """
    return f"correction:{correction}:{number}"


def _held(state: State, account: str) -> int:
    """What open disputes keep of a provider's earnings."""
    kind, _, member = account.partition(":")
    return state.held_earnings.get(member, 0) if kind == "earnings" else 0


def _check_correction(command: CorrectTransfer, most: int) -> Refusal | None:
    if not is_name(command.id):
        return invalid("id", command.id, "1 to 64 letters, digits, dots, dashes")
    if command.amount_nanos is not None and not is_int(command.amount_nanos, 1, most):
        return invalid("amount_nanos", command.amount_nanos, f"a whole number of nano-dollars from 1 to {most}")
    if not command.reason or not is_text(command.reason, 200):
        return invalid("reason", command.reason, "a sentence of at most 200 characters")
    return None


def _reversed(state: State, original: Transfer) -> tuple[str, str] | None:
    """The accounts that a correction debits and credits; None for what is not corrected."""
    if original.kind in ("deposit", "payout"):
        return original.credit, original.debit
    if original.kind in ("charge", "fee") and original.job in state.jobs:
        return original.credit, wallet(state.jobs[original.job].customer)
    return None


def correction_view(state: State, name: str) -> Json:
    found, booked = state.corrections[name], state.ledger.transfer(name)
    assert booked is not None, name
    parts = [booked]
    while (one := state.ledger.transfer(_part(name, 1 + len(parts)))) is not None:
        parts.append(one)
    granted = sum(one.amount_nanos for one in parts if one.credit.startswith("credit:"))
    return {
        "id": name, "transfer": found.transfer, "amount_nanos": found.amount_nanos, "reason": found.reason, "by": found.by,
        "debit": booked.debit, "credit": booked.credit, "job": booked.job, "lease": booked.lease,
        "granted_nanos": granted,
    }  # fmt: skip


def close_period(turn: Turn, command: ClosePeriod) -> Answer | Refusal:
    """Seal everything up to an instant that is over: every balance into the record, and nothing books behind it."""
    refusal = turn.require(command.by, ("operator",))
    if refusal is not None:
        return refusal
    state = turn.state
    through_ms = turn.now_ms - 1 if command.through_ms is None else command.through_ms
    if not is_int(through_ms, 0, _LATEST_MS):
        return invalid("through_ms", through_ms, "milliseconds since 1970, up to the year 9999")
    if through_ms >= turn.now_ms:
        message = f"{format_instant(through_ms)} is not over"
        return Refusal("invalid", message, field="through_ms", remedy="close up to a day or an instant that is over", status=422)
    known = next((one for one in state.periods if one.through_ms == through_ms), None)
    if known is not None:
        return Answer(period_view(state, known), created=False)
    if through_ms <= state.ledger.closed_ms:
        message = f"the books are closed up to {format_instant(state.ledger.closed_ms)}"
        return Refusal("period_closed", message, field="through_ms", remedy="close up to a later time", status=409)
    transfers, balances = state.ledger.balances_at(through_ms)
    fields: Json = {"number": len(state.periods) + 1, "from_ms": state.ledger.closed_ms + 1, "through_ms": through_ms}
    turn.emit("period_closed", fields | {"transfers": transfers, "balances": balances, "by": command.by})
    return Answer(period_view(state, state.periods[-1]))


def period_view(state: State, period: PeriodRecord, *, balances: bool = False) -> Json:
    found: Json = {
        "number": period.number, "from": format_instant(period.from_ms), "through": format_instant(period.through_ms),
        "from_ms": period.from_ms, "through_ms": period.through_ms, "transfers": period.transfers, "digest": period.digest,
        "closed_at": format_instant(period.closed_ms), "by": period.by,
    }  # fmt: skip
    if balances:
        _, found["balances"] = state.ledger.balances_at(period.through_ms)
        assert digest_of(found["balances"]) == period.digest, "the balances of a closed period have changed"
    return found
