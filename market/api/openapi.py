"""The OpenAPI page: what FastAPI derives from the routes, and what all routes have in common.

A route declares its own good answers; its ways to say no follow from what it takes and whom it lets in.
"""

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from market.api.problems import MEDIA_TYPE
from market.api.services import caller_of

Json = dict[str, Any]
ANYBODY, MEMBER = ("anybody",), ("member",)
WRITES = frozenset({"post", "put", "patch", "delete"})
_NULLABLE = {"anyOf": [{"type": "string"}, {"type": "null"}]}
_PROBLEM: Json = {
    "title": "Problem",
    "description": "RFC 9457. Programs read `code`; `field` is what is wrong, `remedy` what would do.",
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "message": {"type": "string"},
        "field": _NULLABLE,
        "remedy": _NULLABLE,
    },
    "required": ["type", "title", "status", "detail", "code", "message", "field", "remedy"],
    "additionalProperties": False,
}
_MEANING = {
    400: "the request or its JSON cannot be read",
    401: "no key, a wrong one, or a revoked one",
    402: "not enough money",
    403: "this role may not",
    404: "there is no such thing, or it is somebody else's",
    408: "the body came too slowly",
    409: "it exists with other contents, or is past this",
    413: "too large",
    422: "a field is wrong",
    429: "a limit of the market; Retry-After says when to ask again",
    503: "starting, closing, busy, or waiting for a mirror; ask again",
    507: "the market's disk is full",
}


def api_routes(routes: Iterable[BaseRoute]) -> Iterator[BaseRoute]:
    """Every route, those of included routers too."""
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is None:
            yield route
        else:
            yield from api_routes(inner.routes)


def who(route: APIRoute) -> tuple[str, ...]:
    """Whom a route lets in: ANYBODY, MEMBER, or roles."""
    calls = list(_dependencies(route.dependant))
    roles = [inspect.getclosurevars(call).nonlocals.get("roles") for call in calls if inspect.isfunction(call)]
    named = next((found for found in roles if found), None)
    return tuple(named) if named else MEMBER if caller_of in calls else ANYBODY


def _dependencies(dependant: Dependant) -> Iterator[object]:
    for one in dependant.dependencies:
        yield one.call
        yield from _dependencies(one)


def describe(app: FastAPI) -> None:
    """Make `app.openapi()` say every answer that a route can give."""

    def page() -> Json:
        if app.openapi_schema is None:
            app.openapi_schema = _page(app)
        return app.openapi_schema

    app.openapi = page  # type: ignore[method-assign]


def _page(app: FastAPI) -> Json:
    found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    lets_in = {
        (route.path, method.lower()): who(route)
        for route in api_routes(app.routes)
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            _complete(operation, method, lets_in[path, method])
    parts = found.setdefault("components", {})
    schemas = parts.setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["Problem"] = _PROBLEM
    parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return found


def _complete(operation: Json, method: str, roles: tuple[str, ...]) -> None:
    answers = operation["responses"]
    answers.pop("422", None)
    takes_body = "requestBody" in operation or method == "put"
    asked = takes_body or "parameters" in operation
    said = {429, 503}
    if roles != ANYBODY:
        said |= {401} | ({403} if roles != MEMBER or takes_body else set())
        operation["security"] = [{"key": []}]
    if asked:
        said |= {404, 422}
    if method in WRITES:
        said |= {400, 402, 408, 409, 413, 507}
    for status in sorted(said):
        answers.setdefault(str(status), {"description": _MEANING[status]})
    for status, answer in answers.items():
        if method == "head":
            continue
        if int(status) >= 400:
            answer["content"] = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
        elif answer.get("content", {}).get("application/json", {}).get("schema") == {}:
            answer["content"]["application/json"]["schema"] = {"type": "object"}
    if "201" in answers:
        again = {**answers["201"], "description": "The same again: answered as before"}
        answers.setdefault("200", again)
