"""What is used of members' and teams' limits is said at 50, 80 and 100 %, once each in a period, whatever dies in between."""

from __future__ import annotations

import pytest

from cli.granting import limited
from cli.live import RunView
from market.commands import MoveMember, SetLimits, SetTeam
from tests.market.scene import USD, Scene

HOUR = 3_600_000
DAY_MS = 24 * HOUR


def limit(scene: Scene, day: float | None = None, month: float | None = None, team: str | None = None) -> None:
    nanos = [None if usd is None else round(usd * USD) for usd in (day, month)]
    scene.do(SetLimits(None if team else "ann", team, "op", nanos[0], nanos[1]))


def told(scene: Scene) -> list[tuple[str, str, int]]:
    return [(event["team"] or event["member"], event["period"], event["percent"]) for event in scene.of_type("limit_reached")]


def train(scene: Scene, hours: float, meters: list[int], *, restarting: bool = False) -> None:
    """Two workers, 1.10 dollars an hour, heard of every quarter of an hour, each reading twice."""
    for _ in range(round(hours * 4)):
        scene.wait(HOUR // 4)
        meters.append(HOUR // 4)
        for _ in range(2):
            scene.read(s0=sum(meters), s1=sum(meters))
        if restarting:
            scene.restart()


@pytest.mark.parametrize("restarting", [False, True])
def test_each_part_of_a_limit_is_told_once_a_period_and_in_order(restarting: bool) -> None:
    scene, meters = Scene(), list[int]()
    scene.now_ms = scene.now_ms // DAY_MS * DAY_MS + DAY_MS + HOUR
    limit(scene, day=11, month=80)
    scene.running(limits__budget_nanos=11 * USD)
    train(scene, 4.5, meters, restarting=restarting)
    assert told(scene) == []
    train(scene, 4, meters, restarting=restarting)
    assert told(scene) == [("ann", "day", 50), ("ann", "day", 80)]
    train(scene, 1.4, meters, restarting=restarting)
    assert scene.view()["wanted"] == "pause"
    assert told(scene) == [("ann", "day", percent) for percent in (50, 80, 100)]
    event = scene.of_type("limit_reached")[0]
    assert event["job"] == "job-1"
    assert event["limit_nanos"] == 11 * USD <= 2 * event["used_nanos"] < 12 * USD
    assert event["ends_ms"] == scene.now_ms // DAY_MS * DAY_MS + DAY_MS
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()


def test_a_new_period_begins_anew_and_the_longer_one_goes_on() -> None:
    scene, meters = Scene(), list[int]()
    limit(scene, day=2, month=3)
    scene.running(limits__budget_nanos=2 * USD)
    train(scene, 1, meters)
    assert told(scene) == [("ann", "day", 50)]
    scene.round(1, {0: sum(meters), 1: sum(meters)})
    scene.checkpoint(1)
    scene.now_ms = scene.now_ms // DAY_MS * DAY_MS + DAY_MS  # the next day
    limits = scene.exchange.balance("ann")["limits"]
    assert [one["reached_percent"] for one in limits] == [50, 0], "by the clock of the last command"
    train(scene, 0.5, meters)
    assert told(scene)[1:] == [("ann", "month", 50)]
    assert scene.exchange.figures().limits_reached == {"50": 1, "80": 0, "100": 0}
    shown = next(one for one in scene.exchange.members() if one["member"] == "ann")["limits"]
    assert (shown["day_reached_percent"], shown["month_reached_percent"]) == (0, 50)
    assert limited(shown).endswith("of $3.00 a month (50 % reached)")


def test_a_limit_that_changes_arms_what_is_ahead_again_and_says_at_once_what_is_not() -> None:
    scene, meters = Scene(), list[int]()
    limit(scene, day=2)
    scene.running(limits__budget_nanos=2 * USD)
    train(scene, 1, meters)
    scene.round(1, {0: sum(meters), 1: sum(meters)})
    scene.checkpoint(1)  # 1.10 dollars are billed
    assert told(scene) == [("ann", "day", 50)]
    limit(scene, day=2.1)
    assert told(scene) == [("ann", "day", 50)], "half of it was told"
    limit(scene, day=50)
    assert told(scene) == [("ann", "day", 50)]
    limit(scene, day=2)
    assert told(scene) == [("ann", "day", 50)] * 2, "it was ahead again"
    limit(scene, day=1.2)
    assert told(scene)[2:] == [("ann", "day", 80)]
    limit(scene, day=1)
    assert told(scene)[3:] == [("ann", "day", 100)]
    assert scene.of_type("limit_reached")[-1]["job"] is None
    limit(scene)
    assert scene.exchange.figures().limits_reached == {"50": 0, "80": 0, "100": 0}


def test_what_is_run_up_and_not_billed_stays_told_when_a_limit_changes() -> None:
    scene, meters = Scene(), list[int]()
    limit(scene, day=2)
    scene.running(limits__budget_nanos=2 * USD)
    train(scene, 1, meters)
    for month in (20, 21, 22):
        limit(scene, day=2, month=month)
    limit(scene, day=2.1)
    assert told(scene) == [("ann", "day", 50)]
    limit(scene, day=50)
    limit(scene, day=2)
    assert told(scene) == [("ann", "day", 50)] * 2
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()


def test_a_team_is_told_of_what_all_of_it_have_used() -> None:
    scene, meters = Scene(), list[int]()
    scene.do(SetTeam("bio", "op"))
    scene.do(MoveMember("ann", "bio", "op"))
    limit(scene, month=2, team="bio")
    scene.running(limits__budget_nanos=2 * USD)
    train(scene, 1, meters)
    assert told(scene) == [("bio", "month", 50)]
    (row,) = [one for one in scene.exchange.teams(scene.now_ms) if one["team"] == "bio"]
    assert row["limits"]["month_reached_percent"] == 50


def test_without_a_limit_and_of_a_limit_of_nothing_nobody_is_told() -> None:
    scene = Scene()
    scene.running(limits__budget_nanos=2 * USD)
    limit(scene, day=0)
    train(scene, 1, [])
    assert told(scene) == []


def test_watching_says_it() -> None:
    view = RunView("job-1", name="tiny", planned=3, budget_nanos=USD)
    event = {
        "type": "limit_reached", "member": "", "team": "bio", "job": "job-1", "period": "month", "ends_ms": 0, "percent": 80,
        "used_nanos": 8 * USD, "limit_nanos": 10 * USD,
    }  # fmt: skip
    assert view.fold({"event": event, "at_ms": 0}) == ["80 % of what team bio may spend a month is used: $8.00 of $10.00"]
