"""States that a trainer child copies into memory which is used again. No torch.

The child is the only one that maps an area; here it is read by descriptor, and only once somebody wants the bytes. What
the child wrote about its tensors is copied and checked at once, so that nothing it writes later changes what a file says
of itself. An area whose export is still wanted is not written to before the export was moved out of it.
"""

from __future__ import annotations

import os
import threading
import weakref

import numpy as np

from trainers.child_memory import sealed_memory
from trainers.child_messages import broke_protocol, checked_head, checked_head_length
from trainers.filled import filled, read_into
from trainers.tensor_file import LENGTH_BYTES

AREAS = 2


class Area:
    """One sealed memory file; it goes with its last user."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._descriptor = sealed_memory(max(1, size_bytes))
        weakref.finalize(self, os.close, self._descriptor)

    def lend(self) -> int:
        """A descriptor to hand to the child and then to close."""
        return os.dup(self._descriptor)

    def read_into(self, offset: int, room: np.ndarray) -> None:
        """A copy of what is there now into `room`, uint8."""
        read_into(self._descriptor, offset, room)

    def read(self, offset: int, size_bytes: int) -> bytes:
        """A copy of what is there now."""
        return filled(size_bytes, lambda room: self.read_into(offset, room))


class Exported:
    """A child's state as it was at one moment, a safetensors file. Any thread may ask for its bytes.

    Args:
        head: the file's beginning, which was checked; the rest is in `area`, or there is none and that is all.
    """

    def __init__(self, head: bytes, size_bytes: int, area: Area | None = None) -> None:
        self.size_bytes = size_bytes
        self._head, self._area = head, area
        self._turn = threading.Lock()

    def content(self) -> bytes:
        """The file; a private copy is made at each call while it lies in shared memory."""
        with self._turn:
            return self._read()

    def move_out(self) -> None:
        """Make the private copy now, since the area is wanted."""
        with self._turn:
            self._head, self._area = self._read(), None

    def _read(self) -> bytes:
        head, area = self._head, self._area
        if area is None:
            return head

        def fill(room: np.ndarray) -> None:
            room[: len(head)] = np.frombuffer(head, dtype=np.uint8)
            area.read_into(len(head), room[len(head) :])

        return filled(self.size_bytes, fill)


class ExportAreas:
    """Up to `AREAS` areas of one child, known to it by number. One thread exports; what it made may be read by others.

    Args:
        most_bytes: of one area; a child that claims more has failed.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._areas: list[Area | None] = [None] * AREAS
        self._exports: list[weakref.ref[Exported] | None] = [None] * AREAS
        self._last = AREAS - 1

    def free(self) -> int:
        """The area for the next export: the largest that nobody wants anything of, else the older one, whose export is
        moved out first.
        """
        numbers = [number for number in range(AREAS) if self._wanted(number) is None]
        number = max(numbers, key=self.size_of, default=(self._last + 1) % AREAS)
        wanted = self._wanted(number)
        if wanted is not None:
            wanted.move_out()
        self._exports[number] = None
        return number

    def size_of(self, number: int) -> int:
        """What fits into it, in bytes; 0 before its first export."""
        area = self._areas[number]
        return 0 if area is None else area.size_bytes

    def renew(self, number: int, size_bytes: int) -> int:
        """Fresh memory of that size for a free area; the descriptor to lend. Raises ChildFailed when it is too much."""
        if size_bytes > self._most_bytes:
            broke_protocol("a state of more bytes than its memory limit")
        self._areas[number] = None  # before the new one, so that there are never both
        made = self._areas[number] = Area(size_bytes)
        return made.lend()

    def exported(self, number: int, size_bytes: int) -> Exported:
        """What the child says that it has copied there. Raises ChildFailed unless it looks like a safetensors file."""
        area = self._areas[number]
        if area is None or not LENGTH_BYTES <= size_bytes <= area.size_bytes:
            broke_protocol("a state that its memory has no room for")
        length = area.read(0, LENGTH_BYTES)
        text = area.read(LENGTH_BYTES, checked_head_length(length, size_bytes))
        made = Exported(checked_head(length + text, size_bytes), size_bytes, area)
        self._exports[number], self._last = weakref.ref(made), number
        return made

    def _wanted(self, number: int) -> Exported | None:
        """The export that lies there and that somebody still holds."""
        reference = self._exports[number]
        return None if reference is None else reference()
