"""A command's tries: what counts, what begins again, and when it is over."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.attempts import (
    DEATHS_OF_ONE,
    DEATHS_OF_TWO,
    KILLS,
    Attempts,
    Begin,
    Collect,
    Outcome,
    Over,
    Report,
    Stop,
    kills_machines,
    shell_code,
    told,
)

WELL = Outcome("exit", code=0)
BADLY = Outcome("exit", code=3, tail="Traceback: oh no")


def attempts(retries: int = 0, **more: Any) -> Attempts:
    return Attempts(["python", "train.py"], retries=retries, **more)


def test_a_command_that_ends_well_is_over() -> None:
    machine = attempts()
    [begin] = machine.arrived(0)
    assert begin == Begin(0, 1, 0, "starting python train.py")
    report, over = machine.ended(0, 1, WELL)
    assert isinstance(report, Report)
    assert (report.number, report.slot, report.manifest) == (1, 0, None)
    assert over == Over("done", "done", None, "python train.py exited with status 0")
    assert machine.arrived(1) == ()


def test_a_failure_of_its_own_uses_up_a_retry_and_the_last_one_ends_the_job() -> None:
    machine = attempts(retries=1)
    machine.arrived(0)
    report, again = machine.ended(0, 1, BADLY)
    assert isinstance(report, Report)
    assert again == Begin(0, 2, 1, "starting python train.py (try 2 of 2), after 1 earlier start")
    report, over = machine.ended(0, 2, Outcome("timeout"))
    assert isinstance(over, Over)
    assert (over.state, over.reason) == ("failed", "command_failed")


def test_the_end_of_a_failed_job_shows_what_it_printed_last() -> None:
    machine = attempts()
    machine.arrived(0)
    over = machine.ended(0, 1, BADLY)[-1]
    assert over.why == "python train.py exited with status 3\nTraceback: oh no"


def test_a_lost_machine_costs_no_retry_and_the_command_knows_that_it_began_before() -> None:
    machine = attempts()
    machine.arrived(0)
    assert machine.lost(0) == ()
    [begin] = machine.arrived(1)
    assert isinstance(begin, Begin)
    assert (begin.slot, begin.number, begin.restarts) == (1, 1, 1)
    assert machine.ended(0, 1, WELL) == (), "the lost one has nothing to say any more"
    assert machine.ended(1, 1, WELL)[-1].state == "done"  # type: ignore[union-attr]


def test_artifacts_are_collected_of_the_last_try_only_and_lost_with_their_machine() -> None:
    machine = attempts(retries=1, collects=True)
    machine.arrived(0)
    assert isinstance(machine.ended(0, 1, BADLY)[-1], Begin), "a try that is repeated keeps nothing"
    [collect] = machine.ended(0, 2, WELL)
    assert isinstance(collect, Collect)
    machine.lost(0)
    [begin] = machine.arrived(1)
    assert isinstance(begin, Begin)
    assert (begin.number, begin.restarts) == (2, 2), "what cannot be fetched has to be made again"
    machine.ended(1, 2, WELL)
    report, over = machine.collected(1, "ab" * 32)
    assert isinstance(report, Report)
    assert isinstance(over, Over)
    assert report.manifest == over.manifest == "ab" * 32


def test_a_pause_stops_the_command_and_waits_until_it_has() -> None:
    machine = attempts()
    machine.arrived(0)
    assert machine.pause("escrow_exhausted") == (Stop(0, "stopping python train.py: escrow_exhausted"),)
    [over] = machine.ended(0, 1, Outcome("stopped"))
    assert (over.state, over.why) == ("paused", "escrow_exhausted")  # type: ignore[union-attr]
    waiting = attempts()
    [over] = waiting.pause("market_down")
    assert over.state == "paused"  # type: ignore[union-attr]


def test_a_command_that_ends_by_itself_while_it_is_asked_to_stop_has_ended() -> None:
    machine = attempts()
    machine.arrived(0)
    machine.pause("market_down")
    assert machine.ended(0, 1, WELL)[-1].state == "done"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("before", "retries", "state"),
    [([0], 0, "done"), ([3], 0, "failed"), ([3, 4], 1, "failed"), ([3], 1, None), ([], 0, None)],
)
def test_a_run_that_was_replaced_goes_on_where_the_market_says(
    before: list[int], retries: int, state: str | None
) -> None:
    told = [{"kind": "exit", "exit_code": code, "manifest": None, "detail": f"status {code}"} for code in before]
    machine = attempts(retries, before=told, restarts=len(before))
    found = [decision.state for decision in machine.resume() if isinstance(decision, Over)]
    assert found == ([] if state is None else [state])
    if state is None:
        [begin] = machine.arrived(5)
        assert isinstance(begin, Begin)
        assert (begin.number, begin.restarts) == (len(before) + 1, len(before))


def test_exit_codes_are_a_shells() -> None:
    assert shell_code("exit", 7, None) == 7
    assert shell_code("signal", None, 9) == 137
    codes = [shell_code(kind, None, None) for kind in ("timeout", "not_executable", "not_found", "memory")]
    assert codes == [124, 126, 127, 137]


def test_an_end_is_told_in_a_sentence() -> None:
    argv = ["./run.sh", "a b"]
    assert told(argv, Outcome("exit", code=2), None) == "./run.sh 'a b' exited with status 2"
    assert told(argv, Outcome("signal", signal=9), None) == "./run.sh 'a b' was ended by SIGKILL (Killed)"
    assert told(argv, Outcome("timeout"), 7_200_000) == "./run.sh 'a b' was ended after its timeout of 2 h 00 min"
    assert told(argv, Outcome("not_found", detail="there is no such program"), None) == (
        "./run.sh was not found: there is no such program"
    )


ENDS = st.sampled_from([WELL, BADLY, Outcome("signal", signal=11), Outcome("timeout"), Outcome("stopped")])
HAPPENINGS = st.lists(st.one_of(st.tuples(st.just("ended"), ENDS), st.just(("lost", WELL))), max_size=12)


@given(retries=st.integers(0, 3), collects=st.booleans(), happenings=HAPPENINGS)
def test_however_it_goes_tries_are_counted_once_and_it_ends_once(
    retries: int, collects: bool, happenings: list[tuple[str, Outcome]]
) -> None:
    machine = attempts(retries, collects=collects)
    begun, reported, overs = 0, [], []
    slot = -1
    for what, outcome in happenings:
        decisions: list[Any] = []
        if machine.slot is None:
            slot += 1
            decisions += machine.arrived(slot)
        if what == "lost":
            decisions += machine.lost(slot)
        else:
            decisions += machine.ended(slot, machine.number, outcome)
            if machine.phase == "collecting":
                decisions += machine.collected(slot, "cd" * 32)
        for decision in decisions:
            if isinstance(decision, Begin):
                assert not overs
                assert decision.restarts == begun
                begun += 1
            elif isinstance(decision, Report):
                reported.append(decision)
            elif isinstance(decision, Over):
                overs.append(decision)
    assert [one.number for one in reported] == list(range(1, len(reported) + 1))
    failures = [one for one in reported if not one.outcome.succeeded]
    assert len(failures) <= retries + 1
    assert len(overs) == (1 if len(failures) > retries or any(one.outcome.succeeded for one in reported) else 0)


def test_a_command_under_which_machine_after_machine_dies_is_at_fault() -> None:
    machine = attempts(retries=5)
    for slot, provider in enumerate(["ann", "bob", "ann"]):
        machine.arrived(slot)
        assert machine.lost(slot, died=provider) == (), "three deaths are survived, whoever's they are"
    machine.arrived(3)
    [over] = machine.lost(3, died="bob")
    assert isinstance(over, Over)
    assert (over.state, over.reason) == ("failed", "kills_workers")
    assert over.why.startswith("python train.py: 4 machines died in a row soon after it began there (ann, bob, ann, bob)")
    assert machine.arrived(4) == ()


def test_one_providers_machines_may_be_the_ones_that_are_broken() -> None:
    machine = attempts(deaths=["ann", "ann", "ann"])
    machine.arrived(0)
    assert machine.lost(0, died="ann") == ()
    machine.arrived(1)
    assert isinstance(machine.lost(1, died="bob")[-1], Over), "not only ann's"
    assert not kills_machines(["ann"] * (DEATHS_OF_ONE - 1))
    assert kills_machines(["ann"] * DEATHS_OF_ONE)


LOSSES = st.lists(st.sampled_from(["ann", "bob", "", "progress", "fails", "stopped"]), max_size=25)


@given(known=st.lists(st.sampled_from(["ann", "bob"]), max_size=2), happenings=LOSSES)
def test_only_deaths_in_a_row_with_nothing_in_between_end_a_job(known: list[str], happenings: list[str]) -> None:
    machine = attempts(retries=99, deaths=known)
    row = list(known)
    for slot, what in enumerate(happenings):
        machine.arrived(slot)
        if what == "progress":
            machine.progressed()
            row = []
            decisions = machine.lost(slot)
        elif what in ("fails", "stopped"):
            decisions = machine.ended(slot, machine.number, BADLY if what == "fails" else Outcome("stopped"))
            row = [] if what == "fails" else row
            if what == "fails":
                machine.lost(slot)
        else:
            decisions = machine.lost(slot, died=what)
            row += [what] if what else []
        at_fault = len(row) >= DEATHS_OF_ONE or (len(row) >= DEATHS_OF_TWO and len(set(row)) == 2)
        overs = [one for one in decisions if isinstance(one, Over)]
        assert [one.reason for one in overs] == ([KILLS] if at_fault else [])
        assert (machine.phase == "over") == at_fault
        if at_fault:
            return
