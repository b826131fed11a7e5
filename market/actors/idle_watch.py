"""Looks at the machine again and again, and tells when more or less of it is to be held (market/idling.py decides)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from market.actors.host_config import Hardware, HostConfig, Watched
from market.actors.machine import CardsInUse, Cores, card_name
from market.idling import Place, Seen, Verdict, decide

LOOK_S = 3.0
SAME_MS = 60_000  # that another name for the same hold waits: each is a record in the market


class IdleWatch:
    """See the module. `tell` gets each verdict that is not the one before, with the uuids of the cards of its places."""

    def __init__(
        self, watched: Watched, hardware: Hardware, tell: Callable[[tuple[Verdict, list[str]]], None],
        look: Callable[[], Sequence[Place]] | None = None, clock: Callable[[], float] = time.monotonic,
        local: Callable[[], time.struct_time] = time.localtime,
    ) -> None:  # fmt: skip
        devices = [one.card.device for one in hardware.claims]
        self._uuids = {card_name(device): device.uuid for device in devices}
        cores = Cores(hardware.units)
        self._look = look or (CardsInUse(devices, watched.ignore).look if devices else cores.look)
        self._rules, self._tell, self._clock, self._local = watched.rules(), tell, clock, local
        self._seen, self._last, self._told_ms, self._over = Seen(), Verdict(), 0, threading.Event()

    def look(self) -> None:
        """One look, and what it leads to."""
        wall, now_ms = self._local(), int(1000 * self._clock())
        minute = 60 * wall.tm_hour + wall.tm_min
        verdict, self._seen = decide(self._rules, self._seen, self._look(), now_ms, wall.tm_wday, minute)
        last = self._last
        same = (verdict.units, verdict.places, verdict.reason) == (last.units, last.places, last.reason)
        if verdict != last and not (same and now_ms - self._told_ms < SAME_MS):
            self._last, self._told_ms = verdict, now_ms
            self._tell((verdict, [self._uuids[place] for place in verdict.places if place in self._uuids]))

    def start(self) -> None:
        """Look now, and then from a thread of its own."""
        self.look()
        threading.Thread(target=self._go_on, name="idle", daemon=True).start()

    def close(self) -> None:
        """Look no more."""
        self._over.set()

    def _go_on(self) -> None:
        while not self._over.wait(LOOK_S):
            self.look()


def watch_of(config: HostConfig, hardware: Hardware, tell: Callable[[tuple[Verdict, list[str]]], None]) -> IdleWatch | None:
    """As the configuration says; None where the machine is always for rent."""
    return None if config.watched is None else IdleWatch(config.watched, hardware, tell)
