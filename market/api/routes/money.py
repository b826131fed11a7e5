"""Deposits, payouts, balances, transfers."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse

from market.api.bodies import DepositBody, GrantBody, PayoutBody
from market.api.limits import StrictRoute
from market.api.problems import not_found
from market.api.services import Caller, Has, IdempotencyKey, Operator, Services, Someone, id_of, settle
from market.commands import Deposit, GrantCredit, Payout
from storage.ledger import FEE, GRANTS, WORLD, account_class

router = APIRouter(prefix="/v1", route_class=StrictRoute, tags=["money"])


@router.post("/deposits", status_code=201)
async def deposit(
    services: Has, caller: Operator, body: DepositBody, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """Money from outside into a wallet; the same id again is answered as before."""
    name = id_of(body.id, idempotency_key)
    command = Deposit(id=name, account=body.account, amount_nanos=body.amount_nanos, by=caller.name)
    return settle(*await services.ask(command))


@router.post("/payouts", status_code=201)
async def payout(
    services: Has, caller: Operator, body: PayoutBody, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """A provider's earnings out to the world; the same id again is answered as before."""
    name = id_of(body.id, idempotency_key)
    command = Payout(id=name, account=body.account, amount_nanos=body.amount_nanos, by=caller.name)
    return settle(*await services.ask(command))


@router.get("/grants")
async def grants(services: Has, _: Operator) -> dict[str, Any]:
    """Every grant and what is left of it, oldest first."""
    return {"items": services.exchange.grants()}


@router.post("/grants", status_code=201)
async def grant(
    services: Has, caller: Operator, body: GrantBody, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """Credit for a member or a team: spent first, never paid out, gone when it expires; the same id again is answered."""
    fields = body.model_dump(exclude={"id"})
    return settle(*await services.ask(GrantCredit(id=id_of(body.id, idempotency_key), by=caller.name, **fields)))


@router.get("/balance")
async def balance(services: Has, caller: Someone, account: str | None = None) -> dict[str, Any]:
    """One's own; an operator may name any account."""
    name = _account(services, caller, account)
    return services.exchange.balance(name)


@router.get("/transfers")
async def transfers(
    services: Has,
    caller: Someone,
    account: str | None = None,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """Newest first; `after` is the last id of the page before."""
    return {"items": services.exchange.transfers(_account(services, caller, account), after, limit)}


def _account(services: Services, caller: Caller, account: str | None) -> str:
    """A member's name, or for transfers an account of the ledger. Others' and unknown ones look the same."""
    name = account or caller.name
    if name == caller.name:
        return name
    kind, _, owner = name.partition(":")
    if kind == "escrow":  # of a job, which may well be named like a member
        owner = (services.exchange.job(owner) or {}).get("customer", "")
    if kind == "credit":  # of a grant, which may be named like anybody
        owner = services.exchange.holder_of_grant(owner)
    has = services.exchange.has_member
    is_account = has(name) or name in (WORLD, FEE, GRANTS) or (account_class(name) is not None and has(owner))
    if (owner == caller.name or caller.role == "operator") and is_account:
        return name
    raise not_found("account", name)
