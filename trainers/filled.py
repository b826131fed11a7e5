"""Large bytes made in one pass, without the interpreter's lock while they are copied. No torch.

`b"".join` and slices of a mapping hold the lock for as long as they copy (a quarter of a second for 100 MB of fresh
memory), and then no other thread of the process answers anybody.
"""

import ctypes
import mmap
import os
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

Payload: TypeAlias = bytes | tuple[bytes | memoryview, ...]
"""Bytes as they are, or in parts that go one behind the other and are not joined before they do. Views are of bytes, and of
memory that nobody changes as long as they last."""

_new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t)(
    ("PyBytes_FromStringAndSize", ctypes.pythonapi)
)
_address_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(("PyBytes_AsString", ctypes.pythonapi))


_libc = ctypes.CDLL(None)
_LARGE_PAGES = getattr(mmap, "MADV_HUGEPAGE", None)  # of Linux
_WORTH_LARGE_PAGES = 4 << 20  # from here on numpy asks for them, too


def filled(size_bytes: int, fill: Callable[[np.ndarray], None]) -> bytes:
    """Bytes that `fill` writes, uint8 [size_bytes], before anybody else sees them.

    Python's C interface allows just that: bytes without content are to be filled by whoever made them.
    """
    if size_bytes == 0:
        return b""
    made: bytes = _new(None, size_bytes)
    room = np.frombuffer(memoryview((ctypes.c_ubyte * size_bytes).from_address(_address_of(made))), dtype=np.uint8)
    if size_bytes >= _WORTH_LARGE_PAGES and _LARGE_PAGES is not None:
        _ask_for_large_pages(room, _LARGE_PAGES)
    fill(room)
    return made


def joined(parts: Sequence[bytes | memoryview | np.ndarray]) -> bytes:
    """All of them, one behind the other; arrays as their memory is, in row-major order."""
    flat = [_numbers(part) for part in parts]

    def fill(room: np.ndarray) -> None:
        at = 0
        for part in flat:
            np.copyto(room[at : at + part.size], part)
            at += part.size

    return filled(sum(part.size for part in flat), fill)


def viewed(part: bytes | np.ndarray) -> bytes | memoryview:
    """The bytes of an array, row-major, without a copy where its memory is so; bytes as they are."""
    return part if isinstance(part, bytes) else _numbers(part).data


def parts_of(payload: Payload) -> tuple[bytes | memoryview, ...]:
    """One or more, as they follow each other."""
    return (payload,) if isinstance(payload, bytes) else payload


def size_of(payload: Payload) -> int:
    """Bytes in all."""
    return sum(map(len, parts_of(payload)))


def whole(payload: Payload) -> bytes:
    """All of it as one."""
    return payload if isinstance(payload, bytes) else joined(payload)


def read_into(descriptor: int, offset: int, room: np.ndarray) -> None:
    """The file's bytes from `offset` on, as many as `room` (uint8) takes. Raises OSError; EOFError when it has fewer."""
    while room.size:
        got = os.preadv(descriptor, [room.data], offset)
        if got == 0:
            raise EOFError(f"{room.size} bytes are missing at {offset}")
        room, offset = room[got:], offset + got


def _ask_for_large_pages(room: np.ndarray, advice: int) -> None:
    """Fresh memory then costs a page fault every 2 MiB instead of every 4 KiB. A kernel that has none says no; so be it."""
    first = -(-room.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
    whole_pages = (room.ctypes.data + room.size - first) // mmap.PAGESIZE * mmap.PAGESIZE
    _libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(whole_pages), advice)


def _numbers(part: bytes | memoryview | np.ndarray) -> np.ndarray:
    if isinstance(part, np.ndarray):
        return np.ascontiguousarray(part).reshape(-1).view(np.uint8)
    return np.frombuffer(part, dtype=np.uint8)
