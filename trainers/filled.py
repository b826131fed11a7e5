"""Large bytes made in one pass, without the interpreter's lock while they are copied. No torch.

`b"".join` and slices of a mapping hold the lock for as long as they copy (a quarter of a second for 100 MB of fresh
memory), and then no other thread of the process answers anybody.
"""

import ctypes
import os
from collections.abc import Callable, Sequence

import numpy as np

_new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t)(
    ("PyBytes_FromStringAndSize", ctypes.pythonapi)
)
_address_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(("PyBytes_AsString", ctypes.pythonapi))


def filled(size_bytes: int, fill: Callable[[np.ndarray], None]) -> bytes:
    """Bytes that `fill` writes, uint8 [size_bytes], before anybody else sees them.

    Python's C interface allows just that: bytes without content are to be filled by whoever made them.
    """
    if size_bytes == 0:
        return b""
    made: bytes = _new(None, size_bytes)
    fill(np.frombuffer(memoryview((ctypes.c_ubyte * size_bytes).from_address(_address_of(made))), dtype=np.uint8))
    return made


def joined(parts: Sequence[bytes | np.ndarray]) -> bytes:
    """All of them, one behind the other; arrays as their memory is, in row-major order."""
    flat = [_numbers(part) for part in parts]

    def fill(room: np.ndarray) -> None:
        at = 0
        for part in flat:
            np.copyto(room[at : at + part.size], part)
            at += part.size

    return filled(sum(part.size for part in flat), fill)


def read_into(descriptor: int, offset: int, room: np.ndarray) -> None:
    """The file's bytes from `offset` on, as many as `room` (uint8) takes. Raises OSError; EOFError when it has fewer."""
    while room.size:
        got = os.preadv(descriptor, [room.data], offset)
        if got == 0:
            raise EOFError(f"{room.size} bytes are missing at {offset}")
        room, offset = room[got:], offset + got


def _numbers(part: bytes | np.ndarray) -> np.ndarray:
    if isinstance(part, np.ndarray):
        return np.ascontiguousarray(part).reshape(-1).view(np.uint8)
    return np.frombuffer(part, dtype=np.uint8)
