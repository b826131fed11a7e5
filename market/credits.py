"""Granted credits: money that an operator gives instead of a deposit. Spent first, never paid out, expiring by the market's clock.

Each grant has an account of its own, `credit:GRANT`, filled from `grants` (which, like `world`, is below zero by what it has
given). A hold takes from the grants that a member may use, those that expire soonest first, then from its wallet. Of what a
job is billed the granted part goes first, in the order in which it was held; so what its escrow gives back goes to where it
came from, to the nano-dollar, and what a dispute or a correction gives back does, too (market/giving_back.py). What is in an
escrow when its grant expires stays with the job until that is over, and what comes back of it then, or later, expires at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from market.checking import MAX_INT, invalid, is_int, is_name, is_text
from market.commands import GrantCredit
from market.giving_back import BOUGHT, unspent_of_grants
from market.member_records import GrantRecord
from market.outcomes import Answer, Json, Refusal, conflict, unknown
from market.state import Job, State
from market.turn import Turn
from storage.ledger import GRANTS, Transfer, credit, escrow, wallet
from storage.units import format_usd

MAX_GRANTS: Final = 100_000
_FOR_EVER_MS: Final = MAX_INT


def grant_credit(turn: Turn, command: GrantCredit) -> Answer | Refusal:
    refusal = turn.require(command.by, ("operator",)) or _check(turn, command)
    if refusal is not None:
        return refusal
    state = turn.state
    known = state.grants.get(command.id)
    asked = (command.member or "", command.team or "", command.amount_nanos, command.expires_ms, command.reason)
    if known is not None:
        same = (known.member, known.team, known.amount_nanos, known.expires_ms, known.reason) == asked
        return Answer(grant_view(state, known), created=False) if same else conflict("grant", command.id)
    if command.expires_ms is not None and command.expires_ms <= turn.now_ms:
        return invalid("expires_ms", command.expires_ms, "a time to come")
    if len(state.grants) >= MAX_GRANTS:
        return Refusal("too_many_grants", f"the market holds {MAX_GRANTS} grants", status=429)
    if command.amount_nanos - state.balance(GRANTS) > turn.settings.max_total_nanos:
        return Refusal("too_much_money", "the market's books hold no more than this in all", field="amount_nanos")
    fields: Json = {"grant": command.id, "member": command.member or "", "team": command.team or ""}
    fields |= {"amount_nanos": command.amount_nanos, "expires_ms": command.expires_ms}
    turn.emit("credit_granted", fields | {"reason": command.reason, "by": command.by})
    turn.transfer(Transfer(f"grant:{command.id}", "grant", GRANTS, credit(command.id), command.amount_nanos))
    return Answer(grant_view(state, state.grants[command.id]))


def _check(turn: Turn, command: GrantCredit) -> Refusal | None:
    if not is_name(command.id):
        return invalid("id", command.id, "1 to 64 letters, digits, dots, dashes")
    most = turn.settings.max_amount_nanos
    if not is_int(command.amount_nanos, 1, most):
        return invalid("amount_nanos", command.amount_nanos, f"a whole number of nano-dollars from 1 to {most}")
    if command.expires_ms is not None and not is_int(command.expires_ms, 1, MAX_INT):
        return invalid("expires_ms", command.expires_ms, "milliseconds since the epoch, or nothing")
    if not command.reason or not is_text(command.reason, 200):
        return invalid("reason", command.reason, "a sentence of at most 200 characters")
    if (command.member is None) == (command.team is None):
        return invalid("member", command.member, "a member or a team, one of the two")
    if command.team is not None:
        return None if command.team in turn.state.teams else unknown("team", command.team)
    member = turn.state.members.get(command.member or "")
    if member is None:
        return unknown("member", command.member or "")
    if member.role not in ("customer", "operator"):
        return Refusal("no_wallet", f"{member.name!r} is a {member.role} and pays for nothing", field="member")
    return None


def usable(state: State, member: str, now_ms: int) -> list[GrantRecord]:
    """The grants that a hold of the member takes from, in that order."""
    if not state.grants:
        return []
    names = {**state.grants_of.get(("member", member), {})}
    team = state.members[member].team if member in state.members else ""
    if team:
        names |= state.grants_of.get(("team", team), {})
    found = [state.grants[name] for name in names]
    live = [one for one in found if not one.expired(now_ms) and state.balance(credit(one.id))]
    return sorted(live, key=lambda one: (one.expires_ms or _FOR_EVER_MS, one.granted_ms, one.id))


def spendable(state: State, member: str, now_ms: int) -> int:
    """What a hold may take in all: granted and bought."""
    granted = sum(state.balance(credit(one.id)) for one in usable(state, member, now_ms))
    return granted + state.balance(wallet(member))


def hold(turn: Turn, mark: str, job: Job, amount_nanos: int) -> None:
    """Move it into the job's escrow; that there is enough was decided before."""
    left = amount_nanos
    for grant in usable(turn.state, job.customer, turn.now_ms):
        part = min(left, turn.state.balance(credit(grant.id)))
        if part:
            turn.transfer(Transfer(f"{mark}:{grant.id}", "hold", credit(grant.id), escrow(job.id), part, job.id))
            left -= part
    if left:
        turn.transfer(Transfer(mark, "hold", wallet(job.customer), escrow(job.id), left, job.id))


def release(turn: Turn, job: Job, keep_nanos: int = 0, mark: str = "") -> None:
    """Give what is left in the escrow, but what is kept for disputes, back to where it came from. `mark`: of a later release,
    once what was kept is decided."""
    left = max(0, turn.state.escrow(job) - keep_nanos)  # less is there only in books of before charges left it alone
    for name, unspent in unspent_of_grants(job, keep_nanos):
        part = min(left, unspent)
        if part:
            turn.transfer(Transfer(f"release:{job.id}{mark}:{name}", "release", escrow(job.id), credit(name), part, job.id))
            left -= part
    if left:
        turn.transfer(Transfer(f"release:{job.id}{mark}", "release", escrow(job.id), wallet(job.customer), left, job.id))
    _expire_returned(turn, job, f"{job.id}{mark}")


def give_back(turn: Turn, kind: str, job: Job, lease: str, moves: Sequence[tuple[str, str, str, int]]) -> None:
    """Book what a dispute (`refund`) or an operator (`correction`) gives back of what the job has spent.

    moves: (id of the transfer, account that pays, grant or BOUGHT, nano-dollars).
    """
    for id, debit, name, nanos in moves:
        account = wallet(job.customer) if name == BOUGHT else credit(name)
        turn.transfer(Transfer(id, kind, debit, account, nanos, job.id, lease))
    _expire_returned(turn, job, f"{moves[0][0]}:{kind}", lease)


def _expire_returned(turn: Turn, job: Job, mark: str, lease: str | None = None) -> None:
    """What has come back to grants that are over ends with them."""
    for name in job.granted:
        if turn.state.grants[name].over:
            _give_back(turn, turn.state.grants[name], f"expire:{name}:{mark}", job.id, lease)


def expire(turn: Turn) -> None:
    """End the grants whose time has passed: what is left of them goes back, exactly."""
    for name in list(turn.state.expiring):
        grant = turn.state.grants[name]
        if grant.expired(turn.now_ms):
            end_grant(turn, grant)


def end_grant(turn: Turn, grant: GrantRecord) -> None:
    """The grant is over; what it still has goes back to the account that it came from."""
    left = turn.state.balance(credit(grant.id))
    turn.emit("credit_expired", {"grant": grant.id, "amount_nanos": left})
    _give_back(turn, grant, f"expire:{grant.id}")


def _give_back(turn: Turn, grant: GrantRecord, mark: str, job: str | None = None, lease: str | None = None) -> None:
    left = turn.state.balance(credit(grant.id))
    if left:
        turn.transfer(Transfer(mark, "expire", credit(grant.id), GRANTS, left, job, lease))


def grant_view(state: State, grant: GrantRecord) -> Json:
    return {
        "grant": grant.id,
        "member": grant.member or None,
        "team": grant.team or None,
        "amount_nanos": grant.amount_nanos,
        "left_nanos": state.balance(credit(grant.id)),
        "expires_ms": grant.expires_ms,
        "expired": grant.over,
        "reason": grant.reason,
        "by": grant.by,
        "granted_ms": grant.granted_ms,
    }


def granted_view(state: State, member: str, now_ms: int) -> Json:
    """What of a member's money was granted and what bought: `wallet_nanos` is the sum of its own two."""
    found = usable(state, member, now_ms)
    own = sum(state.balance(credit(one.id)) for one in found if not one.team)
    bought = state.balance(wallet(member))
    return {
        "wallet_nanos": bought + own,
        "bought_nanos": bought,
        "granted_nanos": own,
        "team_granted_nanos": sum(state.balance(credit(one.id)) for one in found if one.team),
        "grants": [grant_view(state, one) for one in found],
    }


def job_credit_view(job: Job) -> Json:
    """Of a job's budget and bill what was granted."""
    held = sum(job.granted.values())
    return {"granted_nanos": held, "billed_granted_nanos": min(held, job.billed_nanos)}


def short_of(balance_nanos: int, budget_nanos: int) -> Refusal:
    """Not enough money for a budget."""
    return Refusal(
        "insufficient_funds",
        f"the wallet holds {format_usd(balance_nanos)} USD and the budget is {format_usd(budget_nanos)} USD",
        field="limits.budget_usd",
        remedy=f"deposit {format_usd(budget_nanos - balance_nanos)} USD more, or lower the budget",
        status=402,
    )
