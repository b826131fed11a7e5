"""`torg demo`: the whole life of a job in a minute or two."""

from pathlib import Path
from typing import Annotated

import typer

from cli.errors import CliError, Exit, usage
from cli.output import document
from cli.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("demo")(demo)


def demo(
    ctx: typer.Context,
    data: Annotated[
        Path | None, typer.Option(help="a file or folder to train on; default: the Python standard library's source")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="of the initial parameters and the order of the data")] = 1,
    rounds: Annotated[int, typer.Option(min=10, max=40, help="rounds to train")] = 14,
    keep: Annotated[
        bool, typer.Option("--keep", help="keep the demo's folder (its processes end in any case)")
    ] = False,
    time_limit: Annotated[int, typer.Option(min=30, max=3600, metavar="SECONDS", help="give up after this long")] = 240,
) -> None:
    """Offers, a bid, rounds, a death, a recovery, the bill, the proof: on this machine, leaving nothing behind."""
    settings: Settings = ctx.obj
    if data is not None and not data.exists():
        raise usage(f"{data} does not exist", field="--data", code="no_such_file")
    try:
        from cli.demo.script import Wishes, play
        from cli.demo.telling import Teller
    except ImportError as missing:
        raise CliError("extra_missing", f"the demo needs {missing.name}", None, "pip install 'torg[node]'") from missing
    teller = Teller(settings)
    where = None if data is None else data.absolute()
    outcome = play(Wishes(where, seed, rounds, keep, float(time_limit)), teller)
    teller.verdict(outcome)
    if settings.as_json:
        document(outcome.document())
    if outcome.failures:
        raise typer.Exit(Exit.FAILED)
