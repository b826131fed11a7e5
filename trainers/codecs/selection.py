"""Which elements travel: the largest of each chunk, and how their places are told in few bytes.

Of equal magnitudes the earlier element travels. Places are told by whichever is shorter, which is known before anything
is encoded: a bitmap (one bit an element), or each place counted from its chunk's beginning, ascending, in one byte
(chunks up to 256), 12 bits (up to 4,096; two places in three bytes, as SparseLoCo packs them), or 2, 3 or 4 bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from trainers.codecs.base import BadPayload, Vector, in_rows

Places = NDArray[np.int64]
BATCH = 1 << 17  # elements whose largest are looked for at a time


@dataclass(frozen=True, slots=True)
class Run:
    """`count` consecutive chunks of `size` elements from `start` on; `kept` of each travel."""

    start: int
    count: int
    size: int
    kept: int


def runs_of(segments: Sequence[tuple[int, int]], chunk: int, kept: int) -> tuple[Run, ...]:
    """Chunks of the segments (start, size): whole ones, then what is left, of which as many travel if it has them."""
    runs: list[Run] = []
    for start, size in segments:
        whole, left = divmod(size, chunk)
        if whole and runs and runs[-1].size == chunk and runs[-1].start + runs[-1].count * chunk == start:
            runs[-1] = Run(runs[-1].start, runs[-1].count + whole, chunk, kept)
        elif whole:
            runs.append(Run(start, whole, chunk, kept))
        if left:
            runs.append(Run(start + whole * chunk, 1, left, min(kept, left)))
    return tuple(runs)


class Selection:
    """The chunks of a vector of `elements`, and how the places of what travels are packed."""

    def __init__(self, elements: int, runs: tuple[Run, ...], chunk: int, kept: int) -> None:
        """`chunk` and `kept` of a whole chunk decide how places are packed."""
        self.elements, self._runs = elements, runs
        self.count = sum(run.count * run.kept for run in runs)
        self._bits = place_bits(chunk)
        self._bitmap = chunk <= kept * self._bits
        self.size_bytes = -(-elements // 8) if self._bitmap else -(-self.count * self._bits // 8)

    @cached_property
    def _chunks(self) -> tuple[Places, Places]:
        """Of every value that travels: where its chunk begins and where it ends; one for all where there is one chunk."""
        if len(self._runs) == 1 and self._runs[0].count == 1:
            return np.array([self._runs[0].start]), np.array([self._runs[0].start + self._runs[0].size])
        starts = [run.start + run.size * np.repeat(np.arange(run.count), run.kept) for run in self._runs]
        sizes = [np.full(run.count * run.kept, run.size) for run in self._runs]
        begin = np.concatenate(starts) if starts else np.empty(0, dtype=np.int64)
        return begin, begin + (np.concatenate(sizes) if sizes else 0)

    def choose(self, vector: Vector) -> Places:
        """Float32 [elements], finite -> places [count] of what travels, ascending."""
        found = []
        for run in self._runs:
            rows = max(1, BATCH // run.size)
            for first in range(0, run.count, rows):
                count, start = min(rows, run.count - first), run.start + first * run.size
                chunks = vector[start : start + count * run.size].reshape(count, run.size)
                found.append(np.flatnonzero(_largest(chunks, run.kept)) + start)
        return np.concatenate(found) if found else np.empty(0, dtype=np.int64)

    def pack(self, places: Places) -> NDArray[np.uint8]:
        """[count] -> [size_bytes]."""
        if self._bitmap:
            mask = np.zeros(self.elements, dtype=np.bool_)
            mask[places] = True
            return np.packbits(mask, bitorder="little")
        return pack_places(places - self._chunks[0], self._bits)

    def unpack(self, packed: NDArray[np.uint8]) -> Places:
        """[size_bytes] -> [count]. Raises BadPayload unless they are as many as promised of each chunk, ascending."""
        begin, end = self._chunks
        if self._bitmap:
            places = np.flatnonzero(np.unpackbits(packed, bitorder="little"))
            if places.size != self.count:
                raise BadPayload(f"{places.size} places; {self.count} were promised")
        else:
            places = unpack_places(packed, self.count, self._bits) + begin
        if (places < begin).any() or (places >= end).any() or (np.diff(places) <= 0).any():
            raise BadPayload("places that are not of their chunk or not ascending")
        return places


def place_bits(chunk: int) -> int:
    """Bits that a place in a chunk of that many elements takes when it is not in a bitmap."""
    if chunk <= 256:
        return 8
    return 12 if chunk <= 4096 else 8 * -(-(chunk - 1).bit_length() // 8)


def pack_places(places: Places, bits: int) -> NDArray[np.uint8]:
    """Numbers below 2^bits, little-endian one after the other; two of 12 bits in three bytes, zeros at the end."""
    if bits == 12:
        pairs = np.append(places, 0) if places.size % 2 else places
        words = (pairs[::2] | pairs[1::2] << 12).astype("<u4")
        return words.view(np.uint8).reshape(-1, 4)[:, :3].reshape(-1)[: -(-places.size * 3 // 2)]
    width = bits // 8
    return places.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :width].reshape(-1)


def unpack_places(packed: NDArray[np.uint8], count: int, bits: int) -> Places:
    """The reverse. Raises BadPayload when bits after the last number are set."""
    if bits == 12:
        words = np.zeros((-(-count // 2), 4), dtype=np.uint8)
        words[:, :3] = in_rows(packed, 3)  # the last one lacks its third byte when the count is odd
        pairs = words.view("<u4").reshape(-1).astype(np.int64)
        places = np.stack([pairs & 0xFFF, pairs >> 12], axis=1).reshape(-1)
        if count % 2 and places[-1]:
            raise BadPayload("bits after the last place")
        return places[:count]
    words = np.zeros((count, 4), dtype=np.uint8)
    words[:, : bits // 8] = packed.reshape(count, -1) if count else 0
    return words.view("<u4").reshape(-1).astype(np.int64)


def _largest(chunks: Vector, kept: int) -> NDArray[np.bool_]:
    """Float32 [rows, size] -> True at the `kept` largest magnitudes of each row, the earlier of equal ones."""
    size = chunks.shape[1]
    if kept == size:
        return np.ones(chunks.shape, dtype=np.bool_)
    if kept == 0:
        return np.zeros(chunks.shape, dtype=np.bool_)
    magnitudes = np.abs(chunks)
    least = np.partition(magnitudes, size - kept, axis=1)[:, size - kept, None]
    mask = magnitudes >= least
    if np.count_nonzero(mask) > kept * len(mask):  # by rows only then: that takes many times as long
        surplus = np.flatnonzero(np.count_nonzero(mask, axis=1) > kept)
        ties = magnitudes[surplus] == least[surplus]
        beyond = mask[surplus] & ~ties
        room = kept - np.count_nonzero(beyond, axis=1)[:, None]
        mask[surplus] = beyond | (ties & (np.cumsum(ties, axis=1, dtype=np.int32) <= room))
    return mask
