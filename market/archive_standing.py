"""How the archive of the journal stands: what has moved there, what waits to, and what keeps it (market/archiving.py moves it)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from market.homes import Home, read_json, write_json
from storage.journal_format import ARCHIVED, segments
from storage.mirror_places import MirrorsError
from storage.segment_archive import archivable, archive_of
from storage.snapshots import snapshots


@dataclass(frozen=True, slots=True)
class ArchiveStanding:
    """Segments that are in the place, and sealed ones that no start needs and that are not. `error`: what kept the last look at
    them from moving one; None where nothing did."""

    place: str
    archived: int
    waiting: int
    error: str | None

    def to_json(self) -> dict[str, Any]:
        """As /v1/status shows it."""
        return {name: getattr(self, name) for name in self.__slots__}


def archive_standing(home: Home) -> ArchiveStanding | None:
    """Of this home; None where it names no archive."""
    try:
        place = archive_of(home.root)
        if place is None:
            return None
        told: str | None = read_json(home.archive_file).get("error")
        oldest = snapshots(home.snapshots)[:1]
        archived = sum(path.suffix == ARCHIVED for path in segments(home.journal))
        waiting = len(archivable(home.journal, int(oldest[0].stem))) if oldest else 0
    except (MirrorsError, OSError, ValueError) as error:  # a file that is no such file, a disk that fails
        return ArchiveStanding("unknown", 0, 0, str(error))
    return ArchiveStanding(place.place, archived, waiting, told)


def note_archive_error(home: Home, error: str | None) -> None:
    """What kept segments from the archive; None where nothing did. Not durable: the next look says it again. Raises OSError."""
    if error is None:
        home.archive_file.unlink(missing_ok=True)
    else:
        write_json(home.archive_file, {"error": error})
