"""What a codec is: a flat float32 vector to bytes and back, without any knowledge of networks or models.

What a payload decodes to is made by single multiplications and additions, table look-ups and conversions only, each
rounded as IEEE 754 says: every receiver, on whatever machine, gets the same bits. What an encoder sends may depend on
its machine in the last place of a scale; nobody else computes that again.
"""

import struct
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Vector: TypeAlias = NDArray[np.float32]
Encoded: TypeAlias = bytes
Payload: TypeAlias = bytes | bytearray | memoryview
Buffers: TypeAlias = Sequence[NDArray[Any]]  # contiguous, little-endian

HEADER = struct.Struct("<4sQ")
LARGEST = np.float32(2.0**60)
"""Of a value that may travel; one beyond it counts as not finite, so that no sender can make others overflow.

Sums over any number of workers and outer steps at the largest rate (100) and momentum, 1e9 rounds of them, stay below
float32's largest: 100 · 2^60 · (1e9)² / 2 = 5.8e37.
"""
CHECKED = 1 << 16  # elements looked at a time, so that the second look finds them in the cache
TWO_AND_MORE = np.uint32(1 << 30)  # the highest bit of the exponent


class BadPayload(ValueError):
    """Bytes that no honest encoder made, or a vector that cannot be encoded; the message says what is wrong."""


class Codec(Protocol):
    """Same input, same bytes; every receiver of the same bytes decodes the same vector, bit for bit."""

    @property
    def name(self) -> str:
        """The canonical text, as job files call it."""

    @property
    def dense(self) -> bool:
        """Every element travels as itself: a slice of a vector can be encoded alone, by the same codec."""

    @property
    def lossless(self) -> bool:
        """What is decoded is to the bit what was encoded."""

    def promised_bytes(self, elements: int) -> int:
        """Length of the encoding of that many elements, whatever they are."""

    def encode(self, vector: Vector) -> Encoded:
        """The bytes of float32 [n]. Raises BadPayload when an element is NaN or beyond ±LARGEST.

        A transform may make of elements near LARGEST what cannot be encoded, or what `decode` refuses.
        """

    def encode_parts(self, vector: Vector) -> Sequence[bytes | NDArray[Any]]:
        """What, joined, is `encode`; may be views of the vector."""

    def decode(self, payload: Payload, elements: int) -> Vector:
        """Float32 [elements], maybe a view of the payload. Raises BadPayload for anything but a whole encoding of elements
        within ±LARGEST.
        """


class Values(Protocol):
    """The last stage of a codec: how float32 values become bytes. Bodies only; `staged.Staged` adds the header."""

    @property
    def magic(self) -> bytes:
        """The first three bytes of a payload."""

    def body_bytes(self, count: int) -> int:
        """Length of the body of that many values."""

    def encode(self, values: Vector) -> Buffers:
        """What, joined, is the body of float32 [n], n > 0. Raises BadPayload when a value is NaN or beyond ±LARGEST."""

    def decode(self, body: memoryview, count: int) -> Vector:
        """Float32 [count] from a body of the right length, count > 0. Raises BadPayload when one is NaN or beyond
        ±LARGEST.
        """


def sum_of_squares(tensor: Vector | NDArray[np.float64], chunk: int = 1 << 16) -> float:
    """Σx² in float64, the same bits on every machine; NaN or infinite exactly when an element is.

    Not by `np.dot` or `np.linalg.norm`: BLAS adds in an order that depends on the machine, and its threads cost several
    times more than they bring where cores are busy.
    """
    squares, total = np.empty(min(chunk, tensor.size), dtype=np.float64), 0.0
    for start in range(0, tensor.size, chunk):
        part = squares[: min(chunk, tensor.size - start)]
        np.copyto(part, tensor[start : start + chunk])
        total += float(np.square(part, out=part).sum())
    return total


def refuse_not_finite(tensor: Vector) -> None:
    """Raises BadPayload when an element is NaN, infinite or beyond ±LARGEST."""
    if all_below_two(tensor):
        return
    if all(_is_finite(tensor[start : start + CHECKED]) for start in range(0, tensor.size, CHECKED)):
        return
    if not np.isfinite(tensor).all():
        raise BadPayload("not all elements are finite")
    most = float(np.abs(tensor).max())
    raise BadPayload(f"an element of magnitude {most:.3g} counts as not finite: at most 2^60 is allowed")


def all_below_two(tensor: Vector) -> bool:
    """Whether all elements are finite and their magnitudes below 2, as of gradients and updates nearly always: in one pass
    that has a third of the cost of a smallest and a largest element.
    """
    return not np.bitwise_or.reduce(tensor.view(np.uint32), axis=None) & TWO_AND_MORE


def _is_finite(part: Vector) -> bool:
    # NaN passes through both, and compares as false.
    return bool(part.min() >= -LARGEST and part.max() <= LARGEST)


def scaled_look_up(table: NDArray[np.float32], chunk: int, body: memoryview, count: int) -> Vector:
    """Float32 [count] of a body that is one float32 scale for each `chunk` values and then `table.shape[1]` values a byte,
    the first in its lowest bits: table[byte] times the scale of its chunk. Raises BadPayload for a scale that is negative
    or not finite, and for bits after the last value.
    """
    chunks, in_a_byte = -(-count // chunk), table.shape[1]
    scales = np.frombuffer(body, "<f4", chunks).astype(np.float32)
    refuse_not_finite(scales)
    if (scales < 0.0).any():
        raise BadPayload("a negative scale")
    packed = np.frombuffer(body, np.uint8, -1, 4 * chunks)
    if packed[-1] >> (8 // in_a_byte) * ((count - 1) % in_a_byte + 1):
        raise BadPayload("bits after the last value")
    values = np.empty((chunks * chunk // in_a_byte, in_a_byte), dtype=np.float32)
    np.take(table, packed, axis=0, out=values[: packed.size], mode="wrap")
    values[packed.size :] = 0.0
    rows = values.reshape(chunks, chunk)
    rows *= scales[:, None]
    return rows.reshape(-1)[:count]


def in_rows(values: NDArray[Any], width: int) -> NDArray[Any]:
    """[n] as rows of `width`, the last one filled up with zeros; a view where nothing is to be filled up."""
    missing = -values.size % width
    if missing:
        values = np.concatenate([values, np.zeros(missing, dtype=values.dtype)])
    return values.reshape(-1, width)
