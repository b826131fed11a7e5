"""How often what a command saves is looked at, and how many blocks travel at once."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.saved import Block, Saved
from trainers.actors import saves
from trainers.actors.saves import AT_ONCE_BYTES, MOST_WAIT_S, PART_KNOWN, PART_OF_CORES, Saving, parcels, pause_s

ROWS = [
    # since the start, known cost, at least | the pause
    (0.0, 0.0, 2.0, 2.0),
    (1000.0, 0.0, 2.0, 20.0),
    (1e6, 0.0, 2.0, 60.0),
    (0.0, 0.078, 2.0, 19.5),
    (1e6, 0.078, 2.0, 60.0),
    (0.0, 8.0, 2.0, 2000.0),
    (0.0, 1e18, 2.0, 3600.0),
]


@pytest.mark.parametrize(("age_s", "spent_s", "every_s", "pause"), ROWS)
def test_the_next_look_waits_for_the_longest_of_its_reasons(age_s: float, spent_s: float, every_s: float, pause: float) -> None:
    assert pause_s(age_s, spent_s, every_s) == pytest.approx(pause)


@given(costs=st.lists(st.floats(0, MOST_WAIT_S * PART_OF_CORES), min_size=1))
def test_whatever_looks_cost_they_take_their_part_of_the_cores(costs: list[float]) -> None:
    elapsed_s = sum(pause_s(0.0, PART_KNOWN * cost_s, 2.0) for cost_s in costs)
    assert sum(costs) <= PART_OF_CORES * elapsed_s * (1 + 1e-9)


class Busy:
    """A worker that says what it had of its lease's cores; to hear of it, the run has some too."""

    job, number = "job-1", 1

    def __init__(self, spent_ms: int, cores: int, own_s: float) -> None:
        self._answer = {"spent_ms": spent_ms, "cores": cores, "waiting": [], "saved": Saved("job-1", 1, ()).to_json()}
        self._own_s = own_s

    def answer(self, method: str, *_: Any) -> dict[str, Any]:
        ends = time.thread_time() + self._own_s
        while time.thread_time() < ends:
            pass
        return self._answer


@pytest.mark.parametrize(("spent_ms", "cores", "own_s", "at_least"), [(500, 1, 0.0, 0.5), (0, 1, 0.05, 0.05), (400, 4, 0.04, 0.11), (300, 0, 0.0, 0.3)])
def test_what_the_worker_and_the_run_had_counts_over_the_leases_cores(
    monkeypatch: pytest.MonkeyPatch, spent_ms: int, cores: int, own_s: float, at_least: float
) -> None:
    heard: list[float] = []
    monkeypatch.setattr(saves, "pause_s", lambda age_s, spent_s, every_s: heard.append(spent_s) or 0.0)
    saving = Saving(Busy(spent_ms, cores, own_s), None, lambda *_: None, lambda _: None, every_s=0.0)  # type: ignore[arg-type]
    while not heard:
        time.sleep(0.001)
    saving.finish()
    while not saving.done:  # else it would still be heard by who asks next
        time.sleep(0.001)
    assert heard[0] == pytest.approx(at_least, abs=0.05)
    assert heard[0] >= at_least


@given(sizes=st.lists(st.integers(1, 1 << 24), max_size=40))
def test_blocks_travel_together_as_far_as_there_is_room(sizes: list[int]) -> None:
    blocks = [Block(f"{place:064}", size) for place, size in enumerate(sizes)]
    made = list(parcels(blocks))
    assert [block for parcel in made for block in parcel] == blocks
    assert all(len(parcel) == 1 or sum(block.bytes for block in parcel) <= AT_ONCE_BYTES for parcel in made)
    assert all(
        sum(block.bytes for block in parcel) + following[0].bytes > AT_ONCE_BYTES
        for parcel, following in itertools.pairwise(made)
    )
