"""Whatever dies when, and whichever views come: nobody alive returns another result than anybody alive, and nobody hangs."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainers.mesh_schedule import Schedule

TOPOLOGIES = ["gather", "butterfly", "star", "pair"]


@pytest.mark.parametrize("topology", TOPOLOGIES)
@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32), members=st.integers(2, 5))
def test_living_members_return_the_same(topology: str, seed: int, members: int) -> None:
    Schedule(seed, members, topology).play()


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_the_schedules_reach_what_they_are_for(topology: str) -> None:
    happened: Counter[str] = Counter()
    for seed in range(25):
        happened += Schedule(seed, 4, topology).play()
    assert set(happened) == {"death in mid-collective", "superseded", "taken from another"}
