"""Work that may take its time, beside a training that should not notice it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

NICER_BY = 10
NICEST = 19


def quietly(make: Callable[[], T]) -> T:
    """What `make` gives or raises, made in a thread of low priority, which Linux has for each thread.

    A thread cannot take a lower niceness again, so it gets one of its own. It should not hold the interpreter's lock for
    long: while the cores are busy others would wait for it as long as it waits for them.
    """
    future: Future[T] = Future()

    def work() -> None:
        here = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, here, min(NICEST, os.getpriority(os.PRIO_PROCESS, here) + NICER_BY))
        try:
            future.set_result(make())
        except BaseException as error:  # noqa: BLE001  raised again by the one that waits
            future.set_exception(error)

    threading.Thread(target=work, name="quietly", daemon=True).start()
    return future.result()
