"""Secrets: set, named, removed by who owns them; read by the machine that runs a job which names them, and nobody else."""

import asyncio
import logging
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from fastapi.responses import JSONResponse

from market.api.bodies import Nothing, SecretBody
from market.api.limits import StrictRoute
from market.api.problems import Problem, not_found
from market.api.services import Customer, Has, Lessor, Operator, settle
from market.api.vault import VaultDamaged
from market.commands import RemoveSecret, SetSecret

router = APIRouter(prefix="/v1", route_class=StrictRoute, tags=["secrets"])
log = logging.getLogger("torg.secrets")

SecretName = Annotated[str, Path(min_length=1, max_length=128)]


@router.get("/secrets")
async def secrets(services: Has, caller: Customer) -> dict[str, Any]:
    """One's own by name, when each was set, and the open jobs that name it. Values are never shown."""
    return {"items": services.exchange.secrets_of(caller.name)}


@router.put("/secrets/{secret}", status_code=201)
async def set_secret(services: Has, caller: Customer, secret: SecretName, body: SecretBody) -> JSONResponse:
    """A new secret, or a new value for what begins from now on."""
    async with services.sealing:
        token = await asyncio.to_thread(services.vault.seal, caller.name, secret, body.value)
        before = services.exchange.secret_token(caller.name, secret)
        try:
            answer, created = await services.ask(SetSecret(name=secret, token=token, by=caller.name))
        except Problem:
            await asyncio.to_thread(services.vault.forget, token)
            raise
        if before is not None:
            await asyncio.to_thread(services.vault.forget, before)
    return settle(answer, created)


@router.delete("/secrets/{secret}")
async def remove_secret(services: Has, caller: Customer, secret: SecretName) -> dict[str, Any]:
    """Forget it; refused while an open job names it."""
    async with services.sealing:
        token = services.exchange.secret_token(caller.name, secret)
        answer, _ = await services.ask(RemoveSecret(name=secret, by=caller.name))
        if token is not None:
            await asyncio.to_thread(services.vault.forget, token)
    return answer


@router.post("/market/secrets/rekey")
async def rekey(services: Has, caller: Operator, _: Nothing) -> dict[str, Any]:
    """Seal everybody's secrets with a new key of the market's, and forget the old one. Jobs go on reading meanwhile."""
    async with services.sealing:
        named = services.exchange.named_secrets()
        try:
            done = await asyncio.to_thread(services.vault.rekey, named)
        except VaultDamaged as damaged:
            log.error("%s", damaged)
            raise Problem(500, "vault_damaged", str(damaged), remedy="restore secrets.key from a backup") from None
    log.info("%s renewed the key of secrets: %d sealed, %d damaged", caller.name, done.sealed, len(done.damaged))
    return {"sealed": done.sealed, "damaged": list(done.damaged)}


@router.get("/leases/{lease}/secrets")
async def lease_secrets(services: Has, caller: Lessor, lease: str, epoch: Annotated[int, Query(ge=0)]) -> JSONResponse:
    """What the job of this living lease names, with values; for the provider that has the lease."""
    found = services.exchange.secrets_for_lease(lease, epoch, caller.name)
    if found is None:
        raise not_found("lease", lease)
    customer, tokens = found
    try:
        values = {
            name: await asyncio.to_thread(services.vault.open, customer, name, token) for name, token in tokens.items()
        }
    except VaultDamaged as damaged:
        log.error("%s", damaged)
        raise Problem(500, "secret_lost", str(damaged), remedy="set it again with torg secret set") from None
    return JSONResponse({"secrets": values}, headers={"Cache-Control": "no-store"})
