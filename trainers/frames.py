"""Frames between a WorkerActor and its trainer child: u32 header length, JSON header, raw bytes. No input or output here.

The header is one JSON object; its field `raw`, when there, is how many raw bytes follow. Lengths are big-endian.
"""

import json
import struct
from dataclasses import dataclass, field
from typing import Any

LENGTH = struct.Struct(">I")


class BadFrame(Exception):
    """The other side sent what is no frame, or more than the limits allow."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message: `type` says what it is, `fields` are the rest of its header."""

    type: str
    fields: dict[str, Any]
    raw: bytes = b""


def pack(type_: str, fields: dict[str, Any], raw: bytes = b"") -> bytes:
    """The bytes of one frame."""
    header: dict[str, Any] = {"type": type_, **fields}
    if raw:
        header["raw"] = len(raw)
    encoded = json.dumps(header, separators=(",", ":")).encode()
    return LENGTH.pack(len(encoded)) + encoded + raw


@dataclass(slots=True)
class Unpacker:
    """Turns a stream of bytes into frames and holds at most one frame's worth of it.

    Args:
        max_header_bytes, max_raw_bytes: a longer claim raises `BadFrame` before anything is kept for it.
    """

    max_header_bytes: int
    max_raw_bytes: int
    _buffer: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> None:
        """Add what arrived."""
        self._buffer += data

    def next(self) -> Frame | None:
        """The next whole frame, or None until more arrived. Raises BadFrame."""
        if len(self._buffer) < LENGTH.size:
            return None
        (size,) = LENGTH.unpack_from(self._buffer)
        if size > self.max_header_bytes:
            raise BadFrame(f"a header of {size} bytes; {self.max_header_bytes} are allowed")
        body = LENGTH.size + size
        if len(self._buffer) < body:
            return None
        header = _header(bytes(self._buffer[LENGTH.size : body]))
        raw_size = header.pop("raw", 0)
        if type(raw_size) is not int or not 0 <= raw_size <= self.max_raw_bytes:
            raise BadFrame(f"{str(raw_size)[:40]} raw bytes; {self.max_raw_bytes} are allowed")
        if len(self._buffer) < body + raw_size:
            return None
        raw = bytes(self._buffer[body : body + raw_size])
        del self._buffer[: body + raw_size]
        return Frame(header.pop("type"), header, raw)


def _header(encoded: bytes) -> dict[str, Any]:
    try:
        header = json.loads(encoded)
    except (ValueError, RecursionError) as error:
        raise BadFrame(f"a header that is no JSON: {error}") from None
    if not isinstance(header, dict) or not isinstance(header.get("type"), str):
        raise BadFrame("a header that is no object with a type")
    return header
