"""`torg restore --from-mirror`: a home from a mirror of its journal, and keys from that mirror or from a backup."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from shutil import rmtree
from typing import Any

from cli.backups import complaints, fresh_home, progress_bar, read_passphrase, settle_home
from cli.errors import CliError, Exit, refused
from cli.mirror_places import mirror_of
from cli.settings import Settings
from market.homes import Home, sync_folder
from storage.backups import unpack_backup
from storage.blobs import BlobStore
from storage.bucket_blobs import PLACE_FILE
from storage.journal_format import JournalCorrupt, JournalNewer
from storage.mirror_places import open_place
from storage.mirrored_homes import MirrorFacts, restore_journal, unseal_home
from storage.mirrors import MirrorGone, MirrorRefused
from storage.object_stores import ObjectStoreError


def restore_from_mirror(
    settings: Settings, place: str, endpoint: str | None, *, backup: Path | None, passphrase: Path | None
) -> dict[str, Any]:  # fmt: skip
    """Make the market's home: keys and settings of the mirror or of a backup, with its blobs, and the mirror's journal."""
    secret = read_passphrase(passphrase)
    with _complaints(), complaints("FILE"), fresh_home(settings) as beside:
        store = open_place(mirror_of(place, endpoint))
        if backup is not None:
            with backup.open("rb") as content:
                owner: str | None = unpack_backup(content, beside.root, secret).market
            rmtree(beside.journal)
        else:
            owner = unseal_home(store, beside.root, secret)
        beside.journal.mkdir(mode=0o700)
        with progress_bar(settings, "restoring") as progress:
            facts = restore_journal(store, beside.journal, progress)
        if owner not in (None, facts.market):
            told = f"{backup or 'home.sealed'} is of another market, {owner}, than the mirror, {facts.market}"
            raise refused("backup_of_another", told, field="FILE", remedy="name a backup of the same market")
        settle_home(beside, facts.market)
        sync_folder(beside.root)
        missing = _missing(beside, facts)
    return {**_told(facts), "has_keys": owner is not None, "missing": missing, "home": str(settings.home)}


def check_mirror(settings: Settings, place: str, endpoint: str | None) -> dict[str, Any]:
    """Read a mirror whole and say what it holds; nothing of it stays here."""
    with _complaints(), tempfile.TemporaryDirectory() as folder, progress_bar(settings, "reading") as progress:
        return _told(restore_journal(open_place(mirror_of(place, endpoint)), Path(folder), progress))


def _told(facts: MirrorFacts) -> dict[str, Any]:
    return {name: value for name, value in asdict(facts).items() if name != "needed"}


def _missing(home: Home, facts: MirrorFacts) -> list[str]:
    """What living jobs name and this home does not have; what is in a bucket is not looked at."""
    if (home.root / PLACE_FILE).exists():
        return []
    blobs = BlobStore(home.blobs)
    return [digest for digest in facts.needed if digest not in blobs]


@contextmanager
def _complaints() -> Iterator[None]:
    field = "--from-mirror"
    try:
        yield
    except MirrorRefused as error:
        raise refused("mirror_unusable", error.message, field=field, remedy=error.remedy) from error
    except (MirrorGone, ObjectStoreError) as error:
        remedy = getattr(error, "remedy", None) or "see that the place is there"
        raise refused("mirror_unusable", str(error), field=field, remedy=remedy) from error
    except JournalNewer as error:
        raise refused("mirror_newer", str(error), field=field) from error
    except JournalCorrupt as error:
        told = f"the mirror is damaged: {error}"
        raise CliError("mirror_damaged", told, field, "use another mirror or a backup", Exit.REFUSED) from error

