"""Safetensors files written head first, before their tensors are there, and heads that a stranger wrote. No torch.

Order, places and padding are the safetensors library's, so files are byte for byte what it writes. Its own writer takes
every tensor as bytes first and holds the interpreter's lock all the while.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LENGTH_BYTES = 8
MAX_DIMENSIONS = 16
MAX_NUMBER = 1 << 53

WIDTHS = {
    "U64": 8, "I64": 8, "F64": 8, "C64": 8, "F32": 4, "U32": 4, "I32": 4, "BF16": 2, "F16": 2, "U16": 2, "I16": 2,
    "F8_E5M2FNUZ": 1, "F8_E4M3FNUZ": 1, "F8_E8M0": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes of a number of each kind, in the order in which a file has them: so each tensor lies where its width divides."""
_ORDER = {dtype: place for place, dtype in enumerate(WIDTHS)}


class BadHead(ValueError):
    """Not the head of a safetensors file of that size; the message says why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file. `dtype`: one of `WIDTHS`."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Of its numbers together."""
        return WIDTHS[self.dtype] * math.prod(self.shape)


def head_of(entries: Sequence[Entry], metadata: Mapping[str, str]) -> tuple[bytes, dict[str, int]]:
    """The file's bytes before the first tensor, and where each begins, counted from the file's beginning, in that order."""
    ordered = sorted(entries, key=lambda entry: (_ORDER[entry.dtype], entry.name))
    described: dict[str, object] = {"__metadata__": dict(metadata)}
    places, offset = {}, 0
    for entry in ordered:
        end = offset + entry.size_bytes
        described[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [offset, end]}
        places[entry.name], offset = offset, end
    text = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    head = len(text).to_bytes(LENGTH_BYTES, "little") + text
    return head, {name: len(head) + place for name, place in places.items()}


def check_head(head: bytes, body_bytes: int) -> None:
    """Raises BadHead unless the head describes tensors that lie behind each other and fill the body, no byte left over."""
    try:
        described = json.loads(head[LENGTH_BYTES:])
    except (ValueError, RecursionError) as error:
        raise BadHead(f"a head that is no JSON: {str(error)[:80]}") from None
    if not isinstance(described, dict):
        raise BadHead("a head that is no object")
    metadata = described.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise BadHead("metadata that are no texts")
    covered = 0
    for begin, end in sorted(_place(entry) for entry in described.values()):
        if begin != covered:
            raise BadHead(f"a tensor at byte {begin}, where byte {covered} is next")
        covered = end
    if covered != body_bytes:
        raise BadHead(f"{covered} bytes are described, {body_bytes} are there")


def _place(entry: object) -> tuple[int, int]:
    """Where a described tensor begins and ends. Raises BadHead unless that is as long as its shape says."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise BadHead("a tensor without kind, shape and place")
    shape, place = entry["shape"], entry["data_offsets"]
    width = WIDTHS.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if width is None:
        raise BadHead(f"numbers of kind {str(entry['dtype'])[:20]!r}")
    if not _are_counts(shape) or len(shape) > MAX_DIMENSIONS or not _are_counts(place) or len(place) != 2:
        raise BadHead("a shape or a place that is none")
    begin, end = place
    if end - begin != width * math.prod(shape):
        raise BadHead(f"{end - begin} bytes for {math.prod(shape)} numbers")
    return begin, end


def _are_counts(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value <= MAX_NUMBER for value in values)
