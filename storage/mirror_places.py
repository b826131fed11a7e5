"""Where a home's journal is mirrored to: `mirrors.json` in the home (0600), said by `torg up --mirror`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from storage.mirrors import MirrorGone
from storage.object_stores import ObjectStore, ObjectStoreError, S3Access, open_store, split_url

FILE: Final = "mirrors.json"
EVERY_MS: Final = 1000
_ACCESS: Final = frozenset(one.name for one in fields(S3Access))


class MirrorsError(ValueError):
    """`mirrors.json`, or the passphrase that it names, cannot be used; the text says why and holds no key."""


@dataclass(frozen=True, slots=True)
class MirrorPlace:
    """A folder by its absolute path, or s3://BUCKET/PREFIX. `begun`: a market has claimed it, so that it is not empty; `sync`:
    what it does not have is not confirmed."""

    place: str
    access: S3Access = field(default_factory=S3Access)
    begun: bool = False
    sync: bool = False

    def to_json(self) -> dict[str, Any]:
        """What `mirrors.json` holds of it."""
        return {"place": self.place, "begun": self.begun, "sync": self.sync} | {k: v for k, v in asdict(self.access).items() if v is not None}


@dataclass(frozen=True, slots=True)
class Mirrors:
    """All of them. `every_ms`: what is durable is copied on at least so often; `passphrase_file`: encrypts `home.sealed`."""

    places: tuple[MirrorPlace, ...] = ()
    every_ms: int = EVERY_MS
    passphrase_file: str | None = None
    archive: MirrorPlace | None = None
    """Where sealed segments go that no start needs (storage/segment_archive.py)."""

    def to_json(self) -> dict[str, Any]:
        """What `mirrors.json` holds."""
        told = {"every_ms": self.every_ms, "passphrase_file": self.passphrase_file}
        archive = None if self.archive is None else self.archive.to_json()
        return told | {"mirrors": [one.to_json() for one in self.places], "archive": archive}


def read_mirrors(home: Path) -> Mirrors:
    """Those of this home; none where there is no `mirrors.json`. Raises MirrorsError, OSError."""
    path = home / FILE
    try:
        text, mode = path.read_text(encoding="utf-8"), path.stat().st_mode
    except FileNotFoundError:
        return Mirrors()
    try:
        said = json.loads(text)
        every_ms, passphrase = said["every_ms"], said["passphrase_file"]
        if type(every_ms) is not int or every_ms < 1 or not isinstance(passphrase, str | None):
            raise ValueError("every_ms is a positive number, passphrase_file a path or null")
        places = tuple(_place(one) for one in said["mirrors"])
        archive = None if said.get("archive") is None else _place(said["archive"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MirrorsError(f"{path} does not say where the mirrors are: {error}") from None
    if mode & 0o077 and any(one.access.secret_access_key for one in (*places, *([archive] if archive else []))):
        raise MirrorsError(f"{path} holds keys and others may read it: chmod 600 {path}")
    return Mirrors(places, every_ms, passphrase, archive)


def _place(said: dict[str, Any]) -> MirrorPlace:
    place, begun, sync = said["place"], said["begun"], said["sync"]
    access = {name: value for name, value in said.items() if name not in ("place", "begun", "sync")}
    if set(access) - _ACCESS or not all(isinstance(one, str) for one in (place, *access.values())):
        raise ValueError(f"a mirror has other fields than place, begun, sync, {', '.join(sorted(_ACCESS))}, or one that is no text")
    check_place(place)
    return MirrorPlace(place, S3Access(**access), bool(begun), bool(sync))


def check_place(place: str) -> None:
    """Raises ValueError where it is neither an absolute path nor s3://BUCKET[/PREFIX]."""
    if "://" in place:
        split_url(place)
    elif not Path(place).is_absolute():
        raise ValueError(f"{place} is no absolute path")


def open_place(place: MirrorPlace) -> ObjectStore:
    """The store of a mirror. A folder must be there: made where a mount is missing, it would be no mirror.

    Raises MirrorGone, ObjectStoreError.
    """
    if "://" not in place.place and not Path(place.place).is_dir():
        raise MirrorGone(f"{place.place} is no folder: is it mounted?")
    try:
        return open_store(place.place, place.access)
    except OSError as error:
        raise ObjectStoreError(f"{place.place}: {error.strerror}") from error


def read_passphrase(file: Path) -> bytes:
    """The first line of a file that only its owner can read. Raises MirrorsError."""
    try:
        content, mode = file.read_bytes(), file.stat().st_mode
    except OSError as error:
        raise MirrorsError(f"{file}: {error.strerror}") from error
    if mode & 0o077:
        raise MirrorsError(f"others can read {file}: chmod 600 {file}")
    lines = content.splitlines()
    if not lines or not lines[0]:
        raise MirrorsError(f"{file} is empty: write a passphrase into it")
    return lines[0]
