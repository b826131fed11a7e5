"""Interruptible bids are served, and leases outbid, right after each clearing; and who has outbid gets what was left for it.

A preemption is decided by the pure `clear_spot` (market/spot.py) and journaled with its figures (`outbid`): the bid's seats
are promised to it, the leases that go get notice (`lease_noticed`), which the provider's host and the run carry out as for a
reclaim. When they are gone, the bid is granted what it was promised, if that still holds. A lease that is still there
some seconds after its notice is ended by the market.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from market import granting, order_making
from market.clearing import Match, Unmatched
from market.clearing_records import seats_view
from market.commands import ApplyClearing, Flexible
from market.elastic import outbiddable
from market.faults import NOTICED
from market.leases import Lease, LeaseState
from market.orders import Bid, Offer
from market.outcomes import Answer, Json, Refusal
from market.reasons import explain
from market.restarts import loss_nanos, lost_ms, restart_ms
from market.spot import Preemption, SpotClearing, Tenant, clear_spot, fits, seen_by
from market.state import State
from market.turn import Turn
from storage.units import format_usd

SPOT_CLEARING: Final = 0
"""`clearing` of a lease that no numbered clearing granted."""
GRACE_MS: Final = 10_000
"""How long after its notice a lease may still be there: its provider kills, awaits and reports."""


def apply_clearing(turn: Turn, command: ApplyClearing) -> Answer | Refusal:
    """Grant what firm bids got, then serve the interruptible ones out of what is left."""
    answer = granting.apply_clearing(turn, command)
    if isinstance(answer, Refusal) or turn.state.stopped or not turn.state.flexible_jobs:
        return answer
    everybody = Flexible(tuple(turn.state.flexible_jobs), tuple(one.job for one in command.clearing.unmatched), True)
    matched, waiting = _serve(turn, command.flexible or everybody, command.clearing.kept_for)
    body = {"matched": [*answer.body["matched"], *matched], "unmatched": answer.body["unmatched"] + waiting}
    return Answer(body, answer.created)


def _serve(turn: Turn, asked: Flexible, kept_for: str | None) -> tuple[list[Json], int]:
    """(rows of seats that were granted, how many interruptible bids got nothing). kept_for: the job that free seats wait for."""
    state = turn.state
    bids = [bid for name in asked.bids if (bid := _bid(turn, name)) is not None and bid.interruptible]
    losers = [bid for name in asked.losers if (bid := _bid(turn, name)) is not None and bid.essential and not bid.interruptible]
    if not bids and not losers:  # as a rule: then nobody is asked what its restart would cost
        return [], 0
    tenants = tenants_of(turn) if asked.outbid else []
    if not bids and not tenants:
        return [], 0
    kept = None if kept_for is None else _bid(turn, kept_for)
    offers = tuple(
        offer if kept is None or not fits(offer, kept) else replace(offer, gpus_free=0)
        for offer in order_making.book_of(state, turn.volatile)
    )
    found = clear_spot(offers, bids, losers, tenants, state.price_rule)
    matched = [row for match in found.matches for row in _granted(turn, match)]
    for one in found.preemptions:
        _outbid(turn, one)
    waiting = _waiting(bids, found)
    unmatched: list[Json] = []
    if turn.volatile.answers:
        after = tuple(order_making.book_of(state, turn.volatile))
        unmatched = [view for bid in waiting if (view := _news(turn, bid, after)) is not None]
    if matched or unmatched:
        turn.emit("spot_cleared", {"matched": matched, "unmatched": unmatched})
    return matched, len(waiting)


def _bid(turn: Turn, name: str) -> Bid | None:
    job = turn.state.jobs.get(name)
    return None if job is None else order_making.bid_of(turn.state, job, turn.settings, turn.now_ms)


def tenants_of(turn: Turn) -> list[Tenant]:
    """Every lease that a higher bid may take now, with what that would cost its job."""
    state, found = turn.state, list[Tenant]()
    for job in (state.jobs[name] for name in state.flexible_jobs):
        if job.state != "running" or job.wanted != "run":
            continue
        staying = [lease for lease in state.live_leases_of(job) if lease.ending is None]
        restart = None
        for lease, limit in outbiddable(job.spec, staying):
            if lease.own:
                continue
            restart = restart_ms(state, job) if restart is None else restart
            lost = lost_ms(job, lease, state.offers[lease.offer].terms.notice_ms, turn.now_ms)
            loss = loss_nanos(limit, lease.gpus, restart + lost)
            left_ms = order_making.expected_of(state, job, turn.now_ms)
            found.append(Tenant(lease.id, lease.epoch, job.id, lease.offer, lease.gpus, limit, left_ms, loss))
    return found


def _granted(turn: Turn, match: Match) -> list[Json]:
    if not granting.grant(turn, match, SPOT_CLEARING, turn.state.price_rule):
        turn.volatile.dirty = True
        return []
    if _bid(turn, match.job) is not None:
        turn.volatile.dirty = True  # its gang is whole, and now it wants to grow
    return seats_view(match)


def _outbid(turn: Turn, one: Preemption) -> None:
    """Promise the seats and give notice; a lease whose worker was never started ends at once."""
    state = turn.state
    leases = [state.leases[victim.lease] for victim in one.victims]
    notice_ms = max(state.offers[lease.offer].terms.notice_ms for lease in leases)
    victims = [
        {
            "lease": victim.lease,
            "job": victim.job,
            "limit_nanos_per_gpu_hour": victim.limit_nanos_per_gpu_hour,
            "loss_nanos": victim.loss_nanos,
        }
        for victim in one.victims
    ]
    fields: Json = {"job": one.job, "offers": list(one.offers), "gpus": one.gpus}
    for name in ("prices_nanos_per_gpu_hour", "asks_nanos_per_gpu_hour"):
        fields[name] = list(getattr(one, name))
    fields["victims"] = victims
    fields |= {"gain_nanos": one.gain_nanos, "value_nanos": one.value_nanos, "loss_nanos": one.loss_nanos}
    turn.emit("outbid", fields | {"horizon_ms": one.horizon_ms, "until_ms": turn.now_ms + notice_ms + GRACE_MS})
    for lease in leases:
        if lease.state is LeaseState.GRANTED:
            granting.end_lease(turn, lease, "outbid", _told(turn.state, lease))
        else:
            give_notice(turn, lease, "outbid")
    turn.volatile.dirty = True


def give_notice(turn: Turn, lease: Lease, reason: str) -> None:
    """Tell the lease that it ends: its provider's host and its run hear of it and carry it out."""
    fields = {"lease": lease.id, "epoch": lease.epoch, "job": lease.job, "reason": reason}
    turn.emit("lease_noticed", fields | {"notice_ms": turn.state.offers[lease.offer].terms.notice_ms})


def _told(state: State, lease: Lease) -> str:
    """What the customer of a lease hears that was outbid: nothing of the other but that it pays more."""
    job = state.jobs[lease.job]
    staying = state.live_leases_of(job)
    limit = next((limit for one, limit in outbiddable(job.spec, staying) if one.id == lease.id), None)
    return "outbid" if limit is None else f"another bid more than its {format_usd(limit)} USD per GPU-hour"


def _waiting(bids: Iterable[Bid], found: SpotClearing) -> list[Bid]:
    served = {one.job for one in found.matches} | {one.job for one in found.preemptions}
    return [bid for bid in bids if bid.job not in served and bid.essential]


def _news(turn: Turn, bid: Bid, offers: Iterable[Offer]) -> Json | None:
    """Why an interruptible bid got nothing, if its customer has not heard that yet."""
    why = explain_flexible(offers, bid)
    job = turn.state.jobs[bid.job]
    if job.unmatched is not None and job.unmatched["reason"] == why.reason:
        return None
    removed = [{"reason": str(one.reason), "gpus": one.gpus} for one in why.removed]
    relaxations = list(why.relaxations)
    return {"job": bid.job, "reason": str(why.reason), "detail": why.detail, "removed": removed, "relaxations": relaxations}


def explain_flexible(offers: Iterable[Offer], bid: Bid) -> Unmatched:
    """As `explain`, at the prices that an interruptible bid pays."""
    return explain(tuple(seen_by(offer, bid) for offer in offers), bid)


def watch(turn: Turn) -> None:
    """At each tick: end leases whose notice is long over, and grant what has been left for those who outbid."""
    state = turn.state
    for lease in [state.leases[name] for name in state.live_leases]:
        ending = lease.ending
        if ending is not None and ending["reason"] in NOTICED and turn.now_ms >= ending["ends_ms"] + GRACE_MS:
            granting.end_lease(turn, lease, ending["reason"], "its notice is over")
    for name in list(state.promised_jobs):
        job = state.jobs[name]
        promise = job.promise
        assert promise is not None
        if job.state not in ("pending", "running") or job.wanted != "run":
            turn.emit("promise_ended", {"job": name, "kept": False, "why": "the job wants nobody any more"})
            turn.volatile.dirty = True
        elif not any(victim["lease"] in state.live_leases for victim in promise["victims"]):
            turn.emit("promise_ended", {"job": name, "kept": True, "why": "the others have left"})
            prices, asks = (tuple(promise[f"{what}_nanos_per_gpu_hour"]) for what in ("prices", "asks"))
            match = Match(name, tuple(promise["offers"]), promise["gpus"], prices, asks)
            granting.grant(turn, match, SPOT_CLEARING, state.price_rule)
            turn.volatile.dirty = True
