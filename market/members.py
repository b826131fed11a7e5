"""Who may come in: opening the market, members and their keys, and the world's money in and out."""

from __future__ import annotations

from typing import Final

from market.bookkeeping import failed_before, keep_refused
from market.checking import invalid, is_digest, is_int, is_name, is_text
from market.commands import SYSTEM, AddMember, Deposit, NoteFormat, OpenMarket, Payout, RevokeMember, RotateKey
from market.granting import end_lease
from market.member_records import MemberRecord
from market.outcomes import Answer, Json, Refusal, conflict, unknown
from market.state import ROLES, State
from market.turn import Turn
from storage.ledger import FEE, GRANTS, WORLD, Status, Transfer, earnings, wallet
from storage.units import MAX_NANOS, format_usd

LONGEST_GRACE_MS: Final = 30 * 86_400_000
# The market's own process and accounts: a member of that name would be shown what is theirs.
_RESERVED: Final = (SYSTEM, FEE, WORLD, GRANTS)
OWN_ACCOUNTS: Final = ("operator", "customer", "provider", "plane")
"""Made when a market is opened (market/api/opening.py); its own processes and commands use them."""


def open_market(turn: Turn, command: OpenMarket) -> Answer | Refusal:
    if command.by != SYSTEM:
        return Refusal("forbidden", "only the market's own process opens it", status=403)
    if turn.state.market_id:
        if turn.state.market_id != command.market_id:
            return conflict("market", turn.state.market_id)
        return Answer({"market_id": turn.state.market_id}, created=False)
    if not is_name(command.market_id) or not is_text(command.version, 64):
        return invalid("market_id", command.market_id, "1 to 64 letters, digits, dots, dashes")
    fields = {"market_id": command.market_id, "fee_ppm": turn.settings.fee_ppm, "version": command.version}
    turn.emit("market_opened", fields)
    return Answer({"market_id": command.market_id})


def note_format(turn: Turn, command: NoteFormat) -> Answer | Refusal:
    """Say which events may follow, once; a journal never becomes older."""
    if command.by != SYSTEM:
        return Refusal("forbidden", "only the market's own process says the journal's format", status=403)
    if command.format > turn.state.journal_format:
        turn.emit("journal_format", {"format": command.format, "version": command.version})
    return Answer({"format": turn.state.journal_format}, created=bool(turn.events))


def add_member(turn: Turn, command: AddMember) -> Answer | Refusal:
    refusal = turn.require(command.by, ("operator",))
    if refusal is not None:
        return refusal
    if not is_name(command.member) or command.member in _RESERVED:
        return _bad_name(command.member)
    if command.role not in ROLES:
        return invalid("role", command.role, ", ".join(ROLES))
    if not is_digest(command.key_sha256):
        return invalid("key_sha256", command.key_sha256, "a SHA-256 in hex")
    state = turn.state
    known = state.members.get(command.member)
    if known is not None and not known.revoked:
        same = (known.role, known.key_sha256) == (command.role, command.key_sha256)
        return Answer(member_view(known), created=False) if same else conflict("member", command.member)
    if known is not None and known.role != command.role:
        return conflict("member", command.member)
    if command.key_sha256 in state.by_key:
        return Refusal("conflict", "this key belongs to another member", field="key_sha256", status=409)
    if known is None and len(state.members) >= turn.settings.max_members:
        return Refusal("too_many_members", f"the market holds {turn.settings.max_members} members", status=429)
    fields = {"member": command.member, "role": command.role, "key_sha256": command.key_sha256}
    turn.emit("member_added", {**fields, "by": command.by})
    return Answer(member_view(state.members[command.member]))


def check_new_member(state: State, name: str) -> Refusal | None:
    """Refuse a name that is none, or somebody's, a revoked member's too."""
    if not is_name(name) or name in _RESERVED:
        return _bad_name(name)
    if name in state.members:
        return Refusal(
            "conflict", f"there is a member {name!r} already", field="member", remedy="choose another name", status=409
        )
    return None


def _bad_name(name: str) -> Refusal:
    return invalid("member", name, f"1 to 64 letters, digits, dots, dashes, and not {' or '.join(_RESERVED)}")


def revoke_member(turn: Turn, command: RevokeMember) -> Answer | Refusal:
    refusal = turn.require(command.by, ("operator",))
    if refusal is not None:
        return refusal
    member = turn.state.members.get(command.member)
    if member is None:
        return unknown("member", command.member)
    if member.name == command.by:
        return Refusal("forbidden", "nobody revokes itself: another operator must do it", field="member", status=403)
    if member.revoked:
        return Answer(member_view(member), created=False)
    turn.emit("member_revoked", {"member": member.name, "by": command.by})
    for name in turn.state.offers_of.get(member.name, ()):
        offer = turn.state.offers[name]
        if offer.state != "withdrawn":
            for lease in list(offer.live):
                end_lease(turn, turn.state.leases[lease], "withdrew", "its provider was revoked")
            turn.set_offer(offer, "withdrawn", offer.price_nanos_per_gpu_hour, "revoked")
    return Answer(member_view(member))


def rotate_key(turn: Turn, command: RotateKey) -> Answer | Refusal:
    refusal = turn.require(command.by, ("operator",))
    if refusal is not None:
        return refusal
    state = turn.state
    member = state.members.get(command.member)
    if member is None:
        return unknown("member", command.member)
    if member.revoked:
        return Refusal(
            "key_revoked", f"the key of {member.name!r} was revoked", field="member", remedy="add it again", status=409
        )
    if member.role == "plane":
        return Refusal(
            "forbidden", "the market's own actors have this key for as long as they run", field="member", status=403
        )
    if not is_digest(command.key_sha256):
        return invalid("key_sha256", command.key_sha256, "a SHA-256 in hex")
    if not is_int(command.grace_ms, 0, LONGEST_GRACE_MS):
        return invalid("grace_ms", command.grace_ms, f"0 to {LONGEST_GRACE_MS}")
    if command.key_sha256 == member.key_sha256:
        return Answer(rotated_view(member), created=False)
    if command.key_sha256 in state.by_key:
        return Refusal("conflict", "this key is or was somebody's", field="key_sha256", status=409)
    until_ms = turn.now_ms + command.grace_ms
    fields = {"member": member.name, "key_sha256": command.key_sha256, "old_until_ms": until_ms, "by": command.by}
    turn.emit("member_rotated", fields)
    return Answer(rotated_view(member))


def rotated_view(member: MemberRecord) -> Json:
    return {"member": member.name, "role": member.role, "old_until_ms": member.old_until_ms}


def member_view(member: MemberRecord) -> Json:
    told = {"member": member.name, "role": member.role, "revoked": member.revoked, "added_ms": member.added_ms}
    return told | {"team": member.team or None, "suspended": member.suspended}


def deposit(turn: Turn, command: Deposit) -> Answer | Refusal:
    member = _check_move(turn, command)
    if isinstance(member, Refusal):
        return member
    if member.role not in ("customer", "operator"):
        return Refusal(
            "no_wallet", f"{member.name!r} is a {member.role} and has no wallet to pay from", field="account"
        )
    transfer = Transfer(command.id, "deposit", WORLD, wallet(member.name), command.amount_nanos)
    if turn.book_new(transfer, -min(turn.settings.max_total_nanos, MAX_NANOS)):
        return Answer(_money_view(turn, command, transfer.credit))
    status = turn.state.ledger.check(transfer, turn.now_ms)
    if status is Status.EXISTS:
        return Answer(_money_view(turn, command, transfer.credit), created=False)
    if status is not Status.CREATED:
        return failed_before(turn, transfer) or conflict("deposit", command.id)
    keep_refused(turn, transfer, Status.TOO_MUCH_MONEY)
    return Refusal("too_much_money", "the market's books hold no more than this in all", field="amount_nanos")


def payout(turn: Turn, command: Payout) -> Answer | Refusal:
    """Earnings leave the market. With deposits this is all that the world sees: deposits less payouts are what
    wallets, escrows, earnings and fees hold."""
    member = _check_move(turn, command)
    if isinstance(member, Refusal):
        return member
    if member.role != "provider":
        return Refusal("no_earnings", f"{member.name!r} is a {member.role} and earns nothing", field="account")
    transfer = Transfer(command.id, "payout", earnings(member.name), WORLD, command.amount_nanos)
    status = turn.state.ledger.check(transfer, turn.now_ms)
    if status is Status.EXISTS:
        return Answer(_money_view(turn, command, transfer.debit), created=False)
    if (failed := failed_before(turn, transfer)) is not None:
        return failed
    held = turn.state.held_earnings.get(member.name, 0)
    earned = turn.state.balance(transfer.debit) - held
    if status is Status.WOULD_OVERDRAW or (status is Status.CREATED and command.amount_nanos > earned):
        keep_refused(turn, transfer, Status.WOULD_OVERDRAW)
        kept = f", and {format_usd(held)} USD that open disputes hold" if held else ""
        return Refusal(
            "insufficient_funds",
            f"{member.name} has {format_usd(earned)} USD of earnings{kept}",
            field="amount_nanos",
            remedy=f"at most {format_usd(earned)} USD, with a new id",
            status=402,
        )
    if status is not Status.CREATED:
        return conflict("payout", command.id)
    turn.book(transfer)
    return Answer(_money_view(turn, command, transfer.debit))


def _check_move(turn: Turn, command: Deposit | Payout) -> MemberRecord | Refusal:
    """The member whose money an operator wants to move."""
    refusal = turn.require(command.by, ("operator",))
    if refusal is not None:
        return refusal
    if not is_name(command.id):
        return invalid("id", command.id, "1 to 64 letters, digits, dots, dashes")
    most = turn.settings.max_amount_nanos
    if not is_int(command.amount_nanos, 1, most):
        return invalid("amount_nanos", command.amount_nanos, f"a whole number of nano-dollars from 1 to {most}")
    return turn.state.members.get(command.account) or unknown("account", command.account)


def _money_view(turn: Turn, command: Deposit | Payout, account: str) -> Json:
    return {
        "id": command.id,
        "account": command.account,
        "amount_nanos": command.amount_nanos,
        "balance_nanos": turn.state.balance(account),
    }
