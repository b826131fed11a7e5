"""The shelf's garbage collection: mark what no job needs, sweep what was marked a grace ago (`storage/garbage.py`)."""

from dataclasses import asdict, dataclass

from market.api.problems import Problem
from market.api.shelf import Shelf


@dataclass(slots=True)
class Collected:
    """What a collection found and did. `marked`: needed by nobody, waiting for the grace; `due`: those that may be swept."""

    blobs: int = 0
    bytes: int = 0
    needed: int = 0
    needed_bytes: int = 0
    marked: int = 0
    marked_bytes: int = 0
    due: int = 0
    due_bytes: int = 0
    swept: int = 0
    swept_bytes: int = 0

    def to_json(self) -> dict[str, int]:
        """As the API answers."""
        return asdict(self)


async def collect(shelf: Shelf, sizes: dict[str, int], now_ms: int, grace_ms: int, *, dry_run: bool) -> Collected:
    """Mark and sweep. `sizes`: bytes by digest of everything in the store, as it was a moment ago.

    What came since is not in `sizes` and is not marked. A dry run marks too, and sweeps nothing. Raises Problem
    (manifest_unreadable) where it is not known what is needed.
    """
    if shelf.unreadable:
        message = f"manifest {min(shelf.unreadable)} cannot be read, so that nobody knows what it needs; nothing is swept"
        raise Problem(409, "manifest_unreadable", message, remedy="run `torg blobs verify`, and restore that file from a backup")
    unneeded = [digest for digest in sizes if not shelf.is_needed(digest)]
    shelf.marks.mark(unneeded, now_ms)
    due = shelf.marks.due(now_ms, grace_ms)
    found = Collected(blobs=len(sizes), bytes=sum(sizes.values()), marked=len(unneeded), due=len(due))
    found.marked_bytes = sum(sizes[digest] for digest in unneeded)
    found.due_bytes = sum(sizes[digest] for digest in due)
    found.needed, found.needed_bytes = found.blobs - found.marked, found.bytes - found.marked_bytes
    for digest in [] if dry_run else due:
        if await shelf.discard(digest, marked=True):
            found.swept += 1
            found.swept_bytes += sizes[digest]
    return found
