"""Members and their keys."""

import secrets
from hashlib import sha256
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from market.api.bodies import MemberBody, Nothing, RoleBody, RotateBody, SuspendBody
from market.api.limits import StrictRoute
from market.api.services import Has, Operator
from market.commands import AddMember, ResumeMember, RevokeMember, RotateKey, SetRole, SuspendMember

router = APIRouter(prefix="/v1/members", route_class=StrictRoute, tags=["members"])


@router.get("")
async def members(services: Has, _: Operator) -> dict[str, Any]:
    """Everybody, without keys."""
    return {"items": services.exchange.members()}


@router.post("", status_code=201)
async def add_member(services: Has, caller: Operator, body: MemberBody) -> JSONResponse:
    """A new member; the key is in this answer and nowhere else."""
    key = new_key()
    await services.ask(AddMember(member=body.member, role=body.role, key_sha256=hash_of(key), by=caller.name))
    return JSONResponse({"member": body.member, "role": body.role, "key": key}, status_code=201)


@router.post("/{member}/revoke")
async def revoke_member(services: Has, caller: Operator, member: str, _: Nothing) -> dict[str, Any]:
    """The member's key stops working at once."""
    answer, _created = await services.ask(RevokeMember(member=member, by=caller.name))
    return answer


@router.post("/{member}/rotate")
async def rotate_key(services: Has, caller: Operator, member: str, body: RotateBody) -> dict[str, Any]:
    """Another key, in this answer and nowhere else; the one of before works for `grace_ms` on."""
    key = new_key()
    command = RotateKey(member=member, key_sha256=hash_of(key), grace_ms=body.grace_ms, by=caller.name)
    answer, _created = await services.ask(command)
    return {**answer, "key": key}


@router.post("/{member}/role")
async def set_role(services: Has, caller: Operator, member: str, body: RoleBody) -> dict[str, Any]:
    """Another role; 409 while something of the old one is under way."""
    answer, _created = await services.ask(SetRole(member=member, role=body.role, by=caller.name))
    return answer


@router.post("/{member}/suspend")
async def suspend_member(services: Has, caller: Operator, member: str, body: SuspendBody) -> dict[str, Any]:
    """Nothing new begins: no jobs, no leases on its machines. What runs goes on."""
    answer, _created = await services.ask(SuspendMember(member=member, reason=body.reason, by=caller.name))
    return answer


@router.post("/{member}/resume")
async def resume_member(services: Has, caller: Operator, member: str, _: Nothing) -> dict[str, Any]:
    """The end of a suspension."""
    answer, _created = await services.ask(ResumeMember(member=member, by=caller.name))
    return answer


def new_key() -> str:
    """256 random bits."""
    return f"torg_{secrets.token_urlsafe(32)}"


def hash_of(key: str) -> str:
    """What the journal keeps of a key: a random key needs no salt."""
    return sha256(key.encode()).hexdigest()
