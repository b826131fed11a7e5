"""What somebody does not agree with: opened, with the money in question held, and closed once.

    open --(an operator, with a reason)--> upheld, rejected
    open --(nobody decided in time)-----> expired, and everything stays as it was

A customer objects to what a lease was charged (`charges`), until the window after the lease's end is over: as much of the
provider's earnings is held back from payouts; upheld, it goes back with the fee on it to where the customer had paid it from
(`refund`): what was spent last first, so bought money before granted credits (market/giving_back.py). The market
itself opens one where worker and run do not agree on a meter (`meter`): that money stays in the escrow when the job ends;
rejected, the provider gets it (`award`), else it goes back to the customer. Lines of an invoice never change: what is moved is
a note with a number of its own.
"""

from __future__ import annotations

from typing import Final

from market import credits
from market.checking import invalid, is_int, is_name, is_text
from market.dispute_commands import DecideDispute, OpenDispute
from market.dispute_events import CHARGES, METER, Dispute
from market.giving_back import dealt, parts_of
from market.leases import Lease
from market.outcomes import Answer, Json, Refusal, conflict, forbidden, unknown
from market.pricing import fee_step
from market.state import Job, State
from market.turn import Turn
from storage.ledger import FEE, Transfer, earnings, escrow
from storage.units import format_usd

MAX_REASON: Final = 500
MAX_EVIDENCE: Final = 4_000
MAX_OPEN_PER_JOB: Final = 64


def open_dispute(turn: Turn, command: OpenDispute) -> Answer | Refusal:
    job = turn.require(command.by, ("customer", "operator")) or turn.find_job(command.job, command.by)
    if isinstance(job, Refusal):
        return job
    refusal = _check_words(command)
    if refusal is not None:
        return refusal
    known = turn.state.disputes.get(command.id)
    if known is not None:
        asked = (command.job, command.lease, command.by, command.reason, command.evidence)
        same = (known.job, known.lease, known.by, known.reason, known.evidence.get("words", "")) == asked
        same = same and command.amount_nanos in (None, known.amount_nanos)
        return Answer(dispute_view(known), created=False) if same else conflict("dispute", command.id)
    if job.customer != command.by:
        return forbidden(f"{job.id} is paid by {job.customer}, who alone may object")
    lease = turn.state.leases.get(command.lease)
    if lease is None or lease.job != job.id:
        return unknown("lease", command.lease)
    most = disputable_nanos(turn.state, lease)
    refusal = _check_open(turn, job, lease, command, most)
    if refusal is not None:
        return refusal
    amount = most if command.amount_nanos is None else command.amount_nanos
    fee = lease.fee_nanos * amount // lease.charged_nanos
    free = turn.state.balance(earnings(lease.provider)) - turn.state.held_earnings.get(lease.provider, 0)
    evidence = {**_evidence(lease), "words": command.evidence}
    _open(turn, command.id, lease, command.by, CHARGES, command.reason, evidence, (amount, fee, max(0, min(free, amount - fee))))
    return Answer(dispute_view(turn.state.disputes[command.id]))


def _check_words(command: OpenDispute) -> Refusal | None:
    if not is_name(command.id):
        return invalid("id", command.id, "1 to 64 letters, digits, dots, dashes")
    if not command.reason or not is_text(command.reason, MAX_REASON):
        return invalid("reason", command.reason, f"a sentence of at most {MAX_REASON} characters")
    if not is_text(command.evidence, MAX_EVIDENCE):
        return invalid("evidence", len(command.evidence), f"at most {MAX_EVIDENCE} characters")
    return None


def _check_open(turn: Turn, job: Job, lease: Lease, command: OpenDispute, most: int) -> Refusal | None:
    window_ms = turn.settings.dispute_window_ms
    if lease.ended_ms is not None and turn.now_ms - lease.ended_ms > window_ms:
        message = f"{lease.id} ended more than {window_ms // 3_600_000} hours ago"
        return Refusal("dispute_too_late", message, field="lease", remedy="objections are heard within that time", status=409)
    if most <= 0:
        message = f"nothing that {lease.id} was charged is not disputed already"
        return Refusal("nothing_to_dispute", message, field="lease", status=409)
    if command.amount_nanos is not None and not is_int(command.amount_nanos, 1, most):
        return invalid("amount_nanos", command.amount_nanos, f"nano-dollars from 1 to {most}, which it was charged")
    if sum(turn.state.disputes[name].state == "open" for name in job.disputes) >= MAX_OPEN_PER_JOB:
        return Refusal("too_many_disputes", f"{job.id} has {MAX_OPEN_PER_JOB} open disputes", field="job", status=429)
    return None


def disputable_nanos(state: State, lease: Lease) -> int:
    """What of a lease's charges is neither in an open dispute nor given back or corrected."""
    known = [state.disputes[name] for name in state.jobs[lease.job].disputes]
    of_lease = [one for one in known if one.lease == lease.id and one.about == CHARGES]
    taken = sum(one.amount_nanos if one.state == "open" else one.decided_nanos for one in of_lease)
    return lease.charged_nanos - taken - _corrected_nanos(state, lease)


def _corrected_nanos(state: State, lease: Lease) -> int:
    """What operators took back of its charges and fees (market/bookkeeping.py)."""
    booked = ((one.amount_nanos, state.ledger.transfer(one.transfer)) for one in state.corrections.values())
    return sum(nanos for nanos, original in booked if original is not None and original.lease == lease.id)


def question_meter(turn: Turn, lease: Lease) -> None:
    """A lease has ended and is paid as far as both sides agree: what the worker says beyond that is kept, and asked."""
    if not lease.questioned_ms or lease.charged_ms != lease.metered_ms:
        return
    state, job = turn.state, turn.state.jobs[lease.job]
    amount = min(lease.questioned_nanos, state.escrow(job) - held_in_escrow(state, job))
    if amount <= 0:
        return
    fee = fee_step(lease.charged_nanos, lease.charged_nanos + amount, state.fee_ppm)
    said = f"the worker says {lease.claimed_ms} ms, the run saw {lease.metered_ms} ms"
    _open(turn, f"meter-{lease.id}", lease, "market", METER, said, _evidence(lease), (amount, fee, amount))


def _open(
    turn: Turn, name: str, lease: Lease, by: str, about: str, reason: str, evidence: Json, sums: tuple[int, int, int]
) -> None:
    fields: Json = {"dispute": name, "job": lease.job, "lease": lease.id, "by": by, "about": about, "reason": reason}
    fields |= dict(zip(("amount_nanos", "fee_nanos", "held_nanos"), sums, strict=True))
    until_ms = turn.now_ms + turn.settings.dispute_patience_ms
    turn.emit("dispute_opened", fields | {"evidence": evidence, "until_ms": until_ms})


def _evidence(lease: Lease) -> Json:
    """What the record says of the lease at that moment."""
    return {
        "metered_ms": lease.metered_ms, "claimed_ms": lease.claimed_ms, "charged_ms": lease.charged_ms,
        "charged_nanos": lease.charged_nanos, "rounds": lease.rounds, "signed": lease.signed, "meter_key": lease.meter_key,
    }  # fmt: skip


def held_in_escrow(state: State, job: Job) -> int:
    """What a job's escrow keeps for open disputes."""
    return sum(lease.held_nanos for lease in state.leases_of(job))


def decide_dispute(turn: Turn, command: DecideDispute) -> Answer | Refusal:
    refusal = turn.require(command.by, ("operator",))
    if refusal is not None:
        return refusal
    dispute = turn.state.disputes.get(command.dispute)
    if dispute is None:
        return unknown("dispute", command.dispute)
    if command.verdict not in ("upheld", "rejected"):
        return invalid("verdict", command.verdict, "upheld or rejected")
    if not command.reason or not is_text(command.reason, MAX_REASON):
        return invalid("reason", command.reason, f"a sentence of at most {MAX_REASON} characters")
    if dispute.state != "open":
        same = (dispute.state, dispute.decision, dispute.decided_by) == (command.verdict, command.reason, command.by)
        if same:
            return Answer(dispute_view(dispute), created=False)
        return Refusal("dispute_closed", f"{dispute.id} is {dispute.state}", field="dispute", status=409)
    if command.by == dispute.customer:
        return forbidden(f"{dispute.id} is about a job of {command.by}: another operator decides it")
    upheld = command.verdict == "upheld"
    if command.amount_nanos is not None and not (
        upheld and dispute.about == CHARGES and is_int(command.amount_nanos, 1, dispute.amount_nanos)
    ):
        most = dispute.amount_nanos
        return invalid("amount_nanos", command.amount_nanos, f"for upheld charges, nano-dollars from 1 to {most}; else nothing")
    amount = (command.amount_nanos or dispute.amount_nanos) if upheld else 0
    if upheld and dispute.about == CHARGES:
        refusal = _check_earnings(turn.state, dispute, amount)
        if refusal is not None:
            return refusal
    _close(turn, dispute, command.verdict, amount, command.reason, command.by)
    return Answer(dispute_view(dispute))


def _parts(dispute: Dispute, amount_nanos: int) -> tuple[int, int]:
    """(of the provider's earnings, of the fee)."""
    fee = dispute.fee_nanos * amount_nanos // dispute.amount_nanos
    return amount_nanos - fee, fee


def _check_earnings(state: State, dispute: Dispute, amount_nanos: int) -> Refusal | None:
    part, fee = _parts(dispute, amount_nanos)
    has = state.balance(earnings(dispute.provider)) - state.held_earnings.get(dispute.provider, 0) + dispute.held_nanos
    if part <= has and fee <= state.balance(FEE):
        return None
    message = f"{format_usd(part)} USD would go back and {dispute.provider} has {format_usd(max(0, has))} USD of earnings left"
    return Refusal("earnings_short", message, field="amount_nanos", remedy="a smaller amount, or wait until it has earned", status=409)


def _close(turn: Turn, dispute: Dispute, verdict: str, amount_nanos: int, reason: str, by: str) -> None:
    fields = {"dispute": dispute.id, "job": dispute.job, "state": verdict, "amount_nanos": amount_nanos}
    turn.emit("dispute_closed", fields | {"reason": reason, "by": by})
    job = turn.state.jobs[dispute.job]
    if dispute.about == METER:
        if verdict == "rejected":
            _award(turn, dispute)
        if not job.open:
            credits.release(turn, job, held_in_escrow(turn.state, job), f":{dispute.id}")
    elif amount_nanos:
        _refund(turn, dispute, amount_nanos)


def _award(turn: Turn, dispute: Dispute) -> None:
    """The provider gets what was kept in the escrow."""
    account = escrow(dispute.job)
    for name, credit, nanos in (
        ("earnings", earnings(dispute.provider), dispute.amount_nanos - dispute.fee_nanos),
        ("fee", FEE, dispute.fee_nanos),
    ):
        if nanos:
            mark = f"award:{dispute.id}:{name}"
            turn.transfer(Transfer(mark, "award", account, credit, nanos, dispute.job, dispute.lease))


def _refund(turn: Turn, dispute: Dispute, amount_nanos: int) -> None:
    """It goes back to where the customer paid it from, out of what the provider earned and out of the fee."""
    job, accounts = turn.state.jobs[dispute.job], {"earnings": earnings(dispute.provider), "fee": FEE}
    payers = zip(accounts, _parts(dispute, amount_nanos), strict=True)
    moves = list[tuple[str, str, str, int]]()
    for payer, grant, nanos in dealt(payers, parts_of(job, amount_nanos)):
        number = 1 + sum(debit == accounts[payer] for _, debit, _, _ in moves)  # not the grant: the provider sees the id
        mark = f"refund:{dispute.id}:{payer}" + (f":{number}" if number > 1 else "")
        moves.append((mark, accounts[payer], grant, nanos))
    credits.give_back(turn, "refund", job, dispute.lease, moves)


def expire_disputes(turn: Turn) -> None:
    """Close what nobody decided in time: charges stand, and what was kept in an escrow goes back."""
    for name in list(turn.state.open_disputes):
        dispute = turn.state.disputes[name]
        if turn.now_ms >= dispute.until_ms:
            _close(turn, dispute, "expired", 0, "nobody decided in time", "market")


def dispute_view(dispute: Dispute) -> Json:
    names = (
        "id", "job", "lease", "customer", "provider", "by", "about", "reason", "evidence", "amount_nanos", "fee_nanos",
        "held_nanos", "opened_ms", "until_ms", "state", "decided_nanos", "granted_nanos", "decided_by", "decision",
        "closed_ms",
    )  # fmt: skip
    return {name: getattr(dispute, name) for name in names}
