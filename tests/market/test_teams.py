"""Teams: who goes first by what was used, quotas, and that a market without teams is as it was."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.clearing import Reason, clear
from market.commands import AddMember, ApplyClearing, CancelJob, Deposit, MoveMember, RemoveTeam, SetTeam, SubmitJob
from market.fair_share import AHEAD_MS, HALF_LIFE_MS, KEEP, STEP_MS, Usage
from market.orders import Bid, BookSnapshot, Offer, Requirements, Standing
from tests.market.scene import USD, Scene, digest, make_spec

HOUR = 3_600_000
DAY = 24 * HOUR


# usage


def test_an_hours_factor_is_the_168th_root_of_a_half_to_the_last_bit() -> None:
    steps = HALF_LIFE_MS // STEP_MS
    assert KEEP**steps <= 2 ** (64 * steps - 1) < (KEEP + 1) ** steps


@given(
    units=st.integers(0, 1_000), used=st.integers(0, 10**15), start=st.integers(0, 10 * DAY),
    gaps=st.lists(st.integers(0, 3 * DAY), max_size=6),
)  # fmt: skip
def test_it_does_not_matter_how_often_somebody_looks(units: int, used: int, start: int, gaps: list[int]) -> None:
    begun = Usage(units, used, start)
    step_by_step = begun
    for gap in gaps:
        step_by_step = step_by_step.at(step_by_step.at_ms + gap)
    assert step_by_step == begun.at(start + sum(gaps))
    assert begun.at(start - 1) == begun, "a clock that goes back changes nothing"


def test_usage_halves_in_seven_days_and_is_forgotten_in_the_end() -> None:
    used = Usage(0, 10**12, 5)
    assert used.at(5 + HALF_LIFE_MS).unit_ms == pytest.approx(10**12 / 2, abs=400)
    assert used.at(5 + 60 * HALF_LIFE_MS).unit_ms == 0
    assert Usage(3, 0, 10).at(1_010).unit_ms == 3_000


# clearing


def offers(count: int) -> tuple[Offer, ...]:
    return tuple(
        Offer(f"o{n:03d}", "p", "cpu", 1, 1, 4.0, "eu", 0.99, "process", (n + 1) * USD // 1000) for n in range(count)
    )


def bid(job: str, at: int, team: str, low: int = 1, high: int = 1) -> Bid:
    return Bid(job, at, low, high, Requirements(), USD, 100 * USD, team=team)


def matched(snapshot: BookSnapshot) -> list[str]:
    return [match.job for match in clear(snapshot).matches]


def test_what_is_free_is_shared_out_by_weight_and_not_by_who_came_first() -> None:
    bids = tuple(bid(f"a{n}", n, "physics") for n in range(9)) + tuple(bid(f"b{n}", 100 + n, "bio") for n in range(9))
    even = (Standing("physics", 1, None, 0, 0), Standing("bio", 1, None, 0, 0))
    assert matched(BookSnapshot(offers(6), bids, even)) == ["a0", "b0", "a1", "b1", "a2", "b2"]
    double = (Standing("physics", 1, None, 0, 0), Standing("bio", 2, None, 0, 0))
    assert sorted(matched(BookSnapshot(offers(6), bids, double))) == ["a0", "a1", "b0", "b1", "b2", "b3"]
    heavy = (Standing("physics", 1, None, 0, 9 * AHEAD_MS), Standing("bio", 1, None, 0, 0))
    assert matched(BookSnapshot(offers(6), bids, heavy)) == [f"b{n}" for n in range(6)]
    in_use = (Standing("physics", 1, None, 2, 0), Standing("bio", 1, None, 0, 0))
    assert matched(BookSnapshot(offers(4), bids, in_use)) == ["b0", "b1", "a0", "b2"]


def test_a_quota_cuts_a_gang_short_or_keeps_it_waiting() -> None:
    standing = (Standing("bio", 1, 4, 1, 0),)
    [found] = clear(BookSnapshot(offers(9), (bid("j", 1, "bio", 2, 8),), standing)).matches
    assert len(found.offers) == 3
    refused = clear(BookSnapshot(offers(9), (bid("j", 1, "bio", 3, 3), bid("k", 2, "bio", 1, 1)), standing))
    assert [match.job for match in refused.matches] == ["j"]
    [one] = refused.unmatched
    assert (one.job, one.reason, one.detail) == ("k", Reason.TEAM_QUOTA, "team quota: 4 of 4 units in use")


@settings(deadline=None)
@given(st.data())
def test_one_team_for_all_clears_as_no_team_and_the_order_of_the_input_is_nothing(data: st.DataObject) -> None:
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    bids = tuple(
        bid(f"j{n}", rng.randrange(5), "", rng.randint(1, 3), rng.randint(3, 5)) for n in range(rng.randint(0, 8))
    )
    plain = clear(BookSnapshot(offers(7), bids))
    usage = rng.randrange(10**9)
    assert clear(BookSnapshot(offers(7), bids, (Standing("", 1, None, 2, usage),))) == plain
    teams = ("", "a", "b")
    standings = tuple(Standing(team, rng.randint(1, 3), rng.choice([None, 3]), 0, rng.randrange(10**8)) for team in teams)
    mixed = [replace(one, team=rng.choice(teams)) for one in bids]
    once = clear(BookSnapshot(offers(7), tuple(mixed), standings))
    rng.shuffle(mixed)
    assert clear(BookSnapshot(offers(7)[::-1], tuple(mixed), standings[::-1])) == once
    for team in standings:
        got = sum(len(match.offers) for match in once.matches if {b.job: b.team for b in mixed}[match.job] == team.team)
        assert team.quota_units is None or got <= team.quota_units


# the exchange


def make_labs(machines: int = 2, quota: int = 0) -> Scene:
    """Two labs of weight 1: physics (ann) and bio (bob), on machines of one unit."""
    scene = Scene()
    scene.do(Deposit("d2", "bob", 100 * USD, "op"))
    for number in range(1, machines + 1):
        scene.offer(f"offer-{number}", f"p{number}", 0.5)
    for team, member in (("physics", "ann"), ("bio", "bob")):
        scene.do(SetTeam(team, "op", 1, quota))
        scene.do(MoveMember(member, team, "op"))
    return scene


def test_who_has_used_more_waits_and_is_told_why() -> None:
    scene = make_labs()
    scene.submit("job-1")
    scene.clear()
    scene.start_all()
    scene.wait(2 * HOUR)
    scene.submit("job-2")
    scene.submit("job-3", by="bob")
    scene.clear()
    assert {scene.state(job)[0] for job in ("job-2", "job-3")} == {"pending"}
    told = scene.exchange.explain("job-2")
    assert told is not None
    assert told["team"] == "physics"
    assert told["share"] == (
        "team physics is over its share: 100 % of what was used (half-life 7 days) for a weight of 50 %; "
        "1 job of team bio goes first"
    )
    other = scene.exchange.explain("job-3")
    assert other is not None
    assert other["share"] is None
    scene.do(CancelJob("job-1", "ann"))
    scene.clear()
    assert (scene.state("job-2")[0], scene.state("job-3")[0]) == ("pending", "running"), "though ann asked before bob"
    rows = {row["team"]: row for row in scene.exchange.teams(scene.now_ms)}
    # two units of physics for two hours, and two of bio counted for an hour ahead
    assert (rows["physics"]["used_ppm"] // 1_000, rows["bio"]["units"]) == (665, 2)
    assert scene.replayed().teams(scene.now_ms) == scene.exchange.teams(scene.now_ms)


def test_a_quota_is_said_and_a_gang_above_it_is_refused() -> None:
    scene = make_labs(machines=4, quota=2)
    scene.submit("job-1")
    scene.submit("job-2", workers__min=1)
    scene.clear()
    assert [scene.state(job)[0] for job in ("job-1", "job-2")] == ["running", "pending"]
    told = scene.exchange.explain("job-2")
    assert told is not None
    assert (told["reason"], told["detail"]) == ("team_quota", "team quota: 2 of 2 units in use")
    refused = scene.refused(SubmitJob("job-3", make_spec(workers__min=3, workers__max=3), "ann"))
    assert (refused.code, refused.field) == ("over_team_quota", "workers.min")
    scene.submit("job-4", workers__min=3, workers__max=3, wait=True)
    scene.do(SetTeam("physics", "op", quota_units=3))
    scene.clear()
    assert scene.state("job-2")[0] == "running", "one unit of the two that it could use"
    assert len(scene.live("job-2")) == 1
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()


def test_a_match_that_a_quota_has_overtaken_is_not_granted() -> None:
    scene = make_labs(machines=2, quota=2)
    scene.submit("job-1")
    clearing = clear(scene.exchange.snapshot())
    scene.do(SetTeam("physics", "op", quota_units=1))
    scene.do(ApplyClearing(clearing))
    assert scene.state()[0] == "pending"


def test_teams_are_the_operators_and_a_living_lease_stays_with_its_team() -> None:
    scene = make_labs()
    for command in (SetTeam("x", "ann"), RemoveTeam("bio", "p1"), MoveMember("ann", "bio", "bob")):
        assert scene.refused(command).status == 403
    assert scene.refused(SetTeam("none", "op")).field == "team"
    assert scene.refused(SetTeam("bio", "op", 0)).field == "weight"
    assert scene.refused(SetTeam("bio", "op", 1, -1)).field == "quota_units"
    assert scene.refused(MoveMember("ann", "chem", "op")).code == "unknown_team"
    assert scene.refused(MoveMember("p1", "bio", "op")).code == "forbidden"
    assert scene.refused(RemoveTeam("bio", "op")).code == "team_in_use"
    scene.submit()
    scene.clear()
    scene.do(MoveMember("ann", "bio", "op"))
    assert scene.refused(RemoveTeam("physics", "op")).message == "team physics has 2 units in use"
    scene.do(CancelJob("job-1", "ann"))
    scene.do(RemoveTeam("physics", "op"))
    assert [row["team"] for row in scene.exchange.teams(scene.now_ms)] == ["bio"]
    scene.do(AddMember("cy", "customer", digest("cy"), "op"))
    assert {one["member"]: one["team"] for one in scene.exchange.members()}["cy"] is None


def test_without_teams_nothing_is_counted_and_nothing_more_is_said() -> None:
    scene = Scene()
    scene.running()
    snapshot = scene.exchange.snapshot()
    assert snapshot.standings == ()
    assert scene.exchange.fingerprint()["usage"] == {}
    assert scene.exchange.teams(scene.now_ms) == []
    told = scene.exchange.explain("job-1")
    assert told is not None
    assert "share" not in told
