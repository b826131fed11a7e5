"""What runs ask and report (role plane). Every report may be told again."""

import logging
from typing import Any

from fastapi import APIRouter

from market.api.job_logs import Line
from market.api.limits import StrictRoute
from market.api.problems import not_found
from market.api.routes.offers import Wait
from market.api.run_bodies import AttemptBody, CheckpointBody, HaltedBody, LostBody, ReadingsBody, RoundBody, SaveBody
from market.api.services import LONGEST_WAIT_S, Has, Plane, Services, changed
from market.commands import (
    Evaluated,
    HaltJob,
    LostWorker,
    Member,
    Reading,
    ReportAttempt,
    ReportCheckpoint,
    ReportReadings,
    ReportRound,
    ReportSave,
    Warned,
    Word,
)

log = logging.getLogger("torg.runs")
router = APIRouter(prefix="/v1", route_class=StrictRoute, tags=["runs"])


@router.get("/runs")
async def runs(services: Has, _: Plane, wait_s: Wait = 0, seen: str | None = None) -> dict[str, Any]:
    """The jobs that need a run now."""
    return await changed(services, "runs", min(wait_s, LONGEST_WAIT_S), seen, lambda: services.exchange.runs())  # noqa: PLW0108 - a full disk replaces the exchange


@router.get("/jobs/{job}/run")
async def directive(services: Has, _: Plane, job: str, wait_s: Wait = 0, seen: str | None = None) -> dict[str, Any]:
    """What the market wants of this job's run."""
    return await changed(services, f"job:{job}", min(wait_s, LONGEST_WAIT_S), seen, lambda: _directive(services, job))


@router.post("/rounds")
async def report_round(services: Has, caller: Plane, body: RoundBody) -> dict[str, Any]:
    """A round is committed."""
    command = ReportRound(
        job=body.job,
        round=body.round,
        step=body.step,
        digest=body.digest,
        reason=body.reason,
        duration_ms=body.duration_ms,
        members=tuple(Member(**member.model_dump(exclude={"provider"})) for member in body.members),
        lost=_lost(body.lost),
        by=caller.name,
        strategy=body.strategy,
        tuning=body.tuning,
        attempts=body.attempts,
        late=tuple(body.late),
        words=tuple(Word(**one.model_dump()) for one in body.words),
        warned=tuple(Warned(one.slot, one.reason) for one in body.warned),
    )
    await services.ask(command)
    return {"version": _directive(services, body.job)["version"]}


@router.post("/readings")
async def report_readings(services: Has, caller: Plane, body: ReadingsBody) -> dict[str, Any]:
    """Meters, held-out losses and figures, lost workers, printed lines."""
    command = ReportReadings(
        job=body.job,
        run_pid=body.run_pid,
        readings=tuple(Reading(**reading.model_dump()) for reading in body.readings),
        evaluated=tuple(Evaluated(one.round, one.loss, one.metrics) for one in body.evaluated),
        lost=_lost(body.lost),
        by=caller.name,
    )
    await services.ask(command)
    _keep_lines(services, body)
    return {"version": _directive(services, body.job)["version"]}


@router.post("/checkpoints")
async def report_checkpoint(services: Has, caller: Plane, body: CheckpointBody) -> dict[str, Any]:
    """Everything up to a round is durable; work is charged now, older checkpoints go."""
    services.shelf.need_manifest(body.job, body.manifest, place=(body.round, body.step))
    command = ReportCheckpoint(
        job=body.job,
        round=body.round,
        step=body.step,
        manifest=body.manifest,
        bytes=body.bytes,
        stall_ms=body.stall_ms,
        removed=tuple(body.removed),
        by=caller.name,
        kind=body.kind,
        base_round=body.base_round,
    )
    await services.ask(command)
    await services.shelf.remove(body.job, body.removed)
    return {"version": _directive(services, body.job)["version"]}


@router.post("/saves")
async def report_save(services: Has, caller: Plane, body: SaveBody) -> dict[str, Any]:
    """What a batch job's command has closed in its checkpoint folder is here; what it had saved before may go."""
    known = _directive(services, body.job)
    before = known["saved"]
    await services.shelf.keep_saved(body.job, known["customer"], body.manifest)
    await services.ask(ReportSave(**body.model_dump(), by=caller.name))
    found = _directive(services, body.job)
    gone = (
        before if found["saved"] == body.manifest else body.manifest
    )  # of a lease that is over nothing is kept any more
    if gone not in (None, found["saved"]):
        await services.shelf.remove_saved(body.job, gone, found["saved"])
    return {"version": found["version"]}


@router.post("/attempts")
async def report_attempt(services: Has, caller: Plane, body: AttemptBody) -> dict[str, Any]:
    """A try of a batch job's command has ended by itself; its artifacts are here already."""
    if body.manifest is not None:
        services.shelf.need_artifacts(body.job, body.manifest)
    await services.ask(ReportAttempt(**body.model_dump(), by=caller.name))
    return {"version": _directive(services, body.job)["version"]}


@router.post("/jobs/{job}/halted")
async def halted(services: Has, caller: Plane, job: str, body: HaltedBody) -> dict[str, Any]:
    """The run has stopped: paused, done or failed."""
    command = HaltJob(job, body.state, body.reason, body.detail, body.manifest, by=caller.name, run=body.run)
    await services.ask(command)
    found = _directive(services, job)
    if found["state"] == "done" and found["saved"] is not None:  # a job that goes no further begins no more
        await services.shelf.remove_saved(job, found["saved"], None)
    return {"version": found["version"]}


def _directive(services: Services, job: str) -> dict[str, Any]:
    found = services.exchange.directive(job)
    if found is None:
        raise not_found("job", job)
    return found


def _lost(lost: list[LostBody]) -> tuple[LostWorker, ...]:
    return tuple(LostWorker(one.lease, one.epoch, one.reason, one.detail) for one in lost)


def _keep_lines(services: Services, body: ReadingsBody) -> None:
    lines = [Line(entry.at_ms, entry.source, entry.line, entry.stream, entry.number) for entry in body.logs]
    try:
        written = services.job_logs.append(body.job, lines)
    except OSError:
        log.exception("lines of %s are lost", body.job)
    else:
        if written:
            services.feed.touch(f"job:{body.job}")
