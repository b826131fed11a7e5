"""From matches to leases: the snapshot for a clearing, its result validated again, the provider's word on a lease."""

from __future__ import annotations

from market.alerts import watch_budget
from market.checking import invalid, is_digest, is_int, is_text
from market.clearing import Clearing, Match, Unmatched
from market.clearing_records import clearing_view, kinds, seats_view, unmatched_view
from market.commands import SYSTEM, ApplyClearing, EndLease, StartLease
from market.constraints import CONSTRAINTS, cost_nanos_at
from market.disputes import held_in_escrow, question_meter
from market.faults import BY_REASON, Charged, cause_of_notice, cause_of_provider_end
from market.leases import Lease, LeaseState
from market.machines import fault_of_machine
from market.order_making import bid_of, listing_of
from market.orders import Offer
from market.outcomes import Answer, Json, Refusal, forbidden, unknown
from market.pricing import fee_step
from market.spot import seen_by
from market.state import Job, OfferRecord
from market.teams import has_room
from market.turn import Turn
from storage.ledger import FEE, Transfer, earnings, escrow


def apply_clearing(turn: Turn, command: ApplyClearing) -> Answer | Refusal:
    """Grant what still holds; a match that is stale is left out whole and cleared again later."""
    if command.by != SYSTEM:
        return forbidden("only the market's own process clears")
    clearing = command.clearing
    number = turn.state.clearings + 1
    matched: list[Json] = []
    stale: list[Json] = []
    for match in clearing.matches:
        if not turn.state.stopped and grant(turn, match, number, clearing.price_rule):
            matched += seats_view(match)
        else:
            stale += seats_view(match)
            turn.volatile.dirty = True
    unmatched = [unmatched_view(one) for one in clearing.unmatched if _is_news(turn, one)]
    _settle(turn, clearing)
    if matched or stale or unmatched:
        turn.emit("clearing", clearing_view(number, clearing) | {"matched": matched, "stale": stale, "unmatched": unmatched})
    return Answer({"matched": matched, "unmatched": len(clearing.unmatched)})


def _settle(turn: Turn, clearing: Clearing) -> None:
    """Note whether what comes next can be cleared by itself."""
    volatile, inputs = turn.volatile, clearing.inputs
    if volatile.dirty or inputs is None:
        return  # something has happened since it was made
    if inputs.jobs is None:
        volatile.settled_ms = inputs.at_ms if clearing.maximal else None
        volatile.kept_for = clearing.kept_for
    elif len(clearing.matches) + (clearing.kept_for is not None) < clearing.bids:
        volatile.dirty = True  # who got nothing is weighed against everybody, and told why


def _is_news(turn: Turn, one: Unmatched) -> bool:
    """Whether its customer should hear: another reason, or another kind of change that would help."""
    job = turn.state.jobs.get(one.job)
    if job is None or bid_of(turn.state, job, turn.settings, turn.now_ms) is None:
        return False
    if job.unmatched is None or job.unmatched["reason"] != one.reason:
        return True
    return bool(one.detail) and kinds(job.unmatched["relaxations"]) != kinds(one.relaxations)


def grant(turn: Turn, match: Match, number: int, rule: str) -> int:
    """Check the match against the state of now and grant it whole; the number of new leases, or 0."""
    state = turn.state
    job = state.jobs.get(match.job)
    bid = None if job is None else bid_of(state, job, turn.settings, turn.now_ms)
    if job is None or bid is None or not bid.workers_min <= len(match.offers) <= bid.workers_max:
        return 0
    if match.gpus != bid.requires.gpus or len(state.live_leases) + len(match.offers) > turn.settings.max_live_leases:
        return 0
    if max(match.prices_nanos_per_gpu_hour, default=0) > bid.max_price_nanos_per_gpu_hour:
        return 0
    seats: list[Offer] = []
    known: dict[str, Offer] = {}
    for name, ask in zip(match.offers, match.asks, strict=True):
        offer = known.get(name)
        if offer is None:
            listed = listing_of(state, turn.volatile).offer(name, turn.volatile)
            if listed is None:
                return 0
            offer = known[name] = seen_by(listed, bid)
            if offer.free_for(job.customer) < match.gpus * match.offers.count(name):
                return 0
            for _, test in CONSTRAINTS:
                if not test(offer, bid):
                    return 0
        if offer.price_nanos_per_gpu_hour != ask:
            return 0  # its provider has changed it since: cleared again, at the new one
        seats.append(offer)
    paid = match.prices_nanos_per_gpu_hour
    if cost_nanos_at(bid, paid) > bid.spendable_nanos or not has_room(state, bid, len(seats)):
        return 0
    for offer, price in zip(seats, paid, strict=True):
        terms = {"ask_nanos_per_gpu_hour": offer.price_nanos_per_gpu_hour, "clearing": number, "price_rule": rule}
        _grant_lease(turn, job, state.offers[offer.id], price, terms)
    if job.state != "running":
        turn.set_job(job, "running", "matched", f"{len(seats)} workers")
    return len(seats)


def _grant_lease(turn: Turn, job: Job, offer: OfferRecord, price_nanos_per_gpu_hour: int, terms: Json) -> None:
    epoch = turn.state.last_epoch + 1
    fields = {
        "lease": f"lease-{epoch:06d}",
        "epoch": epoch,
        "slot": job.next_slot,
        "job": job.id,
        "customer": job.customer,
        "offer": offer.id,
        "provider": offer.provider,
        "gpu": offer.gpu,
        "gpus": job.spec["workers"]["gpus"],
        "price_nanos_per_gpu_hour": price_nanos_per_gpu_hour,
        "replaces": job.orphans[0] if job.orphans else None,
        "region": offer.region,
        **terms,
    }
    turn.emit("lease_granted", fields)


def _own_lease(turn: Turn, name: str, epoch: int, by: str) -> Lease | Refusal:
    refusal = turn.require(by, ("provider",))
    if refusal is not None:
        return refusal
    lease = turn.state.leases.get(name)
    if lease is None or lease.provider != by:
        return unknown("lease", name)
    if lease.epoch != epoch:
        return Refusal("stale_epoch", f"{name} has epoch {lease.epoch}, not {epoch}", field="epoch", status=409)
    return lease


def start_lease(turn: Turn, command: StartLease) -> Answer | Refusal:
    """The provider's worker holds the lease. The same again is answered.

    Another worker for it means that the one that trained is gone: the lease ends, and its answer says so (`ended`).
    """
    lease = _own_lease(turn, command.lease, command.epoch, command.by)
    if isinstance(lease, Refusal):
        return lease
    if command.meter_key and not is_digest(command.meter_key):
        return invalid("meter_key", command.meter_key, "an Ed25519 public key, 64 hex digits")
    if not (is_text(command.worker, 200) and is_text(command.node, 200) and is_int(command.pid, 0, 2**31)):
        return Refusal("invalid", "worker and node are short texts, pid is a process id", field="worker")
    wrong = None if command.machine is None else fault_of_machine(lease.id, lease.epoch, command.machine)
    if wrong is not None:
        return Refusal("invalid", f"machine: {wrong}", field="machine", remedy="sign the facts for this lease and epoch")
    if lease.state is LeaseState.ENDED:
        return Refusal("lease_ended", f"{lease.id} is over: {lease.reason}", remedy="stop its worker", status=409)
    told = (command.worker, command.pid, command.node)
    if lease.state is LeaseState.ACTIVE:
        if (lease.worker, lease.pid, lease.node) == told:
            return Answer(_lease_answer(lease), created=False)
        end_lost(turn, lease, f"its provider names the worker {command.worker}, {lease.worker} held it")
        return Answer(_lease_answer(lease))
    fields = {
        "lease": lease.id,
        "epoch": lease.epoch,
        "worker": command.worker,
        "pid": command.pid,
        "node": command.node,
        "meter_key": command.meter_key,
        "machine": None if command.machine is None else dict(command.machine),
    }
    turn.emit("lease_started", fields)
    return Answer(_lease_answer(lease))


def _lease_answer(lease: Lease) -> Json:
    return {"id": lease.id, "epoch": lease.epoch, "state": str(lease.state), "reason": lease.reason}


def end_lease_by_provider(turn: Turn, command: EndLease) -> Answer | Refusal:
    """A provider gives a lease up. Ended already: answered."""
    lease = _own_lease(turn, command.lease, command.epoch, command.by)
    if isinstance(lease, Refusal):
        return lease
    if lease.state is LeaseState.ENDED:
        return Answer(_lease_answer(lease), created=False)
    cause = cause_of_notice(lease.ending, command.reason)
    cause = cause or cause_of_provider_end(command.reason, run_silent=_run_is_silent(turn, lease))
    end_lease(turn, lease, cause.reason, command.detail)
    return Answer(_lease_answer(lease))


def end_lost(turn: Turn, lease: Lease, detail: str) -> None:
    """End a lease whose worker is gone without a word: the provider's fault, unless its run was gone before."""
    cause = cause_of_provider_end("head_lost", run_silent=_run_is_silent(turn, lease))
    end_lease(turn, lease, cause.reason, detail)


def _run_is_silent(turn: Turn, lease: Lease) -> bool:
    """Whether nothing has been heard of the job's run for so long that its workers must have given up."""
    volatile = turn.volatile
    heard_ms = max(volatile.run_ms.get(lease.job, 0), lease.started_ms or lease.granted_ms, volatile.awake_ms or 0)
    return turn.now_ms - heard_ms >= turn.settings.run_silence_ms


def end_lease(turn: Turn, lease: Lease, reason: str, detail: str, *, watch: bool = True) -> None:
    """End a living lease by a cause of the fault table, and charge it as far as the table says. `watch`: see `charge`."""
    cause = BY_REASON[reason]
    note_signed(turn, lease)
    if cause.charged is Charged.LAST_READING:
        charge(turn, lease, lease.metered_ms, turn.state.jobs[lease.job].rounds_committed, watch=watch)
        question_meter(turn, lease)
    elif cause.saved_counts:
        charge(turn, lease, lease.saved_ms, turn.state.jobs[lease.job].rounds_committed, watch=watch)
    fields = {
        "lease": lease.id,
        "epoch": lease.epoch,
        "job": lease.job,
        "reason": reason,
        "fault": str(cause.fault),
        "metered_ms": lease.metered_ms,
        "charged_ms": lease.charged_ms,
        "detail": turn.cut(detail),
    }
    turn.emit("lease_ended", fields)


def note_signed(turn: Turn, lease: Lease) -> None:
    """Put the worker's newest signed reading into the record, with what the run saw: both sides' words behind a bill."""
    reading = turn.volatile.signed.pop(lease.id, None)
    if reading is not None and (lease.signed is None or reading["leased_ms"] > lease.signed["leased_ms"]):
        turn.emit("meter_signed", {"lease": lease.id, "epoch": lease.epoch, "job": lease.job, **reading})


def charge(turn: Turn, lease: Lease, to_ms: int, round_number: int, *, watch: bool = True) -> None:
    """Move what the meter up to `to_ms` costs out of the escrow, no more than it holds beside what it keeps for disputes.

    `watch` the budget, or leave that to the caller who charges many leases of one job: a charge of what was metered
    before uses nothing of it that was not used already.
    """
    state = turn.state
    account, job = escrow(lease.job), state.jobs[lease.job]
    kept = held_in_escrow(state, job) if job.disputes else 0
    to_ms = min(to_ms, lease.payable_ms(state.balance(account) - kept))
    if to_ms <= lease.charged_ms:
        return
    amount = lease.nanos_at(to_ms) - lease.charged_nanos
    fee = fee_step(lease.charged_nanos, lease.charged_nanos + amount, state.fee_ppm)
    mark = f"{lease.id}:{to_ms}"
    if amount > fee:
        earned = Transfer(
            f"charge:{mark}", "charge", account, earnings(lease.provider), amount - fee, lease.job, lease.id
        )
        turn.transfer(earned)
    if fee:
        turn.transfer(Transfer(f"fee:{mark}", "fee", account, FEE, fee, lease.job, lease.id))
    fields = {
        "lease": lease.id,
        "epoch": lease.epoch,
        "job": lease.job,
        "from_ms": lease.charged_ms,
        "to_ms": to_ms,
        "amount_nanos": amount,
        "fee_nanos": fee,
        "round": round_number,
    }
    turn.emit("lease_charged", fields)
    if watch:
        watch_budget(turn, job)
