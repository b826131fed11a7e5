"""Jobs as their customers see them."""

import asyncio
import json
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse

from market.api.bodies import BudgetBody, JobBody, Nothing, QuoteBody, RetuneBody
from market.api.limits import StrictRoute
from market.api.problems import Problem
from market.api.routes.offers import Wait
from market.api.services import (
    LONGEST_WAIT_S,
    Customer,
    Has,
    IdempotencyKey,
    Someone,
    id_of,
    job_for,
    problem_of,
    settle,
)
from market.commands import AddBudget, CancelJob, RetuneJob, SubmitJob
from market.outcomes import Refusal
from market.state import FINAL_STATES
from storage.blobs import BlobDamaged, BlobMissing
from storage.parts import PartsError
from storage.restore_plans import restore_plan, restore_plans

router = APIRouter(prefix="/v1", route_class=StrictRoute, tags=["jobs"])


@router.post("/quotes")
async def quote(services: Has, caller: Customer, body: QuoteBody) -> dict[str, Any]:
    """The plan for a job that is not submitted."""
    answer = services.exchange.quote(body.spec, caller.name, services.desk.now_ms())
    if isinstance(answer, Refusal):
        raise problem_of(answer)
    return answer


@router.post("/jobs", status_code=201)
async def submit(
    services: Has, caller: Customer, body: JobBody, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """Hold the budget and wait for a clearing; the same id and spec again is answered as before."""
    _check_blobs(services, body.spec)
    command = SubmitJob(id=id_of(body.id, idempotency_key), spec=body.spec, by=caller.name)
    services.shelf.need_spec(command.id, body.spec)
    return settle(*await services.ask(command))


@router.get("/jobs")
async def jobs(services: Has, caller: Someone) -> dict[str, Any]:
    """One's own; an operator sees all."""
    return {"items": services.exchange.jobs(None if caller.sees_all else caller.name)}


@router.get("/jobs/{job}")
async def show(services: Has, caller: Someone, job: str) -> dict[str, Any]:
    """One job."""
    return job_for(services, caller, job)


@router.post("/jobs/{job}/cancel")
async def cancel(services: Has, caller: Customer, job: str, _: Nothing) -> dict[str, Any]:
    """Stop for good; what was metered is charged, the rest of the escrow goes back."""
    job_for(services, caller, job)
    return (await services.ask(CancelJob(job=job, by=caller.name)))[0]


@router.post("/jobs/{job}/budget", status_code=201)
async def add_budget(
    services: Has, caller: Customer, job: str, body: BudgetBody, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """More escrow; a job that paused because it ran out goes on."""
    job_for(services, caller, job)
    command = AddBudget(id=id_of(body.id, idempotency_key), job=job, add_nanos=body.add_nanos, by=caller.name)
    return settle(*await services.ask(command))


@router.post("/jobs/{job}/retune", status_code=201)
async def retune(
    services: Has, caller: Customer, job: str, body: RetuneBody, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """Another strategy, or other options of it, from the next round boundary on."""
    job_for(services, caller, job)
    name = id_of(body.id, idempotency_key)
    command = RetuneJob(id=name, job=job, strategy=body.strategy, options=body.options, by=caller.name)
    return settle(*await services.ask(command))


@router.get("/jobs/{job}/explain")
async def explain(services: Has, caller: Someone, job: str) -> dict[str, Any]:
    """Why it is (not) matched."""
    job_for(services, caller, job)
    return services.exchange.explain(job) or {}


@router.get("/jobs/{job}/rounds")
async def rounds(services: Has, caller: Someone, job: str) -> dict[str, Any]:
    """Every committed round with its members."""
    job_for(services, caller, job)
    return {"items": services.exchange.rounds(job)}


@router.get("/jobs/{job}/logs")
async def logs(
    services: Has,
    caller: Someone,
    job: str,
    after: Annotated[int, Query(ge=0)] = 0,
    wait_s: Wait = 0,
    tail: Annotated[int | None, Query(ge=0)] = None,
    since_ms: Annotated[int | None, Query(ge=0)] = None,
) -> dict[str, Any]:
    """What the workers printed, from byte `after` on, or of what is there the last `tail` lines, or those printed since
    `since_ms`; `over` when no more can come."""
    clock = asyncio.get_running_loop().time
    until = clock() + min(wait_s, LONGEST_WAIT_S)
    job_for(services, caller, job)
    if tail is not None or since_ms is not None:
        place = await asyncio.to_thread(services.job_logs.place, job, tail=tail, since_ms=since_ms)
        after = max(after, place)
    while True:
        over = job_for(services, caller, job)["state"] in FINAL_STATES
        text, following = services.job_logs.read(job, after)
        if text or over or clock() >= until or services.feed.closed:
            return {"text": text, "next": following, "over": over and not text}
        await services.feed.touched(f"job:{job}", until - clock())


@router.get("/jobs/{job}/checkpoints")
async def checkpoints(services: Has, caller: Someone, job: str) -> dict[str, Any]:
    """The checkpoints that are kept, and every round that they lead to."""
    job_for(services, caller, job)
    kept = services.shelf.checkpoints(job)
    items = [
        {"digest": one.digest, "round": one.round, "step": one.step, "kind": one.kind, "base_round": one.base_round,
         "bytes": one.total_bytes, "created_at_ms": one.created_at_ms}
        for one in kept
    ]  # fmt: skip
    return {"items": items, "rounds": sorted({plan.round for plan in restore_plans(kept)})}


@router.get("/jobs/{job}/result", responses={409: {"description": "It has no result (yet)"}})
async def result(
    services: Has, caller: Someone, job: str, round: Annotated[int | None, Query(ge=0)] = None
) -> dict[str, Any]:
    """The checkpoint that the job ended with, or one that leads to `round`, or a command's artifacts: the manifest names
    the blobs."""
    found = job_for(services, caller, job)
    if round is not None:
        kept = services.shelf.checkpoints(job)
        plan = restore_plan(kept, round=round)
        if plan is None:
            rounds = sorted({one.round for one in restore_plans(kept)})
            remedy = f"one of {', '.join(map(str, rounds))}" if rounds else "wait until a checkpoint is durable"
            message = f"no checkpoint of {job} leads to round {round}"
            raise Problem(404, "no_checkpoint", message, field="round", remedy=remedy)
        return {"digest": plan.manifest.digest, "manifest": plan.manifest.to_json()}
    digest = found["manifest"]
    if digest is None:
        message = f"{job} is {found['state']} and has no result"
        raise Problem(409, "no_result", message, remedy=_how_to_get_one(found))
    try:
        manifest = json.loads(services.shelf.store.read(digest))
    except (BlobMissing, BlobDamaged) as error:
        raise Problem(500, "result_lost", str(error), remedy="tell the operator") from error
    return {"digest": digest, "manifest": manifest}


def _how_to_get_one(job: dict[str, Any]) -> str:
    command = job["spec"].get("command")
    if command is None:
        return "wait until it is done, or name a durable round"
    return (
        "wait until it is over" if command["artifacts"] else "say `artifacts` in the next one: nothing was to be kept"
    )


def _check_blobs(services: Has, spec: dict[str, Any]) -> None:
    """Code and data must be here, and of the size that the spec says, before money is held for them."""
    command = spec.get("command")
    parts = {name: spec.get(name) for name in ("workload", "data")}
    parts["command.workdir"] = command.get("workdir") if isinstance(command, dict) else None
    for field, part in parts.items():
        digest = part.get("digest") if isinstance(part, dict) else None
        if not (isinstance(part, dict) and isinstance(digest, str) and len(digest) == 64):
            continue
        size = services.shelf.size(digest)
        if size is None:
            message = f"{field} names blob {digest}, which was not uploaded"
            raise Problem(422, "blob_missing", message, field=f"{field}.digest", remedy="upload it first")
        if "parts" in part:
            size = _bytes_of_parts(services, field, digest)
        if field != "workload" and part.get("bytes") != size:
            message = f"{field}.bytes is {part.get('bytes')!r}, and blob {digest} has {size} bytes"
            raise Problem(422, "invalid_field", message, field=f"{field}.bytes", remedy=f"allowed: {size}")


def _bytes_of_parts(services: Has, field: str, digest: str) -> int:
    """Bytes of what travelled in parts, which must all be here."""
    try:
        found = services.shelf.parts(digest)
    except PartsError as error:
        raise Problem(422, "manifest_wrong", f"{field}.digest: {error}", field=f"{field}.digest") from error
    missing = [part for part, size in found.parts if services.shelf.size(part) != size]
    if missing:
        message = (
            f"{field}: {len(missing)} of its {len(found.parts)} parts were not uploaded, the first is {missing[0]}"
        )
        raise Problem(422, "blob_missing", message, field=f"{field}.digest", remedy="submit it again")
    return found.total_bytes
