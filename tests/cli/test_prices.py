"""`torg prices`: a table that fits, a chart, JSON and CSV, live and from the files of a market that is down."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from cli.main import run
from cli.verbs.prices import FIELDS, chart
from tests.cli.conftest import Torg
from tests.cli.fake_market import FakeMarket
from tests.storage.books_examples import DAY_MS, example_story, write
from tests.storage.test_prices import placed

UNTIL_MS = DAY_MS + 7 * 86_400_000


def line(**other: Any) -> dict[str, Any]:
    nanos = {f"{name}_nanos": 1_250_000_000 for name in ("min", "p25", "median", "p75", "max", "last")}
    return {"gpu": "H100", "region": "eu", "kind": "quotes", "n": 12, **nanos, "last_ms": UNTIL_MS - 60_000} | other


def answer(**other: Any) -> dict[str, Any]:
    series = [
        {"gpu": "H100", "kind": kind, "at_ms": DAY_MS + place * 86_400_000, "n": 1, "median_nanos": 10**9 + place * 10**8}
        for kind in ("quotes", "trades") for place in range(7)
    ]  # fmt: skip
    return {"since_ms": DAY_MS, "until_ms": UNTIL_MS, "items": [line(), line(kind="trades", n=3)], "series": series} | other


def test_a_model_by_any_name_comes_as_a_table_that_fits_with_a_chart(torg: Torg, market: FakeMarket) -> None:
    market.routes["GET /v1/prices"] = (200, answer())
    shown = torg("prices", "nvidia h100 sxm", "--since", "2026-11-01", "--region", "eu").out
    asked = market.last("GET", "/v1/prices").query
    assert asked == {"gpu": "H100", "region": "eu", "since": "2026-11-01T00:00:00.000Z", "points": "60"}
    assert [part for part in ("quotes", "trades", "$1.25", "60 s", "median $ per GPU-hour, by days ago") if part not in shown] == []
    assert market.last("GET", "/v1/prices").key == "key-of-customer"


def test_the_chart_is_as_wide_as_the_terminal_and_needs_two_points() -> None:
    drawn = chart(answer()["series"], UNTIL_MS, width=80)
    assert max(len(row) for row in drawn.splitlines()) <= 80
    assert "x" in drawn
    assert chart(answer()["series"][:1], UNTIL_MS, width=80) == ""


def test_all_models_as_csv_and_as_a_document(torg: Torg, market: FakeMarket) -> None:
    market.routes["GET /v1/prices"] = (200, answer(series=[]))
    rows = list(csv.DictReader(io.StringIO(torg("prices", "--csv").out)))
    assert [row["kind"] for row in rows] == ["quotes", "trades"]
    assert tuple(rows[0]) == FIELDS
    assert torg("prices", "--json").document == answer(series=[])
    assert torg("prices", "--json", "--csv").code == 2


def test_a_name_that_nobody_knows_gets_a_hint_unless_it_is_listed(torg: Torg, market: FakeMarket) -> None:
    market.routes["GET /v1/prices"] = (200, answer(items=[], series=[]))
    ran = torg("prices", "H1000")
    assert (ran.code, "did you mean H100" in ran.err) == (2, True)
    assert "Nothing was offered" in torg("prices", "H100").out
    market.routes["GET /v1/prices"] = (200, answer(items=[line(gpu="Foo9")], series=[]))
    assert "Foo9" in torg("prices", "foo9").out


def test_the_files_answer_when_the_market_is_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    story = example_story()
    story.add(DAY_MS + 100 * 3_600_000, placed("offer-p1", 500, gpu="cpu", region="attic"))
    story.add(DAY_MS + 101 * 3_600_000, {"type": "market_stopped", "by": "root"})
    write(tmp_path / "journal", story.records)
    assert run(["--home", str(tmp_path), "prices", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["kind"], one["region"], one["n"]) for one in found["items"]] == [("trades", "", 3), ("quotes", "attic", 1)]
    assert found["until_ms"] == DAY_MS + 101 * 3_600_000
