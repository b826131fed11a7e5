"""Help pages in narrow terminals: a word that is wider than its column is folded, where typer would cut it short."""

from collections.abc import Iterable
from typing import Any

from rich.table import Table
from rich.text import Text
from typer import rich_utils


class _Folding(Table):
    """The table of a page's options."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*cells, **options)
        for column in self.columns:
            column.overflow = "fold"


def fold_long_words() -> None:
    """From now on names of options, and words of what is said of them, are there whole."""
    rich_utils.Table = _Folding  # type: ignore[attr-defined]
    rich_utils.Columns = _one_text  # type: ignore[attr-defined, assignment]


def _one_text(parts: Iterable[Text]) -> Text:
    """What is said of an option, its default and its environment variable, as one text of the table's column."""
    return Text(" ").join(parts)
