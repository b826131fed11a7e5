"""Bodies of requests: how long they may be, and JSON that has one meaning."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from market.api.problems import Problem
from storage.canonical import NotCanonical, canonical_bytes, parse_json

JSON_BYTES = 2 * 1024 * 1024
BLOB_BYTES = 64 * 1024 * 1024


def too_long(limit_bytes: int) -> Problem:
    return Problem(413, "body_too_large", f"the body is longer than {limit_bytes} bytes", remedy="send it in pieces")


def declared_length(request: Request, limit_bytes: int) -> None:
    """Refuse by Content-Length before a byte is read."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit_bytes:
        raise too_long(limit_bytes)


class StrictRequest(Request):
    """Reads at most JSON_BYTES, and refuses JSON with twin keys, NaN, or text that is not Unicode."""

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            declared_length(self, JSON_BYTES)
            data = bytearray()
            async for part in self.stream():
                data += part
                if len(data) > JSON_BYTES:
                    raise too_long(JSON_BYTES)
            self._body = bytes(data)
        return self._body

    async def json(self) -> Any:
        try:
            found = parse_json(await self.body())
            canonical_bytes(found)
        except (NotCanonical, RecursionError) as error:
            raise Problem(400, "bad_json", f"the body is {error}" if str(error) else "bad JSON") from error
        return found


class StrictRoute(APIRoute):
    """A route whose JSON body is read by StrictRequest."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return strict
