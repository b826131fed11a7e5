"""Teams: weights, quotas, and who belongs to which."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from market.api.bodies import Id, LimitsBody, MoveBody, Nothing, TeamBody
from market.api.limits import StrictRoute
from market.api.services import Has, Operator, settle
from market.commands import MoveMember, RemoveTeam, SetLimits, SetTeam

router = APIRouter(prefix="/v1", route_class=StrictRoute, tags=["teams"])


@router.get("/teams")
async def teams(services: Has, _: Operator) -> dict[str, Any]:
    """Every team with its use and its share; `team` null stands for members of none, where they take part."""
    return {"items": services.exchange.teams(services.desk.now_ms())}


@router.put("/teams/{team}", status_code=201)
async def set_team(services: Has, caller: Operator, team: Id, body: TeamBody) -> JSONResponse:
    """Make a team, or change its weight or quota; what is not said stays."""
    command = SetTeam(team=team, weight=body.weight, quota_units=body.quota_units, by=caller.name)
    return settle(*await services.ask(command))


@router.put("/teams/{team}/limits")
async def set_team_limits(services: Has, caller: Operator, team: str, body: LimitsBody) -> dict[str, Any]:
    """The most that a team may spend in a day and in a month."""
    answer, _created = await services.ask(SetLimits(member=None, team=team, by=caller.name, **body.said()))
    return answer


@router.put("/members/{member}/limits")
async def set_member_limits(services: Has, caller: Operator, member: str, body: LimitsBody) -> dict[str, Any]:
    """The most that a member may spend in a day and in a month."""
    answer, _created = await services.ask(SetLimits(member=member, team=None, by=caller.name, **body.said()))
    return answer


@router.post("/teams/{team}/remove")
async def remove_team(services: Has, caller: Operator, team: str, _: Nothing) -> dict[str, Any]:
    """Forget a team without members."""
    answer, _created = await services.ask(RemoveTeam(team=team, by=caller.name))
    return answer


@router.post("/members/{member}/team")
async def move_member(services: Has, caller: Operator, member: str, body: MoveBody) -> dict[str, Any]:
    """Which team a member is of from now on; null: none."""
    answer, _created = await services.ask(MoveMember(member=member, team=body.team or "", by=caller.name))
    return answer
