"""Every byte of every blob against the digest that names it, and every kept manifest against what is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.blobs import BlobDamaged, BlobMissing, BlobStore
from storage.journal_reader import Walk
from storage.living import MANIFEST_ERRORS, Living
from storage.records import decode_record


@dataclass(frozen=True, slots=True)
class BlobReport:
    """`damaged`: files (or objects) with other bytes than their names say; `missing`: digests that a kept manifest, or the
    record, names and that are not there; `unreadable`: manifests that are not what the record takes them for.
    """

    blobs: int
    bytes: int
    damaged: tuple[str, ...]
    missing: tuple[str, ...]
    unreadable: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.damaged or self.missing or self.unreadable)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        lists = {name: list(getattr(self, name)) for name in ("damaged", "missing", "unreadable")}
        return {"ok": self.ok, "blobs": self.blobs, "bytes": self.bytes, **lists}


def check_blobs(store: BlobStore, journal: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> BlobReport:
    """Read everything; the market may run meanwhile. `progress` is told bytes read and bytes in all.

    What goes during the check is not missed: the journal is read on before anything is called missing. Raises
    JournalCorrupt, OSError, BlobError.
    """
    walk, living = Walk(journal), Living()
    sizes = store.sizes()
    total, done, damaged = sum(sizes.values()), 0, []
    for digest, size in sizes.items():
        try:
            if not store.verify(digest):
                damaged.append(store.where(digest))
        except BlobMissing:
            pass  # it was removed meanwhile
        done += size
        progress(done, total)
    while True:
        came = _read_on(walk, living)
        missing, unreadable = _needs(store, living)
        if not came or not (missing or unreadable):
            return BlobReport(len(sizes), total, tuple(damaged), missing, unreadable)


def _read_on(walk: Walk, living: Living) -> bool:
    """Take the records that have come; whether there were any."""
    before = walk.number
    for record in walk:
        living.observe(decode_record(record.payload)["events"])
    walk.check()
    return walk.number > before


def _needs(store: BlobStore, living: Living) -> tuple[tuple[str, ...], tuple[str, ...]]:
    missing, unreadable = dict[str, None](), list[str]()
    for digest, read in living.manifests():
        try:
            named = read(store.read(digest))
        except BlobMissing:
            missing[digest] = None
        except BlobDamaged:
            continue  # it is among the damaged
        except MANIFEST_ERRORS as error:
            unreadable.append(f"{store.where(digest)}: {error}")
        else:
            missing.update(dict.fromkeys(blob for blob in named if blob not in store))
    return tuple(missing), tuple(unreadable)
