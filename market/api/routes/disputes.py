"""Disputes: a customer objects to a charge, an operator decides, and whom it touches can look."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from market.api.limits import StrictRoute
from market.api.money_bodies import DecisionBody, DisputeBody
from market.api.problems import not_found
from market.api.services import Caller, Customer, Has, IdempotencyKey, Operator, Someone, id_of, job_for, settle
from market.commands import DecideDispute, OpenDispute

router = APIRouter(prefix="/v1", route_class=StrictRoute, tags=["disputes"])


@router.get("/disputes")
async def disputes(services: Has, caller: Someone, job: str | None = None) -> dict[str, Any]:
    """Those about one's own jobs, or one's own leases as a provider; an operator sees all. Oldest first."""
    found = [_as_seen(caller, one) for one in services.exchange.disputes() if _may_see(caller, one) and job in (None, one["job"])]
    return {"items": found}


@router.get("/disputes/{dispute}")
async def dispute(services: Has, caller: Someone, dispute: str) -> dict[str, Any]:
    """One dispute with its evidence."""
    found = services.exchange.dispute(dispute)
    if found is None or not _may_see(caller, found):
        raise not_found("dispute", dispute)
    return _as_seen(caller, found)


@router.post("/jobs/{job}/disputes", status_code=201)
async def open_dispute(
    services: Has, caller: Customer, job: str, body: DisputeBody, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """Object to what one of the job's leases was charged; the same id again is answered as before."""
    job_for(services, caller, job)
    fields = body.model_dump(exclude={"id"})
    return settle(*await services.ask(OpenDispute(id=id_of(body.id, idempotency_key), job=job, by=caller.name, **fields)))


@router.post("/disputes/{dispute}/decide")
async def decide_dispute(services: Has, caller: Operator, dispute: str, body: DecisionBody) -> dict[str, Any]:
    """Uphold or reject, with a reason; the same again is answered as before."""
    return (await services.ask(DecideDispute(dispute=dispute, by=caller.name, **body.model_dump())))[0]


def _as_seen(caller: Caller, dispute: dict[str, Any]) -> dict[str, Any]:
    """A provider does not hear from what its customer had paid."""
    if caller.sees_all or caller.name == dispute["customer"]:
        return dispute
    return {name: value for name, value in dispute.items() if name != "granted_nanos"}


def _may_see(caller: Caller, dispute: dict[str, Any]) -> bool:
    return caller.sees_all or caller.name in (dispute["customer"], dispute["provider"])
