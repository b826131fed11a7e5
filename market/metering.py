"""What a run reports: readings, rounds, checkpoints. Meters never run backwards nor faster than the clock.

The meter of a lease is what both sides agree on: the worker's reading, signed with the lease's key, as far as its run saw that
time pass. What the worker says beyond that is in question: it is not charged, and the escrow keeps it (ADR 25).
In a `Member`, `leased_ms` and `trained_ms` are cumulative since the lease's grant; loss, steps, tokens and bytes are of
this round alone. Work is charged when a checkpoint makes it durable.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

from market.alerts import watch_budget
from market.checking import MAX_INT, MAX_ROUNDS, MAX_STEPS, MAX_WORKERS, invalid, is_digest, is_int, is_name, is_text
from market.commands import Evaluated, LostWorker, Member, Reading, ReportCheckpoint, ReportReadings, ReportRound
from market.faults import cause_of_loss, cause_of_notice
from market.granting import charge, end_lease, note_signed
from market.leases import Lease, LeaseState
from market.outcomes import Answer, Refusal
from market.pricing import must_pause
from market.proving import make_segment
from market.spending import REASON as SPENDING_LIMIT
from market.spending import must_stop, tell_limits
from market.state import Job
from market.tuning import tuning_of_round
from market.turn import Turn
from storage.meter_readings import COUNTS
from trainers.metrics import wrong_metrics

CLOCKS_DIFFER_MS: Final = 1_000
CLOCKS_DIFFER_PART: Final = 500
"""Two honest clocks: a second and a five-hundredth of the time."""
_METERED: Final = (*COUNTS, "claimed_ms")


def report_answer(job: Job, created: bool = True, stale: int = 0) -> Answer:
    """What every report of a run is answered: the version of the directive."""
    return Answer({"version": job.version, "state": job.state, "wanted": job.wanted, "stale": stale}, created)


def job_of_run(turn: Turn, name: str, by: str) -> Job | Refusal:
    """The job that a run reports about; a sign of life of that run."""
    refusal = turn.require(by, ("plane",))
    if refusal is not None:
        return refusal
    job = turn.state.jobs.get(name)
    if job is not None:
        turn.volatile.run_ms[job.id] = turn.now_ms
    return job or Refusal("unknown_job", f"there is no job {name!r}", field="job", status=404)


def _no_rounds(job: Job) -> Refusal:
    return Refusal("no_rounds", f"{job.id} runs a command: it has no rounds", field="job", status=409)


def lease_of(turn: Turn, job: Job, name: str, epoch: int) -> Lease | None:
    """The lease, if it is this job's and of this epoch."""
    lease = turn.state.leases.get(name)
    return lease if lease is not None and (lease.job, lease.epoch) == (job.id, epoch) else None


def report_readings(turn: Turn, command: ReportReadings) -> Answer | Refusal:
    """Meters go up, losses are noted, lost workers' leases end. Stale epochs are counted and dropped."""
    job = job_of_run(turn, command.job, command.by)
    if isinstance(job, Refusal):
        return job
    for reading in command.readings:
        for name in ("leased_ms", "trained_ms", "rounds", "tokens", "bytes"):
            if not is_int(getattr(reading, name), 0, MAX_INT):
                return invalid(f"readings.{name}", getattr(reading, name), "a count")
        if reading.run_ms is not None and not is_int(reading.run_ms, 0, MAX_INT):
            return invalid("readings.run_ms", reading.run_ms, "milliseconds, or nothing")
        if not is_text(reading.signature, 128):
            return invalid("readings.signature", reading.signature, "an Ed25519 signature, 128 hex digits, or empty")
    for one in command.evaluated:
        wrong = wrong_metrics(one.metrics)
        if wrong is not None:
            return Refusal("invalid", f"evaluated.metrics: round {one.round} {wrong}", field="evaluated.metrics")
    if job.state != "running":
        return report_answer(job, created=False)
    if command.run_pid is not None and is_int(command.run_pid, 1, 2**31):
        turn.volatile.run_pid[job.id] = command.run_pid
    stale = sum(not _meter(turn, job, reading) for reading in command.readings)
    _evaluate(turn, job, command.evaluated)
    stale += _lose(turn, job, command.lost)
    watch_escrow(turn, job)
    return report_answer(job, stale=stale)


def _meter(turn: Turn, job: Job, reading: Reading) -> bool:
    """Take a reading, all but its `rounds`: a worker counts what it commits, the market what it has been told of."""
    lease = lease_of(turn, job, reading.lease, reading.epoch)
    if lease is None or lease.state is not LeaseState.ACTIVE:
        return False
    turn.volatile.reading_ms[lease.id] = turn.now_ms
    said_ms = min(reading.leased_ms, turn.now_ms - lease.granted_ms)
    leased_ms, claimed_ms = max(lease.metered_ms, agreed_ms(said_ms, reading.run_ms)), max(lease.claimed_ms, said_ms)
    _keep_signed(turn, lease, reading)
    trained_ms = max(lease.trained_ms, min(reading.trained_ms, leased_ms))
    tokens, sent = max(lease.tokens, reading.tokens), max(lease.bytes, reading.bytes)
    _note_meter(turn, lease, leased_ms, trained_ms, lease.rounds, tokens, sent, claimed_ms)
    return True


def agreed_ms(said_ms: int, run_ms: int | None) -> int:
    """What both sides agree on: the worker's word as far as the run saw that much time pass, within what clocks differ by."""
    if run_ms is None or said_ms <= run_ms + CLOCKS_DIFFER_MS + run_ms // CLOCKS_DIFFER_PART:
        return said_ms
    return run_ms


def _keep_signed(turn: Turn, lease: Lease, reading: Reading) -> None:
    """For the next charge. Only from a worker whose key the provider has named."""
    before = turn.volatile.signed.get(lease.id)
    if lease.meter_key and reading.signature and (before is None or reading.leased_ms >= before["leased_ms"]):
        fields = {name: getattr(reading, name) for name in (*COUNTS, "run_ms", "signature")}
        turn.volatile.signed[lease.id] = fields


def _note_meter(
    turn: Turn, lease: Lease, leased_ms: int, trained_ms: int, rounds: int, tokens: int, sent_bytes: int, claimed_ms: int = 0
) -> None:
    new = (leased_ms, trained_ms, rounds, tokens, sent_bytes, max(leased_ms, lease.claimed_ms, claimed_ms))
    if new != (lease.metered_ms, lease.trained_ms, lease.rounds, lease.tokens, lease.bytes, lease.claimed_ms):
        fields = {"lease": lease.id, "epoch": lease.epoch, "job": lease.job}
        turn.emit("lease_metered", fields | dict(zip(_METERED, new, strict=True)))


def _count_round(turn: Turn, lease: Lease, number: int) -> None:
    """One more round for a lease that was not in this one before; also for one that has ended meanwhile."""
    rounds = max(lease.rounds, len(lease.took_part | {number}))
    _note_meter(turn, lease, lease.metered_ms, lease.trained_ms, rounds, lease.tokens, lease.bytes)


def _evaluate(turn: Turn, job: Job, evaluated: Iterable[Evaluated]) -> None:
    for one in evaluated:
        known = isinstance(one.round, int) and 1 <= one.round <= job.rounds_committed
        metrics = {name: float(value) for name, value in sorted(one.metrics.items())}
        news = (job.losses.get(one.round), job.metrics.get(one.round)) != (one.loss, metrics)
        if known and math.isfinite(one.loss) and news:
            fields = {"job": job.id, "round": one.round, "loss": float(one.loss), "metrics": metrics}
            turn.emit("round_evaluated", fields)


def _lose(turn: Turn, job: Job, lost: Iterable[LostWorker]) -> int:
    stale = 0
    for one in lost:
        lease = lease_of(turn, job, one.lease, one.epoch)
        if lease is None or not lease.live:
            stale += 1
            continue
        cause = cause_of_notice(lease.ending, one.reason) or cause_of_loss(one.reason)
        end_lease(turn, lease, cause.reason, one.detail)
    return stale


def report_round(turn: Turn, command: ReportRound) -> Answer | Refusal:
    """A round is committed. The one after the last, the same again, or another try of rounds that were lost."""
    job = job_of_run(turn, command.job, command.by)
    if isinstance(job, Refusal):
        return job
    if job.command is not None:
        return _no_rounds(job)
    refusal = _check_round(command) or _check_manner(command, job)
    if refusal is not None:
        return refusal
    if _is_known_round(job, command):
        _lose(turn, job, command.lost)
        return report_answer(job, created=False)
    if job.state != "running":
        return report_answer(job, created=False)
    if not job.durable_round < command.round <= job.rounds_committed + 1:
        return Refusal(
            "round_out_of_order",
            f"{job.id} has committed {job.rounds_committed} rounds, {job.durable_round} of them durable",
            field="round",
            status=409,
        )
    before = job.rounds[command.round - 1]["step"] if command.round > 1 else 0
    if command.step < before:
        return invalid("step", command.step, f"a step from {before}, where the round before ended")
    members = [(member, lease_of(turn, job, member.lease, member.epoch)) for member in command.members]
    present = [(member, lease) for member, lease in members if lease is not None and lease.started_ms is not None]
    if not present:
        return Refusal("no_members", "no member of this round holds a lease of the job", field="members", status=409)
    _commit(turn, job, command, present)
    _lose(turn, job, command.lost)
    watch_escrow(turn, job)
    return report_answer(job, stale=len(members) - len(present))


_COUNTS: Final = (
    "steps", "tokens", "leased_ms", "trained_ms", "bytes", "sent_bytes", "received_bytes", "stall_ms"
)  # fmt: skip


def _check_round(command: ReportRound) -> Refusal | None:
    if not is_int(command.round, 1, MAX_ROUNDS):
        return invalid("round", command.round, "a round from 1")
    if not is_int(command.step, 0, MAX_STEPS):
        return invalid("step", command.step, "a step from 0")
    if not is_digest(command.digest):
        return invalid("digest", command.digest, "a SHA-256 in hex")
    if not is_int(command.duration_ms, 0, MAX_INT):
        return invalid("duration_ms", command.duration_ms, "milliseconds")
    for member in command.members:
        for name in _COUNTS:
            if not is_int(getattr(member, name), 0, MAX_INT):
                return invalid(f"members.{name}", getattr(member, name), "a count")
        if member.run_ms is not None and not is_int(member.run_ms, 0, MAX_INT):
            return invalid("members.run_ms", member.run_ms, "milliseconds, or nothing")
        if not is_text(member.contribution, 128):
            return invalid("members.contribution", member.contribution, "a digest")
    for word in command.words:
        if not is_text(word.signature, 128) or not (word.parameters is None or is_digest(word.parameters)):
            return invalid("words", word.lease, "a signature, and a digest or nothing, for each lease")
    return None


def _check_manner(command: ReportRound, job: Job) -> Refusal | None:
    """How the round was made, as far as that is told."""
    if command.strategy and not is_name(command.strategy):
        return invalid("strategy", command.strategy, "a strategy's name, or empty")
    if command.tuning is not None and not is_int(command.tuning, 0, len(job.tunings)):
        return invalid("tuning", command.tuning, f"a tuning of the job: 0 to {len(job.tunings)}")
    if not is_int(command.attempts, 1, MAX_INT):
        return invalid("attempts", command.attempts, "a count from 1")
    if len(command.late) > MAX_WORKERS or not all(is_int(slot, 0, MAX_INT) for slot in command.late):
        return invalid("late", command.late, f"a list of at most {MAX_WORKERS} slots")
    if len(command.warned) > MAX_WORKERS:
        return invalid("warned", len(command.warned), f"a list of at most {MAX_WORKERS} entries")
    for one in command.warned:
        if not is_int(one.slot, 0, MAX_INT):
            return invalid("warned.slot", one.slot, "a slot")
    return None


def _is_known_round(job: Job, command: ReportRound) -> bool:
    known = job.rounds.get(command.round)
    if known is None or known["digest"] != command.digest:
        return False
    # A member whose epoch was stale is not in the record, so the record may hold fewer.
    return {member["epoch"] for member in known["members"]} <= {member.epoch for member in command.members}


def _commit(turn: Turn, job: Job, command: ReportRound, present: Sequence[tuple[Member, Lease]]) -> None:
    rows: list[dict[str, Any]] = []
    for member, lease in present:
        _meter(
            turn,
            job,
            Reading(lease.id, lease.epoch, member.leased_ms, member.trained_ms, 0, lease.tokens, lease.bytes, member.run_ms),
        )
        _count_round(turn, lease, command.round)
        loss = member.loss
        rows.append(
            {
                "lease": lease.id,
                "epoch": lease.epoch,
                "slot": lease.slot,
                "provider": lease.provider,
                "loss": float(loss) if loss is not None and math.isfinite(loss) else None,
                "steps": member.steps,
                "tokens": member.tokens,
                "leased_ms": min(member.leased_ms, lease.metered_ms),
                "trained_ms": min(member.trained_ms, lease.trained_ms),
                "bytes": member.bytes,
                "contribution": member.contribution,
                "sent_bytes": member.sent_bytes,
                "received_bytes": member.received_bytes,
                "stall_ms": member.stall_ms,
            }
        )
    lost = [{"lease": one.lease, "epoch": one.epoch, "reason": turn.cut(one.reason)} for one in command.lost]
    tuning = command.tuning
    if tuning is None:
        tuning = tuning_of_round(job.tunings, command.round, command.strategy)
    manner = {
        "strategy": command.strategy,
        "tuning": tuning,
        "attempts": command.attempts,
        "late": sorted(set(command.late)),
        "warned": [{"slot": one.slot, "reason": turn.cut(one.reason)} for one in command.warned],
    }
    fields = {
        "job": job.id,
        "round": command.round,
        "step": command.step,
        "digest": command.digest,
        "reason": turn.cut(command.reason),
        "duration_ms": command.duration_ms,
        "members": sorted(rows, key=lambda row: int(row["slot"])),
        "lost": lost,
    }
    turn.emit("round_committed", fields | manner)
    leases = {(lease.id, lease.epoch) for _, lease in present}
    signed = [
        {"lease": one.lease, "epoch": one.epoch, "parameters": one.parameters, "signature": one.signature}
        for one in command.words
        if (one.lease, one.epoch) in leases
    ]
    if signed:
        turn.emit("round_signed", {"job": job.id, "round": command.round, "signed": signed})


def report_checkpoint(turn: Turn, command: ReportCheckpoint) -> Answer | Refusal:
    """A round is durable: charge its work to every lease that took part, and leave the proof of the segment."""
    job = job_of_run(turn, command.job, command.by)
    if isinstance(job, Refusal):
        return job
    if job.command is not None:
        return _no_rounds(job)
    if not is_digest(command.manifest):
        return invalid("manifest", command.manifest, "a SHA-256 in hex")
    for name in ("step", "bytes", "stall_ms"):
        if not is_int(getattr(command, name), 0, MAX_INT):
            return invalid(name, getattr(command, name), "a count")
    if len(command.removed) > 10_000 or not all(is_digest(one) for one in command.removed):
        return invalid("removed", command.removed, "a list of SHA-256 in hex")
    base_round = command.round if command.base_round is None else command.base_round
    if command.kind not in ("base", "delta"):
        return invalid("kind", command.kind, "base or delta")
    if not is_int(base_round, 0, MAX_ROUNDS) or (command.kind == "base") != (base_round == command.round):
        return invalid("base_round", command.base_round, "the round itself for a base, one before it for a delta")
    if not job.open or not is_int(command.round, 1, job.rounds_committed) or command.round <= job.durable_round:
        old = job.durable is not None and is_int(command.round, 1, job.durable_round)
        if not job.open or old:
            return report_answer(job, created=False)
        return Refusal("round_unknown", f"round {command.round} is not committed", field="round", status=409)
    step = job.rounds[command.round]["step"]
    if command.step != step:
        return invalid("step", command.step, f"{step}, where round {command.round} ended")
    before = job.durable
    fields = {"job": job.id, "round": command.round, "step": step}
    sizes = {"bytes": command.bytes, "stall_ms": command.stall_ms, "removed": list(command.removed)}
    chain = {"kind": command.kind, "base_round": base_round}
    turn.emit("checkpoint_durable", fields | {"manifest": command.manifest} | sizes | chain)
    first = len(turn.events)
    for lease in turn.state.leases_of(job):
        note_signed(turn, lease)
        charge(turn, lease, lease.owed_ms(command.round), command.round, watch=False)
    charges = [event for event in turn.events[first:] if event["type"] == "lease_charged"]
    if charges:
        watch_budget(turn, job)
    turn.emit("provenance", make_segment(job, before, charges))
    watch_escrow(turn, job)
    return report_answer(job)


def watch_escrow(turn: Turn, job: Job) -> None:
    """Ask the run to pause as long as the escrow, and every spending limit, still pays for the time that this takes."""
    if job.state != "running" or job.wanted != "run":
        return
    watch_budget(turn, job)
    if must_pause(turn.state.escrow(job), turn.state.leases_of(job), job.last_round_ms):
        watch_budget(turn, job, exhausted=True)
        turn.want(job, "pause", "escrow_exhausted")
    elif used_up := must_stop(turn.state, job, turn.now_ms):
        tell_limits(turn, job, used_up)
        turn.want(job, "pause", SPENDING_LIMIT)
