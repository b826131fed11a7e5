"""What a command prints: one JSON document, or tables that fit the terminal."""

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from cli.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PIPED_WIDTH = 200


def document(value: object) -> None:
    """The one JSON document of `--json`."""
    print(json.dumps(value, ensure_ascii=False))


def log(text: str) -> None:
    """Progress for people, on stderr, so that stdout stays a document or a table."""
    print(text, file=sys.stderr, flush=True)


def console(settings: Settings, *, stderr: bool = False) -> "Console":
    """A console as wide as its terminal; plain when piped or when colours are unwanted."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    terminal = stream.isatty()
    width = shutil.get_terminal_size((80 if terminal else PIPED_WIDTH, 24)).columns
    return Console(
        file=stream,
        width=width,
        color_system="auto" if terminal and settings.color else None,
        no_color=not settings.color,
        highlight=False,
        soft_wrap=False,
        legacy_windows=False,
    )


def printable(text: str) -> str:
    """`text` without control characters: names come from strangers and must not steer a terminal."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)


class Styled:
    """A cell with a style of its own."""

    __slots__ = ("style", "text")

    def __init__(self, text: str, style: str = "") -> None:
        self.text, self.style = printable(text), style


Cell = str | Styled


class Column:
    """A column: heading, side, and how gladly it gives way in a narrow terminal (0 never, 9 first)."""

    __slots__ = ("gives_way", "heading", "right")

    def __init__(self, heading: str, *, right: bool = False, gives_way: int = 0) -> None:
        self.heading, self.right, self.gives_way = heading, right, gives_way


def table(
    columns: Sequence[Column], rows: Iterable[Sequence[Cell]], *, width: int, title: str | None = None
) -> "Table":
    """A table of at most `width` cells: columns give way whole, the rest shorten their words with an ellipsis."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    body = [[cell if isinstance(cell, Styled) else Styled(cell) for cell in row] for row in rows]
    kept = _kept(columns, body, width)
    made = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1)
    )
    for place in kept:
        column = columns[place]
        made.add_column(
            Text(column.heading), justify="right" if column.right else "left", no_wrap=True, overflow="ellipsis"
        )
    for row in body:
        made.add_row(*(Text(row[place].text, row[place].style) for place in kept))
    return made


def _kept(columns: Sequence[Column], rows: Sequence[Sequence[Styled]], width: int) -> list[int]:
    widths = [
        max([len(column.heading), *(len(row[place].text) for row in rows)]) for place, column in enumerate(columns)
    ]
    kept = list(range(len(columns)))
    while sum(widths[place] + 3 for place in kept) > width:
        willing = [place for place in kept if columns[place].gives_way]
        if not willing:
            break
        kept.remove(max(willing, key=lambda place: (columns[place].gives_way, place)))
    return kept


def print_table(
    settings: Settings, columns: Sequence[Column], rows: Iterable[Sequence[Cell]], *, title: str | None = None
) -> None:
    """Print one table to stdout."""
    screen = console(settings)
    screen.print(table(columns, rows, width=screen.width, title=title))


def show_list(
    settings: Settings, found: Sequence[dict[str, Any]], columns: Sequence[Column],
    row: Callable[[dict[str, Any]], Sequence[Cell]], *, empty: str,
) -> None:  # fmt: skip
    """A list as the market gave it: the document, or a table with a row for each, or the sentence `empty`."""
    if settings.as_json:
        document(found)
    elif not found:
        print(empty)
    else:
        print_table(settings, columns, [row(one) for one in found])


def tell(settings: Settings, answer: object, sentence: str) -> None:
    """What came of a command: the document, or a sentence for people."""
    if settings.as_json:
        document(answer)
    else:
        print(sentence)
