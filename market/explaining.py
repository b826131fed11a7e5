"""Why a job has, or has not, got its workers: on the offers of now, by its team's turn and quota, by limits and standing."""

from __future__ import annotations

from market.clearing import Reason, clear, explain
from market.granting import bid_of, take_snapshot
from market.orders import Bid
from market.outcomes import Json, Settings
from market.spending import REASON as SPENDING_LIMIT
from market.spending import told as limits_told
from market.state import Job, State, Volatile
from market.teams import quota_refuses, share_sentence

DOUBTED_SHOWN = 3


def explain_view(state: State, volatile: Volatile, settings: Settings, job: Job) -> Json:
    """Why the job is (not) matched, on the offers of now."""
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
    if bid is None:
        waits = job.state == "paused" and job.reason == SPENDING_LIMIT
        return view | ({"detail": limits_told(state, job, volatile.now_ms)} if waits else {})
    snapshot = take_snapshot(state, volatile, settings)
    if snapshot.standings:
        view |= {"team": bid.team or None, "share": share_sentence(state, snapshot, job)}
        if (quota := quota_refuses(snapshot, bid)) is not None:
            return view | {"reason": str(Reason.TEAM_QUOTA), "detail": quota}
    own = clear(type(snapshot)(snapshot.offers, (bid,)))
    if own.matches:
        return view | {"detail": view["detail"] or "it fits and waits for its turn"}
    why = explain(snapshot.offers, bid)
    return view | {
        "reason": str(why.reason),
        "detail": why.detail + _doubted(state, bid),
        "removed": [{"reason": str(one.reason), "gpus": one.gpus} for one in why.removed],
        "relaxations": list(why.relaxations),
    }


def _doubted(state: State, bid: Bid) -> str:
    """What is in doubt among the models that the bid wants, and so is matched to nobody."""
    found = [
        f"; {offer.id} is left out: {offer.doubt}"
        for offer in state.offers.values()
        if offer.doubt and offer.state == "open" and (not bid.requires.gpu or offer.gpu in bid.requires.gpu)
    ]
    return "".join(found[:DOUBTED_SHOWN])
