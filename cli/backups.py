"""Backups as commands make them: one file of mode 0600, whole and read back or not there at all; a home, or none."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cli.errors import CliError, Exit, refused
from cli.output import console
from cli.settings import Settings
from market.homes import Home, read_json, sync_folder, write_json
from storage.backups import BackupFacts, OnBytes, check_backup, unpack_backup, write_backup
from storage.home_files import BackupError

_FAILED = ("damaged", "busy")
_REMEDIES = {
    "no_market": "name the market's folder with --home",
    "damaged": "run `torg books verify`",
    "busy": "run it again",
    "backup_damaged": "use another backup",
    "home_newer": "use the torg that wrote it, or a newer one",
    "backup_newer": "restore it with the torg that made it, or a newer one",
    "backup_other": "name a file that `torg backup` has made",
    "backup_passphrase_missing": "name --passphrase-file",
    "backup_passphrase_wrong": "name the passphrase file that it was made with",
}


def make_backup(
    settings: Settings, output: Path, *, passphrase: Path | None, with_blobs: bool, move: bool
) -> dict[str, Any]:  # fmt: skip
    """Write, read back and name the backup. With `move` the market ends before and does not start here again."""
    secret, home = read_passphrase(passphrase), Home(settings.home)
    if output.exists():
        raise refused("exists", f"{output} exists already", field="FILE", remedy="name a new file")
    if not output.absolute().parent.is_dir():  # said before a market is ended for it
        raise refused("no_such_folder", f"{output.parent} is no folder", field="FILE", remedy="make it, or name another place")
    beside = output.with_name(f".{output.name}.{secrets.token_hex(4)}")
    with complaints("FILE"), _moved(settings, home, output) if move else _nothing():
        try:
            with os.fdopen(os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w+b") as file:
                with progress_bar(settings, "writing") as progress:
                    facts = write_backup(
                        home.root, file, made_at_ms=time.time_ns() // 1_000_000, passphrase=secret,
                        with_blobs=with_blobs, moved=move, progress=progress,
                    )  # fmt: skip
                file.flush()
                os.fsync(file.fileno())
                file.seek(0)
                with progress_bar(settings, "reading back") as progress:
                    check_backup(file, secret, progress)
            os.link(beside, output)  # never over a file that came meanwhile
            sync_folder(output.parent)
        finally:
            beside.unlink(missing_ok=True)
    return {**told(facts), "file": str(output), "bytes": output.stat().st_size, "encrypted": secret is not None}


def check(settings: Settings, file: Path, passphrase: Path | None) -> dict[str, Any]:
    """Read a backup whole and say what it holds."""
    secret = read_passphrase(passphrase)
    with complaints("FILE"), file.open("rb") as content, progress_bar(settings, "reading") as progress:
        return told(check_backup(content, secret, progress))


def restore_home(settings: Settings, file: Path, passphrase: Path | None) -> dict[str, Any]:
    """Make the market's home from a backup: everything is read and checked beside it, then it gets its name."""
    secret = read_passphrase(passphrase)
    with complaints("FILE"), file.open("rb") as content, fresh_home(settings) as beside:
        with progress_bar(settings, "restoring") as progress:
            facts = unpack_backup(content, beside.root, secret, progress)
        settle_home(beside, facts.market)
    return {**told(facts), "home": str(settings.home)}


@contextmanager
def fresh_home(settings: Settings) -> Iterator[Home]:
    """A folder beside the home, which becomes the home when everything went well, and goes otherwise."""
    home = Home(settings.home)
    if home.root.exists() and (not home.root.is_dir() or any(home.root.iterdir())):
        raise refused("home_not_empty", f"{home.root} is not empty", field="--home", remedy="name a fresh folder")
    home.root.parent.mkdir(parents=True, exist_ok=True)
    beside = home.root.with_name(f".{home.root.name}.restoring-{secrets.token_hex(4)}")
    beside.mkdir(mode=0o700)
    try:
        yield Home(beside)
        beside.rename(home.root)
        sync_folder(home.root.parent)
    except BaseException:
        shutil.rmtree(beside)
        raise


def settle_home(beside: Home, market: str) -> None:
    """See that the old market does not run, and forget what was its processes'."""
    _check_old_market(beside, market)
    kept = {name: value for name, value in beside.read_market().items() if name in ("port", "public_key")}
    write_json(beside.market_file, kept)


def told(facts: BackupFacts) -> dict[str, Any]:
    """The JSON of a backup."""
    return facts.to_json()


def _check_old_market(staged: Home, market: str) -> None:
    """Two markets with one past must not both write: where the old one answers, nothing is restored."""
    from market.client import Market
    from market.wire import MarketUnreachable, Refused

    before = staged.read_market()
    if "url" not in before:
        return
    ca = Path(before["ca"]) if before.get("ca") and Path(before["ca"]).exists() else None
    try:
        with Market(before["url"], timeout_s=2.0, patience_s=0, ca=ca) as old:
            answers = old.healthz().get("market")
    except (MarketUnreachable, Refused, OSError):
        return
    if answers == market:
        message = f"the market that this is a backup of runs at {before['url']}"
        raise refused("old_market_runs", message, remedy="end it there for good with `torg backup --move`")


@contextmanager
def _moved(settings: Settings, home: Home, output: Path) -> Iterator[None]:
    """End the market, and leave word that it has moved before there is a backup to restore from."""
    from cli.market_processes import stop_market

    if not home.journal.is_dir():
        raise refused("no_market", f"there is no market in {home.root}", field="--home", remedy=_REMEDIES["no_market"])
    stop_market(home.root)
    lock = os.open(home.lock_file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise refused(
                "market_runs", f"a market was started in {home.root} meanwhile", remedy="run it again"
            ) from None
        if read_json(home.moved_file):
            message = f"the market of {home.root} was moved before"
            raise refused("market_moved", message, remedy=f"if it was never restored, remove {home.moved_file}")
        write_json(home.moved_file, {"file": str(output.absolute()), "at_ms": time.time_ns() // 1_000_000})
        try:
            yield
        except BaseException:
            if not output.exists():
                home.moved_file.unlink()
            raise
    finally:
        os.close(lock)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def read_passphrase(file: Path | None) -> bytes | None:
    """The first line of a file that only its owner can read."""
    if file is None:
        return None
    field = "--passphrase-file"
    try:
        content, mode = file.read_bytes(), file.stat().st_mode
    except OSError as error:
        raise refused("not_readable", f"{file}: {error.strerror}", field=field) from error
    if mode & 0o077:
        raise refused("not_secret", f"others can read {file}", field=field, remedy=f"chmod 600 {file}")
    lines = content.splitlines()
    if not lines or not lines[0]:
        raise refused("passphrase_empty", f"{file} is empty", field=field, remedy="write a passphrase into it")
    return lines[0]


@contextmanager
def complaints(field: str) -> Iterator[None]:
    """What a backup or a disk complains of, as this program's errors."""
    try:
        yield
    except BackupError as error:
        code = Exit.FAILED if error.code in _FAILED else Exit.REFUSED
        raise CliError(error.code, str(error), None, _REMEDIES.get(error.code), code) from error
    except OSError as error:
        raise CliError("file_unusable", f"{error.filename or 'the file'}: {error.strerror}", field) from error


@contextmanager
def progress_bar(settings: Settings, what: str) -> Iterator[OnBytes]:
    """A bar on stderr, where that is a terminal."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    screen = console(settings, stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=screen, transient=True, disable=settings.as_json or not screen.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
