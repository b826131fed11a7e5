"""What a job is expected to take and cost: ranges that hold what they claim, learnt from runs, judged by what came."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.commands import Reading, ReportAttempt, ReportReadings, SubmitJob
from market.estimates import OTHER_HARDWARE, SAME_HARDWARE, outcome_of, range_of, student
from market.experience import CLAIMED, RUNS_OF_ONE, SCORES_TO_JUDGE, WORKS, Experience, Run, Score, work_of
from storage.billing import invoice
from storage.projection import Projection
from storage.tenant_sql import tenant_sql
from storage.tenants import Tenant
from tests.market.scene import USD, Scene, digest, make_spec
from tests.market.test_batch import make_spec as make_command
from tests.storage.books_examples import write

SPEED = {"train_gflops": 20.0}
QUIET = {"matmul_gflops": 0.0}  # nothing measured
DIGITS = {"workload": {"kind": "builtin", "name": "digits"}, "options": {}, "steps": 60, "rounds": 2}
POSITIVE = st.floats(1, 1e9)


def seats(count: int = 4, measured: dict[str, float] | None = None, **more: Any) -> Scene:
    scene = Scene()
    for number in range(1, count + 1):
        scene.offer(f"offer-{number}", f"p{number}", 0.4, measured=SPEED if measured is None else measured, **more)
    return scene


def plan(scene: Scene, by: str = "ann", **changes: Any) -> dict[str, Any]:
    found = scene.exchange.quote(make_spec(**changes), by, scene.now_ms)
    assert isinstance(found, dict), found
    return found


def run(scene: Scene, job: str, *, round_ms: int = 1_000, lose: bool = False, **changes: Any) -> None:
    """A job of two workers and two rounds of 30 steps from submission to its end."""
    scene.submit(job, **{**DIGITS, **changes})
    scene.clear()
    scene.start_all(job)
    slots = [one["slot"] for one in scene.live(job)]
    if lose:
        scene.lose(slots.pop(), "silent", job)
    for number in (1, 2):
        scene.wait(round_ms)
        scene.read(job, **{f"s{slot}": number * round_ms for slot in slots})
        scene.round(number, dict.fromkeys(slots, number * round_ms), job)
        scene.checkpoint(number, job)
    scene.halt("done", job=job)
    assert scene.state(job)[0] == "done"


def run_command(scene: Scene, job: str, took_ms: int, by: str = "ann", **changes: Any) -> None:
    scene.do(SubmitJob(job, make_command(**changes), by))
    scene.clear()
    scene.start_all(job)
    [lease] = scene.live(job)
    scene.wait(took_ms)
    scene.do(ReportReadings(job, 7, (Reading(lease["id"], lease["epoch"], took_ms, 0, 0, 0, 0),), (), (), "plane"))
    scene.do(ReportAttempt(job, 1, lease["id"], lease["epoch"], "exit", 0, None, took_ms, "", None, "plane"))
    scene.halt("done", job=job)


# the rule


@given(st.lists(POSITIVE, min_size=1, max_size=20), st.floats(0.01, 1), st.floats(1, 10))
def test_a_range_holds_its_middle_and_grows_with_doubt(samples: list[float], prior: float, widened: float) -> None:
    found = range_of(samples, prior, widened)
    assert found.low < found.middle < found.high
    assert min(samples) * 0.999 <= found.middle <= max(samples) * 1.001
    assert range_of(samples, prior * 2, widened).half > found.half
    assert range_of(samples, prior, widened + 1).high > found.high
    assert found.half == range_of(samples, prior).half


@given(st.lists(POSITIVE, min_size=1, max_size=20), st.floats(1.01, 100))
def test_what_takes_longer_each_time_is_expected_to(samples: list[float], factor: float) -> None:
    one, other = range_of(samples, 0.15), range_of([sample * factor for sample in samples], 0.15)
    assert other.low > one.low
    assert other.high > one.high
    assert other.high / one.high == pytest.approx(factor)


@pytest.mark.parametrize(
    ("scatter", "runs", "at_least"),
    [(0.05, 1, CLAIMED), (0.15, 1, CLAIMED), (0.15, 5, CLAIMED), (0.15, 16, CLAIMED), (0.4, 16, 0.75), (0.4, 4, 0.6)],
)
def test_ranges_hold_the_truth_as_often_as_they_claim(scatter: float, runs: int, at_least: float) -> None:
    draws = random.Random(1)
    hits = 0
    for _ in range(2_000):
        *seen, truth = (100 * math.exp(draws.gauss(0, scatter)) for _ in range(runs + 1))
        found = range_of(seen, SAME_HARDWARE)
        hits += found.low <= truth <= found.high
    assert hits / 2_000 >= at_least - 0.025, "0.025: what chance allows"


@pytest.mark.parametrize(("freedom", "quantile"), [(2, 1.886), (3, 1.638), (5, 1.476), (10, 1.372), (30, 1.310)])
def test_student_has_the_quantiles_of_the_tables(freedom: int, quantile: float) -> None:
    assert student(freedom) == pytest.approx(quantile, rel=0.004)


def test_misses_widen_ranges_until_they_hold_what_they_claim() -> None:
    """Runs scatter by 60 %, which one earlier run cannot show: judged by what came, ranges still hold four of five."""
    draws, experience, late = random.Random(2), Experience(), 0
    for number in range(600):
        seen, truth = (100 * math.exp(draws.gauss(0, 0.6)) for _ in range(2))
        told = range_of([seen], SAME_HARDWARE, experience.widening())
        within = told.low <= truth <= told.high
        late += within and number >= 100
        experience.judge(Score(f"job-{number}", within, abs(math.log(truth / told.middle)), told.half))
    assert late / 500 > CLAIMED - 0.06
    assert experience.calibration()["widened"] >= 1.0
    never = sum(abs(draws.gauss(0, 0.6 * math.sqrt(2))) < range_of([1.0], SAME_HARDWARE).half for _ in range(500)) / 500
    assert never < 0.5, "without widening they would not"


def test_few_misses_widen_nothing() -> None:
    experience = Experience()
    for number in range(SCORES_TO_JUDGE - 1):
        experience.judge(Score(f"job-{number}", False, 9.0, 0.1))
    assert experience.widening() == 1.0
    experience.judge(Score("job-5", False, 9.0, 0.1))
    assert experience.widening() == 10.0, "and never without bound"


def test_only_the_newest_is_kept() -> None:
    experience = Experience()
    for number in range(WORKS + 1):
        experience.learn(f"work-{number}", Run("job", "cpu", 1, None, 1, 1, 1, 1))
    assert len(experience.runs) == WORKS
    assert "work-0" not in experience.runs
    for _ in range(RUNS_OF_ONE + 1):
        experience.learn("work-1", Run("job", "cpu", 1, None, 1, 1, 1, 1))
    assert len(experience.runs["work-1"]) == RUNS_OF_ONE
    assert list(experience.runs)[-1] == "work-1", "what was seen last goes last"


# the same work

SAME = [
    ({"seed": 9, "steps": 1, "name": "b", "workers__max": 4}, True),
    ({"options": {"size": "10M"}}, False),
    ({"train": {"precision": "bf16"}}, False),
    ({"strategy": {"name": "ddp"}}, False),
    ({"workers__gpus": 2}, False),
]


@pytest.mark.parametrize(("changes", "same"), SAME)
def test_which_work_is_the_same(changes: dict[str, Any], same: bool) -> None:
    assert (work_of(make_spec(), "ann") == work_of(make_spec(**changes), "bob")) is same


def test_own_code_and_commands_are_known_to_their_customer_alone() -> None:
    own = make_spec(workload={"kind": "file", "digest": digest("a"), "class_name": "A", "filename": "a.py"})
    again = make_spec(workload={"kind": "file", "digest": digest("a"), "class_name": "A", "filename": "b.py"})
    other = make_spec(workload={"kind": "file", "digest": digest("b"), "class_name": "A", "filename": "a.py"})
    assert work_of(own, "ann") == work_of(again, "ann")
    assert len({work_of(own, "ann"), work_of(own, "bob"), work_of(other, "ann")}) == 3
    commands = [make_command(), make_command(argv=["python", "other.py"])]
    assert len({work_of(one, who) for one in commands for who in ("ann", "bob")}) == 4


# on the market


def test_what_nobody_has_run_is_not_estimated_and_the_first_run_is_measured() -> None:
    scene = seats(measured=QUIET)
    first = plan(scene, **DIGITS)
    assert (first["estimate"], first["alternatives"], first["expected_s"]) == (None, [], None)
    run(scene, "job-1")
    assert scene.view("job-1")["estimate"] is None
    found = plan(scene, **DIGITS)["estimate"]
    assert (found["basis"], found["runs"], found["gpu"], found["workers"]) == ("runs", 1, "cpu", 2)
    assert found["low_ms"] < found["middle_ms"] == 2_000 < found["high_ms"] < 2 * 2_000
    assert found["middle_nanos"] == pytest.approx(2 * 0.4 * USD * 2_000 / 3_600_000, rel=0.01)


def test_more_work_takes_longer_and_costs_more() -> None:
    scene = seats(measured=QUIET)
    run(scene, "job-1")
    told = [plan(scene, **{**DIGITS, "steps": 60 * times, "rounds": 2 * times})["estimate"] for times in (1, 2, 10)]
    for name in ("low_ms", "middle_ms", "high_ms", "low_nanos", "middle_nanos", "high_nanos"):
        values = [one[name] for one in told]
        assert values == sorted(set(values))
    assert told[2]["middle_ms"] == pytest.approx(20_000, rel=0.01)


def test_estimates_are_kept_and_compared_with_what_came() -> None:
    scene = seats(measured=QUIET)
    run(scene, "job-1")
    run(scene, "job-2", round_ms=1_100)
    run(scene, "job-3", round_ms=9_000)
    kept = {event["job"]: event for event in scene.of_type("job_estimated")}
    assert list(kept) == ["job-2", "job-3"]
    good, bad = (scene.view(job)["estimate"] for job in kept)
    assert good["middle_ms"] == kept["job-2"]["middle_ms"] == 2_000
    assert good["outcome"] == {
        "took_ms": 2_200, "cost_nanos": scene.view("job-2")["billed_nanos"],
        "within_time": True, "within_cost": True, "error_share": 0.1,
    }  # fmt: skip
    assert (bad["outcome"]["within_time"], bad["outcome"]["within_cost"]) == (False, False)
    judged = scene.exchange.totals()["calibration"]
    assert (judged["estimates"], judged["within_share"], judged["claimed_share"]) == (2, 0.5, CLAIMED)
    assert plan(scene)["calibration"] == judged
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()
    assert scene.exchange.fingerprint()["experience"]["scores"]


def test_a_job_that_goes_on_has_no_outcome_yet() -> None:
    scene = seats(measured=QUIET)
    run(scene, "job-1")
    scene.submit("job-2", **DIGITS)
    scene.clear()
    assert scene.view("job-2")["estimate"]["outcome"] is None
    assert plan(scene)["calibration"]["within_share"] is None


def test_a_run_that_lost_a_worker_teaches_nothing_and_is_judged_all_the_same() -> None:
    scene = seats(measured=QUIET)
    run(scene, "job-1")
    run(scene, "job-2", lose=True)
    assert scene.view("job-2")["estimate"]["outcome"] is not None
    assert plan(scene, **DIGITS)["estimate"]["runs"] == 1


def test_another_gpu_is_estimated_by_measured_speeds_and_with_more_doubt() -> None:
    scene = seats(2)
    run(scene, "job-1")
    for number in (3, 4):
        scene.offer(f"offer-{number}", f"p{number}", 0.9, gpu="L4", measured={"train_gflops": 40.0})
    found = plan(scene, **DIGITS, workers__gpu=["L4"])["estimate"]
    assert (found["basis"], found["gpu"], found["middle_ms"]) == ("other_gpu", "L4", 1_000)
    assert found["half"] == pytest.approx(range_of([1.0], OTHER_HARDWARE).half, rel=1e-5)
    other = next(one for one in plan(scene, **DIGITS)["alternatives"] if one["gpu"] == "L4")
    assert (other["workers"], other["same"], other["time_ratio"]) == (2, "job", 0.5)
    assert other["price_ratio"] == pytest.approx(0.9 / 0.4 / 2, rel=0.01)


def test_other_numbers_of_workers_read_the_same_data_where_no_study_says_more() -> None:
    scene = seats(measured=QUIET)
    run(scene, "job-1")
    found = plan(scene, **DIGITS)["alternatives"]
    assert [(one["workers"], one["same"]) for one in found] == [(1, "data"), (4, "data")]
    assert [one["time_ratio"] for one in found] == [2.0, 0.5]
    assert [one["price_ratio"] for one in found] == pytest.approx([1.0, 1.0], rel=0.01)


def test_other_numbers_of_workers_reach_the_same_loss_where_that_was_measured() -> None:
    found = {one["workers"]: one for one in plan(seats())["alternatives"]}
    assert found[1]["same"] == found[4]["same"] == "loss"
    share = math.sqrt(0.82 * 0.86)
    assert found[1]["time_ratio"] == pytest.approx(1 / share, rel=0.05)
    assert found[1]["price_ratio"] == pytest.approx(1 / share / 2, rel=0.05)


def test_measured_hardware_alone_gives_a_wide_range_around_what_was_expected() -> None:
    found = plan(seats())
    told = found["estimate"]
    assert (told["basis"], told["runs"]) == ("hardware", 0)
    assert told["middle_ms"] == round(1_000 * found["expected_s"])
    assert told["high_ms"] > 2.5 * told["middle_ms"]


def test_a_command_is_estimated_from_its_earlier_runs_by_the_same_customer() -> None:
    scene = seats(1, measured=QUIET)
    quote = lambda by: scene.exchange.quote(make_command(), by, scene.now_ms)  # noqa: E731
    assert quote("ann")["estimate"] is None
    for number, took_ms in enumerate((60_000, 62_000, 58_000), 1):
        run_command(scene, f"job-{number}", took_ms)
    told = quote("ann")["estimate"]
    assert (told["basis"], told["runs"]) == ("runs", 3)
    assert told["middle_ms"] == pytest.approx(60_000, rel=0.01)
    assert told["low_ms"] > 45_000
    assert quote("bob")["estimate"] is None
    assert [event["job"] for event in scene.of_type("job_estimated")] == ["job-2", "job-3"]
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()


def test_who_waits_for_machines_that_are_let_is_estimated_as_if_they_were_free() -> None:
    scene = seats(2, measured=QUIET)
    run(scene, "job-1")
    scene.submit("job-2", **DIGITS)
    scene.clear()
    assert plan(scene, **DIGITS)["estimate"] is None
    scene.submit("job-3", **DIGITS)
    waiting, idle = scene.view("job-3")["estimate"], scene.view("job-2")["estimate"]
    assert (waiting["basis"], waiting["middle_ms"], waiting["workers"]) == (idle["basis"], idle["middle_ms"], 2)
    scene.submit("job-4", **DIGITS | {"workers": {**scene.view("job-3")["spec"]["workers"], "min": 3, "max": 3}})
    assert scene.view("job-4")["estimate"] is None  # so many there are not


@given(st.integers(1, 10**6), st.integers(0, 10**9))
def test_the_outcome_says_on_which_side_it_fell(took_ms: int, cost_nanos: int) -> None:
    told = {"low_ms": 900, "middle_ms": 1_000, "high_ms": 1_100, "low_nanos": 50, "middle_nanos": 60, "high_nanos": 70}
    found = outcome_of(told, took_ms, cost_nanos)
    assert found["within_time"] is (900 <= took_ms <= 1_100)
    assert found["within_cost"] is (50 <= cost_nanos <= 70)
    assert found["error_share"] == round(took_ms / 1_000 - 1, 4)


def test_the_books_tell_of_estimates_as_the_market_does(tmp_path: Path) -> None:
    scene = seats(measured=QUIET)
    run(scene, "job-1")
    run(scene, "job-2", round_ms=9_000)
    scene.submit("job-3", **DIGITS)
    write(tmp_path / "journal", scene.records)
    sql = "SELECT job, runs, took_ms, within_time, within_cost FROM estimates ORDER BY job"
    with Projection.in_memory(tmp_path / "journal") as books, books.cursor() as cursor:
        rows = [tenant_sql(cursor, Tenant(*who), sql) for who in (("ann", "customer"), ("p1", "provider"))]
        bills = [invoice(cursor, Tenant("ann", "customer"), f"job-{number}") for number in (1, 2, 3)]
    assert [one["rows"] for one in rows if isinstance(one, dict)] == [
        [["job-2", 1, 18_000, False, False], ["job-3", 2, None, None, None]], [],
    ]  # fmt: skip
    told = scene.view("job-2")["estimate"]
    assert isinstance(bills[1], dict)
    shared = bills[1]["estimate"].keys() & told.keys() - {"outcome"}
    assert {name: bills[1]["estimate"][name] for name in shared} == {name: told[name] for name in shared}
    assert bills[1]["estimate"]["outcome"].items() <= told["outcome"].items()
    assert [isinstance(bill, dict) and bill["estimate"] is None for bill in bills] == [True, False, False]
    assert isinstance(bills[2], dict)
    assert bills[2]["estimate"]["outcome"] is None
