"""Waiting for descriptors, whatever their numbers.

`select.select` refuses every descriptor above 1,023, and a host of many sandboxes, a market of many clients has more.
"""

import errno
import os
import select
from collections.abc import Sequence
from typing import Protocol, TypeVar


class _HasFileno(Protocol):
    def fileno(self) -> int: ...


_T = TypeVar("_T", bound=int | _HasFileno)


def wait_ready(reading: Sequence[_T], timeout_s: float, writing: Sequence[_T] = ()) -> tuple[list[_T], list[_T]]:
    """Those of `reading` and of `writing` with which the next call does not wait, after at most `timeout_s`.

    A descriptor at its end, or whose other side is gone, counts as ready: the next call says so. Raises OSError (EBADF)
    or ValueError for one that is closed.
    """
    asked: dict[int, int] = {}
    for among, event in ((reading, select.POLLIN), (writing, select.POLLOUT)):
        for one in among:
            asked[_number(one)] = asked.get(_number(one), 0) | event
    poll = select.poll()
    for descriptor, events in asked.items():
        poll.register(descriptor, events)
    found = dict(poll.poll(max(0.0, timeout_s) * 1000))
    if any(events & select.POLLNVAL for events in found.values()):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    ended = select.POLLHUP | select.POLLERR
    return (
        [one for one in reading if found.get(_number(one), 0) & (select.POLLIN | ended)],
        [one for one in writing if found.get(_number(one), 0) & (select.POLLOUT | ended)],
    )


def _number(one: int | _HasFileno) -> int:
    return one if isinstance(one, int) else one.fileno()
