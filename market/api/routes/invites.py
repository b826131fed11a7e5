"""Invitations, and whoever comes with a code."""

import secrets
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from market.api.bodies import InviteBody, JoinBody, Nothing
from market.api.gate import address_of
from market.api.limits import StrictRoute
from market.api.problems import Problem
from market.api.routes.members import hash_of
from market.api.services import Has, Operator, settle
from market.commands import Join, MakeInvite, RevokeInvite

router = APIRouter(prefix="/v1", route_class=StrictRoute, tags=["members"])
PREFIX = "join"


@router.get("/invites")
async def invites(services: Has, _: Operator) -> dict[str, Any]:
    """Every invitation and what became of it, without codes."""
    return {"items": services.exchange.invites(services.desk.now_ms())}


@router.post("/invites", status_code=201)
async def make_invite(services: Has, caller: Operator, body: InviteBody) -> JSONResponse:
    """A code that makes one member; it is in this answer and nowhere else."""
    name = f"i{secrets.token_hex(5)}"
    code = f"{PREFIX}_{name}_{secrets.token_urlsafe(24)}"
    command = MakeInvite(
        id=name, role=body.role, team=body.team or "", member=body.member or "", code_sha256=hash_of(code),
        for_ms=body.for_ms, by=caller.name,
    )  # fmt: skip
    answer, _created = await services.ask(command)
    return JSONResponse({**answer, "code": code}, status_code=201)


@router.post("/invites/{invite}/revoke")
async def revoke_invite(services: Has, caller: Operator, invite: str, _: Nothing) -> dict[str, Any]:
    """The code opens nothing any more."""
    answer, _created = await services.ask(RevokeInvite(invite=invite, by=caller.name))
    return answer


@router.post("/join", status_code=201)
async def join(services: Has, request: Request, body: JoinBody) -> JSONResponse:
    """A new member by an invitation's code, with a key of its own; the same again is answered as before."""
    code = body.code.strip()
    name = code.removeprefix(f"{PREFIX}_").partition("_")[0]
    command = Join(invite=name, code_sha256=hash_of(code), member=body.member or "", key_sha256=body.key_sha256)
    try:
        answer, created = await services.ask(command)
    except Problem as problem:
        if problem.code == "invite_unknown":
            services.gate.pass_wrong_code(address_of(request.scope))
        raise
    return settle({**answer, "url": services.url}, created)
