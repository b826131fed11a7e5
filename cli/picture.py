"""The live picture of a job: headline, workers, the newest rounds, the loss curve, what happened."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli.arguments import megabytes, usd
from cli.live import RunView
from cli.output import Column, Styled, printable, table
from cli.round_lines import RoundLine
from trainers.attempts import shown

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

SHOWN_ROUNDS = 8
SHOWN_FIGURES = 3
CURVE_ROWS = 12
ROUNDS_OF_A_CURVE = 2
LONGEST_COMMAND = 60
_STYLES = {"active": "green", "lost": "bold red", "ended": "dim", "granted": "yellow"}


def render(view: RunView, width: int, height: int = 24) -> "RenderableType":
    """All of it; the curve is drawn where `height` rows leave room for it."""
    from rich.console import Group
    from rich.text import Text

    told = Text(
        "\n".join(printable(line) for one in view.happenings for line in one.splitlines()),
        no_wrap=True,
        overflow="ellipsis",
    )
    newest = view.rounds[-SHOWN_ROUNDS:]
    parts: list[RenderableType] = [headline(view), _workers(view, width)]
    if view.argv:
        return Group(*parts, told)
    parts.append(_rounds(newest, width))
    used = 12 + len(view.members) + len(newest) + len(view.happenings)
    if height - used >= CURVE_ROWS:
        parts.append(Text(loss_curve([(one.round, one.held_out_loss) for one in view.rounds], width=width)))
    return Group(*parts, told)


def _workers(view: RunView, width: int) -> "Table":
    columns = [Column("provider"), Column("gpu", gives_way=3), Column("price/h", right=True, gives_way=2), Column("state"),
               Column("rounds", right=True), Column("sent", right=True, gives_way=4),
               Column("trained", right=True, gives_way=4), Column("lease", gives_way=5)]  # fmt: skip
    rows: list[list[str | Styled]] = [
        [one.provider, one.gpu, usd(one.price_nanos), Styled(one.state, _STYLES.get(one.state, "")), str(one.rounds),
         "–" if one.sent_bytes is None else megabytes(one.sent_bytes), f"{one.trained_ms / 1000:.1f} s", one.lease]
        for one in view.members.values()
    ]  # fmt: skip
    return table(columns, rows, width=width)


def _rounds(rounds: Sequence[RoundLine], width: int) -> "Table":
    figures = sorted({name for one in rounds for name in one.metrics})[:SHOWN_FIGURES]
    columns = [Column("round", right=True), Column("loss", right=True), Column("held out", right=True, gives_way=1),
               *(Column(printable(name), right=True, gives_way=1) for name in figures),
               Column("tokens/s", right=True, gives_way=2), Column("goodput", right=True, gives_way=3),
               Column("sent each", right=True, gives_way=4), Column("workers", right=True),
               Column("stalled", right=True, gives_way=6), Column("what happened", gives_way=5)]  # fmt: skip
    return table(columns, [_row(one, figures, width) for one in rounds], width=width)


def _row(one: RoundLine, figures: Sequence[str], width: int) -> list[str | Styled]:
    what, style = happened(one)
    return [
        str(one.round),
        _number(one.loss, ".4f"),
        _number(one.held_out_loss, ".4f"),
        *(_number(one.metrics.get(name), ".4g") for name in figures),
        _number(one.tokens_per_s, ",.0f"),
        _number(one.goodput, ".0%"),
        megabytes(one.sent_bytes_per_worker) if one.sent_bytes else "–",
        str(one.members),
        f"{one.stall_ms / 1000:.2f} s" if one.stall_ms else "–",
        Styled(what[: max(0, width - 72)], style),
    ]


def happened(one: RoundLine) -> tuple[str, str]:
    """Who was late, warned or lost in a round, and why; else the sentence of its decision. With a style."""
    words = [f"slot {slot} late" for slot in one.late]
    words += [f"slot {each['slot']} warned: {each['reason']}" for each in one.warned]
    words += [f"{each['lease']} lost: {each['reason']}" for each in one.lost]
    if one.attempts > 1:
        words.append(f"merged at attempt {one.attempts}")
    return ("; ".join(words), "yellow") if words else (one.reason, "dim")


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def headline(view: RunView) -> "RenderableType":
    """One line: which job, how far, how good, how dear."""
    from rich.text import Text

    if view.argv:
        spent = f"{usd(view.spent_nanos)} of {usd(view.budget_nanos)}" if view.budget_nanos else usd(view.spent_nanos)
        text = f"{view.job} {view.name}  {view.state}  {shown(view.argv, LONGEST_COMMAND)}  {spent}"
        return Text(printable(text), style="bold", no_wrap=True, overflow="ellipsis")
    done = view.rounds[-1].round if view.rounds else 0
    strategy = f"  {view.rounds[-1].strategy}" if view.rounds and view.rounds[-1].strategy else ""
    held_out = "" if view.loss_last is None else f"  held-out loss {view.loss_first:.3f} → {view.loss_last:.3f}"
    of = f"/{view.planned}" if view.planned else ""
    budget = f" of {usd(view.budget_nanos)}" if view.budget_nanos else ""
    text = (
        f"{view.job} {view.name}  {view.state}{strategy}  round {done}{of}{held_out}  {usd(view.spent_nanos)}{budget}"
    )
    return Text(printable(text), style="bold", no_wrap=True, overflow="ellipsis")


def loss_curve(points: Sequence[tuple[int, float | None]], *, width: int) -> str:
    """Held-out loss by round, as terminal text of `width` columns, without colours; empty where there are too few."""
    import plotext

    known = [(number, loss) for number, loss in points if loss is not None]
    if len(known) < ROUNDS_OF_A_CURVE:
        return ""
    figure = plotext.figure
    figure.clear()
    figure.plot_size(width, CURVE_ROWS)
    figure.title("held-out loss by round")
    figure.draw(figure.signal(*_curve(known, 2 * width)))
    return str(plotext.uncolorize(str(figure.build())))


def _curve(points: Sequence[tuple[int, float]], steps: int) -> tuple[list[float], list[float]]:
    """`steps` points along the straight lines between `points`: a signal is drawn as dots."""
    places = [step * (len(points) - 1) / (steps - 1) for step in range(steps)]
    mixed = []
    for place in places:
        left = min(int(place), len(points) - 2)
        (x0, y0), (x1, y1) = points[left], points[left + 1]
        mixed.append((x0 + (x1 - x0) * (place - left), y0 + (y1 - y0) * (place - left)))
    return [x for x, _ in mixed], [y for _, y in mixed]
