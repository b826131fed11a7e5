"""Ids and their numbers from 1, by a table of slots and Python's own hash of a string.

An id is looked for from the slot on that the low bits of its hash say; a slot holds a number, 0 is free. There is a power of two of
slots, at least twice as many as ids. A dict knows the same; here the ids of a large batch are looked for and put in all together,
by columns of numpy, which is a third of the work.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from storage.large import is_large

if TYPE_CHECKING:
    import numpy as np

_FEWEST_SLOTS: Final = 16


class IdTable:
    """`ids` in the order of their numbers, only to be read."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self._hashes = array("q")
        self._slots = array("I", bytes(4 * _FEWEST_SLOTS))

    def __len__(self) -> int:
        return len(self.ids)

    def number(self, id: str) -> int | None:
        """The number of that id, None for one that is not here."""
        slots, hashed = self._slots, hash(id)
        slot = hashed & len(slots) - 1
        while number := slots[slot]:
            if self._hashes[number - 1] == hashed and self.ids[number - 1] == id:
                return number
            slot = slot + 1 & len(slots) - 1
        return None

    def has_none(self, ids: Sequence[str]) -> bool:
        """Whether none of these is here."""
        return self._has_none(ids) if is_large(ids) else all(self.number(id) is None for id in ids)

    def append(self, id: str) -> None:
        """One that is not here yet."""
        is_new = self.add(id)
        assert is_new, "an id was booked twice"

    def add(self, id: str) -> bool:
        """Append one, unless it is here; whether it is new."""
        ids, slots, hashed = self.ids, self._slots, hash(id)
        most = len(slots) - 1
        slot = hashed & most
        while number := slots[slot]:
            if self._hashes[number - 1] == hashed and ids[number - 1] == id:
                return False
            slot = slot + 1 & most
        ids.append(id)
        self._hashes.append(hashed)
        slots[slot] = number = len(ids)
        if 2 * number > len(slots):
            self._grow()
        return True

    def extend(self, ids: Sequence[str]) -> None:
        """Such that are not here yet, and each once."""
        before = len(self.ids)
        self.ids += ids
        self._hashes.frombytes((_hashes_of(ids) if is_large(ids) else array("q", map(hash, ids))).tobytes())
        if 2 * len(self.ids) > len(self._slots):
            self._grow()
        else:
            self._put_all(range(before, len(self.ids)))

    def _grow(self) -> None:
        self._slots = array("I", bytes(4 << (4 * len(self.ids) - 1).bit_length()))
        self._put_all(range(len(self.ids)))

    def _put_all(self, rows: range) -> None:
        if is_large(rows):
            self._put_columns(rows)
            return
        for row in rows:
            self._put(self._hashes[row], row + 1)

    def _put(self, hashed: int, number: int) -> None:
        slots, most = self._slots, len(self._slots) - 1
        slot = hashed & most
        while there := slots[slot]:
            assert self._hashes[there - 1] != hashed or self.ids[there - 1] != self.ids[number - 1], "an id was booked twice"
            slot = slot + 1 & most
        slots[slot] = number

    def _put_columns(self, rows: range) -> None:
        import numpy as np

        slots, hashes, most = np.asarray(self._slots), np.asarray(self._hashes), len(self._slots) - 1
        numbers = np.arange(rows.start + 1, rows.stop + 1, dtype=slots.dtype)
        hashed = hashes[rows.start :]
        at = hashed & most
        while len(numbers):
            is_free = slots[at] == 0
            slots[at[is_free]] = numbers[is_free]  # of several that want the same slot one has it now
            there = slots[at]
            late = np.flatnonzero(there != numbers)
            numbers, hashed, at, there = numbers[late], hashed[late], at[late], there[late]
            for one in np.flatnonzero(hashes[there - 1] == hashed).tolist():
                assert self.ids[there[one] - 1] != self.ids[numbers[one] - 1], "an id was booked twice"
            at = at + 1 & most

    def _has_none(self, ids: Sequence[str]) -> bool:
        import numpy as np

        slots, hashes, most = np.asarray(self._slots), np.asarray(self._hashes), len(self._slots) - 1
        hashed = _hashes_of(ids)
        rows, at = np.arange(len(ids)), hashed & most
        while True:
            there = slots[at]
            taken = np.flatnonzero(there)
            if not len(taken):
                return True
            rows, hashed, at, there = rows[taken], hashed[taken], at[taken], there[taken]
            for one in np.flatnonzero(hashes[there - 1] == hashed).tolist():
                if ids[rows[one]] == self.ids[there[one] - 1]:
                    return False
            at = at + 1 & most


def _hashes_of(ids: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    import numpy as np

    return np.fromiter(map(hash, ids), np.int64, len(ids))
