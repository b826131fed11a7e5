"""`torg books`: the operator's view of the record."""

import typer

from cli.errors import Exit
from cli.output import document
from cli.session import connect
from cli.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    group = typer.Typer(name="books", help="The record and the books made from it.", no_args_is_help=True)
    group.command("verify")(verify)
    group.command("rebuild")(rebuild)
    app.add_typer(group)


def verify(ctx: typer.Context) -> None:
    """Check the journal's hash chain, that money balances, and that the books equal the journal."""
    settings: Settings = ctx.obj
    answer = _verification(settings)
    if settings.as_json:
        document(answer)
    elif answer["ok"]:
        print(f"The books are sound: {answer['records']} records, head {str(answer['head'])[:16]}…")
    else:
        print(f"The books are NOT sound: {answer['first_bad'] or _what(answer)}")
    if not answer["ok"]:
        raise typer.Exit(Exit.FAILED)


def rebuild(ctx: typer.Context) -> None:
    """Make the books again from the journal."""
    settings: Settings = ctx.obj
    answer = connect(settings, "operator").rebuild_books()
    if settings.as_json:
        document(answer)
    else:
        print(f"The books are made again from {answer.get('records', 'all')} records.")


def _verification(settings: Settings) -> dict[str, object]:
    from cli.offline import when_down

    return when_down(
        settings,
        lambda: connect(settings, "operator").verify_books(),
        lambda files: files.verify(),
    )


def _what(answer: dict[str, object]) -> str:
    return "debits and credits differ" if answer.get("balanced") is False else "the projection differs from the journal"
