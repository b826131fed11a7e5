"""What a run has to tell the market: sent in order, each thing until it is answered, however long the market is away.

Readings are cumulative, so while they wait a newer one replaces the older; rounds, losses, evaluations and checkpoints
are all kept (a job has finitely many), log lines up to a limit, and no more of them in one report than the market takes.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from trainers.actors.wiring import Door, DoorAway, DoorRefused

log = logging.getLogger(__name__)

Json = dict[str, Any]

MAX_LOG_LINES = 4000
MAX_LOG_BYTES = 1 << 20
"""Of one report, as JSON."""
MAX_LOG_REPORTS = 8
"""With lines, that wait; of older ones the lines are dropped and counted."""
LINE_BYTES = 200
"""Of a line in a report, beside its text."""
PAUSE_AWAY_S = 0.3


@dataclass(slots=True)
class Readings:
    """Several readings, evaluations, losses and log lines that travel together. `seen`: up to which number of each stream
    this is, with what was put before.
    """

    readings: dict[int, Json] = field(default_factory=dict)
    evaluated: list[Json] = field(default_factory=list)
    lost: list[Json] = field(default_factory=list)
    logs: list[Json] = field(default_factory=list)
    log_bytes: int = 0
    dropped: int = 0
    seen: dict[str, int] = field(default_factory=dict)

    def takes(self, line: Json) -> bool:
        """Keep one line more, unless there are enough."""
        size = len(json.dumps(line["line"])) + LINE_BYTES
        if self.logs and (len(self.logs) >= MAX_LOG_LINES or self.log_bytes + size > MAX_LOG_BYTES):
            return False
        self.logs.append(line)
        self.log_bytes += size
        return True

    def all_logs(self) -> list[Json]:
        """The lines, headed by how many are missing."""
        if not self.dropped:
            return self.logs
        line = f"[torg: {self.dropped} lines dropped, for which the market had no time]"
        at_ms = self.logs[0]["at_ms"] if self.logs else 0
        return [{"at_ms": at_ms, "source": "run", "line": line}, *self.logs]


@dataclass(frozen=True, slots=True)
class Report:
    """One report other than readings. `kind`: round, checkpoint, save, attempt or halted."""

    kind: str
    body: Mapping[str, Any]


class Outbox:
    """Thread-safe; a thread of its own sends. `on_refused` gets a report that the market declined, with the code."""

    def __init__(
        self, job: str, run_pid: int, door: Door, on_refused: Callable[[Report, str], None] = lambda *_: None
    ) -> None:
        self._job = job
        self._run_pid = run_pid
        self._door = door
        self._on_refused = on_refused
        self._changed = threading.Condition()
        self._queue: deque[Report | Readings] = deque()
        self._sending = False
        self._kept: dict[str, int] = {}
        self.away = False
        threading.Thread(target=self._work, name="outbox", daemon=True).start()

    def put(self, kind: str, body: Mapping[str, Any]) -> None:
        """Queue a report behind everything that was put before."""
        with self._changed:
            self._queue.append(Report(kind, dict(body)))
            self._changed.notify_all()

    def put_readings(
        self,
        readings: Sequence[Json] = (),
        evaluated: Sequence[Json] = (),
        lost: Sequence[Json] = (),
        logs: Sequence[Json] = (),
        seen: Mapping[str, int] | None = None,
    ) -> None:
        """Queue readings; they join those that are still waiting at the end of the queue. `seen`: see `kept`."""
        if not (readings or evaluated or lost or logs):
            return
        with self._changed:
            if not self._queue or not isinstance(self._queue[-1], Readings):
                self._queue.append(Readings())
            batch = self._queue[-1]
            assert isinstance(batch, Readings)
            batch.readings.update({reading["epoch"]: reading for reading in readings})
            batch.evaluated += evaluated
            batch.lost += lost
            last = self._add_logs(logs)
            last.seen.update(seen or {})
            self._changed.notify_all()

    def _add_logs(self, lines: Sequence[Json]) -> Readings:
        """Behind what waits, in a further report when the last one has enough; the last one."""
        last = self._queue[-1]
        assert isinstance(last, Readings)
        for line in lines:
            if not last.takes(line):
                last = Readings()
                last.takes(line)
                self._queue.append(last)
        told = [one for one in self._queue if isinstance(one, Readings) and one.logs]
        for old, following in pairwise(told[: 1 - MAX_LOG_REPORTS]):
            following.dropped += old.dropped + len(old.logs)
            old.logs, old.log_bytes, old.dropped = [], 0, 0
        return last

    def kept(self, stream: str) -> int:
        """Up to which number the market has answered what a stream told, or has told why it will not have it."""
        with self._changed:
            return self._kept.get(stream, 0)

    def wait_empty(self, timeout_s: float) -> bool:
        """Wait until everything is answered; False when that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._queue and not self._sending, timeout_s)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._queue))
                # Taken out while it is sent: what is put meanwhile must not join a batch that is on its way.
                item = self._queue.popleft()
                self._sending = True
            self._send_until_answered(item)
            with self._changed:
                if isinstance(item, Readings):
                    self._kept.update(item.seen)
                self._sending = False
                self._changed.notify_all()

    def _send_until_answered(self, item: Report | Readings) -> None:
        while True:
            try:
                self._send(item)
                self.away = False
                return
            except DoorAway as away:
                if not self.away:
                    log.info("the market is away, training goes on: %s", away)
                self.away = True
                time.sleep(PAUSE_AWAY_S)
            except DoorRefused as refused:
                log.warning("the market declined a report (%s): %s", _name(item), refused)
                if isinstance(item, Report):
                    self._on_refused(item, refused.code)
                return

    def _send(self, item: Report | Readings) -> None:
        if isinstance(item, Readings):
            self._door.report_readings(
                self._job,
                run_pid=self._run_pid,
                readings=list(item.readings.values()),
                evaluated=item.evaluated,
                lost=item.lost,
                logs=item.all_logs(),
            )
        elif item.kind == "round":
            self._door.report_round(item.body)
        elif item.kind == "checkpoint":
            self._door.report_checkpoint(item.body)
        elif item.kind == "save":
            self._door.report_save(item.body)
        elif item.kind == "attempt":
            self._door.report_attempt(item.body)
        else:
            assert item.kind == "halted"
            self._door.report_halted(self._job, **item.body)


def _name(item: Report | Readings) -> str:
    return "readings" if isinstance(item, Readings) else f"{item.kind} {item.body.get('round')}"
