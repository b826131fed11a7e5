"""The plan of a job before it is submitted (market/quotes.py): who, how long, how much, or why nobody."""

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest

from market.advice import advice
from market.commands import MoveMember, SetLimits, SetTeam, StopMarket, SubmitJob, SuspendMember
from market.outcomes import Refusal
from market.quotes import expected_sent_bytes
from market.speeds import expected_job_ms, flops_per_second, flops_per_step, parameters_of
from storage.units import charge_nanos
from tests.market.scene import USD, Scene, digest, make_spec

SPEED = {"train_gflops": 20.0}


def plan(scene: Scene, by: str = "ann", **changes: Any) -> dict[str, Any]:
    found = scene.exchange.quote(make_spec(**changes), by, scene.now_ms)
    assert not isinstance(found, Refusal), found
    return found


def square() -> Scene:
    """Three machines of one core for 0.4, 0.5 and 0.6 dollars an hour."""
    scene = Scene()
    for number, usd in enumerate((0.4, 0.5, 0.6), 1):
        scene.offer(f"offer-{number}", f"p{number}", usd, measured=SPEED)
    return scene


def test_a_feasible_plan_seats_the_cheapest_and_adds_up() -> None:
    scene = square()
    events = len(scene.events)
    found = plan(scene, options={"size": "1M", "context": 128, "batch": 6})
    assert (found["feasible"], found["reason"], found["relaxations"]) == (True, None, [])
    assert [one["offer"] for one in found["candidates"]] == ["offer-1", "offer-2"]
    assert (found["workers"], found["workers_min"], found["workers_max"]) == (2, 2, 2)
    assert found["price_nanos_per_hour"] == 9 * USD // 10
    assert found["price_nanos_per_gpu_hour"] == USD // 2, "the dearest seat"
    assert found["budget_lasts_s"] == 20_000
    training_s = 600 * 6 * 1e6 * 128 * 6 / 20e9
    assert training_s < found["expected_s"] < training_s + 3 + 20 * 0.5, "and a little for the start and each round"
    assert found["expected_cost_nanos"] == charge_nanos(9 * USD // 10, 1, round(found["expected_s"] * 1000))
    assert found["budget_covers"] is True
    assert len(scene.events) == events, "a quote changes nothing"


# What is asked or offered                                            the reason           what would help
WHY_NOT = [
    ({"limits__max_price_nanos_per_gpu_hour": 3 * USD // 10},         "price_too_low",     ["limits.max_usd_per_gpu_hour 0.50"]),
    ({"workers__min": 5, "workers__max": 5},                          "gang_too_big",      ["workers.min 3"]),
    ({"workers__gpu": ["A100"]},                                      "gpu_model",         ["workers.gpu also cpu"]),
    ({"workers__vram_gib": 80},                                       "vram_too_small",    ["workers.vram_gib 4"]),
    ({"workers__region": ["mars"]},                                   "region",            ["workers.region also eu"]),
    ({"workers__gpus": 2},                                            "offer_too_small",   ["workers.gpus 1"]),
    ({"data": {"kind": "share", "name": "books"}},                    "share_missing",     []),
    ({"limits__budget_nanos": USD // 1000},                           "budget_too_small",  ["0.014 USD more budget"]),
    ({"limits__budget_nanos": 200 * USD},                             "insufficient_funds", ["deposit 100.00 USD more, or lower the budget"]),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "reason", "helps"), WHY_NOT, ids=[row[1] for row in WHY_NOT])
def test_a_plan_that_cannot_be_says_why_and_what_would_help(
    changes: dict[str, Any], reason: str, helps: list[str]
) -> None:
    found = plan(square(), **changes)
    assert (found["feasible"], found["reason"], found["relaxations"]) == (False, reason, helps)
    assert found["detail"]


def test_a_share_that_nobody_has_is_answered_with_those_that_are_offered() -> None:
    scene = square()
    scene.offer("offer-4", "p4", 0.5, shares=("corpus",))
    found = plan(scene, data={"kind": "share", "name": "books"})
    assert (found["reason"], found["relaxations"]) == ("share_missing", ["data share:corpus"])


def test_busy_machines_are_waited_for() -> None:
    scene = square()
    scene.submit()
    scene.clear()
    found = plan(scene)
    assert (found["feasible"], found["reason"]) == (False, "busy")
    assert found["detail"].endswith("it would wait")
    assert found["expected_s"] is None
    assert found["candidates"] == []


def test_an_empty_market_and_an_empty_wallet() -> None:
    assert plan(Scene())["reason"] == "no_offers"
    poor = plan(square(), by="bob")
    assert (poor["reason"], poor["wallet_nanos"]) == ("insufficient_funds", 0)
    assert len(poor["candidates"]) == 2, "the plan is shown all the same"


def suspended(scene: Scene) -> None:
    scene.do(SuspendMember("ann", "", "op"))


def limited(scene: Scene) -> None:
    scene.submit("job-0")
    scene.do(SetLimits("ann", None, "op", per_day_nanos=8 * USD))


def limited_team(scene: Scene) -> None:
    scene.do(SetTeam("bio", "op"))
    scene.do(MoveMember("ann", "bio", "op"))
    scene.do(SetLimits(None, "bio", "op", per_month_nanos=USD))


def closed(scene: Scene) -> None:
    scene.do(StopMarket("op"))


def crowded(scene: Scene) -> None:
    scene.settings = scene.exchange.settings = replace(scene.settings, max_open_jobs_per_customer=0)


FORESEEN = {
    "member_suspended": (suspended, {}),
    "over_spending_limit": (limited, {}),
    "over_spending_limit of a team": (limited_team, {}),
    "market_closing": (closed, {}),
    "too_many_jobs": (crowded, {}),
    "insufficient_funds": (lambda _: None, {"limits__budget_nanos": 101 * USD}),
    "never_fits_gpu_model": (lambda _: None, {"workers__gpu": ["A100"]}),
    "budget_too_small": (lambda _: None, {"limits__budget_nanos": 1}),
}


@pytest.mark.parametrize(("happens", "changes"), FORESEEN.values(), ids=FORESEEN)
def test_a_plan_says_in_the_same_words_what_the_market_would_refuse(
    happens: Callable[[Scene], None], changes: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    scene = square()
    happens(scene)
    found = plan(scene, **changes)
    refusal = scene.refused(SubmitJob("job-1", make_spec(**changes), "ann"))
    assert found["refusal"] == asdict(refusal)
    assert found["refusal"]["code"] == request.node.callspec.id.split()[0]
    assert not found["feasible"]


def test_a_plan_says_what_each_spending_limit_leaves_and_until_when() -> None:
    scene = square()
    assert (plan(scene)["limits"], plan(scene)["refusal"]) == ([], None)
    limited(scene)
    [room] = plan(scene)["limits"]
    assert (room["of"], room["name"], room["period"], room["left_nanos"]) == ("member", "ann", "day", 3 * USD)
    assert (room["billed_nanos"], room["held_nanos"], room["ends_ms"]) == (0, 5 * USD, 86_400_000)
    fits = plan(scene, limits__budget_nanos=3 * USD, workers__max=1, workers__min=1)
    assert (fits["feasible"], fits["refusal"]) == (True, None)
    scene.submit("job-1", limits__budget_nanos=3 * USD)
    assert [one["left_nanos"] for one in plan(scene)["limits"]] == [0]


def test_the_slowest_seat_says_how_long_and_faster_ones_cost_less_time() -> None:
    scene = Scene()
    scene.offer("offer-1", "p1", 0.4, measured=SPEED)
    scene.offer("offer-2", "p2", 0.5, measured={"train_gflops": 5.0})
    slow = plan(scene)["expected_s"]
    fast = plan(square())["expected_s"]
    fixed = plan(square(), steps=1, rounds=20)["expected_s"]
    assert (slow - fixed) / (fast - fixed) == pytest.approx(4, rel=0.01)


UNKNOWN = {"kind": "file", "digest": digest("code"), "class_name": "Mine", "filename": "mine.py"}


@pytest.mark.parametrize(
    ("changes", "measured"),
    [
        ({"workload": UNKNOWN, "options": {}}, SPEED),
        ({"workload": {"kind": "builtin", "name": "digits"}, "options": {}}, SPEED),
        ({}, {}),
    ],
)
def test_what_is_not_known_is_not_guessed(changes: dict[str, Any], measured: dict[str, float]) -> None:
    scene = Scene()
    for number in (1, 2):
        scene.offer(f"offer-{number}", f"p{number}", measured=measured)
    found = plan(scene, **changes)
    assert found["feasible"] is True
    assert (found["expected_s"], found["expected_cost_nanos"], found["budget_covers"]) == (None, None, None)
    assert found["max_cost_nanos"] == 5 * USD


def test_a_job_that_is_expected_to_cost_more_than_its_budget_says_so() -> None:
    found = plan(square(), steps=10_000_000, rounds=20)
    assert found["feasible"] is True, "it would train until the money is gone, and pause"
    assert found["budget_covers"] is False
    assert found["expected_cost_nanos"] == found["max_cost_nanos"] == 5 * USD


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [
        ({"options": {"size": "100k"}}, 1e5),
        ({"options": {}}, 1e6),
        ({"workload": {"kind": "builtin", "name": "token_lm"}, "options": {"size": "1.5G"}}, 1.5e9),
        ({"workload": {"kind": "builtin", "name": "digits"}, "options": {}}, None),
        ({"workload": UNKNOWN, "options": {"size": "1M"}}, None),
    ],
)
def test_the_size_dial_says_how_large_a_model_is(changes: dict[str, Any], parameters: float | None) -> None:
    assert parameters_of(make_spec(**changes)) == parameters


MILLION = 1_000_000
TRAFFIC = [
    # strategy                                                     workers  bytes sent by each in a round of 30 steps
    ({"name": "ddp"},                                              2,       30 * 4 * MILLION),
    ({"name": "diloco", "codec": "int8"},                          2,       MILLION),
    ({"name": "diloco", "codec": "int8"},                          4,       1_500_000),
    ({"name": "diloco", "codec": "int8", "topology": "gather"},    4,       3 * MILLION),
    ({"name": "diloco", "codec": "int8"},                          1,       0),
    ({"name": "streaming_diloco", "codec": "fp4", "fragments": 5}, 2,       100_000),
    ({"name": "noloco", "codec": "int8", "slow_codec": "fp16"},    8,       3 * MILLION),
    ({"name": "sparseloco"},                                       3,       round(2 * MILLION * 14 * 64 / 4096 / 8)),
    ({"name": "demo", "top_k": 32},                                2,       30 * round(MILLION * 28 * 32 / 4096 / 8)),
]  # fmt: skip


@pytest.mark.parametrize(("strategy", "workers", "sent"), TRAFFIC)
def test_a_plan_says_what_each_worker_sends(strategy: dict[str, Any], workers: int, sent: int) -> None:
    assert expected_sent_bytes(make_spec(strategy=strategy), workers) == pytest.approx(sent, rel=1e-4)


def test_a_plan_names_the_strategy_and_its_bytes_an_hour() -> None:
    found = plan(square())
    assert (found["strategy"], found["sent_bytes_per_worker_round"]) == ("diloco", MILLION)
    hourly = MILLION * 20 * 3600 / found["expected_s"]
    assert found["sent_bytes_per_worker_hour"] == pytest.approx(hourly, rel=1e-3)
    unknown = plan(square(), workload=UNKNOWN, options={})
    assert (unknown["sent_bytes_per_worker_round"], unknown["sent_bytes_per_worker_hour"]) == (None, None)


def test_a_plan_warns_of_outer_momentum_in_few_rounds() -> None:
    diloco = {"name": "diloco", "inner_steps": 30}
    few = advice(make_spec(strategy={**diloco, "outer_momentum": 0.9}, steps=600, rounds=20))
    assert len(few) == 1
    assert "20 rounds are few for an outer momentum of 0.9" in few[0]
    assert advice(make_spec(strategy={**diloco, "outer_momentum": 0.5}, steps=600, rounds=20)) == []
    assert advice(make_spec(strategy={**diloco, "outer_momentum": 0.9}, steps=6000, rounds=200)) == []
    assert plan(square())["advice"][: len(few)] == advice(make_spec()) != []


def test_speed_is_what_was_measured_of_one_unit() -> None:
    assert flops_per_second({"train_gflops": 40.0, "matmul_gflops": 100.0}, 2) == 20e9, "training counts most"
    assert flops_per_second({"matmul_gflops": 100.0}, 2) == 25e9, "half of a matrix product's"
    assert flops_per_second({"matmul_mflops_per_unit": 100_000.0}, 2) == 50e9
    assert flops_per_second({}, 2) is None


def test_nothing_is_expected_of_nobody() -> None:
    spec = make_spec()
    assert flops_per_step(spec) == 6 * 1e6 * 128 * 6
    assert expected_job_ms(spec, [], {}) is None
