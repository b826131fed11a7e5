"""Watches over a process while it joins Ray, where nothing else in it is heard.

Ray joins in the main thread and goes on trying when the head is gone, for a quarter of an hour; a signal waits until it
has given up. A thread hears what comes meanwhile: signals by the descriptor that the kernel's handler writes to, and from
the market that there is another head.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOOK_S = 1.0
SLOW_AFTER_S = 15.0

STOPPING = frozenset({signal.SIGINT, signal.SIGTERM})


@contextmanager
def watched(
    stopping: threading.Event, *, moved: Callable[[], bool], stop: Callable[[], None], anew: Callable[[], None],
    slow: Callable[[], None],
) -> Iterator[None]:  # fmt: skip
    """Run the body under watch; from the main thread only.

    `stop` is called when the process is told to end, by a signal or by `stopping`, and `anew` when there is another head
    to join (`moved`): in the watching thread, and neither returns, since the body cannot be ended. `slow` is called once
    when it takes long.
    """
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    joined = threading.Event()

    def watch() -> None:
        slow_at = time.monotonic() + SLOW_AFTER_S
        while not joined.is_set():
            told = os.read(read, 64) if select.select([read], [], [], LOOK_S)[0] else b""
            if STOPPING & set(told) or stopping.is_set():
                stop()
            elif moved() and not joined.is_set():
                anew()
            elif time.monotonic() >= slow_at:
                slow_at = float("inf")
                slow()

    watching = threading.Thread(target=watch, name="join-watch", daemon=True)
    watching.start()
    try:
        yield
    finally:
        joined.set()
        os.write(write, b"\0")
        watching.join()
        signal.set_wakeup_fd(before)
        os.close(read)
        os.close(write)
