"""Which blobs may be swept: those that nobody needs, were marked so long ago, and were not looked at since.

Two phases. *Marking* notes when a blob was first found that no record needs. *Sweeping*, at least a grace later, removes it
if it is still marked. In between whoever is told that the blob is here (an upload that need not be sent, a size, its bytes)
takes the mark off: what a writer was promised stays for a grace after the promise, in which its record must come. A record
that comes later finds that the blob is gone and is refused; it never names a blob that was swept.

Marks live as long as their process. After a restart nothing is marked: nobody knows whom the dead process had told what.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

GRACE_MS: Final = 24 * 3_600_000
MIN_GRACE_MS: Final = 3_600_000
"""Below it a job that is being submitted could lose what it has uploaded."""


@dataclass(slots=True)
class Marks:
    """When each blob that nobody needs was marked. Any thread may call.

    A blob is *going* from the moment it is taken for removal until it is removed; it counts as absent all that while.
    """

    _marked: dict[str, int] = field(default_factory=dict)
    _free: set[str] = field(default_factory=set)
    _going: set[str] = field(default_factory=set)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def mark(self, unneeded: Iterable[str], now_ms: int) -> None:
        """Note what was found to be needed by nobody; marks of all others go."""
        with self._turn:
            self._marked = {digest: self._marked.get(digest, now_ms) for digest in unneeded}

    def touch(self, digest: str) -> bool:
        """Somebody asks for the blob: take its mark off. False when it is going, so that it must not be promised."""
        with self._turn:
            self._marked.pop(digest, None)
            self._free.discard(digest)
            return digest not in self._going

    def free(self, digests: Iterable[str]) -> None:
        """The last that needed them gives them back: they may go without a grace, unless somebody asks for them first."""
        with self._turn:
            self._free.update(digests)

    def due(self, now_ms: int, grace_ms: int) -> list[str]:
        """Those that were marked a grace ago and not touched since, sorted."""
        with self._turn:
            return sorted(digest for digest, at_ms in self._marked.items() if now_ms - at_ms >= grace_ms)

    def take(self, digest: str, *, marked: bool = True) -> bool:
        """The blob, which was `marked` or is free, is going from now on, unless somebody touched it."""
        with self._turn:
            if digest not in (self._marked if marked else self._free):
                return False
            self._marked.pop(digest, None)
            self._free.discard(digest)
            self._going.add(digest)
            return True

    def gone(self, digest: str) -> None:
        """It was removed, or could not be."""
        with self._turn:
            self._going.discard(digest)
