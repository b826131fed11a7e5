"""Estimates as people read them: in the plan, beside what came, and how good they are."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.estimate_view import NOBODY_FREE, NOTHING_KNOWN, calibration, outcome, plan_facts
from tests.cli.conftest import Torg
from tests.cli.fake_market import FakeMarket
from tests.cli.samples import job
from tests.cli.test_submit import GOOD, PLAN

ESTIMATE: dict[str, Any] = {
    "basis": "runs", "runs": 3, "gpu": "cpu", "workers": 1, "low_ms": 250_000, "middle_ms": 290_000, "high_ms": 330_000,
    "low_nanos": 21_000_000, "middle_nanos": 25_000_000, "high_nanos": 28_000_000, "half": 0.14, "widened": 1.0,
    "claimed": 0.8,
}  # fmt: skip
CAME = {"took_ms": 292_000, "cost_nanos": 25_000_000, "within_time": True, "within_cost": True, "error_share": 0.01}
SPAN = "4 min 10 s to 5 min 30 s for $0.021 to $0.028"
FOUR = {"workers": 4, "gpu": "cpu", "same": "loss", "estimate": ESTIMATE, "time_ratio": 0.8333, "price_ratio": 1.7}
JUDGED = {"estimates": 11, "within_share": 0.8182, "median_error_share": 0.06, "claimed_share": 0.8, "widened": 1.0}


def said(**plan: Any) -> dict[str, list[str]]:
    facts: dict[str, list[str]] = {}
    for name, text in plan_facts({"candidates": [{}], **plan}):
        facts.setdefault(name, []).append(text)
    return facts


def test_what_is_not_known_is_said() -> None:
    assert said() == {"expected": [NOTHING_KNOWN]}
    assert said(candidates=[]) == {"expected": [NOBODY_FREE]}


BASES = [
    ({}, "from 3 earlier runs on cpu (8 of 10 are meant to fall within)"),
    ({"runs": 1}, "from 1 earlier run on cpu (8 of 10"),
    ({"basis": "other_gpu"}, "from 3 earlier runs on other hardware, by measured speeds ("),
    ({"basis": "hardware", "runs": 0}, "from the measured speed of the hardware alone ("),
]


@pytest.mark.parametrize(("changes", "words"), BASES)
def test_a_range_is_said_with_where_it_comes_from(changes: dict[str, Any], words: str) -> None:
    [text] = said(estimate=ESTIMATE | changes)["expected"]
    assert text.startswith(f"{SPAN}, {words}")


OTHERS = [
    ({}, f"4 workers: 1.2 × faster for 1.7 × the price ({SPAN}), to the same held-out loss"),
    ({"workers": 1, "time_ratio": 1.5, "same": "data"}, "1 worker: 1.5 × slower for 1.7 × the price"),
    (
        {"gpu": "L4", "workers": 2, "time_ratio": 0.5, "price_ratio": 1.01},
        "2 workers of L4: 2 × faster for the same price",
    ),
    ({"time_ratio": 1.02, "price_ratio": 0.5}, "4 workers: as fast for 0.5 × the price"),
]


@pytest.mark.parametrize(("changes", "words"), OTHERS)
def test_others_are_said_in_ratios(changes: dict[str, Any], words: str) -> None:
    [text] = said(estimate=ESTIMATE, alternatives=[FOUR | changes])["or"]
    assert text.startswith(words)


def test_how_good_estimates_are_is_said_once_there_are_any() -> None:
    assert calibration({}) is None
    assert calibration(JUDGED | {"estimates": 0}) is None
    words = "9 of 11 estimates held (80% are meant to), the time half of them missed by at most 6%"
    assert said(estimate=ESTIMATE, calibration=JUDGED)["so far"] == [words]
    assert str(calibration(JUDGED | {"widened": 2.04})).endswith("; ranges are 2.0 × as wide for that")


def test_an_estimate_beside_what_came() -> None:
    assert outcome(None) is None
    assert str(outcome({**ESTIMATE, "outcome": None})).endswith("fall within)")
    assert str(outcome({**ESTIMATE, "outcome": CAME})).endswith("; took 4 min 52 s, $0.025: within")
    late = CAME | {"within_time": False}
    assert str(outcome({**ESTIMATE, "outcome": late})).endswith(": time outside")
    assert str(outcome({**ESTIMATE, "outcome": late | {"within_cost": False}})).endswith(": time and price outside")


def test_the_page_of_a_job_and_the_plan_have_them(torg: Torg, market: FakeMarket, tmp_path: Path) -> None:
    told = {**ESTIMATE, "outcome": CAME}
    plan = PLAN | {"estimate": ESTIMATE, "alternatives": [FOUR], "calibration": JUDGED}
    market.routes = {
        "GET /v1/jobs/job-1f2e3d4c5b": (200, job(state="done", estimate=told)), "POST /v1/quotes": (200, plan),
    }  # fmt: skip
    page = " ".join(torg("job", "job-1f2e3d4c5b").out.split())
    assert f"estimate {SPAN}" in page
    assert "took 4 min 52 s, $0.025: within" in page
    assert torg("job", "job-1f2e3d4c5b", "--json").document["estimate"] == told
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(GOOD | {"data": "none"}))
    shown = " ".join(torg("submit", str(tmp_path / "job.yaml"), "--dry-run").out.split())
    for words in (SPAN, "or 4 workers: 1.2 × faster", "so far 9 of 11 estimates held"):
        assert words in shown
