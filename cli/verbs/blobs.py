"""`torg blobs`: the operator's view of uploads, checkpoints and results as bytes."""

from typing import Annotated, Any

import typer

from cli.arguments import megabytes
from cli.errors import CliError, Exit, usage
from cli.output import document
from cli.session import connect_pooled
from cli.settings import Settings
from storage.units import counted

SHOWN_AT_MOST = 20
GRACE_HOURS = 24


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    group = typer.Typer(name="blobs", help="Uploads, checkpoints and results as bytes: check them, sweep what nobody needs.", no_args_is_help=True)
    group.command("verify")(verify)
    group.command("gc")(collect)
    app.add_typer(group)


def verify(ctx: typer.Context) -> None:
    """Read every blob of this home and compare it with its digest; look for what kept checkpoints need. The market may run."""
    settings: Settings = ctx.obj
    found = _checked(settings)
    if settings.as_json:
        document(found)
    else:
        _show(found)
    if not found["ok"]:
        raise typer.Exit(Exit.FAILED)


def collect(
    ctx: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="mark and count; remove nothing")] = False,
    grace_hours: Annotated[int, typer.Option(min=1, help="how long ago a blob must have been marked and not asked for")] = GRACE_HOURS,
) -> None:  # fmt: skip
    """Mark blobs that no job needs; remove those that were marked a grace ago and that nobody has asked for since.

    The first call only marks; call it again after the grace, or once a day. A restart of the market forgets marks.
    """
    settings: Settings = ctx.obj
    with connect_pooled(settings, "operator") as market:
        found = market.blobs.collect(dry_run=dry_run, grace_ms=grace_hours * 3_600_000)
    if settings.as_json:
        document(found)
        return
    print(f"{counted(found['blobs'], 'blob')}, {megabytes(found['bytes'])}; needed: {found['needed']}, {megabytes(found['needed_bytes'])}")
    waiting, waiting_bytes = found["marked"] - found["due"], found["marked_bytes"] - found["due_bytes"]
    print(f"needed by nobody: {found['marked']}, {megabytes(found['marked_bytes'])}; {waiting} of them, {megabytes(waiting_bytes)}, wait for the grace")
    if dry_run:
        print(f"would be removed now: {found['due']}, {megabytes(found['due_bytes'])}")
    else:
        print(f"removed: {found['swept']}, {megabytes(found['swept_bytes'])}")


def _checked(settings: Settings) -> dict[str, Any]:
    from cli.backups import progress_bar
    from cli.offline import readable_home
    from market.homes import Home
    from storage.blob_checks import check_blobs
    from storage.blobs import BlobError
    from storage.bucket_blobs import PlaceError, open_blobs
    from storage.journal_format import JournalCorrupt, JournalRewound

    if settings.url:
        raise usage("blobs are read from the market's home, not over HTTP", field="--url", remedy="name --home on the market's machine")
    if not (settings.home / "journal").is_dir():
        raise CliError("no_market", f"there is no market in {settings.home}", "--home", "name the market's folder", Exit.FAILED)
    home = Home(readable_home(settings.home))
    try:
        with progress_bar(settings, "reading") as progress:
            return check_blobs(open_blobs(home.root), home.journal, progress).to_json()
    except (JournalCorrupt, JournalRewound) as error:
        raise CliError("damaged", f"the journal is damaged: {error}", None, "run `torg books verify`", Exit.FAILED) from error
    except (BlobError, PlaceError, OSError) as error:
        raise CliError("blobs_unreadable", str(error), "--home", None, Exit.FAILED) from error


def _show(found: dict[str, Any]) -> None:
    if found["ok"]:
        print(f"The blobs are sound: {found['blobs']}, {megabytes(found['bytes'])}")
        return
    print(f"The blobs are NOT sound: of {found['blobs']}, {len(found['damaged'])} are damaged; {len(found['missing'])} are missing")
    for what, told in (("damaged", "other bytes than its name says"), ("missing", "named by the record and not here"), ("unreadable", "")):
        for one in found[what][:SHOWN_AT_MOST]:
            print(f"  {one}{': ' if told else ''}{told}")
        if len(found[what]) > SHOWN_AT_MOST:
            print(f"  … and {len(found[what]) - SHOWN_AT_MOST} more, see --json")
