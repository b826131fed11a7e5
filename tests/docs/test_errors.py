"""docs/ERRORS.md names tests that are there, exit codes that torg has, and lines that torg could print."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from cli.errors import CliError, Exit

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "ERRORS.md").read_text(encoding="utf-8")
ROW = re.compile(
    r"^\| (?!what goes wrong|---)(?P<what>.+?) \| (?P<says>.+) \| (?P<code>\d|–) \| (?P<test>\S+) \|$", re.M
)
ROWS = [match.groupdict() for match in ROW.finditer(PAGE)]
CASES = ("unknown field", "wrong unit", "price", "budget", "requirements", "data", "does not import", "no number", "hangs",
         "leaks", "forks", "changes shape", "again, same contents", "unknown job", "wrong key", "revoked key", "no market",
         "other versions", "disk full, journal", "disk full, a checkpoint", "port in use", "a second `torg up`")  # fmt: skip


@cache
def names_in(path: Path) -> frozenset[str]:
    """Names of the test functions of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def test_every_line_of_the_tables_is_read() -> None:
    lines = [
        line for line in PAGE.splitlines() if line.startswith("|") and not re.match(r"\| what goes wrong|\|---", line)
    ]
    assert len(lines) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=[row["what"] for row in ROWS])
def test_a_row_is_true_as_far_as_can_be_told(row: dict[str, str]) -> None:
    path, _, name = row["test"].partition("::")
    assert name in names_in(ROOT / path), row["test"]
    assert row["code"] == "–" or int(row["code"]) in set(Exit)
    said = re.match(r"`+(torg: .+?)`+$", row["says"])
    if said is not None:
        assert CliError("code", said[1].removeprefix("torg: ")).line() == said[1], "one line, no spaces twice"
        assert row["code"] in ("1", "2", "3", "4")


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_bad_input_has_a_row(case: str) -> None:
    assert any(case in row["what"] for row in ROWS)
