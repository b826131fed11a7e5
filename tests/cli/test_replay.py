"""`torg replay` on a home's journal, as people type it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.main import run
from market.commands import SetPriceRule
from market.homes import Home
from storage.journal import Journal
from tests.market.scene import Scene


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home whose market had two clearings, by two rules."""
    scene = Scene()
    scene.running()
    scene.do(SetPriceRule("uniform", "op"))
    scene.offer("offer-3", "p3", 0.5)
    scene.offer("offer-4", "p4", 0.6)
    scene.submit("job-2", workers__min=2, workers__max=2)
    scene.clear()
    where = Home(tmp_path)
    with Journal.open(where.journal) as journal:
        journal.append(scene.records)
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert run(["replay", *words]) == 0
    return capsys.readouterr().out


def test_one_clearing_and_all_of_them(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = json.loads(told(capsys, "last", "--json", "--home", str(home)))
    assert (one["number"], one["same"], one["price_rule"]) == (2, True, "uniform")
    assert {row["price_nanos_per_gpu_hour"] for row in one["matches"]} == {600_000_000}
    assert set(one["rules"]) == {"ask", "uniform", "spot"}
    assert one["rules"]["ask"]["nanos_per_hour"] == 1_100_000_000
    both = json.loads(told(capsys, "--json", "--home", str(home)))
    assert [each["number"] for each in both] == [1, 2]
    shown = told(capsys, "1", "--home", str(home))
    assert "The same again, to the bit." in shown
    assert "offer-1" in shown
    assert "same" in told(capsys, "all", "--home", str(home))


def test_what_there_is_not_is_refused(home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["replay", "99", "--home", str(home)]) == 3
    assert "there is no clearing 99" in capsys.readouterr().err
    assert run(["replay", "newest", "--home", str(home)]) == 2
    assert run(["replay", "--home", str(tmp_path / "elsewhere")]) == 3
