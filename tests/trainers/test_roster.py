"""Who is silent is known by its silence, not by that of the run that asks."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from trainers.actors.roster import Roster, Worker
from trainers.actors.transport import CallFailed

LOST_AFTER_S = 0.05


class HeldUp:
    """A run's way to a worker that answers at once, while the run itself is held up each time it has asked."""

    def __init__(self) -> None:
        self.heard, self.silent = threading.Semaphore(0), False

    def ask(self, worker: Any, method: str, *arguments: Any) -> str:
        time.sleep(2 * LOST_AFTER_S)
        return "asked"

    def answers(self, calls: Mapping[int, str], timeout_s: float) -> dict[int, Any]:
        self.heard.release()
        return {} if self.silent else {slot: CallFailed("something of ours") for slot in calls}


class NoBox:
    def kept(self, stream: str) -> int:
        return 0


def test_a_run_that_was_held_up_hears_who_has_answered_before_it_takes_anybody_for_frozen() -> None:
    way = HeldUp()
    roster = Roster(way, NoBox(), every_s=0.01, lost_after_s=LOST_AFTER_S)  # type: ignore[arg-type]
    roster.add(Worker("lease", 1, 0, "provider", "worker", None))
    for _ in range(4):
        assert way.heard.acquire(timeout=60)
    assert roster.take_losses() == []
    way.silent = True
    assert roster.changed.wait(60)
    assert [gone.reason for _, gone in roster.take_losses()] == ["worker_frozen"]
