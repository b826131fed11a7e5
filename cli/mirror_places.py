"""`torg up --mirror`: a home whose journal is copied elsewhere as it grows."""

from dataclasses import replace
from pathlib import Path

from cli.errors import CliError, Exit, refused, usage
from market.homes import Home, write_json
from storage.journal_format import ARCHIVED, JournalAway
from storage.journal_reader import read_journal
from storage.mirror_places import (
    MirrorPlace,
    Mirrors,
    MirrorsError,
    check_place,
    open_place,
    read_mirrors,
    read_passphrase,
)
from storage.mirrors import MirrorGone, MirrorRefused, market_of
from storage.object_stores import ObjectStoreError, S3Access
from storage.records import market_opened

NONE = "none"
AWAY_REMEDY = "mount it, or see that the bucket can be reached"


def settle_mirrors(
    folder: Path, places: list[str], sync: list[str], *, every_ms: int | None, endpoint: str | None, passphrase_file: Path | None,
    archive: str | None = None,
) -> None:  # fmt: skip
    """Write down where the journal of this home is mirrored to from the next start on; the same again is no change.

    What is not said stays; `sync` are those that the market waits for, `archive` is where its sealed segments go. A place that holds another market's journal is refused before anything starts.
    """
    home = Home(folder)
    try:
        known = read_mirrors(folder)
        if passphrase_file is not None:
            read_passphrase(passphrase_file)
    except MirrorsError as error:
        raise refused("mirrors_unusable", str(error), field="--mirror", remedy="mend the file that it names") from error
    said = {one.place: one for one in known.places if not (sync if one.sync else places)}
    for names, waited_for in ((places, False), (sync, True)):
        found = [_placed(known, one, endpoint, _option(waited_for)) for one in names if one != NONE]
        said |= {one.place: replace(one, sync=waited_for) for one in found}
    known = replace(known, places=tuple(said.values()))
    known = replace(known, every_ms=every_ms or known.every_ms)
    if passphrase_file is not None:
        known = replace(known, passphrase_file=str(passphrase_file.absolute()))
    if archive is not None:
        known = replace(known, archive=_archive(home, known, archive, endpoint))
    market = _market_of_home(home) if known.places else None
    for place in known.places:
        _check(place, market, _option(place.sync))
    home.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_json(home.mirrors_file, known.to_json(), mode=0o600)


def _option(waited_for: bool) -> str:
    return "--mirror-sync" if waited_for else "--mirror"


def _archive(home: Home, known: Mirrors, said: str, endpoint: str | None) -> MirrorPlace | None:
    """The place, which has everything that was archived before."""
    from storage.segment_archive import AWAY, check_has

    archived = any(home.journal.glob(f"*{ARCHIVED}"))
    if said == NONE:
        if archived:
            told = "segments of this journal are in its archive, and are read from there"
            raise refused("archive_in_use", told, field="--archive", remedy="name the place as before, or one to which they were copied")
        return None
    place = _placed(known, said, endpoint, "--archive")
    if not archived:
        _check(place, _market_of_home(home), "--archive")
        return place
    try:
        check_has(open_place(place), home.journal)  # so it is this market's, wherever the other place may be
    except MirrorRefused as error:
        raise refused("archive_unusable", error.message, field="--archive", remedy=error.remedy) from error
    except AWAY as error:
        raise refused("archive_away", str(error), field="--archive", remedy=AWAY_REMEDY) from error
    return place


def _placed(known: Mirrors, said: str, endpoint: str | None, field: str) -> MirrorPlace:
    name = said.rstrip("/") if "://" in said else str(Path(said).absolute())
    try:
        check_place(name)
    except ValueError as error:
        raise usage(str(error), field=field, remedy="a folder, s3://BUCKET/PREFIX, or none") from error
    places = (*known.places, *([known.archive] if known.archive is not None else []))
    found = next((replace(one, begun=False, sync=False) if field == "--archive" else one for one in places if one.place == name), MirrorPlace(name))
    bucket = endpoint is not None and "://" in name
    return replace(found, access=replace(found.access, endpoint=endpoint)) if bucket else found


def _check(place: MirrorPlace, market: str | None, field: str) -> None:
    """A mirror that does not answer is no reason not to start, if it has been one and nobody waits for it."""
    try:
        owner = market_of(open_place(place))
    except MirrorRefused as error:
        raise refused("mirror_unusable", error.message, field=field, remedy=error.remedy) from error
    except (ObjectStoreError, MirrorGone) as error:
        if place.begun and not place.sync:
            return
        remedy = getattr(error, "remedy", None) or "make the folder, or name another place, or none"
        raise refused("mirror_unusable", str(error), field=field, remedy=remedy) from error
    if owner is not None and owner != market:
        told = f"{place.place} is the mirror of another market, {owner}"
        remedy = "name another place; `torg restore --from-mirror` makes that market's home"
        raise refused("mirror_of_another", told, field=field, remedy=remedy)


def _market_of_home(home: Home) -> str | None:
    """The id in the first record; None for a home without a market."""
    if not home.journal.is_dir():
        return None
    try:
        return next((market_opened(record.payload) for record in read_journal(home.journal)), None) or None
    except JournalAway as error:
        raise refused("archive_away", str(error), field="--archive", remedy=AWAY_REMEDY) from error


def mirror_of(place: str, endpoint: str | None) -> MirrorPlace:
    """The place that a restore reads from."""
    name = place.rstrip("/") if "://" in place else str(Path(place).absolute())
    try:
        check_place(name)
    except ValueError as error:
        raise CliError("place_unknown", str(error), "--from-mirror", "a folder or s3://BUCKET/PREFIX", Exit.USAGE) from error
    return MirrorPlace(name, S3Access(endpoint=endpoint))
