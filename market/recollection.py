"""What a start makes of the journal, and how a snapshot keeps it: the exchange, and what its shell must know of the past.

A snapshot stands for a replay by this code: one of another version of torg, or of a state with other types, is passed over.
Whoever changes within a version what an event does to the state, and no type, adds one to `RULES`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, get_type_hints

from market.events import FIELDS
from market.exchange import Exchange, Settings
from market.state import State
from storage.formats import REMEDY, newer_record
from storage.journal_format import JournalNewer, Place
from storage.ledger_sections import LEDGER_FORMAT, read_ledger, write_ledger
from storage.records import decode_record
from storage.shapes import describe, from_plain, to_plain
from storage.snapshots import Snapshot, newest_snapshot, write_snapshot

log = logging.getLogger("torg.snapshots")

RULES: Final = 1
Event = dict[str, Any]


@dataclass(slots=True)
class Past:
    """What the exchange itself does not keep: `first_record` of each job; of the shelf the manifests of checkpoints that are
    kept by job, those that commands left, and what each job has saved so far."""

    first_record: dict[str, int] = field(default_factory=dict)
    kept: dict[str, dict[str, None]] = field(default_factory=dict)
    left: list[tuple[str, str]] = field(default_factory=list)
    saved: dict[str, str] = field(default_factory=dict)

    def note(self, number: int, events: Iterable[Event]) -> None:
        """One record of the journal."""
        for event in events:
            kind = event["type"]
            if kind == "job_submitted":
                self.first_record.setdefault(event["job"], number)
            elif kind == "checkpoint_durable":
                kept = self.kept.setdefault(event["job"], {})
                kept[event["manifest"]] = None
                for removed in event["removed"]:
                    kept.pop(removed, None)
            elif kind == "attempt_ended" and event["manifest"] is not None:
                self.left.append((event["job"], event["manifest"]))
            elif kind == "files_saved":
                self.saved[event["job"]] = event["manifest"]
            elif kind == "job_state" and event["state"] == "done":
                self.saved.pop(event["job"], None)


@dataclass(slots=True)
class Recollection:
    """The market up to a record. `place` is None before the first one."""

    exchange: Exchange
    past: Past = field(default_factory=Past)
    place: Place | None = None
    at_ms: int = 0

    def take(self, at_ms: int, number: int, events: list[Event]) -> None:
        """Apply the next record of the journal."""
        self.exchange.replay(at_ms, events)
        self.past.note(number, events)
        self.at_ms = at_ms

    def shelf_events(self) -> list[Event]:
        """The events of the past as far as the shelf still needs them, in an order that it understands."""
        past = self.past
        found: list[Event] = [
            {"type": "job_submitted", "job": job.id, "customer": job.customer, "spec": job.spec}
            for job in self.exchange.state.jobs.values()
        ]
        for job, kept in past.kept.items():
            found += [{"type": "checkpoint_durable", "job": job, "manifest": one, "removed": []} for one in kept]
        found += [{"type": "attempt_ended", "job": job, "manifest": manifest} for job, manifest in past.left]
        return found + [{"type": "files_saved", "job": job, "manifest": one} for job, one in past.saved.items()]


@cache
def _fields() -> Mapping[str, Any]:
    """The fields of the state by type; the ledger writes itself."""
    hints = get_type_hints(State)
    return {one.name: hints[one.name] for one in fields(State) if one.name != "ledger"}


@cache
def shape() -> bytes:
    """The digest of everything that a snapshot's bytes and meaning hang on."""
    try:
        torg = version("torg")
    except PackageNotFoundError:
        torg = ""  # a checkout that was not installed
    text = "\n".join((torg, str(RULES), describe(State), describe(Past), str(LEDGER_FORMAT)))
    return hashlib.sha256(text.encode()).digest()


def new_exchange() -> Exchange:
    """An empty exchange with the house's limits."""
    return Exchange(Settings())


class Memory:
    """The newest snapshot that holds and that the journal confirms, as a start needs it: first its place, then the market."""

    def __init__(self, folder: Path, journal: Path, make: Callable[[], Exchange] = new_exchange) -> None:
        self.passed_over: list[str] = []
        self._folder = folder
        self._journal = journal
        self._make = make
        self._held: Recollection | None = None

    def place(self) -> Place | None:
        """The record from which the journal must be read."""
        self._held = self.recall()
        return self._held.place

    def recall(self) -> Recollection:
        """The market at that place, an empty one without a snapshot; `passed_over` says which ones do not count, and why."""
        if (held := self._held) is not None:
            self._held = None
            return held
        snapshot, self.passed_over = newest_snapshot(self._folder, self._journal, shape())
        for why in self.passed_over:
            log.warning("a snapshot is passed over: %s", why)
        return Recollection(self._make()) if snapshot is None else from_snapshot(snapshot, self._make)


def keep(recollection: Recollection, folder: Path) -> Path:
    """Write a snapshot of it. Raises OSError; ShapeError is a bug."""
    assert recollection.place is not None, "a snapshot stands for a record"
    return write_snapshot(folder, recollection.place, recollection.at_ms, shape(), sections_of(recollection))


def body_of(number: int, payload: bytes) -> dict[str, Any]:
    """A record of the journal that this torg can replay. Raises JournalNewer."""
    body = decode_record(payload)
    if (newer := _newer(number, body)) is not None:
        raise JournalNewer(newer)
    return body


def _newer(number: int, body: dict[str, Any]) -> str | None:
    """Why this torg cannot replay a record that is whole, or None."""
    strange = next((event["type"] for event in body.get("events", ()) if event["type"] not in FIELDS), None)
    if strange is not None:
        message = f"record {number} of the journal holds an event {strange!r}, which this torg does not know"
        return newer_record(number, body) or f"{message}: {REMEDY}"
    return newer_record(number, body)


def sections_of(recollection: Recollection) -> dict[str, bytes]:
    """What a snapshot's body holds (docs/FORMATS.md)."""
    state = recollection.exchange.state
    written = {name: to_plain(kind, getattr(state, name)) for name, kind in _fields().items()}
    return {
        "state": _json(written),
        "ledger": write_ledger(state.ledger),
        "past": _json(to_plain(Past, recollection.past)),
    }


def from_snapshot(snapshot: Snapshot, make: Callable[[], Exchange] = new_exchange) -> Recollection:
    """The market that `sections_of` wrote."""
    plain = json.loads(bytes(snapshot.sections["state"]))
    read = {name: from_plain(kind, plain[name]) for name, kind in _fields().items()}
    exchange = make()
    exchange.take_state(State(**read, ledger=read_ledger(snapshot.sections["ledger"])))
    past = from_plain(Past, json.loads(bytes(snapshot.sections["past"])))
    return Recollection(exchange, past, snapshot.place, snapshot.at_ms)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
