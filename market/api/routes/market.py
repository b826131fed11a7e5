"""The market itself: is it there, how is it, stop, reopen, where is Ray."""

import asyncio
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import PlainTextResponse

from market.api import metrics
from market.api.bodies import DueRuleBody, Nothing, PriceRuleBody, RayBody
from market.api.limits import StrictRoute
from market.api.problems import Problem
from market.api.services import Caller, Has, Operator, Plane, Services, Someone, allow
from market.commands import LoseRay, ReopenMarket, SetDueRule, SetPriceRule, StopMarket
from market.homes import write_json

router = APIRouter(route_class=StrictRoute, tags=["market"])


@router.get("/healthz")
async def healthz(services: Has) -> dict[str, Any]:
    """Answers without a key as soon as the journal is read."""
    return {
        "ok": not (services.desk.full or services.desk.held),
        "version": services.version,
        "journal_records": services.desk.records,
        "market": services.exchange.market_id,
        "term": services.desk.term,
    }


@router.get("/metrics", response_class=PlainTextResponse)
async def prometheus(services: Has) -> PlainTextResponse:
    """Figures for Prometheus; no member's data."""
    books = await metrics.books_status(services)
    return PlainTextResponse(metrics.render(services, books), media_type=metrics.MEDIA_TYPE)


@router.get("/v1/status")
async def status(services: Has, caller: Someone) -> dict[str, Any]:
    """Processes and counts."""
    now_ms = services.desk.now_ms()
    totals = services.exchange.totals()
    archive = await asyncio.to_thread(services.archive) if caller.sees_all else None
    return {
        "url": services.url,
        "version": services.version,
        "home": str(services.home.root),
        "public_key": services.public_key,
        "ray_address": known_ray(services).get("address"),
        "exchange_pid": os.getpid(),
        "books_pid": services.home.read_pid("books"),
        "offers": totals["offers"],
        "jobs_running": totals["jobs_running"],
        "jobs": totals["jobs"],
        "calibration": totals["calibration"],
        "price_rule": totals["price_rule"],
        "due_rule": totals["due_rule"],
        "clearings": totals["clearings"],
        "stopped": totals["stopped"],
        "journal_records": services.desk.records,
        "disk_full": services.desk.full,
        "mirror_away": services.desk.held,
        "archive": archive.to_json() if archive is not None else None,
        "mirrors": [one.to_json() for one in services.mirrors()] if caller.sees_all else [],
        "uptime_s": (now_ms - services.started_ms) // 1000,
    }


@router.post("/v1/market/stop")
async def stop(services: Has, caller: Operator, _: Nothing) -> dict[str, Any]:
    """Refuse new work and ask every running job to pause at a durable round."""
    answer, _created = await services.ask(StopMarket(by=caller.name))
    return {**answer, "jobs_running": services.exchange.totals()["jobs_running"]}


@router.post("/v1/market/reopen")
async def reopen(services: Has, caller: Operator, _: Nothing) -> dict[str, Any]:
    """Take new work again; jobs paused by a stop are pending."""
    answer, _created = await services.ask(ReopenMarket(by=caller.name))
    return answer


@router.put("/v1/market/price-rule")
async def set_price_rule(services: Has, caller: Operator, body: PriceRuleBody) -> dict[str, Any]:
    """Price seats by another rule from the next clearing on."""
    answer, _created = await services.ask(SetPriceRule(rule=body.rule, by=caller.name))
    return answer


@router.put("/v1/market/due-rule")
async def set_due_rule(services: Has, caller: Operator, body: DueRuleBody) -> dict[str, Any]:
    """Let who waits be due sooner, later or never from now on."""
    answer, _created = await services.ask(SetDueRule(patience=body.patience, most_ms=body.most_ms, by=caller.name))
    return answer


@router.post("/v1/market/ray")
async def announce_ray(services: Has, caller: Plane, body: RayBody) -> dict[str, Any]:
    """The head says where Ray is; the token stays in its file. Another address is another cluster: the old one is gone."""
    if services.ray and services.ray["address"] != body.address:
        # Before the new address is on the disk: whoever dies in between is told of the loss again.
        await services.ask(LoseRay(by=caller.name))
    said = {"address": body.address, "token_path": body.token_path, "head_pid": services.home.read_pid("head")}
    if said != services.ray:
        services.ray = said
        write_json(services.home.ray_file, said, mode=0o600)
    return services.ray


@router.get("/v1/ray")
async def ray(services: Has, _: Annotated[Caller, Depends(allow("provider", "plane"))]) -> dict[str, Any]:
    """Where to join, with what token, and which versions must agree."""
    starting = Problem(503, "ray_starting", "Ray is not up yet", remedy="ask again", headers={"Retry-After": "1"})
    found = known_ray(services)
    if not found:
        raise starting
    try:
        token = Path(found["token_path"]).read_text(encoding="ascii").strip()
    except OSError as error:
        raise starting from error
    return {"address": found["address"], "token": token, "versions": versions(services.version)}


def known_ray(services: Services) -> dict[str, Any]:
    """What the head of now has said; empty until it has, for the cluster of a head that is gone is gone, too."""
    return services.ray if services.ray.get("head_pid") == services.home.read_pid("head") else {}


def versions(torg: str) -> dict[str, str]:
    """What a machine must have in common with the market's."""
    try:
        ray_version = version("ray")
    except PackageNotFoundError:
        ray_version = ""
    return {"python": platform.python_version(), "ray": ray_version, "torg": torg}
