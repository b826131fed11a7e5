"""How long who was served had waited, and who was not has: counted by hand, and as clearings, books and replays have it."""

from __future__ import annotations

from math import ceil
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from market.commands import Deposit, MoveMember, SetTeam
from market.replaying import replay
from market.waits import Wait, gang_name, waits_view
from storage.canonical import parse_json
from storage.tables import rows_of
from tests.market.scene import USD, Scene

MINUTE = 60_000
waits = st.lists(st.builds(Wait, st.integers(1, 40), st.sampled_from(["", "a", "b"]), st.integers(0, 99), st.booleans()))


@given(waits)
def test_every_wait_is_counted_once_of_everybody_of_its_size_and_of_its_team(all_waits: list[Wait]) -> None:
    view = waits_view(all_waits)
    groups = {("all", ""): all_waits}
    for one in all_waits:
        groups.setdefault(("by_gang", gang_name(one.gpus)), []).append(one)
        if any(each.team for each in all_waits):
            groups.setdefault(("by_team", one.team), []).append(one)
    told = {("all", ""): view["all"], **{(of, name): one for of in ("by_gang", "by_team") for name, one in view[of].items()}}
    assert told.keys() == groups.keys()
    for place, own in groups.items():
        for which, served in (("served", True), ("waiting", False)):
            found = sorted(one.waited for one in own if one.served == served)
            ranks = [found[ceil(len(found) * share / 100) - 1] if found else None for share in (50, 99)]
            assert list(told[place][which].values()) == [len(found), *ranks]


def crowd() -> Scene:
    """Two teams; physics waits from the beginning and is served after a minute, bio came later and is not."""
    scene = Scene()
    scene.do(Deposit("d2", "bob", 100 * USD, "op"))
    for team, member in (("physics", "ann"), ("bio", "bob")):
        scene.do(SetTeam(team, "op", 1, 0))
        scene.do(MoveMember(member, team, "op"))
    scene.submit("job-1", workers__min=2, workers__max=2)
    scene.clear()
    scene.wait(MINUTE)
    scene.submit("job-2", by="bob", workers__min=1, workers__max=1, limits__max_price_nanos_per_gpu_hour=USD // 10)
    scene.offer("offer-1", "p1", 0.5)
    scene.offer("offer-2", "p2", 0.5)
    scene.clear()
    return scene


def test_a_clearing_tells_them_and_a_replay_finds_the_same() -> None:
    scene = crowd()
    told = scene.of_type("clearing")[-1]["waits"]
    nobody: dict[str, Any] = {"count": 0, "p50_ms": None, "p99_ms": None}
    ann, bob = told["all"]["served"], told["all"]["waiting"]
    assert (ann["count"], bob["count"]) == (1, 1)
    assert ann["p50_ms"] == ann["p99_ms"] >= MINUTE > bob["p50_ms"]
    assert told["by_gang"] == {"1": {"served": nobody, "waiting": bob}, "2-4": {"served": ann, "waiting": nobody}}
    assert told["by_team"] == {"bio": {"served": nobody, "waiting": bob}, "physics": {"served": ann, "waiting": nobody}}
    records = [parse_json(payload) for payload in scene.records]
    again = replay(lambda: ((one["at_ms"], one["events"]) for one in records))
    assert isinstance(again, list)
    assert [one["same"] for one in again] == [True] * len(again)
    assert again[-1]["waits"] == told
    for one in records:
        for event in one["events"]:
            event.pop("waits", None)
    before = replay(lambda: ((one["at_ms"], one["events"]) for one in records))
    assert isinstance(before, list)
    assert all(one["same"] for one in before), "a market of before wrote no waits"


def test_the_books_have_a_row_of_everybody_of_each_size_and_of_each_team() -> None:
    rows = [row for payload in crowd().records for table, row in rows_of(1, payload) if table == "clearing_waits"]
    last = [row[4:] for row in rows if row[3] == rows[-1][3]]
    assert [row[:3] for row in last] == [
        ("all", "", 1), ("gang", "1", 0), ("gang", "2-4", 1), ("team", "bio", 0), ("team", "physics", 1),
    ]  # fmt: skip
    assert last[0][3] >= MINUTE
    assert last[1][3:6] == (None, None, 1)
