"""A large blob in parts: a manifest names them by their digests, so that of the next blob only the parts travel that are new.

A working folder's tar is cut where files begin and end, by their names and not by their contents: a change stays within its
part.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from storage.artifacts import is_count
from storage.blobs import DIGEST
from storage.canonical import NotCanonical, canonical_bytes, parse_json
from storage.formats import found_format, newer_manifest

FORMAT: Final = "torg-parts-1"
MIN_BYTES: Final = 64 << 10
MAX_BYTES: Final = 1 << 20
MAX_PARTS: Final = 1 << 16
MAX_TOTAL_BYTES: Final = 2 << 30
_FIELDS: Final = ("format", "parts")
_ONE_IN: Final = 4
"""Of the files that end beyond the smallest length, so many end a part."""


class PartsError(ValueError):
    """These bytes are no such manifest; the text says which field."""


@dataclass(frozen=True, slots=True)
class Parts:
    """(digest, bytes) of each part, in order."""

    parts: tuple[tuple[str, int], ...]

    @property
    def total_bytes(self) -> int:
        """Of the whole."""
        return sum(size for _, size in self.parts)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON with the format's name."""
        return {"format": FORMAT, "parts": [list(part) for part in self.parts]}

    def encode(self) -> bytes:
        """The canonical bytes; their SHA-256 names the manifest."""
        return canonical_bytes(self.to_json())

    @classmethod
    def decode(cls, data: bytes) -> Parts:
        """Read what `encode` made; raises PartsError."""
        try:
            value = parse_json(data)
        except NotCanonical as error:
            raise PartsError(str(error)) from error
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise PartsError(newer_manifest("the list of parts", found_format(value), FORMAT) or f"not a manifest of format {FORMAT}")
        if set(value) != set(_FIELDS):
            raise PartsError(f"fields missing or unknown: {', '.join(sorted(set(value) ^ set(_FIELDS)))}")
        parts = value["parts"]
        if not isinstance(parts, list) or not 1 <= len(parts) <= MAX_PARTS:
            raise PartsError(f"parts is no list of 1 to {MAX_PARTS}")
        made = cls(tuple(_part(one) for one in parts))
        if made.total_bytes > MAX_TOTAL_BYTES:
            raise PartsError(f"more than {MAX_TOTAL_BYTES} bytes in all")
        return made

    def join(self, read: Callable[[str], bytes]) -> bytes:
        """The whole; `read` gives a blob by its digest. Raises PartsError for other bytes than the manifest says."""
        whole = bytearray()
        for digest, size in self.parts:
            content = read(digest)
            if len(content) != size or hashlib.sha256(content).hexdigest() != digest:
                raise PartsError(f"part {digest} has other bytes than its name says")
            whole += content
        return bytes(whole)


def _part(value: object) -> tuple[str, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise PartsError(f"a part is no pair of digest and bytes: {str(value)[:80]}")
    digest, size = value
    if not isinstance(digest, str) or DIGEST.fullmatch(digest) is None:
        raise PartsError("a part's digest is none")
    if not is_count(size) or not 1 <= size <= MAX_BYTES:
        raise PartsError(f"a part has {size!r} bytes, not 1 to {MAX_BYTES}")
    return digest, size


def cut(archive: Path) -> Iterator[tuple[int, int]]:
    """(begin, end) of the parts of an uncompressed tar, which follow each other from 0 to its length."""
    total, begin, end = archive.stat().st_size, 0, 0
    for name, start, stop in _entries(archive):
        if start > begin and stop - begin > MAX_BYTES:
            yield begin, start
            begin = start
        while stop - begin > MAX_BYTES:
            yield begin, begin + MAX_BYTES
            begin += MAX_BYTES
        end = stop
        if end - begin >= MIN_BYTES and hashlib.sha256(name.encode()).digest()[0] < 256 // _ONE_IN:
            yield begin, end
            begin = end
    while begin < total:
        yield begin, min(begin + MAX_BYTES, total)
        begin = min(begin + MAX_BYTES, total)


def _entries(archive: Path) -> Iterator[tuple[str, int, int]]:
    """Name, and where it begins and ends, of each entry of a tar."""
    with tarfile.open(archive, mode="r:") as entries:
        while (entry := entries.next()) is not None:
            stop = entry.offset_data + -(-entry.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            yield entry.name, entry.offset, stop
            entries.members.clear()  # type: ignore[attr-defined]  # they may be many, and are not looked at again
