"""What is for rent, and the leases on it."""

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse

from market.api.bodies import HoldBody, LeaseTimesBody, MeasuredBody, Nothing, OfferBody, PriceBody
from market.api.lease_bodies import LeaseEndedBody, LeaseStartedBody
from market.api.lease_tokens import lease_token
from market.api.limits import StrictRoute
from market.api.problems import Problem, not_found
from market.api.services import (
    LEASE_WAIT_S,
    Caller,
    Has,
    IdempotencyKey,
    Lessor,
    Provider,
    Someone,
    changed,
    id_of,
    settle,
)
from market.commands import (
    ChangeOffer,
    EndLease,
    Heard,
    HoldOffer,
    PlaceOffer,
    ReportMeasured,
    SetLeaseTimes,
    StartLease,
)
from market.hardware import offered_name
from market.owner_terms import OwnerTerms

router = APIRouter(prefix="/v1", route_class=StrictRoute, tags=["offers"])

Wait = Annotated[float, Query(ge=0, le=60)]
_OWNERS_ONLY: Final[dict[str, Any]] = {"leases": [], "earned_nanos": None, "allow": [], "deny": [], "own": [], "measure": None}


@router.get("/offers")
async def offers(services: Has, caller: Someone) -> dict[str, Any]:
    """Everything that is listed, for everybody; what runs on an offer and what it earned are its owner's."""
    found = services.exchange.offers(services.desk.now_ms())
    return {"items": [one if _may_know(caller, one) else _for_others(caller, one) for one in found]}


@router.post("/offers", status_code=201)
async def place_offer(
    services: Has, caller: Lessor, body: OfferBody, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """List hardware; the same offer again is answered as before."""
    command = PlaceOffer(
        id=id_of(body.id, idempotency_key),
        name=body.name,
        gpu=offered_name(body.gpu, body.vram_gib),
        gpus=body.gpus,
        vram_gib=body.vram_gib,
        region=body.region,
        price_nanos_per_gpu_hour=body.price_nanos_per_gpu_hour,
        floor_price_nanos_per_gpu_hour=body.floor_price_nanos_per_gpu_hour,
        isolation=body.isolation,
        measured=body.measured,
        shares=tuple(body.shares),
        node=body.node,
        versions=body.versions,
        by=caller.name,
        terms=OwnerTerms(
            notice_ms=body.notice_ms, until_ms=body.until_ms, network=body.network, environments=body.environments,
            prices=tuple((one.hours, one.price_nanos_per_gpu_hour) for one in body.prices), zone=body.zone,
            allow=tuple(body.allow), deny=tuple(body.deny), own=tuple(body.own),
            max_units_per_customer=body.max_units_per_customer,
            max_unit_ms_per_customer_day=body.max_unit_ms_per_customer_day,
            min_lease_ms=body.min_lease_ms, max_lease_ms=body.max_lease_ms, maintenance=tuple(body.maintenance),
        ),
        selftest=body.selftest,
    )
    return settle(*await services.ask(command))


@router.post("/offers/{offer}/price")
async def set_price(services: Has, caller: Provider, offer: str, body: PriceBody) -> dict[str, Any]:
    """For leases to come; running ones keep theirs."""
    price = body.price_nanos_per_gpu_hour
    command = ChangeOffer(offer=offer, action="price", by=caller.name, price_nanos_per_gpu_hour=price)
    return (await services.ask(command))[0]


@router.post("/offers/{offer}/lease-times")
async def set_lease_times(services: Has, caller: Provider, offer: str, body: LeaseTimesBody) -> dict[str, Any]:
    """How long leases to come may and must be, and maintenance windows, which those that run leave with notice."""
    said = body.said()
    windows = said.pop("maintenance", None)
    command = SetLeaseTimes(offer=offer, by=caller.name, maintenance=None if windows is None else tuple(windows), **said)
    return (await services.ask(command))[0]


@router.post("/offers/{offer}/hold")
async def hold_offer(services: Has, caller: Provider, offer: str, body: HoldBody) -> dict[str, Any]:
    """The owner takes units back (0 releases them) and gives notice to leases; its host then ends them."""
    command = HoldOffer(
        offer=offer, gpus=body.gpus, by=caller.name, reason=body.reason, why=body.why, until_ms=body.until_ms,
        leases=tuple(body.leases),
    )  # fmt: skip
    return (await services.ask(command))[0]


@router.post("/offers/{offer}/measured")
async def measured(services: Has, caller: Lessor, offer: str, body: MeasuredBody) -> dict[str, Any]:
    """The answer to a measurement that the market asked for (`measure` of the offer that `GET /v1/leases` shows)."""
    command = ReportMeasured(offer=offer, seed=body.seed, measured=body.measured, by=caller.name)
    return (await services.ask(command))[0]


@router.post("/offers/{offer}/{action}")
async def change_offer(
    services: Has, caller: Provider, offer: str, action: Literal["drain", "withdraw", "relist"], _: Nothing
) -> dict[str, Any]:
    """Drain: no new leases. Withdraw: end those that run, too. Relist: open again."""
    return (await services.ask(ChangeOffer(offer=offer, action=action, by=caller.name)))[0]


@router.get("/leases")
async def leases(
    services: Has, caller: Lessor, offer: str, wait_s: Wait = 0, seen: str | None = None
) -> dict[str, Any]:
    """The live leases of one offer; every call is the offer's sign of life, so it waits 5 s at most."""
    await services.ask(Heard(offer=offer, by=caller.name))

    def read() -> dict[str, Any]:
        found = services.exchange.leases_of(offer)
        if found is None or found["offer"]["provider"] != caller.name:
            raise not_found("offer", offer)
        for lease in found["leases"]:
            if lease["command"]:
                lease["sessions"] = lease_token(services.signing_key, lease["id"], lease["epoch"])
        return found

    return await changed(services, f"offer:{offer}", min(wait_s, LEASE_WAIT_S), seen, read)


@router.post("/leases/{lease}/started")
async def lease_started(services: Has, caller: Lessor, lease: str, body: LeaseStartedBody) -> dict[str, Any]:
    """A worker holds the lease; 409 `lease_ended` when it is over, also because another worker held it before."""
    machine = None if body.machine is None else body.machine.model_dump()
    command = StartLease(
        lease=lease, epoch=body.epoch, worker=body.worker, pid=body.pid, node=body.node, by=caller.name,
        meter_key=body.meter_key, machine=machine,
    )  # fmt: skip
    answer, _created = await services.ask(command)
    if answer["state"] == "ended":  # by this very command; told again, the exchange refuses in the same words
        raise Problem(409, "lease_ended", f"{lease} is over: {answer['reason']}", remedy="stop its worker")
    return answer


@router.post("/leases/{lease}/ended")
async def lease_ended(services: Has, caller: Lessor, lease: str, body: LeaseEndedBody) -> dict[str, Any]:
    """The provider gives the lease up."""
    command = EndLease(lease=lease, epoch=body.epoch, reason=body.reason, detail=body.detail, by=caller.name)
    return (await services.ask(command))[0]


def _for_others(caller: Caller, offer: dict[str, Any]) -> dict[str, Any]:
    """Without what runs there, what it earned, whom its owner names, and what it does with the machine meanwhile.

    `for_you`: whether this caller may rent it, and nothing of why; `yours`: whether it names this caller as its owner.
    """
    lets = OwnerTerms.of_json({name: offer[name] for name in ("allow", "deny", "own")}).lets(caller.name)
    return offer | _OWNERS_ONLY | {"held": offer["held"] | {"why": ""}, "for_you": lets, "yours": caller.name in offer["own"]}


def _may_know(caller: Caller, offer: dict[str, Any]) -> bool:
    return caller.sees_all or bool(offer["provider"] == caller.name)
