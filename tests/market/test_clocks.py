"""The market's time runs evenly, whatever the machine's clock does."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.clocks import SLEW, SteadyClock

START_MS = 1_700_000_000_000
DAY_MS = 86_400_000


class Machine:
    """Both its clocks."""

    def __init__(self) -> None:
        self.wall_ms, self.steady_ms = START_MS, 5_000
        self.clock = SteadyClock(lambda: self.wall_ms, lambda: self.steady_ms)

    def pass_time(self, passed_ms: int, jump_ms: int = 0) -> int:
        self.wall_ms += passed_ms + jump_ms
        self.steady_ms += passed_ms
        return self.clock()


STEPS = st.lists(st.tuples(st.integers(0, 100_000), st.sampled_from([0, 0, 0, 1, -1, 3_600_000, -3_600_000, 40 * DAY_MS])), max_size=60)


@given(STEPS)
def test_it_never_goes_back_nor_faster_or_slower_than_its_slew(steps: list[tuple[int, int]]) -> None:
    machine = Machine()
    began = last = machine.clock()
    passed = 0
    for passed_ms, jump_ms in steps:
        now = machine.pass_time(passed_ms, jump_ms)
        passed += passed_ms
        assert now >= last
        assert abs((now - began) - passed) <= passed / SLEW
        last = now


@given(STEPS, st.integers(1, 1_000))
def test_it_is_the_machines_again_after_a_while(steps: list[tuple[int, int]], every_ms: int) -> None:
    machine = Machine()
    for passed_ms, jump_ms in steps:
        machine.pass_time(passed_ms, jump_ms)
    machine.pass_time(every_ms)
    machine.pass_time(SLEW * abs(machine.clock.ahead_ms))
    assert abs(machine.clock.ahead_ms) <= 1
    machine.pass_time(2 * SLEW)
    assert machine.clock() == machine.wall_ms


def test_an_undisturbed_clock_is_the_machines() -> None:
    machine = Machine()
    assert [machine.pass_time(passed) for passed in (0, 1, 19, 1_000)] == [START_MS + n for n in (0, 1, 20, 1_020)]


def test_it_goes_on_from_what_was_told_before() -> None:
    machine = Machine()
    machine.clock.not_before(START_MS + 60_000)
    assert machine.pass_time(0) == START_MS + 60_000
    assert machine.pass_time(20_000) == START_MS + 79_000, "it runs, only slower, until the machine's clock is there"
    machine.clock.not_before(START_MS)
    assert machine.pass_time(0) == START_MS + 79_000


def test_a_jump_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine()
    with caplog.at_level(logging.WARNING, "torg.clock"):
        machine.pass_time(10)
        machine.pass_time(10, jump_ms=3_600_000)
        machine.pass_time(10)
    assert [one.getMessage().partition(" s ")[0] for one in caplog.records] == ["the machine's clock is 3600.0"]
