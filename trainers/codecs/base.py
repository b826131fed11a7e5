"""What a codec is: a flat float32 vector to bytes and back, without any knowledge of networks or models."""

import struct
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Vector: TypeAlias = NDArray[np.float32]
Encoded: TypeAlias = bytes

HEADER = struct.Struct("<4sQ")


class BadPayload(ValueError):
    """Bytes that no honest encoder made, or a vector that cannot be encoded; the message says what is wrong."""


class Codec(Protocol):
    """Same input, same bytes; every receiver of the same bytes decodes the same vector, bit for bit."""

    @property
    def name(self) -> str:
        """As job files call it."""

    def promised_bytes(self, elements: int) -> int:
        """Length of the encoding of that many elements, whatever they are."""

    def encode(self, tensor: Vector, residual: Vector | None) -> tuple[Encoded, Vector | None]:
        """The bytes of float32 [n], and the residual (error feedback) to hand in next time, None without one.

        Raises BadPayload when an element is NaN or infinite.
        """

    def decode(self, payload: Encoded, elements: int) -> Vector:
        """Float32 [elements]. Raises BadPayload for anything but a whole encoding of finite elements."""


def header(magic: bytes, elements: int) -> bytes:
    """Magic and element count: the first 12 bytes of every payload."""
    return HEADER.pack(magic, elements)


def checked_body(payload: Encoded, magic: bytes, elements: int, promised: int) -> memoryview:
    """What follows the header of a payload that is as long as promised. Raises BadPayload."""
    if len(payload) != promised:
        raise BadPayload(f"{len(payload)} bytes; {elements} elements are {promised}")
    if payload[: HEADER.size] != header(magic, elements):
        raise BadPayload("not the header of this codec and length")
    return memoryview(payload)[HEADER.size :]


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
    """Raises BadPayload when an element is NaN or infinite."""
    if not np.isfinite(tensor).all():
        raise BadPayload("not all elements are finite")
