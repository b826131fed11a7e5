"""What two meshes say to each other, byte by byte (docs/FORMATS.md, «Mesh»). No input or output here.

A connection begins with a handshake of three messages; each side proves that it knows the run's secret before it is
told anything. The one that connects speaks first, so that a stranger gets not a single byte. Then frames.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from trainers.filled import Payload, parts_of, size_of
from trainers.mesh.views import Identity

SECRET_BYTES = 32
NONCE_BYTES = 32
MAC_BYTES = 32
MAGIC_HELLO = b"TMH1"
MAGIC_FRAME = b"TMF1"

_HELLO = struct.Struct("<4sB3xIQIQ32s")
_HEADER = struct.Struct("<4sB3xIQQQ")
_ENTRY = struct.Struct("<IQ")
_RESULT = struct.Struct("<BI")
HELLO_BYTES = _HELLO.size + MAC_BYTES
REPLY_BYTES = NONCE_BYTES + MAC_BYTES
HEADER_BYTES = _HEADER.size
HANDSHAKE_BYTES = HELLO_BYTES + REPLY_BYTES + MAC_BYTES


class BadWire(Exception):
    """The other side sent what no member sends."""


class Purpose(IntEnum):
    """What a connection is for."""

    FRAMES = 1
    STATE = 2


class Kind(IntEnum):
    """What a frame carries."""

    SHARE = 1  # a member's payload of a gather or a pair
    SLICE = 2  # a member's slice for its owner
    REDUCED = 3  # an owner's reduced slice
    WANT = 4  # have you finished this step?
    RESULT = 5  # yes, and here it is
    NONE = 6  # no
    ASK_DESCRIPTION = 7
    DESCRIPTION = 8
    ASK_CHUNK = 9
    CHUNK = 10


class What(IntEnum):
    """What a question of a state transfer is about: a number in the header's place for the attempt."""

    STATE = 0  # the state after a round
    ROUND = 1  # what a round merged


class Pattern(IntEnum):
    """Which collective a finished result is of."""

    GATHER = 1
    REDUCE = 2
    PAIR = 3


@dataclass(frozen=True, slots=True)
class Header:
    """The 36 bytes before a payload of `length` bytes. In state transfer `attempt` is a `What`, `step` the chunk."""

    kind: Kind
    round: int
    attempt: int
    step: int
    length: int


@dataclass(frozen=True, slots=True)
class Frame:
    """One message. `parts` are sent one after another as one payload, without being joined first."""

    kind: Kind
    round: int
    attempt: int
    step: int
    parts: tuple[bytes | memoryview, ...] = ()

    @property
    def payload(self) -> bytes:
        first = self.parts[0] if len(self.parts) == 1 else None
        return first if isinstance(first, bytes) else b"".join(self.parts)

    @property
    def header(self) -> Header:
        return Header(self.kind, self.round, self.attempt, self.step, sum(map(len, self.parts)))

    @property
    def buffers(self) -> tuple[bytes | memoryview, ...]:
        """The frame's bytes, header first."""
        return (pack_header(self.header), *self.parts)


def pack_header(header: Header) -> bytes:
    """The bytes of a header."""
    return _HEADER.pack(MAGIC_FRAME, header.kind, header.attempt, header.round, header.step, header.length)


def read_header(data: bytes) -> Header:
    """A header from its bytes; its length is a claim that the reader must judge. Raises BadWire."""
    magic, kind, attempt, round_, step, length = _HEADER.unpack(data)
    if magic != MAGIC_FRAME or kind not in Kind._value2member_map_:
        raise BadWire("no header of a frame")
    return Header(Kind(kind), round_, attempt, step, length)


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message: who connects, to whom, for what."""

    purpose: Purpose
    caller: Identity
    called: Identity
    nonce: bytes

    def pack(self, secret: bytes) -> bytes:
        body = _HELLO.pack(MAGIC_HELLO, self.purpose, *self.caller, *self.called, self.nonce)
        return body + _mac(secret, b"hello", body)


def read_hello(data: bytes, secret: bytes) -> Hello:
    """Raises BadWire unless whoever made it knows the secret."""
    body, mac = data[: _HELLO.size], data[_HELLO.size :]
    magic, purpose, slot, epoch, to_slot, to_epoch, nonce = _HELLO.unpack(body)
    if not hmac.compare_digest(mac, _mac(secret, b"hello", body)):
        raise BadWire("a hello without the secret")
    if magic != MAGIC_HELLO or purpose not in Purpose._value2member_map_:
        raise BadWire("a hello of another kind")
    return Hello(Purpose(purpose), (slot, epoch), (to_slot, to_epoch), nonce)


def reply_to(hello: Hello, nonce: bytes, secret: bytes) -> bytes:
    """The second message: the called one's nonce and its proof over both."""
    return nonce + _mac(secret, b"reply", hello.pack(secret) + nonce)


def proof_for(hello: Hello, reply: bytes, secret: bytes) -> bytes:
    """The third message, after checking the second. Raises BadWire."""
    nonce = reply[:NONCE_BYTES]
    if not hmac.compare_digest(reply, reply_to(hello, nonce, secret)):
        raise BadWire("a reply without the secret")
    return _proof(hello, nonce, secret)


def check_proof(hello: Hello, nonce: bytes, proof: bytes, secret: bytes) -> None:
    """Raises BadWire unless the caller answered this very nonce: a recorded hello does not help."""
    if not hmac.compare_digest(proof, _proof(hello, nonce, secret)):
        raise BadWire("a proof without the secret")


def _proof(hello: Hello, nonce: bytes, secret: bytes) -> bytes:
    return _mac(secret, b"proof", hello.pack(secret) + nonce)


def _mac(secret: bytes, label: bytes, data: bytes) -> bytes:
    assert len(secret) == SECRET_BYTES
    return hmac.new(secret, b"torg mesh " + label + data, hashlib.sha256).digest()


def pack_result(pattern: Pattern, result: Mapping[int, Payload]) -> tuple[bytes | memoryview, ...]:
    """A finished result as the parts of a frame: pattern, count, (slot, length) of each, then the payloads."""
    head = _RESULT.pack(pattern, len(result))
    entries = b"".join(_ENTRY.pack(slot, size_of(result[slot])) for slot in sorted(result))
    return (head + entries, *(part for slot in sorted(result) for part in parts_of(result[slot])))


def read_result(payload: bytes) -> tuple[Pattern, dict[int, Payload]]:
    """Raises BadWire unless the payload is exactly one result."""
    if len(payload) < _RESULT.size:
        raise BadWire("a result in part")
    pattern, count = _RESULT.unpack_from(payload)
    at = _RESULT.size + count * _ENTRY.size
    if pattern not in Pattern._value2member_map_ or len(payload) < at:
        raise BadWire("no result")
    result: dict[int, Payload] = {}
    for slot, length in _ENTRY.iter_unpack(payload[_RESULT.size : at]):
        result[slot] = payload[at : at + length]
        at += length
    if len(result) != count or at != len(payload):
        raise BadWire("a result of another length, or with twin slots")
    return Pattern(pattern), result


CHUNK_BYTES = 1 << 20
DIGEST_BYTES = 32
_DESCRIPTION = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Description:
    """What a donor has: the size in bytes and the SHA-256 of each chunk of 1 MiB (the last one shorter)."""

    size: int
    digests: tuple[bytes, ...]

    @classmethod
    def of(cls, content: bytes) -> Description:
        return cls(len(content), tuple(hashlib.sha256(one).digest() for one in chunks(content)))

    def pack(self) -> bytes:
        return _DESCRIPTION.pack(self.size) + b"".join(self.digests)

    def chunk_size(self, index: int) -> int:
        return min(CHUNK_BYTES, self.size - index * CHUNK_BYTES)


def read_description(payload: bytes, max_bytes: int) -> Description:
    """Raises BadWire for a size over the limit or another number of digests."""
    if len(payload) < _DESCRIPTION.size:
        raise BadWire("a description in part")
    (size,) = _DESCRIPTION.unpack_from(payload)
    body = payload[_DESCRIPTION.size :]
    if size > max_bytes or len(body) != DIGEST_BYTES * -(-size // CHUNK_BYTES):
        raise BadWire("a description of too much, or with another number of digests")
    return Description(size, tuple(body[at : at + DIGEST_BYTES] for at in range(0, len(body), DIGEST_BYTES)))


def chunks(content: bytes) -> Iterable[memoryview]:
    """The content in pieces of CHUNK_BYTES, without copies."""
    view = memoryview(content)
    return (view[at : at + CHUNK_BYTES] for at in range(0, len(view), CHUNK_BYTES))
