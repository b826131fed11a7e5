"""An event loop whose time passes only when nobody has anything to do: hours in milliseconds, the same every time."""

import asyncio
import contextlib
from asyncio import base_events, events
from collections.abc import Coroutine, Iterator
from typing import Any


class Stuck(Exception):
    """Everybody waits for somebody else."""


class _Idle:
    """In the place of a selector: instead of waiting for a socket, the clock is set to when the next timer is due."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Stuck("nothing is due ever again")
        self.now_s += timeout
        return []

    def close(self) -> None:
        pass


class VirtualLoop(base_events.BaseEventLoop):
    """No sockets, no threads, no signals: timers and callbacks in a fixed order."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = _Idle()

    def time(self) -> float:
        return self._selector.now_s

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        raise Stuck("another thread speaks to a loop that is alone in its world")


@contextlib.contextmanager
def _as_running(loop: VirtualLoop) -> Iterator[None]:
    events.set_event_loop(loop)
    try:
        yield
    finally:
        events.set_event_loop(None)


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """What `main` comes to; whoever is still at work then is cancelled."""
    loop = VirtualLoop()
    with _as_running(loop):
        try:
            return loop.run_until_complete(main)
        finally:
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()
