"""What an owner takes back: whose leases go, and whose word about it counts."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from market.provider_control import read_holds, write_holds
from market.reclaiming import NOTHING, Hold, Holds, choose

LEASES = st.dictionaries(st.integers(1, 99), st.integers(1, 4), max_size=6)
HOLDS = st.builds(
    Hold, st.integers(0, 4), st.just("reclaim"), st.sampled_from(["a", "b"]), st.none() | st.integers(1, 9)
)
MINE, IDLE = Hold(1, "reclaim", "mine"), Hold(2, "idle", "python (pid 7) uses the card")


@given(LEASES, st.integers(0, 12))
def test_as_many_go_as_must_and_none_in_vain(leases: dict[int, int], units: int) -> None:
    going = choose(leases.items(), units)
    freed = sum(leases[epoch] for epoch in going)
    assert len(set(going)) == len(going)
    if sum(leases.values()) < units:
        assert set(going) == set(leases)
    else:
        assert freed >= units
        assert all(freed - leases[epoch] < units for epoch in going), "each of them is needed"


@given(LEASES.filter(lambda leases: len(set(leases.values())) == 1), st.integers(1, 12))
def test_of_equal_leases_the_newest_go(leases: dict[int, int], units: int) -> None:
    going = choose(leases.items(), units)
    stay = set(leases) - set(going)
    assert all(old < new for old, new in ((old, new) for old in stay for new in going))


@given(LEASES, st.integers(0, 12), st.sets(st.integers(1, 99)))
def test_who_sits_on_a_card_that_its_owner_uses_goes_in_any_case(
    leases: dict[int, int], units: int, must: set[int]
) -> None:
    going = choose(leases.items(), units, must)
    assert must & set(leases) <= set(going)
    freed = sum(leases[epoch] for epoch in going)
    assert freed >= min(units, sum(leases.values()))
    assert all(freed - leases[epoch] < units for epoch in going if epoch not in must)


def test_the_larger_wish_counts_and_the_owners_among_equals() -> None:
    holds = Holds()
    assert holds.now == NOTHING
    holds.set("owner", MINE)
    holds.set("idle", IDLE)
    assert holds.now == IDLE
    holds.set("owner", Hold(2, "reclaim", "all mine"))
    assert holds.now.why == "all mine"
    holds.set("owner", Hold())
    assert holds.now == IDLE, "a release ends the owner's wish alone"


def test_time_ends_a_wish_that_has_one() -> None:
    holds = Holds({"owner": Hold(1, "reclaim", "", 1_000)})
    assert not holds.pass_time(999)
    assert holds.pass_time(1_000)
    assert holds.now == NOTHING
    assert holds.untold


def test_what_the_market_says_that_it_has_not_from_here_is_the_owners_word() -> None:
    holds = Holds()
    holds.heard(NOTHING.as_json(), 1)
    holds.set("owner", MINE)
    assert holds.untold
    holds.heard(NOTHING.as_json(), 2)
    assert holds.now == MINE, "it has not heard of it yet"
    holds.tell(MINE, 4)
    holds.heard(NOTHING.as_json(), 3)
    assert holds.now == MINE, "a list from before"
    assert not holds.untold
    holds.heard(NOTHING.as_json(), 5)
    assert holds.now == NOTHING, "an operator has released it, or its time is over"
    holds.heard(IDLE.as_json(), 6)
    assert holds.now == IDLE


def test_what_is_idle_stays_paused_when_the_market_releases_it() -> None:
    holds = Holds()
    holds.set("idle", IDLE)
    holds.tell(IDLE, 1)
    holds.heard(NOTHING.as_json(), 2)
    assert holds.now == IDLE
    assert holds.untold, "the market is told again"


@given(HOLDS, st.none() | HOLDS, st.integers(0, 9))
def test_holds_outlast_a_restart(wish: Hold, told: Hold | None, version: int) -> None:
    holds = Holds({"owner": wish}, told, version)
    again = Holds.of_json(holds.as_json())
    assert (again.now, again.told, again.version) == (holds.now, told, version)


def test_a_damaged_file_holds_nothing(tmp_path: Path) -> None:
    assert read_holds(tmp_path).now == NOTHING
    write_holds(tmp_path, Holds({"owner": MINE}))
    assert read_holds(tmp_path).now == MINE
    for text in ("", "{", "[]", '{"owner": {"gpus": 1, "what": 2}, "told": null, "version": 0}', '{"owner": null}'):
        (tmp_path / "holds.json").write_text(text)
        assert read_holds(tmp_path).now == NOTHING


def test_every_pair_of_wishes_has_one_that_counts() -> None:
    for owner, idle in combinations([MINE, IDLE, NOTHING], 2):
        assert Holds({"owner": owner, "idle": idle}).now in (owner, idle)
