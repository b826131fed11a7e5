"""What the market learns from a job that is done: called by the reducer alone."""

from __future__ import annotations

from market.estimates import score_of
from market.experience import Run, run_of_attempts, run_of_rounds, work_of
from market.pace import paces
from market.speeds import flops_per_second
from market.state import Job, State


def learn(state: State, job: Job) -> None:
    """Keep how long its work took, if it went in one go, how its estimate came true, and how its machines did."""
    took_ms = took_of(state, job)
    if took_ms is None:
        return
    work = work_of(job.spec, job.customer)
    for offer, pace in paces(job, state.leases_of(job), state.experience.runs.get(work, [])).items():
        state.offers[offer].pace = pace
    if job.estimate is not None:
        state.experience.judge(score_of(job.id, job.estimate, took_ms, job.billed_nanos))
    run = _run(state, job, took_ms)
    if run is not None:
        state.experience.learn(work, run)


def took_of(state: State, job: Job) -> int | None:
    """From its first lease to its end, pauses included; None while it goes on, or when it never had one."""
    if job.ended_ms is None or not job.leases:
        return None
    return job.ended_ms - state.leases[job.leases[0]].granted_ms


def _run(state: State, job: Job, took_ms: int) -> Run | None:
    """None of a job that paused, was retuned, lost a worker or had different GPUs: it says nothing clean of its work."""
    if job.attempt != 1 or job.tunings:
        return None
    leases = state.leases_of(job)
    gpu, speeds, charged = leases[0].gpu, [], []
    for lease in leases:
        if lease.gpu != gpu or lease.fault == "provider":
            return None
        offer = state.offers[lease.offer]
        charged.append(lease.charged_ms)
        speed = flops_per_second(offer.measured, offer.gpus)
        if speed is not None:
            speeds.append(speed)
    slowest = min(speeds) if len(speeds) == len(leases) else None
    if job.command is not None:
        return run_of_attempts(job.id, gpu, slowest, job.attempts, took_ms, charged)
    rounds = [record for _, record in sorted(job.rounds.items())]
    return run_of_rounds(job.id, gpu, slowest, rounds, took_ms, charged)
