"""Content-addressed bytes: resumable uploads, ranged downloads."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from io import BufferedReader
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.requests import ClientDisconnect

from market.api import sweeping
from market.api.bodies import DIGEST, CollectBody, MissingBody
from market.api.limits import BLOB_BYTES, declared_length, parts_of, too_long
from market.api.problems import Problem
from market.api.services import Has, Operator, Someone
from market.api.shelf import PIECE_BYTES, Piece
from market.blob_frames import Framed, Frames, FramesWrong
from storage.blobs import BlobMissing

GROUP_BYTES = 8 * 1024 * 1024
GROUP_BLOBS = 256
"""What of one body is held in memory, and becomes durable together."""

router = APIRouter(prefix="/v1/blobs", tags=["blobs"])

Digest = Annotated[str, Path(pattern=DIGEST)]
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{1,18})?")


_BYTES = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}


@router.head("/{digest}", response_class=Response)
async def size(services: Has, _: Someone, digest: Digest) -> Response:
    """Content-Length of a whole blob; 404 with Upload-Offset for one that is not whole."""
    found = services.shelf.size(digest)
    if found is None:
        return Response(status_code=404, headers={"Upload-Offset": str(services.shelf.store.partial(digest))})
    return Response(headers={"Content-Length": str(found), "Accept-Ranges": "bytes"})


@router.get(
    "/{digest}",
    response_class=StreamingResponse,
    responses={
        200: {"description": "The bytes", **_BYTES},
        206: {"description": "Those of `Range`", **_BYTES},
        416: {"description": "`Range` is past the end"},
    },
)
async def read(
    services: Has, _: Someone, digest: Digest, range_: Annotated[str | None, Header(alias="Range")] = None
) -> StreamingResponse:
    """The bytes, or those from `Range: bytes=a-` or `a-b` on."""
    total = services.shelf.size(digest)
    try:
        if total is None:
            raise BlobMissing(f"there is no blob {digest}")
        file = await asyncio.to_thread(services.shelf.store.open, digest)
    except BlobMissing as error:
        raise Problem(404, "unknown_blob", str(error), field="digest") from error
    start, end = 0, total
    if range_ is not None:
        found = _RANGE.fullmatch(range_)
        if found is None or int(found[1]) >= total:
            file.close()
            headers = {"Content-Range": f"bytes */{total}"}
            raise Problem(416, "range_past_end", f"the blob has {total} bytes", field="Range", headers=headers)
        start, end = int(found[1]), min(total, int(found[2]) + 1) if found[2] else total
    headers = {"Content-Length": str(max(0, end - start)), "Accept-Ranges": "bytes", "ETag": f'"{digest}"'}
    if range_ is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{total}"
    status = 200 if range_ is None else 206
    return StreamingResponse(
        _pieces(file, start, end), status_code=status, headers=headers, media_type="application/octet-stream"
    )


@router.post("/missing")
async def missing(services: Has, _: Someone, body: MissingBody) -> dict[str, Any]:
    """Which of these blobs are not here whole: what an upload in parts has to send."""
    return {"missing": await asyncio.to_thread(services.shelf.missing, body.digests)}


@router.post("/collect")
async def collect(services: Has, _: Operator, body: CollectBody) -> dict[str, Any]:
    """Mark what no job needs, and remove what was marked a grace ago and that nobody has asked for since."""
    sizes = await asyncio.to_thread(services.shelf.store.sizes)
    now_ms = services.clock()
    return (await sweeping.collect(services.shelf, sizes, now_ms, body.grace_ms, dry_run=body.dry_run)).to_json()


@router.post("", openapi_extra={"requestBody": {"required": True, **_BYTES}})
async def write_all(request: Request, services: Has, caller: Someone) -> dict[str, Any]:
    """Whole blobs, one behind the other: for each its SHA-256 (32 bytes), its length (8 bytes, big-endian), its bytes. Those
    whose bytes have another SHA-256 are named under `wrong` and not kept; `kept` says how many are. Of a body that is cut off,
    or refused further on, what came whole before is kept.
    """
    declared_length(request, BLOB_BYTES)
    kept, wrong = 0, list[str]()
    async for group in _groups(request):
        bad = await services.shelf.receive_all(caller.name, group)
        kept, wrong = kept + len(group) - len(bad), wrong + bad
    return {"kept": kept, "wrong": wrong}


@router.put(
    "/{digest}",
    status_code=201,
    responses={
        202: {"description": "More is to come", "content": {"application/json": {"schema": {"type": "object"}}}}
    },
    openapi_extra={"requestBody": {"required": False, **_BYTES}},
)
async def write(
    request: Request,
    services: Has,
    caller: Someone,
    digest: Digest,
    content_range: Annotated[str | None, Header()] = None,
) -> JSONResponse:
    """A whole blob, or the bytes `a-b/total` of it; 201 when whole and new, 200 when there, 202 when more is to come."""
    declared_length(request, BLOB_BYTES)
    had = services.shelf.size(digest) is not None
    piece = _piece(content_range)
    done = await services.shelf.receive(caller.name, digest, piece, _limited(request, piece))
    status = 202 if not done.whole else 200 if had else 201
    headers = {} if done.whole else {"Upload-Offset": str(done.offset)}
    return JSONResponse({"digest": digest, "offset": done.offset, "whole": done.whole}, status, headers)


def _piece(content_range: str | None) -> Piece | None:
    if content_range is None:
        return None
    found = _CONTENT_RANGE.fullmatch(content_range)
    if found is None or not int(found[1]) <= int(found[2]) < int(found[3]):
        message = f"Content-Range is {content_range!r}, not 'bytes FIRST-LAST/TOTAL'"
        raise Problem(422, "invalid_field", message, field="Content-Range")
    return Piece(int(found[1]), int(found[3]))


async def _limited(request: Request, piece: Piece | None) -> AsyncIterator[bytes]:
    """The body as it comes, no longer than is allowed."""
    received = 0
    async for part in parts_of(request):
        received += len(part)
        if received > BLOB_BYTES or (piece is not None and piece.start + received > piece.total):
            raise too_long(BLOB_BYTES)
        yield part


async def _groups(request: Request) -> AsyncIterator[list[Framed]]:
    """The blobs of a body as they come, so many at once as one sync of the disk is to be for."""
    frames, group, received, held = Frames(), list[Framed](), 0, 0
    try:
        async for part in parts_of(request):
            received += len(part)
            if received > BLOB_BYTES:
                raise too_long(BLOB_BYTES)
            for blob in frames.feed(part):
                group.append(blob)
                held += blob.bytes
                if held >= GROUP_BYTES or len(group) >= GROUP_BLOBS:
                    yield group
                    group, held = [], 0
        frames.close()
    except (ClientDisconnect, FramesWrong, Problem) as error:
        if group:
            yield group
        if isinstance(error, FramesWrong):
            raise Problem(422, "invalid_field", str(error), field="body") from error
        raise
    if group:
        yield group


def _pieces(file: BufferedReader, start: int, end: int) -> Iterator[bytes]:
    with file:
        file.seek(start)
        left = end - start
        while left > 0 and (piece := file.read(min(PIECE_BYTES, left))):
            left -= len(piece)
            yield piece
