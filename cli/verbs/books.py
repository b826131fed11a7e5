"""`torg books`: the operator's view of the record."""

import time
from typing import Annotated, Any

import typer

from cli.arguments import usd
from cli.errors import Exit, usage
from cli.output import Cell, Column, document, show_list
from cli.session import connect
from cli.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    group = typer.Typer(name="books", help="The record and the books made from it.", no_args_is_help=True)
    group.command("verify")(verify)
    group.command("rebuild")(rebuild)
    group.command("close")(close)
    group.command("periods")(periods)
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


def close(
    ctx: typer.Context,
    through: Annotated[
        str | None, typer.Option(metavar="DATE", help="the last day of the period, or an instant (default: up to now)")
    ] = None,
) -> None:
    """Close a period: every balance is sealed into the record, and nothing books behind it."""
    settings: Settings = ctx.obj
    answer = connect(settings, "operator").close_period(None if through is None else _end_of(through))
    if settings.as_json:
        document(answer)
    else:
        print(
            f"Period {answer['number']} is closed, {_short(answer['from'])} through {_short(answer['through'])} UTC: "
            f"{answer['transfers']} transfers up to its end, balances {answer['digest'][:16]}…"
        )


def periods(
    ctx: typer.Context, number: Annotated[int | None, typer.Argument(min=1, help="one of them, with every balance")] = None
) -> None:
    """The periods that are closed, or one of them with every balance at its end."""
    settings: Settings = ctx.obj
    market = connect(settings, "operator")
    if number is None:
        show_list(settings, market.periods(), _PERIODS, _period_row, empty="No period is closed.")
        return
    found = market.period(number)
    if settings.as_json:
        document(found)
        return
    rows = [{"account": account, "nanos": nanos} for account, nanos in found["balances"].items()]
    show_list(settings, rows, _BALANCES, lambda one: [one["account"], usd(one["nanos"])], empty="No account had anything.")


def _end_of(text: str) -> int:
    """A day means all of it."""
    from storage.units import MS_PER_DAY, TimeError, parse_instant_ms

    try:
        found = parse_instant_ms(text, now_ms=time.time_ns() // 1_000_000)
    except TimeError as error:
        raise usage(error.message, field="--through") from error
    is_day = len(text.strip()) == 10 or text.strip().lower() in ("today", "yesterday")
    return found + MS_PER_DAY - 1 if is_day else found


def _short(at: str) -> str:
    return at[:19].replace("T", " ")


_PERIODS = (Column("period", right=True), Column("from"), Column("through"), Column("transfers", right=True), Column("closed by"))
_BALANCES = (Column("account"), Column("balance", right=True))


def _period_row(one: dict[str, Any]) -> list[Cell]:
    return [str(one["number"]), _short(one["from"]), _short(one["through"]), str(one["transfers"]), one["by"]]


def _verification(settings: Settings) -> dict[str, object]:
    from cli.offline import when_down

    return when_down(
        settings,
        lambda: connect(settings, "operator").verify_books(),
        lambda files: files.verify(),
    )


def _what(answer: dict[str, object]) -> str:
    return "debits and credits differ" if answer.get("balanced") is False else "the projection differs from the journal"
