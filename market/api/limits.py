"""Bodies of requests: how long they may be, and JSON that has one meaning."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from market.api.problems import Problem
from storage.canonical import NotCanonical, canonical_bytes, parse_json

JSON_BYTES = 2 * 1024 * 1024
BLOB_BYTES = 64 * 1024 * 1024
JSON_S = 120.0
STALL_S = 30.0


def too_long(limit_bytes: int) -> Problem:
    return Problem(413, "body_too_large", f"the body is longer than {limit_bytes} bytes", remedy="send it in pieces")


def too_slow(limit_s: float) -> Problem:
    return Problem(
        408, "body_too_slow", f"the body did not come within {limit_s:.0f} s", headers={"Connection": "close"}
    )


async def parts_of(request: Request) -> AsyncIterator[bytes]:
    """The body as it comes; Problem 408 when nothing comes for STALL_S."""
    parts = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(STALL_S):
                part = await anext(parts, None)
        except TimeoutError as error:
            raise too_slow(STALL_S) from error
        if part is None:
            return
        yield part


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
            try:
                async with asyncio.timeout(JSON_S):
                    async for part in self.stream():
                        data += part
                        if len(data) > JSON_BYTES:
                            raise too_long(JSON_BYTES)
            except TimeoutError as error:
                raise too_slow(JSON_S) from error
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
