"""Work of low priority is that thread's alone, and what it raises reaches who asked for it."""

import os
import threading

import pytest

from trainers.actors.quietly import quietly


def priority() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_only_the_thread_that_does_the_work_has_a_lower_priority() -> None:
    before = priority()
    assert quietly(priority) == min(19, before + 10)
    assert priority() == before
    with pytest.raises(ZeroDivisionError):
        quietly(lambda: 1 // 0)
