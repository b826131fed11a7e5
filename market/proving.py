"""The provenance of a segment: who computed what between two durable checkpoints, from what, for how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from market.events import Event
from market.outcomes import Json
from market.state import Job
from market.tuning import planned_rounds, strategy_in_force
from storage.provenance import Charge, Segment, SegmentOutputs, Work, make_statement, statement_digest


def make_segment(job: Job, before: Mapping[str, Any] | None, charges: Sequence[Event]) -> Json:
    """The fields of the `provenance` event for the checkpoint that has just become durable.

    `before` is the durable checkpoint before it (round, step, manifest) or None.
    """
    assert job.durable is not None
    first, last = (0 if before is None else int(before["round"])) + 1, job.durable_round
    code, data = _code(job.spec), _data(job.spec)
    segment = Segment(
        job=job.id,
        segment=len(job.segments) + 1,
        first_round=first,
        last_round=last,
        first_step=0 if before is None else int(before["step"]),
        last_step=int(job.durable["step"]),
        parent_statement=job.segments[-1]["digest"] if job.segments else None,
        parent_manifest=None if before is None else str(before["manifest"]),
        code=code[0],
        code_label=code[1],
        data=data[0],
        data_label=data[1],
        order_seed=job.spec["seed"],
        hyperparameters=_hyperparameters(job, first, last),
        work=_work(job, first, last),
        outputs=SegmentOutputs(str(job.durable["manifest"]), None, job.rounds[last]["digest"]),
        charges=tuple(
            Charge(one["lease"], one["epoch"], one["from_ms"], one["to_ms"], one["amount_nanos"], one["fee_nanos"])
            for one in charges
        ),
    )
    statement = make_statement(segment)
    return {
        "job": job.id,
        "segment": segment.segment,
        "statement": statement,
        "digest": statement_digest(statement),
    }


def _hyperparameters(job: Job, first: int, last: int) -> Json:
    """What the segment's rounds were made with: `strategy` at its first one, `switches` where it changed within."""
    found: Json = {name: job.spec[name] for name in ("options", "strategy", "steps", "rounds", "seed")}
    if not job.tunings:
        return found
    tunings = [(number, job.rounds[number]["tuning"]) for number in range(first, last + 1)]
    switches = [
        {"round": number, "strategy": strategy_in_force(job, tuning)}
        for (_, before), (number, tuning) in pairwise(tunings)
        if tuning != before
    ]
    found |= {"strategy": strategy_in_force(job, tunings[0][1]), "rounds": planned_rounds(job)}
    return found | ({"switches": switches} if switches else {})


def _work(job: Job, first: int, last: int) -> tuple[Work, ...]:
    rows: dict[str, list[Json]] = {}
    for number in range(first, last + 1):
        for member in job.rounds[number]["members"]:
            rows.setdefault(member["lease"], []).append(member)
    return tuple(_work_of(job, parts) for _, parts in sorted(rows.items()))


def _work_of(job: Job, parts: Sequence[Json]) -> Work:
    newest = parts[-1]
    leased_ms, trained_ms = job.proved_ms.get(newest["lease"], (0, 0))
    return Work(
        lease=newest["lease"],
        epoch=newest["epoch"],
        slot=newest["slot"],
        provider=newest["provider"],
        rounds=len(parts),
        steps=sum(part["steps"] for part in parts),
        tokens=sum(part["tokens"] for part in parts),
        leased_ms=max(0, newest["leased_ms"] - leased_ms),
        trained_ms=max(0, newest["trained_ms"] - trained_ms),
    )


def _code(spec: Json) -> tuple[str | None, str]:
    workload = spec["workload"]
    if workload["kind"] == "builtin":
        return None, f"builtin:{workload['name']}"
    return workload["digest"], f"{workload['filename']}:{workload['class_name']}"


def _data(spec: Json) -> tuple[str | None, str]:
    data = spec["data"]
    if data["kind"] == "blob":
        return data["digest"], data["label"]
    return None, f"share:{data['name']}" if data["kind"] == "share" else "none"
