"""Ids of a ledger's transfers and the number of each. What a snapshot held stays packed, so that a start makes no object of it.

A packed part is the text of all ids one after the other, where each ends, and a table of numbers from 1 in which an id is looked
for from the slot on that the low bits of its BLAKE2b say; 0 is free. The table has a power of two of slots, at least twice as
many as ids, and is filled in the order of the numbers, so that equal ids make equal bytes. What came since is in an `IdTable`.
"""

import hashlib
from array import array
from collections.abc import Iterable, Sequence

from storage.id_table import IdTable


class TransferIds:
    """Numbers count from 1 in the order of arrival. An id comes once: whoever appends has asked before."""

    def __init__(self, text: bytes = b"", ends: "array[int] | None" = None, slots: "array[int] | None" = None) -> None:
        """The packed part, as `packed` gave it."""
        self._text = text
        self._ends = array("Q") if ends is None else ends
        self._slots = array("I") if slots is None else slots
        self._recent = IdTable()

    def __len__(self) -> int:
        return len(self._ends) + len(self._recent)

    def of(self, number: int) -> str:
        """The id of that number."""
        place = number - 1 - len(self._ends)
        return self._recent.ids[place] if place >= 0 else str(self._old(number), "utf-8")

    def number(self, id: str) -> int | None:
        """The number of that id, None for one that is not here."""
        found = self._recent.number(id)
        if found is not None:
            return len(self._ends) + found
        return self._find(id) if self._ends else None

    def has_none(self, ids: Sequence[str]) -> bool:
        """Whether none of these is here."""
        return self._recent.has_none(ids) and (not self._ends or not any(map(self._find, ids)))

    def append(self, id: str) -> None:
        self._recent.append(id)

    def add(self, id: str) -> bool:
        """Append one, unless it is here; whether it is new."""
        return not (self._ends and self._find(id) is not None) and self._recent.add(id)

    def extend(self, ids: Sequence[str]) -> None:
        self._recent.extend(ids)

    def packed(self) -> "tuple[bytes, array[int], array[int]]":
        """Text, ends and slots of all."""
        told = [id.encode() for id in self._recent.ids]
        ends = array("Q", self._ends)
        end = len(self._text)
        for one in told:
            end += len(one)
            ends.append(end)
        text = b"".join((self._text, *told))
        size = 1 << (2 * len(ends) - 1).bit_length() if ends else 0
        if size == len(self._slots):
            return text, ends, _filled(array("I", self._slots), told, len(self._ends))
        old = (bytes(self._old(number)) for number in range(1, len(self._ends) + 1))
        return text, ends, _filled(array("I", bytes(4 * size)), (*old, *told), 0)

    def _old(self, number: int) -> bytes:
        return self._text[self._ends[number - 2] if number > 1 else 0 : self._ends[number - 1]]

    def _find(self, id: str) -> int | None:
        data = id.encode("utf-8", "surrogatepass")
        slots, most = self._slots, len(self._slots) - 1
        slot = _hash(data) & most
        while number := slots[slot]:
            if self._old(number) == data:
                return number
            slot = slot + 1 & most
        return None


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _filled(slots: "array[int]", ids: Iterable[bytes], before: int) -> "array[int]":
    """The table with these ids, whose numbers begin behind `before`."""
    most = len(slots) - 1
    for number, data in enumerate(ids, before + 1):
        slot = _hash(data) & most
        while slots[slot]:
            slot = slot + 1 & most
        slots[slot] = number
    return slots
