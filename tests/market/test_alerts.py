"""What a job has used of its budget is said at 50, 80 and 100 %, once each, whatever dies in between."""

import pytest

from cli.live import RunView
from market.commands import AddBudget
from tests.market.scene import USD, Scene


def told(scene: Scene) -> list[tuple[int, int]]:
    return [(event["percent"], event["budget_nanos"]) for event in scene.of_type("budget_reached")]


def until_paused(scene: Scene, step_ms: int = 1_000, *, restarting: bool = False) -> None:
    meters = 0
    while scene.view()["wanted"] == "run":
        scene.wait(step_ms)
        meters += step_ms
        scene.read(s0=meters, s1=meters)
        scene.read(s0=meters, s1=meters)
        if restarting:
            scene.restart()


@pytest.mark.parametrize("restarting", [False, True])
def test_each_part_of_the_budget_is_told_once_and_in_order(restarting: bool) -> None:
    scene = Scene()
    budget = USD // 50
    scene.running(limits__budget_nanos=budget)
    until_paused(scene, restarting=restarting)
    scene.halt("paused")
    assert told(scene) == [(50, budget), (80, budget), (100, budget)]
    events = scene.of_type("budget_reached")
    for event in events[:2]:
        assert event["percent"] * budget <= event["used_nanos"] * 100 < (event["percent"] + 5) * budget
    assert scene.view()["budget_reached_percent"] == 100
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()


def test_what_a_job_comes_to_follows_from_its_rounds_so_far_while_it_is_open() -> None:
    scene = Scene()
    scene.running(rounds=8, steps=240)
    assert scene.view()["forecast_nanos"] is None, "nothing is known before the first round"
    for number in (1, 2):
        scene.wait(1_000)
        scene.round(number, {0: number * 1_000, 1: number * 1_000})
        used = scene.view()["billed_nanos"] + scene.view()["accrued_nanos"]
        assert scene.view()["forecast_nanos"] == used * 8 // number > 0
    scene.checkpoint(2)
    scene.halt("done")
    assert scene.view()["forecast_nanos"] is None, "the bill says it"


def test_more_budget_arms_what_is_ahead_again_and_nothing_else() -> None:
    scene = Scene()
    budget = USD // 50
    scene.running(limits__budget_nanos=budget)
    until_paused(scene)
    scene.halt("paused")
    billed = scene.view()["billed_nanos"]
    more = billed // 4  # of the new budget between 50 and 80 % is used
    scene.do(AddBudget("more", "job-1", more, "ann"))
    assert scene.view()["budget_reached_percent"] == 50
    assert told(scene)[3:] == []
    scene.do(AddBudget("much", "job-1", 10 * USD, "ann"))
    assert scene.view()["budget_reached_percent"] == 0


def test_a_leap_tells_every_part_that_it_passes() -> None:
    scene = Scene()
    scene.running(limits__budget_nanos=USD // 50)
    until_paused(scene, step_ms=70_000)
    assert [percent for percent, _ in told(scene)] == [50, 80, 100]


def test_a_job_of_ones_own_machines_and_a_cheap_one_are_told_nothing() -> None:
    scene = Scene()
    scene.running(limits__budget_nanos=5 * USD)
    scene.wait(1_000)
    scene.read(s0=1_000, s1=1_000)
    assert told(scene) == []
    assert scene.exchange.figures().budgets_reached == {"50": 0, "80": 0, "100": 0}


def test_watching_says_it() -> None:
    view = RunView("job-1", name="tiny", planned=3, budget_nanos=USD)
    event = {"type": "budget_reached", "job": "job-1", "percent": 80, "used_nanos": 8 * USD // 10, "budget_nanos": USD}
    assert view.fold({"event": event, "at_ms": 0}) == ["80 % of the budget is used: $0.80 of $1.00"]
