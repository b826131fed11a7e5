"""Sessions inside a running command: the customer's end, the machine's end, and their pairing. Nothing is journaled."""

import asyncio
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from secrets import token_hex
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import JSONResponse, StreamingResponse

from market.api.bodies import SessionBody
from market.api.job_logs import Line
from market.api.lease_tokens import PREFIX, lease_token
from market.api.limits import StrictRoute, declared_length, parts_of, too_long
from market.api.problems import Problem, not_found
from market.api.routes.offers import Wait
from market.api.services import (
    LONGEST_WAIT_S,
    Caller,
    Customer,
    Has,
    Services,
    caller_of,
    changed,
    job_for,
    problem_of,
)
from market.outcomes import Refusal
from market.sessions import QUEUE_BYTES, End, Session
from trainers.sessions.frames import OVER, PING, frame

router = APIRouter(prefix="/v1", route_class=StrictRoute, tags=["sessions"])
log = logging.getLogger("torg.sessions")

PING_S = 5.0
ROOM_WAIT_S = 20.0
BYTES: dict[str, Any] = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
_PAST: dict[int | str, dict[str, Any]] = {409: {"description": "The lease is over, or this end is read already"}}
Epoch = Annotated[int, Query(ge=0)]
Offset = Annotated[int, Query(ge=0)]


def machine(*roles: str) -> Callable[..., Awaitable[Caller]]:
    """A dependency: who has the lease that the path names, by its own key or by the lease's token."""

    async def check(
        request: Request, services: Has, authorization: Annotated[str | None, Header(include_in_schema=False)] = None
    ) -> Caller:
        lease, given = request.path_params["lease"], (authorization or "").partition(" ")[2].strip()
        found = services.exchange.lease(lease)
        if given.startswith(PREFIX) and found is not None:
            right = lease_token(services.signing_key, lease, found["epoch"])
            if hmac.compare_digest(given.encode(), right.encode()):
                services.gate.pass_member(f"lease {lease}", "provider")
                return Caller(found["provider"], "provider")
        caller = await caller_of(request, services, authorization)
        if caller.role not in roles:
            message = f"{caller.name} is a {caller.role}; this is for {' and '.join(roles)}"
            raise Problem(403, "wrong_role", message, remedy=f"{roles[0]} keys open it")
        return caller

    return check


Machine = Annotated[Caller, Depends(machine("provider"))]


@router.post("/jobs/{job}/sessions", status_code=201)
async def open_session(services: Has, caller: Customer, job: str, body: SessionBody) -> dict[str, Any]:
    """Ask the machine that runs the job's command to open a session in it. Not to be repeated: each is another one."""
    found = job_for(services, caller, job)
    if found["customer"] != caller.name:
        raise Problem(403, "forbidden", f"{job} belongs to another member: only its customer may enter it")
    if caller.suspended:
        raise Problem(403, "member_suspended", f"{caller.name} is suspended", remedy="ask an operator")
    lease = _running_lease(services, found)
    opened = services.sessions.open(
        token_hex(8), job=job, customer=caller.name, lease=lease["id"], epoch=lease["epoch"],
        order=body.model_dump(), now_s=time.monotonic(),
    )  # fmt: skip
    if isinstance(opened, Refusal):
        raise problem_of(opened)
    log.info("%s opened session %s (%s) in %s on %s", caller.name, opened.id, body.kind, job, lease["id"])
    line = Line(services.desk.now_ms(), "run", f"[torg: {caller.name} opened a session: {body.kind}]")
    _note(services, job, line)
    services.feed.touch(f"job:{job}")
    services.feed.touch(f"sessions:{lease['id']}")
    return {"session": opened.id, "lease": lease["id"], "provider": lease["provider"]}


@router.get(
    "/jobs/{job}/sessions/{session}/frames",
    response_class=StreamingResponse,
    responses={200: {"description": "Frames, until the session is over", **BYTES}, **_PAST},
)
async def customer_reads(services: Has, caller: Customer, job: str, session: str) -> StreamingResponse:
    """What the machine sends; leaving ends the session."""
    return _reading(services, _of_job(services, caller, job, session), "customer")


@router.post("/jobs/{job}/sessions/{session}/frames", openapi_extra={"requestBody": {"required": True, **BYTES}})
async def customer_writes(
    request: Request, services: Has, caller: Customer, job: str, session: str, offset: Offset = 0
) -> JSONResponse:
    """Whole frames for the machine, `offset` bytes after the first: `next` is where to go on."""
    return await _writing(request, services, _of_job(services, caller, job, session), "customer", offset)


@router.get("/leases/{lease}/sessions", responses=_PAST)
async def sessions(
    services: Has, caller: Machine, lease: str, epoch: Epoch, wait_s: Wait = 0, seen: str | None = None
) -> dict[str, Any]:
    """Sessions that customers ask for and that this lease's machine has not taken yet."""
    boot = services.started_ms

    def read() -> dict[str, Any]:
        _check_lease(services, caller, lease, epoch)
        view = services.sessions.of_lease(lease, epoch)
        return view | {"version": f"{boot}-{view['version']}"}

    return await changed(services, f"sessions:{lease}", min(wait_s, LONGEST_WAIT_S), seen, read)


@router.get(
    "/leases/{lease}/sessions/{session}/frames",
    response_class=StreamingResponse,
    responses={200: {"description": "Frames, until the session is over", **BYTES}, **_PAST},
)
async def machine_reads(services: Has, caller: Machine, lease: str, session: str, epoch: Epoch) -> StreamingResponse:
    """What the customer sends; leaving before `EXIT` was sent tells the customer that the machine is lost."""
    return _reading(services, _of_lease(services, caller, lease, epoch, session), "machine")


@router.post("/leases/{lease}/sessions/{session}/frames", openapi_extra={"requestBody": {"required": True, **BYTES}})
async def machine_writes(
    request: Request, services: Has, caller: Machine, lease: str, session: str, epoch: Epoch, offset: Offset = 0
) -> JSONResponse:
    """Whole frames for the customer, `offset` bytes after the first: `next` is where to go on."""
    return await _writing(request, services, _of_lease(services, caller, lease, epoch, session), "machine", offset)


def _running_lease(services: Services, job: dict[str, Any]) -> dict[str, Any]:
    if job.get("command") is None:
        message = f"{job['id']} trains a workload: it has no command to be inside of"
        raise Problem(409, "no_command", message, field="job", remedy="torg watch and torg logs show it")
    directive = services.exchange.directive(job["id"]) or {}
    active = [one for one in directive.get("leases", ()) if one["state"] == "active"]
    if job["state"] == "running" and active:
        return dict(active[-1])
    remedy = "see torg result for what it left" if job["state"] in ("done", "failed", "cancelled") else "wait until it runs"
    raise Problem(409, "not_running", f"{job['id']} is {job['state']}: no machine runs it now", field="job", remedy=remedy)


def _note(services: Services, job: str, line: Line) -> None:
    try:
        services.job_logs.append(job, [line])
    except OSError:
        log.exception("a line of %s is lost", job)


def _of_job(services: Services, caller: Caller, job: str, session: str) -> Session:
    job_for(services, caller, job)
    found = services.sessions.get(session)
    if found is None or found.job != job or found.customer != caller.name:
        raise not_found("session", session)
    return found


def _of_lease(services: Services, caller: Caller, lease: str, epoch: int, session: str) -> Session:
    _check_lease(services, caller, lease, epoch)
    found = services.sessions.get(session)
    if found is None or (found.lease, found.epoch) != (lease, epoch):
        raise not_found("session", session)
    return found


def _check_lease(services: Services, caller: Caller, lease: str, epoch: int) -> None:
    found = services.exchange.lease(lease)
    if found is None or found["provider"] != caller.name:
        raise not_found("lease", lease)
    if found["epoch"] != epoch or found["state"] == "ended":
        raise Problem(409, "lease_ended", f"{lease} is over", field="lease", remedy="stop its worker")


def _reading(services: Services, session: Session, end: End) -> StreamingResponse:
    refusal = services.sessions.take(session, end)
    if refusal is not None:
        raise problem_of(refusal)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(
        _frames_for(services, session, end), media_type="application/octet-stream", headers=headers
    )


async def _frames_for(services: Services, session: Session, end: End) -> AsyncIterator[bytes]:
    other: End = "machine" if end == "customer" else "customer"
    services.requests.streams += 1
    try:
        yield frame(PING)
        while not services.feed.closed:
            data = services.sessions.pull(session, end)
            if data:
                services.feed.touch(_topic(session, other))  # there is room again
                yield data
                continue
            if services.sessions.finished(session, end):
                break
            await services.feed.touched(_topic(session, end), PING_S)
            _look_at_lease(services, session)
            if not session.waits_for[end].frames and not services.sessions.finished(session, end):
                yield frame(PING)
        reason, detail = session.over or ("", "")
        if services.feed.closed and session.over is None and not session.exited:
            reason, detail = "market_closing", "the market is closing"
        yield frame(OVER, json.dumps({"reason": reason, "detail": detail}).encode())
    finally:
        services.requests.streams -= 1
        services.sessions.leave(session, end)
        services.feed.touch(_topic(session, other))


async def _writing(request: Request, services: Services, session: Session, end: End, offset: int) -> JSONResponse:
    declared_length(request, QUEUE_BYTES)
    data = bytearray()
    async for part in parts_of(request):
        data += part
        if len(data) > QUEUE_BYTES:
            raise too_long(QUEUE_BYTES)
    other: End = "machine" if end == "customer" else "customer"
    clock = asyncio.get_running_loop().time
    until = clock() + ROOM_WAIT_S
    while True:
        following = services.sessions.push(session, end, offset, bytes(data))
        if isinstance(following, Refusal):
            raise problem_of(following)
        if following > offset:
            services.feed.touch(_topic(session, other))
        if following > offset or not data or clock() >= until or services.feed.closed:
            return JSONResponse({"next": following})
        await services.feed.touched(_topic(session, end), until - clock())


def _topic(session: Session, end: End) -> str:
    return f"session:{session.id}:{end}"


def _look_at_lease(services: Services, session: Session) -> None:
    """End what nobody answers, and what is on a machine that has lost its lease."""
    for one in services.sessions.expire(time.monotonic()):
        for end in ("customer", "machine"):
            services.feed.touch(f"session:{one.id}:{end}")
    found = services.exchange.lease(session.lease)
    if not session.exited and (found is None or found["epoch"] != session.epoch or found["state"] == "ended"):
        services.sessions.end(session, "machine_lost", "the machine has lost its lease of the job")
