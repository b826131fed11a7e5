"""How a worker goes when its provider wants the machine: at a boundary, and not before its run has seen it off.

The provider's host says `drain`; the next call for a round is answered with why it goes; the run makes durable what only
this worker holds, says `goodbye`, and goes on without it. Whoever waits too long for that is ended all the same.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from trainers.actors.failures import LEAVING, Why, failure

__all__ = ["LEAVING", "Leaving", "Why", "told"]

LOOK_S = 0.05
_TOLD: Final[Mapping[str, str]] = {
    "outbid": "another job bid more for this interruptible lease",
    "max_lease": "the lease has lasted as long as its offer lets",
    "maintenance": "maintenance of the machine begins",
    "maintenance_unannounced": "maintenance of the machine begins",
}


def told(why: str) -> str:
    """Why a worker leaves, for people."""
    return _TOLD.get(why, "the provider takes its machine back")


class Leaving:
    """See the module. Thread-safe: the host waits in one call while the run makes others."""

    def __init__(self) -> None:
        self._why: Why | None = None
        self._seen_off = threading.Event()

    def begin(self, why: Why) -> None:
        """From now on no round begins here. The first reason stays."""
        self._why = self._why or why

    def refusal(self) -> dict[str, Any] | None:
        """The answer to a call for another round; None while nobody wants the machine back."""
        return None if self._why is None else failure(self._why, told(self._why), "")

    def see_off(self) -> None:
        """The run has what it needs of this worker."""
        self._seen_off.set()

    def wait(self, timeout_s: float, *, busy: Callable[[], bool], holds: Callable[[], bool]) -> bool:
        """Whether the worker may be ended, after at most so long: nobody waits for it (`busy`), and what it `holds` its run
        has, or there is nothing.
        """
        until = time.monotonic() + timeout_s
        while busy() or (holds() and not self._seen_off.is_set()):
            if time.monotonic() > until:
                return False
            time.sleep(LOOK_S)
        return True
