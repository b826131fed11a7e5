"""Every error as a problem document (RFC 9457) with the house's four fields: code, message, field, remedy.

It imports no FastAPI, which takes 0.5 CPU-seconds: the books do without.
"""

import difflib
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from storage.blobs import BlobsAway

log = logging.getLogger("torg.api")

MEDIA_TYPE = "application/problem+json"


SECRET_FIELDS = frozenset({"value"})
"""Of bodies: an answer never repeats what was in them."""


class Problem(HTTPException):
    """Ends a request with a problem document. An HTTPException, because FastAPI swallows others while it reads a body."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        field: str | None = None,
        remedy: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.status = status
        self.code = code
        self.message = message
        self.field = field
        self.remedy = remedy

    def answer(self) -> JSONResponse:
        """The HTTP answer."""
        body = {
            "type": f"urn:torg:problem:{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.message,
            "code": self.code,
            "message": self.message,
            "field": self.field,
            "remedy": self.remedy,
        }
        return JSONResponse(body, status_code=self.status, media_type=MEDIA_TYPE, headers=self.headers)


def not_found(kind: str, name: str) -> Problem:
    """Unknown, or somebody else's: the two look the same from outside."""
    return Problem(404, f"unknown_{kind}", f"there is no {kind} {name} of yours", field=kind)


def disk_full() -> Problem:
    """New work is refused until the disk takes writes again; what was acknowledged is safe."""
    return Problem(
        507,
        "disk_full",
        "disk full: the market cannot write its journal and takes no new work; nothing that it confirmed is lost",
        remedy="free space on the market's disk; it goes on by itself",
        headers={"Retry-After": "5"},
    )


def mirror_away(why: str) -> Problem:
    """New work is refused until the synchronous mirrors have everything; so is what was decided and is not there yet."""
    return Problem(
        503,
        "mirror_away",
        f"a mirror of the journal is away, and nothing is confirmed without it: {why}",
        remedy="ask again with the same id; the market goes on by itself when the mirror is back, or by torg up --mirror-sync none",
        headers={"Retry-After": "1"},
    )


def install(app: Starlette) -> None:
    """Make every way to fail answer with a problem document, but for FastAPI's own: see `invalid_field`."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(BlobsAway, _away)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _bug)


async def _problem(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)
    return error.answer()


async def _away(_: Request, error: Exception) -> JSONResponse:
    log.error("%s", error)
    return Problem(503, "blobs_away", str(error), remedy="try again later; the operator sees why in the log").answer()


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return Problem(404, "unknown_route", f"there is no {request.url.path} here", remedy="see /docs").answer()
    if error.status_code == 405:
        message = f"{request.url.path} does not take {request.method}"
        return Problem(405, "wrong_method", message, remedy="see /docs", headers=error.headers).answer()
    return Problem(error.status_code, "http_error", str(error.detail), headers=error.headers).answer()


async def _bug(request: Request, error: Exception) -> JSONResponse:
    log.error("bug while answering %s %s", request.method, request.url.path, exc_info=error)
    message = f"the market failed to answer: {type(error).__name__}; the cause is in its log"
    return Problem(500, "internal_error", message, remedy="tell the operator").answer()


def invalid_field(found: Mapping[str, Any], known: Sequence[str] = ()) -> Problem:
    """What the first of pydantic's errors comes to; its place begins with the part of the request, as FastAPI says it.

    known: the fields that the object around it takes.
    """
    field = _field_of(found["loc"])
    message, remedy = _say(field, found, known)
    return Problem(422, "invalid_field", message, field=field, remedy=remedy)


def _field_of(place: Sequence[str | int]) -> str:
    """`('body', 'readings', 0, 'epoch')` → `readings[0].epoch`."""
    name = ""
    for part in place[1:]:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else str(part)
    return name or str(place[0])


def _say(field: str, found: Mapping[str, Any], known: Sequence[str]) -> tuple[str, str | None]:
    """The sentence and the remedy for one pydantic error."""
    if found["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(field.rpartition(".")[2], known, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]}?" if nearest else f"known are: {', '.join(known)}" if known else None
        return f"unknown field {field}", hint
    if found["type"] == "missing":
        return f"{field} is missing", None
    if found["loc"][0] == "body" and field in SECRET_FIELDS:
        return f"{field} cannot be taken (it is not shown): {found['msg']}", None
    value = repr(found.get("input"))
    shown = value if len(value) <= 80 else value[:77] + "…"
    return f"{field} is {shown}: {found['msg']}", None
