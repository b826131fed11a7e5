"""The HTTP application: routers, problem documents, and a count of every answer."""

import time
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from market.api import problems
from market.api.gate import address_of
from market.api.openapi import describe
from market.api.quick import QUICK, first_part
from market.api.routes import (
    blobs,
    books,
    disputes,
    events,
    invites,
    jobs,
    market,
    members,
    money,
    offers,
    probe,
    runs,
    secrets,
    sessions,
    teams,
)
from market.api.services import Services

DESCRIPTION = (
    "An open exchange for training compute. Bearer key in `Authorization`; errors are problem documents "
    "(`code`, `message`, `field`, `remedy`); writes carry an `id` or an `Idempotency-Key` and may be repeated."
)


class FrontDoor:
    """Limits calls that show no key at all, and notes method, route template, status and time to the first byte of every
    answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                route: BaseRoute | None = scope.get("route")
                template = getattr(route, "path", "unknown")
                services.requests.note(scope["method"], template, message["status"], time.perf_counter() - began)
            await send(message)

        services: Services = scope["app"].state.services
        try:
            if not any(name == b"authorization" for name, _ in scope["headers"]):
                services.gate.pass_address(address_of(scope))
            quick = QUICK.get((scope["method"], scope["path"]))
            if quick is not None:
                data, receive = await first_part(receive)
                answer = await quick.answer(services, scope, data) if data else None
                if answer is not None:
                    services.requests.note(scope["method"], quick.path, answer.status_code, time.perf_counter() - began)
                    await answer(scope, receive, send)
                    return
        except problems.Problem as problem:
            await problem.answer()(scope, receive, noting)
            return
        await self._app(scope, receive, noting)


def make_app(services: Services) -> FastAPI:
    """The application over its services; OpenAPI at /openapi.json, readable at /docs."""
    app = FastAPI(title="torg", version=services.version, description=DESCRIPTION)
    app.state.services = services
    problems.install(app)
    app.add_exception_handler(RequestValidationError, _invalid)
    describe(app)
    app.add_middleware(FrontDoor)
    for part in (market, members, invites, teams, money, offers, probe, jobs, events, runs, blobs, books, disputes, secrets, sessions):
        app.include_router(part.router)
    return app


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return problems.invalid_field(first, _siblings(request, first["loc"])).answer()


def _siblings(request: Request, place: Sequence[str | int]) -> Sequence[str]:
    """Names that the object around an unknown field does take; empty where it is not known."""
    route = request.scope.get("route")
    body = getattr(route, "body_field", None)
    model = getattr(getattr(body, "field_info", None), "annotation", None)
    for part in place[1:-1]:
        if model is None or isinstance(part, int):
            continue
        field = getattr(model, "model_fields", {}).get(part)
        model = _model_in(field.annotation) if field is not None else None
    return sorted(getattr(model, "model_fields", {}))


def _model_in(annotation: Any) -> Any:
    """The model in `list[Model]` or `Model | None`, or the annotation itself."""
    inner = [part for part in getattr(annotation, "__args__", ()) if hasattr(part, "model_fields")]
    return inner[0] if inner else annotation
