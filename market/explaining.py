"""Why a job has, or has not, got its workers: on the offers of now, by its team's turn and quota, by limits and standing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

from market.changes import changes_view, promise_told
from market.clearing import Reason, clear
from market.constraints import CONSTRAINTS
from market.order_making import bid_of
from market.orders import Bid, Offer
from market.outcomes import Json, Settings
from market.outlook import recent_waits
from market.reasons import Removed, explain, helps, in_words, price_gap
from market.snapshots import take_snapshot
from market.spending import REASON as SPENDING_LIMIT
from market.spending import told as limits_told
from market.spot import seen_by
from market.state import Job, State, Volatile
from market.teams import quota_refuses, share_sentence
from storage.units import format_usd

DOUBTED_SHOWN = 3


def explain_view(state: State, volatile: Volatile, settings: Settings, job: Job) -> Json:
    """Why the job is (not) matched, on the offers of now. The fields are in docs/API.md."""
    bid = bid_of(state, job, settings, volatile.now_ms)
    view: Json = {
        "job": job.id,
        "state": job.state,
        "matched": bool(job.live),
        "workers": len(job.live),
        "workers_min": job.spec["workers"]["min"],
        "workers_max": job.spec["workers"]["max"],
        "reason": job.reason,
        "detail": job.detail,
        "removed": [],
        "relaxations": [],
    }
    if bid is None and job.state == "pending" and state.members[job.customer].suspended:
        detail = f"{job.customer} is suspended: the job waits until it is resumed"
        return view | {"reason": "member_suspended", "detail": detail}
    view["changes"] = changes_view(state, job)
    view["questioned"] = questioned_view(state, job)
    if job.promise is not None:
        return view | {"reason": "outbidding", "detail": promise_told(state, job, volatile.now_ms)}
    if bid is None:
        waits = job.state == "paused" and job.reason == SPENDING_LIMIT
        return view | ({"detail": limits_told(state, job, volatile.now_ms)} if waits else {})
    snapshot = take_snapshot(state, volatile, settings)
    if bid.interruptible:
        snapshot = replace(snapshot, offers=tuple(seen_by(offer, bid) for offer in snapshot.offers), book=None)
    if snapshot.standings:
        view |= {"team": bid.team or None, "share": share_sentence(state, snapshot, job)}
        if (quota := quota_refuses(snapshot, bid)) is not None:
            return view | {"reason": str(Reason.TEAM_QUOTA), "detail": quota}
    view |= {"waited_ms": volatile.now_ms - bid.waits_since_ms, "due": bid.due, "recent": recent_waits(state.trades, bid)}
    own = clear(replace(snapshot, bids=(bid,), standings=()), reasons=False)
    if own.matches:
        return view | {"detail": view["detail"] or "it fits and waits for its turn"}
    view |= why_view(snapshot.offers, bid)
    view |= _outbid(state, bid, snapshot.offers, view)
    return view | {"detail": view["detail"] + _doubted(state, bid)}


def questioned_view(state: State, job: Job) -> list[Json]:
    """Of each lease on which worker and run do not agree: what both say, and what is held for the rest."""
    return [
        {
            "lease": lease.id, "provider": lease.provider, "agreed_ms": lease.metered_ms, "worker_ms": lease.claimed_ms,
            "held_nanos": lease.questioned_nanos,
        }
        for lease in state.leases_of(job)
        if lease.questioned_ms
    ]  # fmt: skip


def _doubted(state: State, bid: Bid) -> str:
    """What is in doubt among the models that the bid wants, and so is matched to nobody."""
    found = [
        f"; {offer.id} is left out: {offer.doubt}"
        for offer in state.offers.values()
        if offer.doubt and offer.state == "open" and (not bid.requires.gpu or offer.gpu in bid.requires.gpu)
    ]
    return "".join(found[:DOUBTED_SHOWN])


def why_view(offers: Sequence[Offer], bid: Bid) -> Json:
    """{reason, detail, removed, relaxations, steps, price_short, helps, would_help} of a bid that cannot be matched on these offers."""
    why = explain(offers, bid)
    found = helps([offer.seen_by(bid.customer) for offer in offers], bid)
    return {
        "reason": str(why.reason),
        "detail": why.detail,
        "removed": [{"reason": str(one.reason), "gpus": one.gpus} for one in why.removed],
        "relaxations": list(why.relaxations),
        "steps": steps_view(offers, why.removed),
        "price_short": _price_view(offers, bid),
        "helps": [asdict(one) for one in found],
        "would_help": in_words(found) or None,
    }


def steps_view(offers: Sequence[Offer], removed: Sequence[Removed]) -> list[Json]:
    """How many GPUs each requirement took away, and how many were left after it."""
    left = sum(offer.gpus for offer in offers)
    found: list[Json] = [{"reason": "offered", "gpus": 0, "left": left}]
    for one in removed:
        left -= one.gpus
        found.append({"reason": str(one.reason), "gpus": one.gpus, "left": left})
    return found


def _price_view(offers: Sequence[Offer], bid: Bid) -> Json | None:
    """How far the limit is off; None where it is not."""
    gap = price_gap([offer.seen_by(bid.customer) for offer in offers], bid)
    limit = bid.max_price_nanos_per_gpu_hour
    if gap is None or (gap[0] or gap[1]) <= limit:
        return None
    needed = gap[0] or gap[1]
    return {
        "limit_nanos": limit,
        "needed_nanos": needed,
        "short_nanos": needed - limit,
        "short_percent": -(-(needed - limit) * 100 // max(1, limit)),
        "free_now": bool(gap[0]),
    }


def _outbid(state: State, bid: Bid, offers: Sequence[Offer], why: Json) -> Json:
    """Who got what it could have used, since it waits: nobody's name, only what the last of it went for."""
    places = {offer.id for offer in offers if all(test(offer.seen_by(bid.customer), bid) for _, test in CONSTRAINTS)}
    taken = [
        lease
        for lease in (state.leases[name] for name in state.live_leases)
        if lease.offer in places and lease.job != bid.job and lease.granted_ms >= bid.waits_since_ms and not lease.own
    ]
    if not taken:
        return {}
    last = max(taken, key=lambda lease: lease.epoch)
    told = f"others make more of these machines: the last seat went for ${format_usd(last.price_nanos_per_gpu_hour)} per GPU-hour"
    return {"reason": str(Reason.OUTBID), "detail": f"{told}; {why['detail']}", "last_price_nanos_per_gpu_hour": last.price_nanos_per_gpu_hour}
