"""`torg prices`: what GPU-hours were offered and rented for."""

import csv
import sys
from typing import Annotated, Any

import typer

from cli.arguments import usd
from cli.errors import usage
from cli.output import Column, console, document, print_table, printable
from cli.session import connect
from cli.settings import Settings
from cli.verbs.billing import instant, moments
from storage.units import format_duration

POINTS = 60
CHART_ROWS, CHART_COLUMNS = 14, 100
Line = dict[str, Any]
COLUMNS = (
    Column("gpu"), Column("region"), Column("kind"), Column("n", right=True), Column("min", right=True, gives_way=3),
    Column("p25", right=True, gives_way=5), Column("median", right=True), Column("p75", right=True, gives_way=4),
    Column("max", right=True, gives_way=6), Column("last", right=True, gives_way=1), Column("ago", right=True, gives_way=2),
)  # fmt: skip
FIELDS = (
    "gpu", "region", "kind", "n", "min_nanos", "p25_nanos", "median_nanos", "p75_nanos", "max_nanos", "last_nanos", "last_ms",
)  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("prices")(prices)


def prices(
    ctx: typer.Context,
    gpu: Annotated[str | None, typer.Argument(metavar="GPU", help="one model, with a chart; default: all")] = None,
    since: Annotated[str | None, typer.Option(help="2026-11-22, an ISO instant, or 7d for ago (the default)")] = None,
    until: Annotated[str | None, typer.Option(help="the same; default: now")] = None,
    region: Annotated[str | None, typer.Option(help="one region")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="the lines as CSV, in nano-dollars")] = False,
    role: Annotated[str, typer.Option(help="customer, provider or operator: all see the same")] = "customer",
) -> None:
    """What GPU-hours were offered for (quotes) and rented for (trades); from the files when the market is down.

    Quotes count by units and by how long they stood, trades by units.
    """
    settings: Settings = ctx.obj
    if as_csv and settings.as_json:
        raise usage("--csv and --json exclude each other", field="--csv")
    start, end = moments(since, until)
    answer = _ask(settings, role, gpu=gpu, region=region, start=start, end=end)
    if settings.as_json:
        document(answer)
    elif as_csv:
        _write_csv(answer["items"])
    else:
        _show(settings, answer, gpu)


def _ask(settings: Settings, role: str, *, gpu: str | None, region: str | None, start: int | None, end: int | None) -> Line:
    from cli.offline import when_down
    from market.hardware import UnknownGpu, canonical_name

    unknown, name = None, gpu
    try:
        name = None if gpu is None else canonical_name(gpu)
    except UnknownGpu as error:  # providers may list what the catalogue does not know
        unknown = error
    points = 0 if gpu is None else POINTS
    answer = when_down(
        settings,
        lambda: connect(settings, role).prices(
            gpu=name, region=region, since=instant(start), until=instant(end), points=points
        ),
        lambda files: files.prices(gpu=name, region=region, since_ms=start, until_ms=end, points=points),
    )
    if unknown is not None and not answer["items"]:
        raise usage(f"GPU {gpu!r}: {unknown}", field="GPU", code="unknown_gpu")
    return answer


def _show(settings: Settings, answer: Line, gpu: str | None) -> None:
    length = format_duration(answer["until_ms"] - answer["since_ms"])
    if not answer["items"]:
        print(f"Nothing was offered or rented in these {length}.")
        return
    print_table(settings, COLUMNS, [_row(one, answer["until_ms"]) for one in answer["items"]], title=f"Dollars per GPU-hour, {length}")
    if gpu is not None:
        width = min(CHART_COLUMNS, console(settings).width)
        print(chart(answer["series"], answer["until_ms"], width=width), end="")


def _row(one: Line, until_ms: int) -> list[str]:
    money = [usd(one[f"{name}_nanos"]) for name in ("min", "p25", "median", "p75", "max", "last")]
    ago = format_duration(max(0, until_ms - one["last_ms"]))
    return [printable(one["gpu"]), printable(one["region"] or "–"), one["kind"], f"{one['n']:,}", *money, ago]


def _write_csv(items: list[Line]) -> None:
    writer = csv.DictWriter(sys.stdout, FIELDS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(items)


def chart(series: list[Line], until_ms: int, *, width: int) -> str:
    """Medians over time as terminal text of `width` columns, without colours: quotes as a line of dots, trades as crosses;
    empty where there are too few."""
    points = {
        kind: [((one["at_ms"] - until_ms) / 3_600_000, one["median_nanos"] / 1e9) for one in series if one["kind"] == kind]
        for kind in ("quotes", "trades")
    }
    if len({at for each in points.values() for at, _ in each}) < 2:
        return ""
    import plotext

    hours = -min(at for each in points.values() for at, _ in each)
    unit, factor = ("days", 24.0) if hours > 48 else ("hours", 1.0) if hours > 2 else ("minutes", 1 / 60)
    figure = plotext.figure
    figure.clear()
    figure.plot_size(width, CHART_ROWS)
    figure.title(f"median $ per GPU-hour, by {unit} ago: quotes \u00b7, trades x")
    for kind, marker in (("quotes", "\u00b7"), ("trades", "x")):
        if points[kind]:
            ats, medians = zip(*points[kind], strict=True)
            figure.draw(figure.signal([at / factor for at in ats], list(medians), marker=marker))
    return str(plotext.uncolorize(str(figure.build()))) + "\n"
