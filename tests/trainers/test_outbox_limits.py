"""However much a worker prints, a report is no larger than the market takes, and what does not fit is counted."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Any

from market.api.limits import JSON_BYTES
from trainers.actors.outbox import MAX_LOG_LINES, MAX_LOG_REPORTS, Outbox
from trainers.actors.wiring import DoorAway

Json = dict[str, Any]


class Door:
    """Away until told otherwise."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.bodies: list[Mapping[str, Any]] = []

    def report_readings(self, job: str, **body: Any) -> Json:
        if not self.open.is_set():
            raise DoorAway("away")
        self.bodies.append(body)
        return {}


def lines(count: int, text: str) -> list[Json]:
    return [{"at_ms": 1, "source": "worker", "line": f"{number} {text}"} for number in range(count)]


def test_reports_stay_within_what_the_market_takes() -> None:
    door = Door()
    outbox = Outbox("job-1", 1, door)  # type: ignore[arg-type]
    door.open.set()
    outbox.put_readings(logs=lines(3_000, "\x1b" * 200))
    assert outbox.wait_empty(30)
    assert len(door.bodies) > 1
    assert max(len(json.dumps(body)) for body in door.bodies) < JSON_BYTES
    told = [line["line"] for body in door.bodies for line in body["logs"]]
    assert told == [line["line"] for line in lines(3_000, "\x1b" * 200)]


def test_what_waits_too_long_is_dropped_and_counted_and_losses_are_not() -> None:
    door = Door()
    outbox = Outbox("job-1", 1, door)  # type: ignore[arg-type]
    many = (MAX_LOG_REPORTS + 4) * MAX_LOG_LINES
    outbox.put_readings(logs=lines(many, "x"), lost=[{"lease": "lease-1"}])
    door.open.set()
    assert outbox.wait_empty(30)
    told = [line["line"] for body in door.bodies for line in body["logs"]]
    dropped = sum(int(line.split()[1]) for line in told if line.startswith("[torg: "))
    assert dropped > 0
    assert sum(not line.startswith("[torg: ") for line in told) + dropped == many
    assert told[-1] == f"{many - 1} x"
    assert [one for body in door.bodies for one in body["lost"]] == [{"lease": "lease-1"}]
