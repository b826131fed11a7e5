"""`torg submit`: what is wrong with a job file, the plan, the question, the upload."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import Torg
from tests.cli.fake_market import Asked, FakeMarket, problem, stream
from tests.cli.samples import job, state

GOOD: dict[str, Any] = {
    "name": "mine",
    "workload": "byte_lm",
    "data": "./text",
    "steps": 24,
    "strategy": {"name": "diloco", "inner_steps": 12, "codec": "int8"},
    "workers": {"min": 1, "max": 2, "gpu": ["cpu"]},
    "limits": {"max_usd_per_gpu_hour": 0.9, "budget_usd": 1.0},
}
PLAN = {
    "feasible": True, "reason": None, "detail": "", "relaxations": [], "expected_s": 61.0, "expected_cost_nanos": 15_000_000,
    "estimate": {"basis": "runs", "runs": 2, "gpu": "cpu", "workers": 1, "claimed": 0.8, "low_ms": 50_000, "high_ms": 72_000,
                 "low_nanos": 12_000_000, "high_nanos": 18_000_000},
    "candidates": [{"offer": "offer-1", "provider": "aurora", "gpu": "cpu", "gpus": 1, "region": "eu",
                    "price_nanos_per_gpu_hour": 300_000_000}],
}  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("to be or not to be\n" * 50)
    made = tmp_path / "job.yaml"
    made.write_text(yaml.safe_dump(GOOD))
    return made


@pytest.fixture
def open_market(market: FakeMarket) -> FakeMarket:
    held: set[str] = set()

    def blob(asked: Asked) -> tuple[int, object]:
        if asked.method == "PUT":
            held.add(asked.path)
            return 201, {}
        return (200, {}) if asked.path in held else (404, {})

    class Routes(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            return blob if "/v1/blobs/" in key else super().get(key, default)

    market.routes = Routes(
        {
            "POST /v1/quotes": (200, PLAN),
            "POST /v1/jobs": lambda asked: (201, job(asked.body["id"], state="pending")),
        }
    )
    return market


MISTAKES = [
    # what is changed                                               the line names
    ({"stepz": 3},                                                  ["stepz", "did you mean steps?"]),
    ({"limits": {"budget_usd": 1, "max_usd_per_hour": 1}},          ["max_usd_per_hour", "max_usd_per_gpu_hour"]),
    ({"limits": {"budget_usd": "5 EUR", "max_usd_per_gpu_hour": 1}}, ["limits.budget_usd", "5 EUR"]),
    ({"limits": {"budget_usd": 1, "max_usd_per_gpu_hour": 0}},      ["limits.max_usd_per_gpu_hour", "allowed"]),
    ({"limits": {"budget_usd": 1, "max_usd_per_gpu_hour": -1}},     ["limits.max_usd_per_gpu_hour", "-1"]),
    ({"limits": {"budget_usd": 1, "max_usd_per_gpu_hour": float("nan")}}, ["limits.max_usd_per_gpu_hour", "nan"]),
    ({"limits": {"budget_usd": 1, "max_usd_per_gpu_hour": 1e9}},    ["limits.max_usd_per_gpu_hour", "1000"]),
    ({"workload": "bite_lm"},                                       ["bite_lm", "byte_lm"]),
    ({"workload": "./nothing.py:Mine"},                             ["nothing.py"]),
    ({"workload": "./broken.py:Mine"},                              ["not Python"]),
    ({"workload": "./fine.py:Mein"},                                ["no class Mein", "Mine"]),
    ({"data": "./nowhere"},                                         ["nowhere", "does not exist"]),
    ({"data": "./empty"},                                           ["empty"]),
    ({"workers": {"min": 3, "max": 2}},                             ["min is 3"]),
    ({"workers": {"gpu": ["A1000000"]}},                            ["A1000000"]),
    ({"strategy": {"codec": "int9"}},                               ["int9", "int8"]),
    ({"steps": "many"},                                             ["steps", "many"]),
    ({"name": "two words"},                                         ["two words"]),
]  # fmt: skip


@pytest.mark.parametrize(("changed", "named"), MISTAKES, ids=[json.dumps(row[0]) for row in MISTAKES])
def test_a_mistake_in_the_file_is_named(
    torg: Torg, open_market: FakeMarket, file: Path, changed: dict[str, Any], named: list[str]
) -> None:
    (file.parent / "broken.py").write_text("class Mine(:\n")
    (file.parent / "fine.py").write_text("class Mine:\n    pass\n")
    (file.parent / "empty").mkdir()
    file.write_text(yaml.safe_dump(GOOD | changed))
    ran = torg("submit", str(file), "-y", "--json")
    assert ran.code == 2
    assert ran.err.count("\n") == 1
    assert [part for part in named if part not in ran.err] == []
    assert ran.document["error"]["code"] == "bad_job_file"
    assert open_market.asked == []


@pytest.mark.parametrize("text", ["", "- a list", "{broken", "\x00"])
def test_a_file_that_is_no_job_file(torg: Torg, file: Path, text: str) -> None:
    file.write_text(text)
    assert torg("submit", str(file), "-y").code == 2
    assert torg("submit", str(file.with_name("missing.yaml")), "-y").code == 2


def test_submit_uploads_what_the_spec_names_and_keeps_the_id(torg: Torg, open_market: FakeMarket, file: Path) -> None:
    ran = torg("submit", str(file), "-y", "--json", "--id", "job-mine")
    assert ran.code == 0
    assert ran.document["id"] == "job-mine"
    sent = open_market.last("POST", "/v1/jobs").body
    assert sent["id"] == "job-mine"
    assert open_market.last("POST", "/v1/quotes").body["spec"] == sent["spec"]
    uploads = [one.path.rsplit("/", 1)[1] for one in open_market.asked if one.method == "PUT"]
    assert uploads == [sent["spec"]["data"]["digest"]]


def test_code_travels_by_its_digest(torg: Torg, open_market: FakeMarket, file: Path) -> None:
    (file.parent / "mine.py").write_text("class Mine:\n    pass\n")
    file.write_text(yaml.safe_dump(GOOD | {"workload": "./mine.py:Mine", "data": "none"}))
    assert torg("submit", str(file), "-y").code == 0
    workload = open_market.last("POST", "/v1/jobs").body["spec"]["workload"]
    assert (workload["kind"], workload["class_name"], workload["filename"]) == ("file", "Mine", "mine.py")
    assert [one.path.rsplit("/", 1)[1] for one in open_market.asked if one.method == "PUT"] == [workload["digest"]]


def test_the_plan_is_shown_and_nothing_is_sent_by_a_dry_run(torg: Torg, open_market: FakeMarket, file: Path) -> None:
    ran = torg("submit", str(file), "--dry-run")
    assert ran.code == 0
    for part in ("1 to 2 of 1 × cpu", "$0.90 per GPU-hour", "50 s to 72 s for $0.012 to $0.018", "aurora",
                 "a checkpoint every round, the newest 3\n", "loss measured every round, and at the end"):  # fmt: skip
        assert part in ran.out
    assert [one.path for one in open_market.asked] == ["/v1/quotes"]
    assert torg("submit", str(file), "--dry-run", "--json").document["plan"] == PLAN


def test_the_plan_says_what_the_link_must_do_and_how_one_machine_alone_would_fare(
    torg: Torg, open_market: FakeMarket, file: Path
) -> None:
    sentence = "2 workers by diloco reach in 61 s what one machine alone reaches in 70 s, for 1.74 times its price"
    against = {
        "workers": 2,
        "hours_ratio": [0.87, 0.87],
        "dollars_ratio": [1.74, 1.74],
        "measured_on": "x",
        "alike": True,
    }
    plan = PLAN | {
        "strategy": "diloco", "sent_bytes_per_worker_round": 1_000_000, "sent_bytes_per_worker_hour": None,
        "needed_bits_per_second": 4_110_000, "against_alone": against, "advice": [sentence],
    }  # fmt: skip
    open_market.routes["POST /v1/quotes"] = (200, plan)
    shown = " ".join(torg("submit", str(file), "--dry-run").out.split())
    assert "each worker sends about 1.00 MB a round; at most 10 % of the time from 4.2 Mbit/s on" in shown
    assert f"advice {sentence}" in shown
    assert torg("submit", str(file), "--dry-run", "--json").document["plan"]["against_alone"] == against
    open_market.routes["POST /v1/quotes"] = (200, plan | {"needed_bits_per_second": None, "advice": []})
    silent = torg("submit", str(file), "--dry-run").out
    assert "of the time" not in silent
    assert "advice" not in silent


def test_the_plan_says_what_is_kept_and_when_is_measured(torg: Torg, open_market: FakeMarket, file: Path) -> None:
    more = {"strategy": {"name": "ddp"}, "checkpoint": {"every_rounds": 5}, "evaluate": {"every_seconds": 90}}
    file.write_text(yaml.safe_dump(GOOD | more))
    ran = torg("submit", str(file), "--dry-run")
    assert "a checkpoint every 5 rounds, the newest 3, with the inner optimiser's state" in ran.out
    assert "loss measured every 90 s at a round's end, and at the end" in ran.out


def test_the_plan_says_where_a_schedule_of_inner_steps_turns(torg: Torg, open_market: FakeMarket, file: Path) -> None:
    strategy = {"name": "diloco", "inner_steps": 10, "inner_steps_later": 20, "later_from": 0.5}
    file.write_text(yaml.safe_dump(GOOD | {"strategy": strategy, "steps": 120}))
    shown = " ".join(torg("submit", str(file), "--dry-run").out.split())
    assert "120 steps in 9 rounds of 10 steps, 20 from step 60 on" in shown


def test_a_plan_that_cannot_be_is_exit_3(torg: Torg, open_market: FakeMarket, file: Path) -> None:
    never = PLAN | {
        "feasible": False,
        "reason": "price_too_low",
        "detail": "the price is too low",
        "relaxations": ["raise it"],
    }
    open_market.routes["POST /v1/quotes"] = (200, never)
    ran = torg("submit", str(file), "--dry-run")
    assert ran.code == 3
    assert "the price is too low" in ran.out
    assert "raise it" in ran.out


def test_nobody_to_ask_means_no_job(torg: Torg, open_market: FakeMarket, file: Path) -> None:
    ran = torg("submit", str(file))
    assert ran.code == 2
    assert "-y" in ran.err
    assert "/v1/jobs" not in [one.path for one in open_market.asked]


def test_the_markets_refusal_is_exit_3(torg: Torg, open_market: FakeMarket, file: Path) -> None:
    open_market.routes["POST /v1/jobs"] = problem(
        402, "insufficient_funds", "the wallet holds 0 USD", "limits.budget_usd", "deposit"
    )
    ran = torg("submit", str(file), "-y", "--json")
    assert ran.code == 3
    assert ran.document["error"]["field"] == "limits.budget_usd"


def test_an_empty_wallet_is_told_before_anything_is_uploaded(torg: Torg, open_market: FakeMarket, file: Path) -> None:
    refusal = {"code": "insufficient_funds", "message": "the wallet holds 0.40 USD", "field": "limits.budget_usd",
               "remedy": "deposit 0.60 USD more", "status": 402}  # fmt: skip
    poor = {"feasible": False, "reason": refusal["code"], "detail": refusal["message"], "refusal": refusal}
    open_market.routes["POST /v1/quotes"] = (200, PLAN | poor | {"relaxations": [refusal["remedy"]]})
    ran = torg("submit", str(file), "-y")
    assert ran.code == 3
    assert ran.err == "torg: limits.budget_usd: the wallet holds 0.40 USD (deposit 0.60 USD more)\n"
    told = [line.split(None, 1) for line in ran.out.splitlines()]
    assert ["refused", "the wallet holds 0.40 USD"] in told
    assert "would help deposit 0.60 USD more" in ran.out
    assert "no match" not in ran.out
    assert not [one.path for one in open_market.asked if one.method == "PUT" or one.path == "/v1/jobs"]
    open_market.routes["GET /v1/jobs/job-mine"] = (200, job("job-mine"))
    assert torg("submit", str(file), "-y", "--id", "job-mine").code == 0, "the same id again is the job that is there"
    assert torg("submit", str(file), "--dry-run").code == 3


def test_a_plan_says_what_spending_limits_leave_and_what_it_waits_for(
    torg: Torg, open_market: FakeMarket, file: Path
) -> None:
    limit = {"of": "team", "name": "bio", "period": "month", "limit_nanos": 6_000_000_000, "billed_nanos": 0,
             "held_nanos": 5_000_000_000, "left_nanos": 1_000_000_000, "ends_ms": 1_798_761_600_000}  # fmt: skip
    busy = {"feasible": False, "reason": "busy", "detail": "offers that would fit are busy; it would wait", "limits": [limit]}
    open_market.routes["POST /v1/quotes"] = (200, PLAN | busy | {"refusal": None})
    ran = torg("submit", str(file), "--dry-run")
    assert "limit     team bio may spend $6.00 a month: $1.00 are left until 2027-01-01 00:00 UTC" in ran.out
    assert "no match  offers that would fit are busy; it would wait" in ran.out


def test_follow_ends_as_the_job_does(torg: Torg, open_market: FakeMarket, file: Path) -> None:
    open_market.routes["GET /v1/jobs/job-mine"] = (200, job("job-mine", state="failed"))
    open_market.routes["GET /v1/jobs/job-mine/events"] = stream(state("failed", "loss is NaN"))
    ran = torg("submit", str(file), "-y", "--follow", "--id", "job-mine")
    assert ran.code == 1
    assert "loss is NaN" in ran.out


@pytest.mark.parametrize("path", sorted(Path("examples").glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_is_a_job(torg: Torg, open_market: FakeMarket, path: Path) -> None:
    assert torg("submit", str(path), "--dry-run").code == 0


def test_the_first_example_is_the_one_that_the_readme_promises() -> None:
    first = yaml.safe_load(sorted(Path("examples").glob("*.yaml"))[0].read_text())
    assert first["steps"] // first["strategy"]["inner_steps"] >= 12
    assert (first["workers"]["min"], first["workers"]["gpu"], first["limits"]["max_usd_per_gpu_hour"]) == (
        2,
        ["cpu"],
        0.9,
    )
