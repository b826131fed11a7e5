"""What a run tells the market of a committed round, from what its workers have answered."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from storage.worker_statements import is_statement_signed, worker_statement
from trainers import rounds as machine
from trainers.actors.roster import Worker

log = logging.getLogger("torg.run")

Json = dict[str, Any]

# The machine's words for a loss, as the market knows them.
_REASONS = {"deadline": "worker_slow", "digest": "stale", "nan": "bad_contribution", "payload": "bad_contribution"}
_FROM_INFO = ("loss", "steps", "tokens", "contribution")
_FROM_MERGE = ("sent_bytes", "received_bytes", "stall_ms")


def market_reason(reason: str) -> str:
    """The market's word for why the round machine lost somebody."""
    return _REASONS.get(reason, reason)


def round_report(
    job: str, done: machine.RoundCommitted, contributors: Sequence[int], met: Mapping[int, Worker], strategy: str,
    tuning: int,
) -> Json:  # fmt: skip
    """The body of POST /v1/rounds for a round that has just been committed, made with that tuning of the strategy."""
    return {
        "job": job,
        "strategy": strategy,
        "tuning": tuning,
        "attempts": done.attempts,
        "late": list(done.late),
        "warned": [{"slot": one.slot, "reason": one.why[:2000]} for one in done.warned],
        "round": done.round,
        "step": done.step,
        "digest": done.digest,
        "reason": done.why,
        "duration_ms": done.duration_ms,
        "members": [_member_row(met[slot]) for slot in contributors],
        "words": [
            word
            for slot in contributors
            for word in _words(job, done.round, done.digest, met[slot], met[slot].info, met[slot].merged)
        ],
        "lost": [
            {"lease": met[one.slot].lease, "epoch": one.epoch, "reason": market_reason(one.reason)} for one in done.lost
        ],
    }


def recovered_report(job: str, number: int, told: Mapping[int, Json]) -> Json | None:
    """The same for a round that a dead predecessor committed, from what living workers remember of it by slot; None
    when nobody contributed to it.
    """
    rows = [_recovered_row(slot, done) for slot, done in sorted(told.items()) if done["info"] is not None]
    if not rows:
        return None
    first = next(iter(told.values()))
    return {
        "job": job,
        "round": number,
        "step": first["step"],
        "digest": first["digest"],
        "reason": f"Round {number} was committed by a run that died; told by {len(rows)} workers that live",
        "duration_ms": 0,
        "members": rows,
        "words": [
            word
            for done in told.values()
            if done["info"] is not None
            for word in _words(job, number, first["digest"], done["worker"], done["info"], done)
        ],
        "lost": [],
    }


def _member_row(worker: Worker) -> Json:
    reading = worker.reading
    return {
        **_who(worker),
        **_work(worker.info, worker.merged),
        "leased_ms": max(worker.merged.get("leased_ms", 0), reading.get("leased_ms", 0)),
        "trained_ms": max(worker.merged.get("trained_ms", 0), reading.get("trained_ms", 0)),
        "run_ms": None if worker.based_at is None else worker.run_ms(time.monotonic()),
    }


def _recovered_row(slot: int, done: Json) -> Json:
    assert done["worker"].slot == slot
    return {
        **_who(done["worker"]),
        **_work(done["info"], done),
        "leased_ms": done["leased_ms"],
        "trained_ms": done["trained_ms"],
    }


def _work(info: Json, merged: Json) -> Json:
    """What a member did. One that died before it could say what it sent has the digest of what it trained."""
    row = {name: info[name] for name in _FROM_INFO} | {name: merged.get(name, 0) for name in _FROM_MERGE}
    row["contribution"] = merged.get("contribution") or info["contribution"]
    return {**row, "bytes": row["sent_bytes"]}


def _words(job: str, round: int, digest: str, worker: Worker, info: Json, merged: Json) -> list[Json]:
    """The worker's own word for its work, if its lease's key has signed it: nobody else's goes to the market.

    `parameters` are said where the worker's are not the round's, as in a strategy whose members never agree.
    """
    signature, parameters = str(merged.get("signature") or ""), merged.get("digest", digest)
    if not (worker.meter_key and signature) or merged.get("round") != round:
        return []
    work = {**_work(info, merged), "lease": worker.lease, "epoch": worker.epoch}
    if not is_statement_signed(worker_statement(job, round, parameters, work), worker.meter_key, signature):
        log.warning("the work of lease %s in round %s is not signed by its key: left out", worker.lease, round)
        return []
    own = {} if parameters == digest else {"parameters": parameters}
    return [{"lease": worker.lease, "epoch": worker.epoch, "signature": signature, **own}]


def _who(worker: Worker) -> Json:
    return {"lease": worker.lease, "epoch": worker.epoch, "slot": worker.slot, "provider": worker.provider}
