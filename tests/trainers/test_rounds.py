"""Runs as scripts: what happened on the left, what the machine decided on the right."""

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainers.round_scripts import LONG, PLAN, Script, kinds, member, share
from trainers.rounds import (
    Finished,
    Halted,
    LeftOut,
    MemberLost,
    MergeAgain,
    Phase,
    Rewind,
    RoundCommitted,
    Rounds,
    Standing,
    StartRound,
    VoidRound,
    Wait,
)
from trainers.shares import share_out


def test_the_first_round_waits_for_the_gang():
    script = Script(slots=(0,))
    assert "1 of 2 members" in script.of(Wait).why
    script.last = script.rounds.join(member(1), 5)
    started = script.of(StartRound)
    assert (started.round, started.step_before, started.step_after, started.slots) == (1, 0, 30, (0, 1))
    assert [(one.steps, one.position, one.donors) for one in started.shares] == [(30, 0, None), (30, 30, None)]


def test_a_round_goes_train_merge_and_the_last_one_is_short():
    script = Script()
    assert script.contribute(0).last == ()
    assert script.contribute(1).last == ()
    assert script.merge(0, accepted=(0, 1)).last == ()
    done = script.after(2000).merge(1, accepted=(0, 1)).of(RoundCommitted)
    assert (done.round, done.step, done.position, done.digest) == (1, 30, 60, "d1")
    assert (done.contributors, done.holders, done.lost, done.attempts) == ((0, 1), (0, 1), (), 1)
    assert done.duration_ms == 2000
    last = script.whole_round(0, 1).whole_round(0, 1).of(StartRound)
    assert (last.round, last.step_before, last.step_after) == (4, 90, 110)
    assert share(last, 1).steps == 20
    script.whole_round(0, 1)
    assert script.of(RoundCommitted).step == 110
    assert script.of(Finished).round == 4
    assert script.rounds.phase is Phase.OVER


def test_a_death_in_training_costs_only_its_own_share_and_says_why():
    script = Script().contribute(0).lose(1)
    assert script.of(MemberLost).lost.reason == "died"
    assert script.of(MergeAgain).slots == (0,)
    done = script.merge(0).of(RoundCommitted)
    assert [lost.slot for lost in done.lost] == [1]
    assert done.attempts == 2
    assert done.why == "Round 1 committed: 1 contributions, 1 members agree without slot 1 died: its process is gone"
    assert script.of(StartRound).slots == (0,)


def test_the_work_of_a_member_that_died_after_somebody_had_merged_it_counts():
    script = Script(slots=(0, 1, 2)).contribute(0, 1, 2).merge(0, accepted=(0, 1, 2)).lose(2)
    assert script.of(MergeAgain).slots == (0, 1)
    done = script.merge(1, accepted=(0, 1, 2)).of(RoundCommitted)
    assert done.contributors == (0, 1, 2)
    assert done.holders == (0, 1)


def test_a_late_member_is_left_out_and_comes_back_with_its_work():
    script = Script(slots=(0, 1, 2), plan=LONG).whole_round(0, 1, 2).whole_round(0, 1, 2)
    deadline = share(script.of(StartRound), 2).deadline_ms
    script.after(1000).contribute(0, 1)
    assert script.rounds.tick(deadline - 1) == ()
    script.now = deadline
    script.tick()
    assert script.of(LeftOut).slot == 2
    assert script.of(MergeAgain).slots == (0, 1)
    done = script.merge(0, 1).of(RoundCommitted)
    assert (done.late, done.lost, done.contributors) == ((2,), (), (0, 1))
    assert script.rounds.members == (0, 1, 2)
    assert script.of(StartRound).slots == (0, 1)
    script.after(500)
    assert script.rounds.contributed(2, 102, 3, script.now) == (), "its own round; it waits for the boundary"
    again = script.contribute(0, 1).merge(0, 1).of(StartRound)
    assert share(again, 2).donors == (0, 1)


def test_a_member_that_is_late_again_and_again_is_lost():
    script = Script(slots=(0, 1), plan=LONG).whole_round(0, 1).whole_round(0, 1)
    for _ in range(2):
        number = script.rounds.round + 1
        script.contribute(0).after(100_000).tick()
        script.of(LeftOut)
        script.merge(0)
        script.rounds.contributed(1, 101, number, script.now)
        script.contribute(0).merge(0)
    script.contribute(0).after(100_000).tick()
    assert script.of(MemberLost).lost.reason == "deadline"
    assert "3 times in a row" in script.of(MemberLost).lost.detail


def test_late_work_that_never_comes_costs_the_place():
    script = (
        Script(slots=(0, 1), plan=LONG).whole_round(0, 1).whole_round(0, 1).contribute(0).after(100_000).tick().merge(0)
    )
    script.after(110_000).tick()
    assert 1 in [one.lost.slot for one in script.last if isinstance(one, MemberLost)]
    assert 1 not in script.rounds.members


def test_an_only_member_that_misses_its_deadline_is_lost():
    script = Script(plan=LONG).lose(1).whole_round(0).whole_round(0).after(100_000).tick()
    assert script.of(MemberLost).lost.reason == "deadline"
    assert "while training" in script.of(MemberLost).why


def test_deadlines_follow_what_members_took():
    script = Script(plan=LONG)
    assert [one.deadline_ms for one in script.of(StartRound).shares] == [60_000, 60_000]
    started = script.whole_round(0, 1).whole_round(0, 1).of(StartRound)
    assert {one.deadline_ms for one in started.shares} == {script.now + 1300 + 1000}, "median 1, deviation at least 5 %"


def test_when_every_step_is_an_exchange_nobody_is_left_out():
    script = Script(plan=dataclasses.replace(LONG, every_step=True)).whole_round(0, 1).whole_round(0, 1)
    script.after(1000).contribute(0).after(3000).tick()
    assert script.last == (), "four times the patience"
    script.after(100_000).tick()
    assert script.of(MemberLost).lost.reason == "deadline"


def test_when_all_are_late_they_get_as_long_again_before_they_are_lost():
    script = Script(plan=LONG).whole_round(0, 1).whole_round(0, 1)
    started = script.of(StartRound)
    assert share(started, 0).limit_ms == 2 * (share(started, 0).deadline_ms - script.now)
    assert script.after(2300).tick().last == ()
    assert script.after(2299).tick().last == ()
    lost = [type(one) for one in script.after(1).tick().last]
    assert lost.count(MemberLost) == 2


def test_newcomers_join_at_the_boundary_from_all_living_donors():
    script = Script().contribute(0)
    for slot in (5, 6, 7):
        assert script.rounds.join(member(slot), script.now) == ()
    script.contribute(1).merge(0, 1)
    started = script.of(StartRound)
    assert started.slots == (0, 1, 5, 6, 7)
    assert [share(started, slot).donors for slot in (0, 5, 7)] == [None, (0, 1), (0, 1)]
    assert share(started, 5).deadline_ms > share(started, 0).deadline_ms
    assert "slot 5 joins from slots 0, 1" in started.why


def test_a_newcomer_has_time_for_its_share_once_no_more_bytes_of_the_state_come():
    script = Script().whole_round(0, 1)
    script.rounds.join(member(5), script.now)
    started = script.whole_round(0, 1).of(StartRound)
    joins = share(started, 5)
    script.contribute(0, 1).after(joins.deadline_ms - script.now - 1)
    script.rounds.progressed(5, script.now)
    assert script.after(1).tick().last == ()
    script.after(10_000_000).tick()
    assert script.of(LeftOut).slot == 5


def test_what_a_newcomer_takes_to_fetch_the_state_is_not_its_speed():
    script = Script(plan=LONG).whole_round(0, 1)
    script.rounds.join(member(5), script.now)
    script.whole_round(0, 1).contribute(0, 1).after(19_000).contribute(5).merge(0, 1, 5)
    started = script.of(StartRound)
    assert share(started, 5).deadline_ms - script.now == LONG.first_deadline_ms


def test_an_adaptive_round_gives_a_member_that_was_late_a_smaller_share():
    script = Script(plan=dataclasses.replace(LONG, nominal_members=2, max_late=9)).whole_round(0, 1).whole_round(0, 1)
    script.contribute(0).after(100_000).tick()
    assert script.of(LeftOut).slot == 1
    script.rounds.contributed(1, 101, 3, script.now)
    started = script.merge(0).of(StartRound)
    assert share(started, 1).steps < share(started, 0).steps
    assert share(started, 0).steps + share(started, 1).steps == 60


def test_a_newcomer_whose_donors_died_is_left_out_and_comes_again():
    script = Script().contribute(0)
    script.rounds.join(member(5), script.now)
    script.contribute(1).merge(0, 1)
    script.last = script.rounds.skipped(5, 105, 2, "no donor answered", script.now)
    assert kinds(script.last) == [LeftOut, MergeAgain]
    assert share(script.whole_round(0, 1).of(StartRound), 5).donors == (0, 1)


def test_when_nobody_is_left_the_round_is_void_and_newcomers_restart_from_the_checkpoint():
    script = Script().whole_round(0, 1).whole_round(0, 1)
    script.rounds.durable(Standing(1, 30, 60))
    script.lose(0).lose(1)
    assert kinds(script.last) == [MemberLost, VoidRound, Wait]
    assert "no member is left" in script.of(VoidRound).why
    script.last = script.rounds.join(member(2), script.now)
    assert kinds(script.last) == [Rewind, StartRound]
    assert share(script.of(StartRound), 2).donors == ()
    assert script.of(StartRound).step_before == 30
    assert share(script.of(StartRound), 2).position == 60


def test_a_restarted_run_goes_on_from_the_newest_state_that_a_living_member_holds():
    second, third, durable = Standing(2, 60, 120), Standing(3, 90, 180), Standing(1, 30, 60)
    (started,) = Rounds(PLAN, at=third, durable=durable).resume([member(0, second), member(1, third), member(2)], 0)
    assert started.round == 4
    assert [one.donors for one in started.shares] == [(1,), None, (1,)]
    rewound, started = Rounds(PLAN, at=third, durable=durable).resume([member(0, second), member(2)], 0)
    assert (rewound.to_round, started.round, started.step_before) == (2, 3, 60)
    assert share(started, 2).donors == (0,)


def test_stop_finishes_the_round_in_progress_first():
    script = Script().contribute(0)
    assert script.rounds.stop("the escrow is used up", script.now) == ()
    script.contribute(1).merge(0, 1)
    assert kinds(script.last) == [RoundCommitted, Halted]
    assert script.of(Halted).why == "stopping after round 1: the escrow is used up"
    assert not script.of(Halted).failed


def test_rounds_that_stay_void_end_the_run():
    there = Standing(5, 150, 300)
    script = Script(at=there, durable=there, plan=LONG)
    for _ in range(3):
        script.contribute(0, 1).merge(0, digest="a").merge(1, digest="b")
    assert script.of(Halted).failed
    assert "giving up after 3 void rounds" in script.of(Halted).why


def test_another_plan_counts_from_the_next_round_on():
    script = Script().contribute(0)
    script.rounds.change(dataclasses.replace(PLAN, inner_steps=10))
    script.contribute(1).merge(0, 1)
    assert script.of(RoundCommitted).step == 30
    assert (script.of(StartRound).step_before, script.of(StartRound).step_after) == (30, 40)


def test_members_that_must_become_alike_take_over_one_of_them():
    script = Script(slots=(0, 1, 2)).contribute(0, 1)
    script.rounds.change(dataclasses.replace(PLAN, every_step=True), alike=True)
    started = script.contribute(2).merge(0, 1, 2).of(StartRound)
    assert [one.donors for one in started.shares] == [None, (0,), (0,)]
    assert [one.donors for one in script.whole_round(0, 1, 2).of(StartRound).shares] == [None, None, None]


def test_when_the_one_to_become_like_dies_another_is_chosen():
    script = Script(slots=(0, 1, 2)).contribute(0, 1, 2)
    script.rounds.change(dataclasses.replace(PLAN, every_step=True), alike=True)
    script.merge(0, 1, 2).lose(0)
    for slot in (1, 2):
        script.last = script.rounds.skipped(slot, 100 + slot, 2, "no donor answered", script.now)
    assert [type(one) for one in script.last] == [LeftOut, VoidRound, StartRound]
    assert [(one.slot, one.donors) for one in script.of(StartRound).shares] == [(1, None), (2, (1,))]


def test_steps_trained_ahead_are_not_asked_for_again_and_their_batches_are_nobody_elses():
    script = Script(plan=dataclasses.replace(PLAN, overlap_steps=4))
    first = script.of(StartRound)
    assert [(one.steps, one.position, one.ahead) for one in first.shares] == [(30, 0, 4), (30, 34, 4)]
    script.rounds.join(member(2), script.now)
    second = script.whole_round(0, 1).of(StartRound)
    assert [(one.first_step, one.steps, one.position) for one in second.shares] == [
        (34, 26, 68),
        (34, 26, 98),
        (30, 30, 128),
    ]
    last = script.whole_round(0, 1, 2).whole_round(0, 1, 2).of(StartRound)
    assert [(one.steps, one.ahead) for one in last.shares] == [(16, 0)] * 3


@given(
    steps=st.integers(1, 500),
    slots=st.lists(st.integers(0, 40), min_size=1, max_size=12, unique=True),
    nominal=st.integers(1, 12),
    data=st.data(),
)
def test_shares_add_up_and_the_faster_gets_no_less(steps, slots, nominal, data):
    known = data.draw(st.dictionaries(st.sampled_from(slots), st.floats(0.1, 1000)))
    shares = share_out(steps, slots, nominal, known)
    assert sum(shares.values()) == max(steps * nominal, len(slots))
    assert min(shares.values()) >= 1
    ranked = sorted(known, key=lambda slot: known[slot])
    assert all(shares[fast] >= shares[slow] - 1 for fast, slow in itertools.pairwise(ranked))


def test_adaptive_rounds_keep_their_size_when_members_come():
    script = Script(plan=dataclasses.replace(PLAN, nominal_members=2))
    script.rounds.join(member(2), 0)
    script.rounds.join(member(3), 0)
    started = script.whole_round(0, 1).of(StartRound)
    assert sum(one.steps for one in started.shares) == 60
    assert (started.step_after, started.position_after) == (60, 120)


@given(steps=st.integers(1, 500), slots=st.integers(1, 12), nominal=st.integers(1, 12))
def test_members_that_exchange_in_every_step_have_equal_shares_near_the_asked_sum(steps, slots, nominal):
    shares = share_out(steps, range(slots), nominal, {slot: 1.0 + slot for slot in range(slots)}, equal=True)
    assert len(set(shares.values())) == 1
    total = max(steps * nominal, slots)
    assert 2 * abs(sum(shares.values()) - total) <= slots


def test_one_member_alone_cannot_credit_work_that_the_others_did_not_merge():
    script = Script(slots=(0, 1, 2), plan=LONG).contribute(0, 1, 2)
    script.merge(0, 1, accepted=(0, 1)).merge(2, accepted=(0, 1, 2, 7))
    assert script.of(RoundCommitted).contributors == (0, 1)


def test_a_lie_about_whom_it_merged_does_not_make_a_round_nobodys_work():
    done = Script(slots=(0, 1)).contribute(0, 1).merge(0, accepted=(0,)).merge(1, accepted=(1, 7)).of(RoundCommitted)
    assert done.contributors == (0, 1)


STALE = {
    "another round": lambda run: run.contributed(0, 100, 2, 0),
    "another epoch": lambda run: run.contributed(0, 99, 1, 0),
    "numbers of another round": lambda run: run.spoiled(0, 100, 2, "nan", 0),
    "a stranger": lambda run: run.contributed(9, 109, 1, 0),
    "another round's merge": lambda run: run.merged(0, 100, 2, "d", (0,), {}, 0),
    "a loss of another epoch": lambda run: run.lost(0, 99, "died", "", 0),
}


@pytest.mark.parametrize("stale", STALE.values(), ids=STALE)
def test_stale_reports_are_counted_and_change_nothing(stale):
    rounds = Script().rounds
    assert stale(rounds) == ()
    assert rounds.stale == 1
    assert rounds.members == (0, 1)
