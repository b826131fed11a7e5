"""A process that must not outlive another one on its machine watches that one here. Linux; imports nothing heavy."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable


def watch(pid: int, on_end: Callable[[], None]) -> threading.Thread:
    """Call `on_end` once, from a thread of its own, when process `pid` has ended (at once if there is none).

    By pidfd: neither a reused process id nor a process that is only stopped can be mistaken for an ended one.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        descriptor = -1

    def wait() -> None:
        if descriptor >= 0:
            waiter = select.poll()
            waiter.register(descriptor, select.POLLIN)
            waiter.poll()
            os.close(descriptor)
        on_end()

    thread = threading.Thread(target=wait, name=f"watch-{pid}", daemon=True)
    thread.start()
    return thread


def exit_with(pid: int) -> None:
    """End this process without ceremony as soon as process `pid` has ended."""
    watch(pid, lambda: os._exit(1))
