"""Waits as a table: how long those who got machines had waited, and those who got none have."""

from collections.abc import Callable
from typing import Any

from cli.output import Column, print_table
from cli.settings import Settings


def show_waits(settings: Settings, told: dict[str, Any], title: str, unit: str, said: Callable[[Any], str]) -> None:
    """What market/waits.py made; `said` is a wait of this unit as text."""
    rows = [
        [what, name, *(_waits(one[which], unit, said) for which in ("served", "waiting"))]
        for what, group in (("", {"all": told["all"]}), ("gang", told["by_gang"]), ("team", told["by_team"]))
        for name, one in group.items()
    ]
    columns = [Column("of"), Column(""), Column("served: jobs, p50, p99", right=True), Column("not: jobs, p50, p99", right=True)]
    print_table(settings, columns, rows, title=title)


def _waits(one: dict[str, Any], unit: str, said: Callable[[Any], str]) -> str:
    return f"{one['count']:,}, {said(one[f'p50_{unit}'])}, {said(one[f'p99_{unit}'])}" if one["count"] else "0"
