"""Memory that a trainer child and its parent both see: the flat vector, and bytes for one occasion. No torch.

The child may write to it at any moment, so nothing is looked at before it was copied. Each `descriptor` is to be handed
to the child and then closed.
"""

import fcntl
import mmap
import os
import sys
from collections.abc import Sequence

import numpy as np

from trainers.child_messages import NotFiniteNumbers
from trainers.codecs.base import all_below_two

KEPT_BUFFERS = 3


class SharedVector:
    """float32 [n] in a sealed memory file, for the child's whole life."""

    def __init__(self, elements: int) -> None:
        self.elements = elements
        self.descriptor = sealed_memory(4 * elements)
        self._shared = np.frombuffer(mmap.mmap(self.descriptor, 4 * elements), dtype=np.float32)
        self._buffers: list[np.ndarray] = []

    @property
    def room(self) -> np.ndarray:
        """Where `put` puts values, float32 [n]: what was computed there needs no copy. The child may change it meanwhile, so
        that nothing which lies there may go to anybody but this child.
        """
        return self._shared

    def put(self, values: np.ndarray, ranges: Sequence[tuple[int, int]] | None = None) -> None:
        """Show the child `values`, float32 [n]: all of them or those in `ranges`, each (offset, size)."""
        assert values.dtype == np.float32, "parameters travel as float32"
        assert values.shape == (self.elements,), "not this model's parameters"
        if values is self._shared:
            return
        for offset, size in ((0, self.elements),) if ranges is None else ranges:
            np.copyto(self._shared[offset : offset + size], values[offset : offset + size])

    def take(self, what: str, *, check: bool = True) -> np.ndarray:
        """A private, read-only copy, float32 [n]. Raises NotFiniteNumbers naming `what` when it is not finite; without
        `check` that is left to whoever takes it.

        Its memory is used again once nobody holds it any more: fresh memory costs a page fault every 4 KiB.
        """
        buffer = self._free_buffer()
        np.copyto(buffer, self._shared)
        if check and not all_below_two(buffer) and not np.isfinite(buffer).all():
            raise NotFiniteNumbers(f"{what} are not all finite")
        copied = buffer.view()
        copied.flags.writeable = False
        return copied

    def _free_buffer(self) -> np.ndarray:
        for buffer in self._buffers:
            if sys.getrefcount(buffer) == 3:  # the list, this loop, the call: no view of it is left
                return buffer
        buffer = np.empty(self.elements, dtype=np.float32)
        self._buffers = [*self._buffers[1 - KEPT_BUFFERS :], buffer]
        return buffer


class SharedBytes:
    """A sealed memory file of that size for one state that goes over; unmapped when the block ends."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.descriptor = sealed_memory(max(1, size_bytes))
        self._memory = mmap.mmap(self.descriptor, max(1, size_bytes))

    def write(self, content: bytes) -> None:
        """Show the child all of it."""
        self._memory[: self.size_bytes] = content

    def read(self) -> bytes:
        """A private copy."""
        return self._memory[: self.size_bytes]

    def __enter__(self) -> "SharedBytes":
        return self

    def __exit__(self, *_: object) -> None:
        self._memory.close()


def sealed_memory(size_bytes: int) -> int:
    """A memory file of that size whose size nobody can change, so that no reader of a mapping can be hurt (SIGBUS)."""
    descriptor = os.memfd_create("parameters", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
