"""Bytes for nothing but their time: how a provider measures its link to the market."""

from collections.abc import Iterator
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from market.api.limits import declared_length, parts_of, too_long
from market.api.services import Lessor

PROBE_BYTES: Final = 4 * 1024 * 1024
PIECE: Final = bytes(64 * 1024)

router = APIRouter(prefix="/v1/probe", tags=["offers"])


@router.get(
    "",
    response_class=StreamingResponse,
    responses={200: {"description": "Zeros", "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}},
)
async def get(_: Lessor, size: Annotated[int, Query(ge=0, le=PROBE_BYTES)] = 0) -> StreamingResponse:
    """`size` zero bytes, 4 MiB at most."""

    def pieces() -> Iterator[bytes]:
        for start in range(0, size, len(PIECE)):
            yield PIECE[: size - start]

    return StreamingResponse(pieces(), media_type="application/octet-stream", headers={"Content-Length": str(size)})


@router.post("")
async def send(request: Request, _: Lessor) -> dict[str, Any]:
    """Counts the body's bytes, 4 MiB at most, and forgets them."""
    declared_length(request, PROBE_BYTES)
    received = 0
    async for part in parts_of(request):
        received += len(part)
        if received > PROBE_BYTES:
            raise too_long(PROBE_BYTES)
    return {"bytes": received}
