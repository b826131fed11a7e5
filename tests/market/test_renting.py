"""What a plan says of several machines against one alone (market/renting.py), and of the links that they need."""

from __future__ import annotations

from typing import Any

import pytest

from market.renting import STUDIES, Study, against_alone, sentence
from market.speeds import parameters_of, tokens_per_step
from market.traffic import FRAMING, format_speed, needed_bits_per_second
from tests.market.scene import Scene, digest, make_spec
from trainers.options import STRATEGIES
from trainers.workloads.options import WORKLOADS

MILLION = 1e6
SMALL = Study("byte_lm", "100k", 768, 600, 30, 3, {"diloco": {2: (0.5, 0.6)}})
LARGE = Study(
    "byte_lm", "10M", 3072, 900, 30, 2, {"diloco": {2: (0.55, 0.55)}, "ddp": {4: (0.3, 0.35)}}, {"ddp": "codec bf16"}
)


def test_points_are_ratios_to_the_lone_machine_with_their_conditions() -> None:
    found = against_alone("diloco", 2, 1e5, 768, [SMALL, LARGE])
    assert found == {
        "workers": 2, "hours_ratio": [0.5, 0.6], "dollars_ratio": [1.0, 1.2], "alike": True,
        "measured_on": "byte_lm 100k, 768 tokens a step, 600 steps alone, rounds of 30, 3 seeds",
    }  # fmt: skip


def test_conditions_name_the_options_of_the_strategy_that_is_meant() -> None:
    found = against_alone("ddp", 4, 1e7, 3072, [SMALL, LARGE])
    assert found is not None
    assert found["measured_on"] == (
        "byte_lm 10M, 3,072 tokens a step, 900 steps alone, rounds of 30, codec bf16, 2 seeds"
    )
    assert "bf16" not in LARGE.conditions("diloco")


UNMEASURED = [("diloco", 1), ("diloco", 3), ("diloco", 4), ("ddp", 2), ("ddp", 8), ("noloco", 2)]


@pytest.mark.parametrize(("strategy", "workers"), UNMEASURED)
def test_nothing_is_said_of_what_was_not_measured(strategy: str, workers: int) -> None:
    assert against_alone(strategy, workers, 1e5, 768, [SMALL, LARGE]) is None


NEAREST = [
    # parameters, tokens a step, by which study, alike
    (1e5, 768, SMALL, True),
    (2e5, 3072, SMALL, True),
    (2e5, 6000, SMALL, False),
    (5e6, 3072, LARGE, True),
    (1e7, 768, LARGE, True),
    (1e9, 3072, LARGE, False),
]


@pytest.mark.parametrize(("parameters", "tokens", "study", "alike"), NEAREST)
def test_the_study_of_the_job_most_like_this_one_is_taken(
    parameters: float, tokens: int, study: Study, alike: bool
) -> None:
    found = against_alone("diloco", 2, parameters, tokens, [SMALL, LARGE])
    assert found is not None
    assert (found["measured_on"], found["alike"]) == (study.conditions("diloco"), alike)


def said(low: float, high: float, expected_ms: int | None = 3_600_000, workers: int = 2, **changed: Any) -> str:
    found = {
        "workers": workers, "hours_ratio": [low, high], "dollars_ratio": [low * workers, high * workers],
        "measured_on": "this and that", "alike": True,
    } | changed  # fmt: skip
    return sentence(found, "diloco", 800, expected_ms, "4 Mbit/s")


def test_hours_and_dollars_are_said_in_one_sentence_with_link_and_conditions() -> None:
    assert said(0.5, 0.6) == (
        "2 workers by diloco reach in 60 min 00 s what one machine alone reaches in 1 h 40 min to 2 h 00 min, for 1.00 to "
        "1.20 times its price, over links from 4 Mbit/s on (measured on this and that; docs/PROTOCOLS.md)"
    )
    assert "what one machine alone reaches in 2 h 00 min, for 1.00 times its price" in said(0.5, 0.5)
    assert "reach a loss in 0.50 to 0.60 of the time of one machine alone, for 1.00 to 1.20" in said(0.5, 0.6, None)


ALONE = "one machine alone is"
PLAIN = [
    # hours ratio     workers  what is said of one machine alone
    ((0.5, 0.6),      2,       None),
    ((0.79, 0.8),     2,       None),
    ((0.8, 0.8),      2,       "nearly as fast and cheaper: workers.min 1, workers.max 1, steps 1000"),
    ((0.9, 1.04),     2,       "nearly as fast and cheaper"),
    ((0.9, 1.1),      2,       "no slower and cheaper: workers.min 1, workers.max 1, steps 800"),
    ((1.2, 1.3),      4,       "no slower and cheaper: workers.min 1, workers.max 1, steps 640"),
    ((0.3, 0.4),      4,       None),
]  # fmt: skip


@pytest.mark.parametrize(("hours", "workers", "alone"), PLAIN)
def test_where_one_machine_alone_is_the_better_choice_it_is_said(
    hours: tuple[float, float], workers: int, alone: str | None
) -> None:
    text = said(*hours, workers=workers)
    assert (ALONE in text) == (alone is not None)
    assert alone is None or f"{ALONE} {alone}" in text


def test_a_job_unlike_what_was_measured_gets_figures_and_no_choice() -> None:
    text = said(0.9, 0.9, alike=False)
    assert ALONE not in text
    assert "(measured on a job unlike this one: this and that;" in text


def test_the_table_holds_points_that_can_be() -> None:
    assert STUDIES
    for study in STUDIES:
        assert study.workload in WORKLOADS
        assert study.distance(1e6, 768) >= 0
        for strategy, points in study.steps_ratios.items():
            assert strategy in STRATEGIES
            for workers, (low, high) in points.items():
                assert workers > 1
                assert 1 / (2 * workers) < low <= high < 10


def square(workers: int, **measured: float) -> Scene:
    scene = Scene()
    for number in range(1, workers + 1):
        scene.offer(f"offer-{number}", f"p{number}", 0.4, measured=measured)
    return scene


def plan(scene: Scene, **changes: Any) -> dict[str, Any]:
    found = scene.exchange.quote(make_spec(**changes), "ann", scene.now_ms)
    assert isinstance(found, dict), found
    return found


POINTS = [
    (strategy, workers) for study in STUDIES for strategy, points in study.steps_ratios.items() for workers in points
]


@pytest.mark.parametrize(("strategy", "workers"), sorted(set(POINTS)))
def test_a_plan_says_every_point_that_was_measured(strategy: str, workers: int) -> None:
    changes = {"strategy": {"name": strategy}, "workers__min": workers, "workers__max": workers}
    found = plan(square(workers, train_gflops=20.0), **changes)
    assert found["against_alone"] == against_alone(strategy, workers, MILLION, 768)
    assert found["against_alone"]["workers"] == workers
    text = found["advice"][-1]
    assert text.startswith(f"{workers} workers by {strategy} reach in ")
    assert f"over links from {format_speed(found['needed_bits_per_second'])} on" in text
    assert found["against_alone"]["measured_on"] in text


def test_the_link_is_worked_out_from_the_plans_own_step_and_bytes() -> None:
    found = plan(square(2, train_gflops=20.0))
    step_s = 6 * MILLION * 768 / 20e9
    assert found["needed_bits_per_second"] == pytest.approx(FRAMING * 8 * MILLION / (30 * step_s / 9), rel=1e-6)
    slower = plan(square(2, train_gflops=5.0))
    assert slower["needed_bits_per_second"] == pytest.approx(found["needed_bits_per_second"] / 4, rel=1e-3)


NOTHING_SAID = [
    {"workers__min": 1, "workers__max": 1},
    {"strategy": {"name": "fedavg"}},
    {"workload": {"kind": "builtin", "name": "digits"}, "options": {}},
    {
        "workload": {"kind": "file", "digest": digest("code"), "class_name": "Mine", "filename": "mine.py"},
        "options": {},
    },
]


@pytest.mark.parametrize("changes", NOTHING_SAID)
def test_a_plan_is_silent_of_one_worker_other_strategies_and_other_workloads(changes: dict[str, Any]) -> None:
    found = plan(square(2, train_gflops=20.0), **changes)
    assert found["feasible"] is True
    assert found["against_alone"] is None
    assert [line for line in found["advice"] if "alone" in line] == []


def test_a_plan_without_known_speeds_has_ratios_and_no_times() -> None:
    found = plan(square(2))
    assert found["needed_bits_per_second"] is None
    assert found["against_alone"] is not None
    assert "of the time of one machine alone" in found["advice"][-1]
    assert "over links" not in found["advice"][-1]


def test_tokens_of_a_step_are_those_of_one_worker_with_all_its_processes() -> None:
    spec = make_spec(options={"size": "1M", "context": 64, "batch": 4}, train={"accumulate": 3, "processes": 2})
    assert (parameters_of(spec), tokens_per_step(spec)) == (MILLION, 64 * 4 * 6)


LINKS = [
    # strategy                                                                     a round in seconds, hidden seconds
    ({"name": "diloco", "inner_steps": 30},                                        15, 0),
    ({"name": "ddp", "inner_steps": 10},                                           5, 0),
    ({"name": "streaming_diloco", "inner_steps": 30, "fragments": 3, "overlap_steps": 4}, 5, 2),
]  # fmt: skip


@pytest.mark.parametrize(("strategy", "round_s", "hidden_s"), LINKS)
def test_at_the_needed_speed_an_exchange_takes_a_tenth_of_the_time(
    strategy: dict[str, Any], round_s: float, hidden_s: float
) -> None:
    needed = needed_bits_per_second(strategy, MILLION, 0.5)
    assert needed is not None
    waits_s = FRAMING * 8 * MILLION / needed - hidden_s
    assert waits_s / (round_s + waits_s) == pytest.approx(0.1, rel=1e-4)
    assert needed_bits_per_second(strategy, 0, 0.5) is None


@pytest.mark.parametrize(
    ("bits", "text"),
    [(339_100, "340 kbit/s"), (1_000_000, "1 Mbit/s"), (1_100_000, "1.1 Mbit/s"), (4_110_000, "4.2 Mbit/s"), (571e6, "571 Mbit/s"), (1.21e9, "1.3 Gbit/s"),
     (800, "0.8 kbit/s")],
)  # fmt: skip
def test_speeds_are_rounded_up(bits: float, text: str) -> None:
    assert format_speed(bits) == text
