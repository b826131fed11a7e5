"""`torg backup`, `torg restore`: a market's state in one file, and a home made from it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.arguments import megabytes
from cli.output import document, log
from cli.settings import Settings

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
    file: Annotated[Path, typer.Argument(metavar="FILE", help="what `torg backup` made")],
    passphrase_file: Passphrase = None,
    check: Annotated[bool, typer.Option("--check", help="read and compare every byte; make no home")] = False,
) -> None:
    """Make a fresh home from a backup; `torg up` then goes on where it was taken."""
    settings: Settings = ctx.obj
    from cli import backups

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


def _holds(found: dict[str, Any]) -> str:
    from cli.verbs.wallet import moment

    blobs = f"{found['blobs']} blobs" if found["with_blobs"] else "no blobs"
    return f"{found['records']} records until {moment(found['last_at_ms'])}, {blobs}"


def _warn_of_missing(found: dict[str, Any]) -> None:
    if found["missing"]:
        log(f"torg: {len(found['missing'])} blobs that jobs need were missing, such as {found['missing'][0]}")
