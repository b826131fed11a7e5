"""The Steward: sees to it that exactly the runs that the market wants are alive, on the head node.

`Steward` is a plain class that is handed everything; `start_steward` is the only place here that knows ray.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from trainers.actors.seats import Seats
from trainers.actors.wiring import NAMESPACE, STEWARD, Door, DoorAway, DoorRefused, run_name

log = logging.getLogger(__name__)

POLL_S = 4.0
PAUSE_AWAY_S = 0.5
# A run that is over may still be sending its last words.
REAP_AFTER_S = 3.0


class Launcher(Protocol):
    """Starts and ends runs; names as in `trainers.actors.wiring.run_name`."""

    def living(self) -> set[str]: ...

    def start(self, job: str, attempt: int) -> None: ...

    def end(self, name: str) -> None: ...


class Steward:
    """Compares the runs that are wanted with those that live, and acts on the difference. Keeps no other state."""

    def __init__(self, door: Door, launcher: Launcher, clock: Callable[[], float]) -> None:
        self._door = door
        self._launcher = launcher
        self._clock = clock
        self._seen: str | int | None = None
        self._unwanted_since: dict[str, float] = {}

    def turn(self) -> None:
        """One long poll and what follows from it. Raises DoorAway when the market does not answer."""
        answer = self._door.runs(wait_s=self._patience(), seen=self._seen)
        self._seen = answer["version"]
        self.reconcile({run_name(item["job"], item["run"]): item for item in answer["runs"]})

    def reconcile(self, wanted: Mapping[str, Mapping[str, Any]]) -> None:
        """Start what is wanted and not there; end what has been unwanted for `REAP_AFTER_S`."""
        living = self._launcher.living()
        for name, item in wanted.items():
            if name not in living:
                log.info("Deciding to start %s since the market wants it and it is not there", name)
                self._launcher.start(item["job"], item["run"])
        now = self._clock()
        unwanted = living - wanted.keys()
        self._unwanted_since = {name: self._unwanted_since.get(name, now) for name in unwanted}
        for name, since in self._unwanted_since.items():
            if now - since >= REAP_AFTER_S:
                log.info("Deciding to end %s since the market has not wanted it for %.1f s", name, now - since)
                self._launcher.end(name)

    def _patience(self) -> float:
        if not self._unwanted_since:
            return POLL_S
        due = min(self._unwanted_since.values()) + REAP_AFTER_S - self._clock()
        return min(POLL_S, max(0.1, due))


class StewardActor:
    """The Steward's loop in a thread that begins in the constructor, so that a restart needs no caller."""

    def __init__(self, door: Door, node_id: str, log_folder: str) -> None:
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
        self._steward = Steward(door, Seats(node_id, door, {"log_folder": log_folder}), time.monotonic)
        threading.Thread(target=self._work, name="steward", daemon=True).start()

    def ping(self) -> str:
        """Answers when the Steward is up."""
        return "ok"

    def _work(self) -> None:
        away = False
        while True:
            try:
                self._steward.turn()
                away = False
            except DoorAway as reason:
                if not away:
                    log.info("waiting: %s", reason)
                away = True
                time.sleep(PAUSE_AWAY_S)
            except DoorRefused:
                log.exception("the market refuses us")
                time.sleep(POLL_S)
            except Exception:
                # Ray's own errors (a start that failed, a node that is going down): the next turn compares afresh.
                log.exception("a turn failed")
                time.sleep(PAUSE_AWAY_S)


def start_steward(door: Door, node_id: str, log_folder: str) -> Any:
    """Make the detached Steward on a node and wait until it is up."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    actor = (
        ray.remote(StewardActor)
        .options(
            name=STEWARD,
            namespace=NAMESPACE,
            lifetime="detached",
            max_restarts=-1,
            num_cpus=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
        )
        .remote(door, node_id, log_folder)
    )
    ray.get(actor.ping.remote(), timeout=60)
    return actor
