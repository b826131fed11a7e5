"""What a member tells the others in one merge, as bytes: a contribution, a reduced slice, a bundle of all that was merged.

Everything is little-endian.

Contribution (whole, or one slice of it):  "TC\\x00\\x01", round u32, step u32, epoch u32, slot u32, weight f64, then the
encodings of its parts, joined; their lengths are promised by the codecs.
Reduced slice:  "TR\\x00\\x01", round u32, step u32, count u16, then count slots u32, weight f64, then one encoding.
Bundle:  "TB\\x00\\x01", header length u32, a JSON header, then the payloads, joined; see `Bundle`.
"""

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from numpy.typing import NDArray

from trainers.codecs import BadPayload, Vector
from trainers.filled import Payload as Sent
from trainers.filled import joined, viewed, whole
from trainers.strategies.base import Part

Payload = bytes | memoryview
Buffers: TypeAlias = Sequence[bytes | NDArray[Any]]

CONTRIBUTION = struct.Struct("<4sIIIId")
REDUCED = struct.Struct("<4sIIH")
WEIGHT = struct.Struct("<d")
CONTRIBUTION_MAGIC = b"TC\x00\x01"
REDUCED_MAGIC = b"TR\x00\x01"
BUNDLE_MAGIC = b"TB\x00\x01"
MAX_BUNDLE_HEADER_BYTES = 1 << 24
ALIGNMENT = 4096


@dataclass(frozen=True, slots=True)
class Contribution:
    """One member's share of one merge. `step`: 0 for a round's merge, the global inner step for one of every step."""

    round: int
    step: int
    epoch: int
    slot: int
    weight: float
    body: Payload = b""

    def pack(self, body: Buffers) -> bytes:
        """As bytes, with what, joined, is the body: it is copied once."""
        return joined([self._head(), *body])

    def in_parts(self, body: Buffers) -> tuple[bytes | memoryview, ...]:
        """The same without a copy."""
        return (self._head(), *map(viewed, body))

    def _head(self) -> bytes:
        fields = (self.round, self.step, self.epoch, self.slot, self.weight)
        return CONTRIBUTION.pack(CONTRIBUTION_MAGIC, *fields)


def unpack_contribution(payload: Payload, *, round: int, step: int, slot: int) -> Contribution:
    """The contribution of that slot to that merge. Raises BadPayload for any other, naming what differs."""
    if len(payload) < CONTRIBUTION.size:
        raise BadPayload(f"{len(payload)} bytes are no contribution")
    magic, of_round, of_step, epoch, of_slot, weight = CONTRIBUTION.unpack_from(payload)
    if magic != CONTRIBUTION_MAGIC:
        raise BadPayload("not a contribution")
    if (of_round, of_step) != (round, step):
        raise BadPayload(f"made for round {of_round}, step {of_step}; this is round {round}, step {step}")
    if of_slot != slot:
        raise BadPayload(f"says that it is slot {of_slot}'s")
    if not (math.isfinite(weight) and weight > 0.0):
        raise BadPayload(f"its weight is {weight}")
    return Contribution(of_round, of_step, epoch, of_slot, weight, memoryview(payload)[CONTRIBUTION.size :])


@dataclass(frozen=True, slots=True)
class Reduced:
    """The weighted mean of several members' slices, encoded once more by the slice's owner."""

    round: int
    step: int
    slots: tuple[int, ...]
    weight: float
    body: Payload = b""

    def pack(self, body: Buffers) -> bytes:
        """As bytes, with what, joined, is the body: it is copied once."""
        head = REDUCED.pack(REDUCED_MAGIC, self.round, self.step, len(self.slots))
        slots = struct.pack(f"<{len(self.slots)}I", *self.slots)
        return joined([head + slots + WEIGHT.pack(self.weight), *body])


def unpack_reduced(payload: Payload, *, round: int, step: int) -> Reduced:
    """The reduced slice of that merge. Raises BadPayload."""
    if len(payload) < REDUCED.size:
        raise BadPayload(f"{len(payload)} bytes are no reduced slice")
    magic, of_round, of_step, count = REDUCED.unpack_from(payload)
    body_at = REDUCED.size + 4 * count + WEIGHT.size
    if magic != REDUCED_MAGIC or len(payload) < body_at:
        raise BadPayload("not a reduced slice")
    if (of_round, of_step) != (round, step):
        raise BadPayload(f"made for round {of_round}, step {of_step}; this is round {round}, step {step}")
    slots = struct.unpack_from(f"<{count}I", payload, REDUCED.size)
    (weight,) = WEIGHT.unpack_from(payload, body_at - WEIGHT.size)
    if not (math.isfinite(weight) and weight >= 0.0):
        raise BadPayload(f"its weight is {weight}")
    return Reduced(of_round, of_step, slots, weight, memoryview(payload)[body_at:])


def encode_parts(parts: Sequence[Part], vectors: Sequence[Vector]) -> Buffers:
    """What, joined, is the parts' encodings; may be views of the vectors. Raises BadPayload when an element is not finite."""
    assert [part.elements for part in parts] == [vector.size for vector in vectors], "not the promised parts"
    return [one for part, vector in zip(parts, vectors, strict=True) for one in part.codec.encode_parts(vector)]


def decode_parts(parts: Sequence[Part], body: Payload) -> tuple[Vector, ...]:
    """Float32 vectors of the parts' sizes. Raises BadPayload for anything but whole encodings of exactly these."""
    sizes = [part.codec.promised_bytes(part.elements) for part in parts]
    if len(body) != sum(sizes):
        raise BadPayload(f"{len(body)} bytes; these parts are {sum(sizes)}")
    view, vectors, offset = memoryview(body), [], 0
    for part, size in zip(parts, sizes, strict=True):
        vectors.append(part.codec.decode(view[offset : offset + size], part.elements))
        offset += size
    return tuple(vectors)


def is_lossless(parts: Sequence[Part]) -> bool:
    """Whether all of it is decoded to the bit."""
    return all(part.codec.lossless for part in parts)


def seen_of(parts: Sequence[Part], vectors: tuple[Vector, ...], payload: Sent) -> tuple[Vector, ...]:
    """What everybody decodes a contribution of these vectors to."""
    return vectors if is_lossless(parts) else decode_parts(parts, memoryview(whole(payload))[CONTRIBUTION.size :])


def slices_of(elements: int, owners: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Which elements [start, stop) each owner merges: as equal as can be with starts at multiples of 4096."""
    blocks, count = -(-elements // ALIGNMENT), len(owners)
    cuts = [min(elements, ALIGNMENT * (blocks * index // count)) for index in range(count + 1)]
    return {owner: (cuts[index], cuts[index + 1]) for index, owner in enumerate(sorted(owners))}


@dataclass(frozen=True, slots=True)
class Bundle:
    """All that one round merged: with the state before, it makes the state after, to the bit. One delta-log entry.

    Args:
        topology: "gather": payloads are whole contributions by slot; "reduce": reduced slices by owner.
        step_before, step_after: the global inner step before and after the round. slots: the round's members.
        payloads: by slot or owner.
    """

    round: int
    step_before: int
    step_after: int
    topology: Literal["gather", "reduce"]
    slots: tuple[int, ...]
    position: int
    payloads: Mapping[int, bytes]

    @property
    def payload_bytes(self) -> int:
        """Of all payloads together."""
        return sum(map(len, self.payloads.values()))

    def pack(self) -> bytes:
        """As bytes; the same bundle gives the same bytes."""
        header: dict[str, Any] = {
            "v": 1, "round": self.round, "step_before": self.step_before, "step_after": self.step_after,
            "topology": self.topology, "slots": self.slots, "position": self.position,
            "payloads": [[key, len(self.payloads[key])] for key in sorted(self.payloads)],
        }  # fmt: skip
        text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
        payloads = [self.payloads[key] for key in sorted(self.payloads)]
        return b"".join([BUNDLE_MAGIC, struct.pack("<I", len(text)), text, *payloads])


def unpack_bundle(content: Payload) -> Bundle:
    """From `pack`. Raises BadPayload for bytes that are no bundle."""
    view = memoryview(content)
    if len(view) < 8 or bytes(view[:4]) != BUNDLE_MAGIC:
        raise BadPayload("not a bundle")
    (size,) = struct.unpack_from("<I", view, 4)
    if size > min(MAX_BUNDLE_HEADER_BYTES, len(view) - 8):
        raise BadPayload("a bundle without its header")
    try:
        header = json.loads(bytes(view[8 : 8 + size]))
        if header["v"] != 1 or header["topology"] not in ("gather", "reduce"):
            raise BadPayload(f"a bundle of format {header['v']}, topology {header['topology']}")
        payloads, offset = {}, 8 + size
        for key, length in header["payloads"]:
            if length < 0 or offset + length > len(view):
                raise BadPayload("a bundle that ends early")
            payloads[int(key)] = bytes(view[offset : offset + length])
            offset += length
        if offset != len(view):
            raise BadPayload(f"{len(view) - offset} bytes after a bundle's end")
        numbers = (int(header["round"]), int(header["step_before"]), int(header["step_after"]))
        slots = tuple(int(slot) for slot in header["slots"])
        return Bundle(*numbers, header["topology"], slots, int(header["position"]), payloads)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, BadPayload):
            raise
        raise BadPayload(f"not a bundle's header: {error}") from None
