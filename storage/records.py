"""The payload of a journal record: canonical JSON, or a batch of transfers in packed columns (storage/transfer_batches.py).

Both say the same: {"v", "at_ms", "events"}. A packed record is one event `transfers`; `spread` makes of it the `transfer` and
`transfer_refused` events that it stands for, by which books, bills, proofs and everybody outside know them.
"""

from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from json.encoder import encode_basestring as _quoted
from typing import Any, Final

from storage.canonical import NotCanonical, canonical_bytes, parse_json
from storage.journal_format import RECORD_MAGIC
from storage.transfer_batches import MAGIC, BadBatch, TransferBatch

BATCH: Final = "transfers"
Event = dict[str, Any]


def encode_record(at_ms: int, events: Sequence[Event]) -> bytes:
    """The payload of one command's events. A batch of transfers is a record of its own."""
    if len(events) == 1 and events[0]["type"] == "transfer":
        return _transfer_record(at_ms, events[0])
    if BATCH not in [event["type"] for event in events]:
        return canonical_bytes({"v": 1, "at_ms": at_ms, "events": events})
    assert len(events) == 1, "a batch of transfers is a record of its own"
    packed: bytes = events[0]["batch"].encode(at_ms)
    if RECORD_MAGIC not in packed:
        return packed
    # Whoever looks for records behind a torn one must find none inside a payload.
    return canonical_bytes({"v": 1, "at_ms": at_ms, "events": [{"type": BATCH, "batch": b64encode(packed).decode()}]})


def _transfer_record(at_ms: int, event: Event) -> bytes:
    """The canonical JSON of the commonest record, without sorting its keys."""
    assert len(event) == 8, "a transfer has its own fields alone"
    job, lease = event["job"], event["lease"]
    return (
        f'{{"at_ms":{at_ms},"events":[{{"amount_nanos":{event["amount_nanos"]},"credit":{_quoted(event["credit"])},"debit":{_quoted(event["debit"])}'
        f',"id":{_quoted(event["id"])},"job":{"null" if job is None else _quoted(job)},"kind":{_quoted(event["kind"])}'
        f',"lease":{"null" if lease is None else _quoted(lease)},"type":"transfer"}}],"v":1}}'
    ).encode()


def decode_record(payload: bytes) -> dict[str, Any]:
    """{"v", "at_ms", "events"}, as the market replays it: a batch is one event. Raises NotCanonical."""
    if payload[:4] == MAGIC:
        at_ms, batch = _batch(payload)
        return {"v": 1, "at_ms": at_ms, "events": [{"type": BATCH, "batch": batch}]}
    body: dict[str, Any] = parse_json(payload)
    for event in body["events"]:
        if event["type"] == BATCH:
            event["batch"] = _batch(b64decode(event["batch"]))[1]
    return body


def spread_record(payload: bytes) -> dict[str, Any]:
    """The same with every transfer an event of its own. Raises NotCanonical."""
    body = decode_record(payload)
    body["events"] = spread(body["events"])
    return body


def market_opened(payload: bytes) -> str:
    """The market's id, where this is its first record; else empty. Raises NotCanonical."""
    return next((str(one["market_id"]) for one in decode_record(payload)["events"] if one["type"] == "market_opened"), "")


def spread(events: Iterable[Event]) -> list[Event]:
    """Events with batches as what they stand for."""
    found: list[Event] = []
    for event in events:
        if event["type"] == BATCH:
            found += event["batch"].events()
        else:
            found.append(event)
    return found


def _batch(data: bytes) -> tuple[int, TransferBatch]:
    try:
        return TransferBatch.decode(data)
    except BadBatch as error:
        raise NotCanonical(str(error)) from error
