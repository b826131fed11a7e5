"""Deposits, payouts, balances, transfers."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from fastapi.responses import JSONResponse

from market.api.limits import StrictRoute
from market.api.money_bodies import CorrectionBody, DepositBody, GrantBody, PayoutBody, PeriodBody, TransfersBody
from market.api.problems import not_found
from market.api.services import Caller, Has, IdempotencyKey, Operator, Services, Someone, id_of, settle
from market.book_commands import BookTransfers, ClosePeriod, CorrectTransfer
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


@router.post("/transfers/batch", status_code=201)
async def transfers_batch(services: Has, caller: Operator, body: TransfersBody) -> JSONResponse:
    """Many deposits and payouts in one record, each with a status of its own; the same ids again are answered as before."""
    rows = [(one.id, one.kind, one.account, one.amount_nanos, one.linked) for one in body.transfers]
    told, created = await services.ask(BookTransfers(caller.name, *zip(*rows, strict=True)))
    columns = zip(told.pop("ids"), told.pop("statuses"), strict=True)
    return settle(told | {"items": [{"id": id, "status": status} for id, status in columns]}, created)


@router.post("/corrections", status_code=201)
async def correct(
    services: Has, caller: Operator, body: CorrectionBody, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """Reverse a booked deposit, payout, charge or fee, or a part of it, with a reason; the same id again is answered."""
    command = CorrectTransfer(
        id=id_of(body.id, idempotency_key), transfer=body.transfer, amount_nanos=body.amount_nanos, reason=body.reason, by=caller.name
    )
    return settle(*await services.ask(command))


@router.get("/periods")
async def periods(services: Has, _: Operator) -> dict[str, Any]:
    """Every closed period, oldest first."""
    return {"items": services.exchange.periods()}


@router.get("/periods/{number}")
async def period(services: Has, _: Operator, number: Annotated[int, Path(ge=1)]) -> dict[str, Any]:
    """A closed period with every balance at its end."""
    found = services.exchange.period(number)
    if found is None:
        raise not_found("period", str(number))
    return found


@router.post("/periods", status_code=201)
async def close_period(services: Has, caller: Operator, body: PeriodBody) -> JSONResponse:
    """Seal the books up to an instant that is over: every balance goes into the record, and nothing books behind it."""
    return settle(*await services.ask(ClosePeriod(body.through_ms, caller.name)))


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
