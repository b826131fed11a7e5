"""What a run through failures was worth, from its record.

`goodput`: committed ÷ leased worker-milliseconds. Leased counts from a lease's grant until it was over (for a dead one:
until its death was noticed). Committed counts, for each committed round and each worker whose contribution was merged in
it, from the commit before to this one, or from the grant if that was later. `trained_goodput` counts only what the child
trained and evaluated in them. `tokens_lost`: of contributions made and never merged, and of rounds
that ended with their worker, by its speed.
"""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.fleet_run import Lease, Record

Json = dict[str, Any]


def figures_of(record: Record) -> Json:
    """All figures of one run; those of something that did not happen are left out."""
    leased_s = sum(_length(lease) for lease in record.leases)
    committed_s, trained_s, tokens = _committed(record)
    hits = [one for one in record.happened if one.kind != "thaw"]
    commits = [(_next_commit(record, one.at_s), one.at_s) for one in hits]
    recoveries = [commit_s - at_s for commit_s, at_s in commits if commit_s is not None]
    newcomers = [lease for lease in record.leases if lease.leased_s > record.began_s]
    found: Json = {
        "rounds": len(record.rounds),
        "failures": len(hits),
        "leases": len(record.leases),
        "seconds": record.ended_s - record.began_s,
        "round_s": statistics.median(one["duration_ms"] / 1000 for one in record.rounds),
        "goodput": committed_s / leased_s,
        "trained_goodput": trained_s / leased_s,
        "tokens": tokens,
        "tokens_lost": max(0.0, _lost_tokens(record)),
        "held_out": record.evaluated[max(record.evaluated)],
    }
    spans = {
        "recovery_s": recoveries,
        "warm_ready_s": [lease.ready_s - lease.leased_s for lease in newcomers if lease.ready_s and lease.warm],
        "cold_ready_s": [lease.ready_s - lease.leased_s for lease in newcomers if lease.ready_s and not lease.warm],
        "first_contribution_s": [
            lease.first_commit_s - lease.leased_s for lease in newcomers if lease.first_commit_s is not None
        ],
        "replacement_s": _replacements(record),
        "rounds_from_ready_to_first_contribution": [
            float(_commits_between(record, lease.ready_s, lease.first_commit_s))
            for lease in newcomers
            if lease.ready_s is not None and lease.first_commit_s is not None
        ],
    }
    for name, values in spans.items():
        if values:
            found |= {name: statistics.median(values), f"worst_{name}": max(values)}
    return found


def _replacements(record: Record) -> list[float]:
    """From what took a worker away to the first commit with a contribution of the next newcomer's own, one each."""
    newcomers = sorted((lease for lease in record.leases if lease.leased_s > record.began_s), key=lambda one: one.leased_s)
    found = []
    for hit in sorted((one for one in record.happened if one.kind in {"kill", "cut"}), key=lambda one: one.at_s):
        lease = next((one for one in newcomers if one.leased_s >= hit.at_s), None)
        if lease is not None:
            newcomers.remove(lease)
            if lease.first_commit_s is not None:
                found.append(lease.first_commit_s - hit.at_s)
    return found


def _length(lease: Lease) -> float:
    assert lease.ended_s is not None
    return lease.ended_s - lease.leased_s


def _committed(record: Record) -> tuple[float, float, int]:
    """(seconds between commits, seconds that the child worked in them, tokens)."""
    by_slot = {lease.slot: lease for lease in record.leases}
    charged_s, trained_s, tokens = 0.0, 0.0, 0
    before_s: dict[int, float] = {}
    before_ms: dict[int, int] = {}
    for one in record.rounds:
        for member in one["members"]:
            slot = member["slot"]
            since_s = max(by_slot[slot].leased_s, before_s.get(slot, 0.0))
            charged_s += one["at_s"] - since_s
            trained_s += (member["trained_ms"] - before_ms.get(slot, 0)) / 1000
            before_ms[slot] = member["trained_ms"]
            tokens += member["tokens"]
        before_s = dict.fromkeys(by_slot, one["at_s"])
    return charged_s, trained_s, tokens


def _next_commit(record: Record, at_s: float) -> float | None:
    return next((one["at_s"] for one in record.rounds if one["at_s"] > at_s), None)


def _commits_between(record: Record, ready_s: float, first_s: float) -> int:
    """Commits after it was ready, up to the one with its own contribution, less that of the round then under way."""
    return max(0, sum(ready_s < one["at_s"] <= first_s for one in record.rounds) - 1)


def _lost_tokens(record: Record) -> float:
    """Contributed and not merged, and the unfinished rounds of dead workers."""
    merged = {lease.epoch: 0 for lease in record.leases}
    rates = []
    for one in record.rounds:
        for member in one["members"]:
            merged[member["epoch"]] += member["tokens"]
            rates.append(member["tokens"] / max(1, one["duration_ms"]))
    lost, rate = 0.0, statistics.median(rates)
    for lease in record.leases:
        reading = record.readings.get(lease.epoch)
        lost += max(0, reading["tokens"] - merged[lease.epoch]) if reading is not None else 0
        if lease.hit_s is not None:
            since = [one["at_s"] for one in record.rounds if one["at_s"] <= lease.hit_s]
            began_s = max([lease.ready_s or lease.hit_s, *since[-1:]])
            lost += rate * 1000 * max(0.0, lease.hit_s - began_s)
    return lost
