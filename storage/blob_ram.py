"""A bounded copy of blobs in RAM, before the folder or the bucket that has them: what was used last stays.

Only reads come from it. A blob is in it after the store below has it durably, and whoever asks whether a blob is there asks
that store; a copy was checked against its digest when it came in, and what is called by a digest never changes.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import Final

FILE: Final = "blob_ram.json"
BUCKET_BYTES: Final = 128 << 20
"""The default before a bucket. Before a folder it is nothing: the kernel keeps files in RAM already, without being told."""
LARGEST_PART: Final = 8
"""A blob of more than an eighth of the tier is not kept: it would push out too much."""


class RamError(ValueError):
    """`blob_ram.json` does not say a size; the text names it."""


class BlobRam:
    """At most `limit_bytes` of blobs by digest; 0 for none. May be used from several threads."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.largest_bytes = limit_bytes // LARGEST_PART
        self.kept_bytes = self.hits = self.misses = self.hit_bytes = 0
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._turn = Lock()

    def get(self, digest: str) -> bytes | None:
        """The bytes, if they are here; counted."""
        if not self.limit_bytes:
            return None
        with self._turn:
            found = self._kept.get(digest)
            if found is None:
                self.misses += 1
            else:
                self._kept.move_to_end(digest)
                self.hits += 1
                self.hit_bytes += len(found)
            return found

    def keep(self, digest: str, data: bytes) -> None:
        """Take a blob in that the store below has, whose bytes have this digest."""
        if not 0 < len(data) <= self.largest_bytes:
            return
        with self._turn:
            self.kept_bytes += len(data) - len(self._kept.pop(digest, b""))
            self._kept[digest] = bytes(data)
            while self.kept_bytes > self.limit_bytes:
                self.kept_bytes -= len(self._kept.popitem(last=False)[1])

    def drop(self, digest: str) -> None:
        """Forget a blob that is no longer wanted."""
        with self._turn:
            self.kept_bytes -= len(self._kept.pop(digest, b""))


def ram_bytes(home: Path) -> int | None:
    """What the operator has said for this home; None for the default. Raises RamError, OSError."""
    try:
        said = json.loads((home / FILE).read_text(encoding="utf-8"))
        found = said["bytes"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise RamError(f"{home / FILE} does not say how many bytes: {error!r}") from None
    if type(found) is not int or found < 0:
        raise RamError(f"{home / FILE} says {found!r} bytes")
    return found


def say_ram_bytes(home: Path, size_bytes: int) -> None:
    """Keep for this home how much RAM blobs may have, from the market's next start on."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    beside = home / f".{FILE}.new"
    beside.write_text(json.dumps({"bytes": size_bytes}) + "\n", encoding="utf-8")
    os.replace(beside, home / FILE)
