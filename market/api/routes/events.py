"""A job's events as they become durable (server-sent)."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from market.api.feed import Feed, Happening
from market.api.services import Has, Services, Someone, job_for
from market.state import FINAL_STATES
from storage.journal import read_journal
from storage.journal_format import JournalAway
from storage.records import decode_record

log = logging.getLogger("torg.events")
router = APIRouter(prefix="/v1", tags=["jobs"])

STILL_HERE_S = 10.0


@router.get(
    "/jobs/{job}/events",
    response_class=StreamingResponse,
    responses={200: {"description": "Server-sent events", "content": {"text/event-stream": {}}}},
)
async def events(services: Has, caller: Someone, job: str, after: Annotated[int, Query(ge=0)] = 0) -> StreamingResponse:
    """Events in records after `after`, then new ones; `event: end` after the final state."""
    job_for(services, caller, job)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_stream(services, job, after), media_type="text/event-stream", headers=headers)


async def _stream(services: Services, job: str, after: int) -> AsyncIterator[str]:
    services.requests.streams += 1
    try:
        async for piece in _pieces(services, job, after):
            yield piece
    finally:
        services.requests.streams -= 1


async def _pieces(services: Services, job: str, after: int) -> AsyncIterator[str]:
    topic = f"job:{job}"
    while True:
        upto = services.desk.records
        found = services.feed.recent(job, after)
        if found is None:
            try:
                found = await asyncio.to_thread(_from_journal, services, job, after, upto)
            except JournalAway as error:  # whoever listens asks again, and the market works on
                log.error("older events of %s cannot be read: %s", job, error)
                yield ": older events are archived in a place that does not answer\n\n"
                return
        # one piece for all events of a record, so that a cut seldom falls inside one
        yield "".join(_message(happening) for happening in found) or ": still here\n\n"
        after = upto
        final = (services.exchange.job(job) or {}).get("state") in FINAL_STATES
        if services.desk.records > after:
            continue
        if final:
            yield "event: end\ndata: {}\n\n"
            return
        if services.feed.closed:
            return
        await services.feed.touched(topic, STILL_HERE_S)


def _from_journal(services: Services, job: str, after: int, upto: int) -> list[Happening]:
    """Old events, read from the files: a Feed of its own follows the leases of the job."""
    start = max(after, services.feed.first_record.get(job, upto + 1) - 1)
    follower = Feed(kept=1)
    found: list[Happening] = []
    for record in read_journal(services.desk.folder, services.feed.first_record.get(job, upto + 1) - 1):
        if record.number > upto:
            break
        body = decode_record(record.payload)
        follower.remember(record.number, body["at_ms"], body["events"])
        if record.number <= start:
            continue
        for index, event in enumerate(body["events"]):
            if follower.job_of(event) == job:
                found.append(Happening(record.number, index, body["at_ms"], job, event))
    return found


def _message(happening: Happening) -> str:
    document = json.dumps(happening.document(), separators=(",", ":"), ensure_ascii=False)
    return f"id: {happening.number}\ndata: {document}\n\n"
