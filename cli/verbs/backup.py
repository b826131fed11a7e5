"""`torg backup`, `torg restore`: a market's state in one file, and a home made from it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.arguments import megabytes
from cli.errors import usage
from cli.output import document, log
from cli.settings import Settings
from storage.units import counted

Passphrase = Annotated[
    Path | None, typer.Option(metavar="FILE", help="file whose first line encrypts; readable by you only")
]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command("backup")(backup)
    app.command("restore")(restore)


def backup(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="a new file; it holds the market's keys")],
    passphrase_file: Passphrase = None,
    no_blobs: Annotated[bool, typer.Option("--no-blobs", help="leave out data, models and checkpoints")] = False,
    move: Annotated[bool, typer.Option("--move", help="end the market first; it does not start here again")] = False,
) -> None:
    """Write the state of this home's market into one file, while it runs; the file is read back before it has its name."""
    settings: Settings = ctx.obj
    from cli.backups import make_backup

    made = make_backup(settings, file, passphrase=passphrase_file, with_blobs=not no_blobs, move=move)
    if settings.as_json:
        document(made)
        return
    size = megabytes(made["bytes"])
    print(f"{file}: {size}, {_holds(made)}; {'encrypted' if made['encrypted'] else 'not encrypted, and it holds keys'}")
    _warn_of_missing(made)
    if move:
        print(f"The market of {settings.home} has moved: it does not start here again.")


def restore(
    ctx: typer.Context,
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="what `torg backup` made")] = None,
    passphrase_file: Passphrase = None,
    check: Annotated[bool, typer.Option("--check", help="read and compare every byte; make no home")] = False,
    from_mirror: Annotated[str | None, typer.Option(metavar="PLACE", help="the journal of this mirror (`torg up --mirror`); keys and blobs of FILE, or the mirror's keys")] = None,
    mirror_endpoint: Annotated[str | None, typer.Option(metavar="URL", help="the server of an s3:// mirror, where that is not Amazon's")] = None,
) -> None:  # fmt: skip
    """Make a fresh home from a backup or a mirror; `torg up` then goes on where it ends."""
    settings: Settings = ctx.obj
    from cli import backups, mirror_restores

    if from_mirror is not None:
        found = (
            mirror_restores.check_mirror(settings, from_mirror, mirror_endpoint) if check
            else mirror_restores.restore_from_mirror(settings, from_mirror, mirror_endpoint, backup=file, passphrase=passphrase_file)
        )  # fmt: skip
        if settings.as_json:
            document(found)
        else:
            _tell_of_mirror(settings, from_mirror, found, check=check)
        return
    if file is None:
        raise usage("FILE is missing", field="FILE", remedy="name a backup, or --from-mirror")
    if check:
        found = backups.check(settings, file, passphrase_file)
    else:
        found = backups.restore_home(settings, file, passphrase_file)
    if settings.as_json:
        document(found)
        return
    _warn_of_missing(found)
    if check:
        print(f"{file} is sound: {_holds(found)}")
        return
    print(f"{settings.home} is the market as it was: {_holds(found)}")
    print("`torg up` starts it, with the same keys. Tell the providers if its address is another one.")
    if not found["moved"]:
        print("The old market must not start again; end it with `torg backup --move`, or wipe its home.")


def _tell_of_mirror(settings: Settings, place: str, found: dict[str, Any], *, check: bool) -> None:
    from cli.verbs.wallet import moment

    holds = f"{counted(found['records'], 'record')} until {moment(found['last_at_ms'])}"
    cut = f"; {found['cut_bytes']} bytes behind them were no whole record and are not taken" if found["cut_bytes"] else ""
    if check:
        print(f"{place} is sound: {holds}{cut}")
        return
    _warn_of_missing(found)
    print(f"{settings.home} is the market as it was: {holds}{cut}")
    if found["has_keys"]:
        print("`torg up` starts it, with the same keys. Tell the providers if its address is another one.")
    else:
        print("The mirror has no keys: put keys.json, market.key, log.key and secrets.key of the old home there before `torg up`,")
        print("or restore with a backup of any age: torg restore FILE --from-mirror PLACE.")
    print("The old market must not start again: wipe its home. It would be refused by the mirror, but not by its customers.")


def _holds(found: dict[str, Any]) -> str:
    from cli.verbs.wallet import moment

    blobs = f"{found['blobs']} blobs" if found["with_blobs"] else "no blobs"
    return f"{counted(found['records'], 'record')} until {moment(found['last_at_ms'])}, {blobs}"


def _warn_of_missing(found: dict[str, Any]) -> None:
    if found["missing"]:
        log(f"torg: {len(found['missing'])} blobs that jobs need were missing, such as {found['missing'][0]}")
