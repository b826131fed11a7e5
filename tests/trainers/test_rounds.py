"""Runs as scripts: what happened on the left, what the machine decided on the right; then random runs."""

import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trainers.rounds import (
    START,
    Finished,
    Halted,
    LeftOut,
    Member,
    MemberLost,
    MergeAgain,
    Phase,
    Rewind,
    RoundCommitted,
    RoundPlan,
    Rounds,
    Standing,
    StartRound,
    VoidRound,
    Wait,
    Warned,
)
from trainers.shares import share_out

PLAN = RoundPlan(inner_steps=30, total_steps=110, min_members=2, first_deadline_ms=60_000, grace_ms=1_000)
LONG = dataclasses.replace(PLAN, total_steps=600)


def member(slot: int, at: Standing = START) -> Member:
    return Member(slot, epoch=100 + slot, name=f"p{slot}", at=at)


def kinds(decisions: tuple) -> list[type]:
    return [type(decision) for decision in decisions]


class Script:
    """A run with a clock of its own that is driven step by step."""

    def __init__(self, slots=(0, 1), plan=PLAN, **at) -> None:
        plan = dataclasses.replace(plan, min_members=max(2, len(slots)))
        self.rounds, self.now, self.last = Rounds(plan, **at), 0, ()
        if at:
            self.last = self.rounds.resume([member(slot, at["at"]) for slot in slots], self.now)
            return
        for slot in slots:
            self.last = self.rounds.join(member(slot), self.now)

    def after(self, ms):
        self.now += ms
        return self

    def contribute(self, *slots):
        for slot in slots:
            self.last = self.rounds.contributed(slot, 100 + slot, self.rounds.round + 1, self.now)
        return self

    def merge(self, *slots, digest=None, accepted=None, refused=None):
        number = self.rounds.round + 1
        for slot in slots:
            self.last = self.rounds.merged(
                slot, 100 + slot, number, digest or f"d{number}", slots if accepted is None else accepted,
                refused or {}, self.now,
            )  # fmt: skip
        return self

    def spoil(self, slot, what="the loss is nan at step 3"):
        self.last = self.rounds.spoiled(slot, 100 + slot, self.rounds.round + 1, what, self.now)
        return self

    def lose(self, slot, reason="died"):
        self.last = self.rounds.lost(slot, 100 + slot, reason, "its process is gone", self.now)
        return self

    def tick(self):
        self.last = self.rounds.tick(self.now)
        return self

    def whole_round(self, *slots, ms=1000):
        return self.after(ms).contribute(*slots).merge(*slots)

    def of(self, kind):
        found = [decision for decision in self.last if isinstance(decision, kind)]
        assert len(found) == 1, f"{kind.__name__} in {self.last}"
        return found[0]


def share(started: StartRound, slot: int):
    return next(share for share in started.shares if share.slot == slot)


def test_the_first_round_waits_for_the_gang():
    script = Script(slots=(0,))
    assert "1 of 2 members" in script.of(Wait).why
    script.last = script.rounds.join(member(1), 5)
    started = script.of(StartRound)
    assert (started.round, started.step_before, started.step_after, started.slots) == (1, 0, 30, (0, 1))
    assert [(one.steps, one.position, one.donors) for one in started.shares] == [(30, 0, None), (30, 30, None)]
    assert started.evaluator is None


def test_a_round_goes_train_merge_and_the_last_one_is_short():
    script = Script()
    assert script.contribute(0).last == ()
    assert script.contribute(1).last == ()
    assert script.merge(0, accepted=(0, 1)).last == ()
    done = script.after(2000).merge(1, accepted=(0, 1)).of(RoundCommitted)
    assert (done.round, done.step, done.position, done.digest) == (1, 30, 60, "d1")
    assert (done.contributors, done.holders, done.lost, done.attempts) == ((0, 1), (0, 1), (), 1)
    assert done.duration_ms == 2000
    assert script.of(StartRound).evaluator == 0
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


def test_a_newcomer_whose_donors_died_is_left_out_and_comes_again():
    script = Script().contribute(0)
    script.rounds.join(member(5), script.now)
    script.contribute(1).merge(0, 1)
    script.last = script.rounds.skipped(5, 105, 2, "no donor answered", script.now)
    assert kinds(script.last) == [LeftOut, MergeAgain]
    assert share(script.whole_round(0, 1).of(StartRound), 5).donors == (0, 1)


def test_the_odd_digest_is_named_and_resynchronised_once_then_dropped():
    script = Script(slots=(0, 1, 2)).contribute(0, 1, 2).merge(0, 2).merge(1, digest="x")
    assert script.of(Warned).slot == 1
    assert script.of(RoundCommitted).digest == "d1"
    assert script.of(RoundCommitted).holders == (0, 2)
    assert share(script.of(StartRound), 1).donors == (0, 2)
    script.contribute(0, 1, 2).merge(0, 2).merge(1, digest="y")
    assert (script.of(MemberLost).lost.slot, script.of(MemberLost).lost.reason) == (1, "digest")
    assert script.of(StartRound).slots == (0, 2)


def test_members_that_need_not_agree_are_not_compared():
    script = Script(plan=dataclasses.replace(PLAN, agrees=False)).contribute(0, 1)
    done = script.merge(0, digest="a").merge(1, digest="b").of(RoundCommitted)
    assert (done.digest, done.holders) == ("a", (0, 1))


def test_a_refused_contribution_is_warned_of_once_then_costs_the_place():
    script = Script(slots=(0, 1, 2)).contribute(0, 1, 2)
    refused = {1: "not all elements are finite"}
    script.merge(0, 1, 2, accepted=(0, 2), refused=refused)
    assert (script.of(Warned).slot, script.of(Warned).reason) == (1, "nan")
    done = script.of(RoundCommitted)
    assert (done.contributors, [one.slot for one in done.warned], done.holders) == ((0, 2), [1], (0, 1, 2))
    script.contribute(0, 1, 2).merge(0, 1, 2, accepted=(0, 2), refused=refused)
    assert script.of(MemberLost).lost.reason == "nan"
    assert script.of(StartRound).slots == (0, 2)


def test_who_diverges_is_warned_with_the_round_and_takes_over_what_the_others_made():
    script = Script(slots=(0, 1, 2)).contribute(0)
    assert script.spoil(1).of(MergeAgain).slots == (0, 2)
    assert script.of(MergeAgain).why.endswith("without slot 1, whose numbers are not finite")
    done = script.contribute(2).merge(0, 2).of(RoundCommitted)
    assert [(one.slot, one.reason) for one in done.warned] == [(1, "nan")]
    assert "its numbers of round 1 are not finite: the loss is nan at step 3" in script.of(Warned).why
    assert (done.contributors, done.late, done.lost) == ((0, 2), (), ())
    assert share(script.of(StartRound), 1).donors == (0, 2)
    script.contribute(0, 2).spoil(1).merge(0, 2)
    assert (script.of(MemberLost).lost.slot, script.of(MemberLost).lost.reason) == (1, "nan")
    assert script.of(StartRound).slots == (0, 2)


def test_when_every_member_of_a_round_diverges_the_job_has_and_nobody_is_dropped_for_it():
    script = Script(slots=(0, 1, 2)).contribute(0, 2).spoil(1).merge(0, 2).spoil(1).spoil(2).spoil(0)
    assert kinds(script.last) == [Halted]
    assert script.of(Halted).failed == "nan"
    assert script.rounds.members == (0, 1, 2)
    assert script.rounds.phase is Phase.OVER


def test_a_round_of_which_one_diverged_and_the_others_died_proves_nothing():
    script = Script().whole_round(0, 1).spoil(1).lose(0)
    assert kinds(script.last) == [MemberLost, VoidRound, StartRound]
    assert share(script.of(StartRound), 1).donors is None, "it holds what the round began with"
    assert script.spoil(1).of(Halted).failed == "nan"


def test_late_work_that_is_not_finite_is_warned_of_too():
    script = Script(slots=(0, 1, 2), plan=LONG).whole_round(0, 1, 2).whole_round(0, 1, 2).after(1000).contribute(0, 1)
    script.after(100_000).tick().merge(0, 1)
    script.last = script.rounds.spoiled(2, 102, 3, "the loss is nan", script.now)
    assert script.of(Warned).slot == 2
    assert script.rounds.late == ()
    started = script.contribute(0, 1).merge(0, 1).of(StartRound)
    assert share(started, 2).donors == (0, 1)


def test_late_work_of_a_round_that_came_to_nothing_is_still_waited_for():
    script = Script(slots=(0, 1, 2), plan=LONG).whole_round(0, 1, 2).whole_round(0, 1, 2).contribute(0, 1)
    script.after(100_000).tick().lose(0).lose(1)
    assert VoidRound in kinds(script.last)
    assert script.rounds.late == (2,)
    script.rounds.durable(Standing(1, 30, 90))
    script.last = script.rounds.contributed(2, 102, 3, script.now)
    assert share(script.of(StartRound), 2).donors == ()


def test_the_word_of_one_against_another_is_not_enough():
    script = Script(slots=(0, 1, 2)).contribute(0, 1, 2).merge(0, 1, accepted=(0, 1, 2))
    script.merge(2, accepted=(2,), refused={0: "not all elements are finite", 1: "not all elements are finite"})
    assert script.of(RoundCommitted).warned == ()


def test_who_complains_about_everybody_waits_for_their_word_and_is_cut_off_itself():
    script = Script(slots=(0, 1, 2)).contribute(0, 1, 2)
    assert script.rounds.cannot_reach(2, 102, 1, {0, 1}, script.now) == ()
    assert script.rounds.cannot_reach(0, 100, 1, {2}, script.now)[0].lost.slot == 2


def test_who_computes_a_step_is_not_cut_off():
    script = Script(slots=(0, 1, 2), plan=dataclasses.replace(LONG, every_step=True))
    assert script.rounds.cannot_reach(0, 100, 1, {2}, script.now) == ()
    assert script.rounds.cannot_reach(1, 101, 1, {2}, script.now) == ()
    script.rounds.progressed(0, script.now)
    assert script.rounds.cannot_reach(2, 102, 1, {1}, script.now) == ()
    assert script.rounds.cannot_reach(0, 100, 1, {2}, script.now) != ()


def test_whom_most_members_cannot_reach_is_lost():
    script = Script(slots=(0, 1, 2)).contribute(0, 1, 2)
    assert script.rounds.cannot_reach(0, 100, 1, {2}, script.now) == ()
    script.last = script.rounds.cannot_reach(1, 101, 1, {2}, script.now)
    assert (script.of(MemberLost).lost.slot, script.of(MemberLost).lost.reason) == (2, "network_cut")
    assert script.of(MergeAgain).slots == (0, 1)


def test_an_exchange_that_nobody_ends_costs_whoever_has_not_merged():
    script = Script(slots=(0, 1)).contribute(0, 1).merge(0, accepted=(0, 1)).after(20_000).tick()
    assert script.of(MemberLost).lost.slot == 1
    assert script.of(RoundCommitted).contributors == (0, 1)


def test_without_a_majority_the_run_goes_back_to_the_checkpoint_and_everybody_restores():
    there = Standing(5, 150, 300)
    script = Script(at=there, durable=there, plan=LONG)
    script.contribute(0, 1).merge(0, digest="a").merge(1, digest="b")
    assert kinds(script.last) == [VoidRound, Rewind, StartRound]
    assert "slot 0 has a, slot 1 has b" in script.of(VoidRound).why
    assert script.of(Rewind).to_round == 5
    assert [one.donors for one in script.of(StartRound).shares] == [(), ()]
    assert script.of(StartRound).round == 6


def test_a_dispute_before_any_checkpoint_ends_the_members_not_the_run():
    script = Script().contribute(0, 1).merge(0, digest="a").merge(1, digest="b")
    assert kinds(script.last) == [VoidRound, MemberLost, MemberLost, Rewind, Wait]
    assert script.rounds.members == ()


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


class RandomRuns(RuleBasedStateMachine):
    """Members that train, die, lie, hang and come back in any order; what they hold is tracked beside the machine."""

    plan = RoundPlan(inner_steps=10, total_steps=60, max_void_rounds=1000, overlap_steps=2)

    def __init__(self) -> None:
        super().__init__()
        self.rounds, self.now, self.next_slot = Rounds(self.plan), 0, 0
        self.started: StartRound | None = None
        self.newest = START
        self.given: dict[int, int] = {}
        self.over = False

    def obey(self, decisions):
        for decision in decisions:
            assert decision.why
            assert not self.over, "nothing is decided after the end"
            if isinstance(decision, StartRound):
                self.started = decision
                assert decision.round == self.newest.round + 1
                assert decision.step_before == self.newest.step
                for share in decision.shares:
                    assert set(share.donors or ()) <= set(decision.slots)
                    assert share.first_step + share.steps == decision.step_after
                taken = [range(one.position, one.position + one.steps + one.ahead) for one in decision.shares]
                assert all(a.stop <= b.start for a, b in itertools.pairwise(taken))
                assert taken[0].start == self.newest.position
                assert taken[-1].stop == decision.position_after
            elif isinstance(decision, MergeAgain):
                assert set(decision.slots) <= set(self.started.slots)
            elif isinstance(decision, RoundCommitted):
                assert decision.round == self.newest.round + 1
                assert decision.contributors
                self.newest = Standing(decision.round, decision.step, decision.position)
                self.given[decision.round] = self.newest
            elif isinstance(decision, Rewind):
                assert decision.to_round <= decision.from_round == self.newest.round
                self.newest = self.given.get(decision.to_round, START)
            elif isinstance(decision, Halted):
                assert decision.failed == "nan"
                self.over = True
            elif isinstance(decision, Finished):
                assert self.newest.step == self.plan.total_steps
                self.over = True

    def some_member(self, data):
        return data.draw(st.sampled_from(self.rounds.members))

    @rule(wait=st.integers(0, 5000))
    def time_passes(self, wait):
        self.now += wait
        self.obey(self.rounds.tick(self.now))

    @rule()
    def somebody_joins(self):
        self.next_slot += 1
        self.obey(self.rounds.join(member(self.next_slot), self.now))

    @precondition(lambda self: self.rounds.members)
    @rule(data=st.data())
    def somebody_dies(self, data):
        slot = self.some_member(data)
        self.obey(self.rounds.lost(slot, 100 + slot, "died", "gone", self.now))

    @precondition(lambda self: self.rounds.members)
    @rule(data=st.data(), back=st.integers(0, 1))
    def somebody_contributes(self, data, back):
        slot = self.some_member(data)
        self.obey(self.rounds.contributed(slot, 100 + slot, self.newest.round + 1 - back, self.now))

    @precondition(lambda self: self.rounds.members)
    @rule(data=st.data(), lies=st.integers(0, 9), bad=st.integers(0, 9))
    def somebody_merges(self, data, lies, bad):
        slot = self.some_member(data)
        number = self.newest.round + 1
        digest = f"lie-{slot}" if lies == 0 else f"d{number}"
        refused = {self.some_member(data): "not all elements are finite"} if bad == 0 else {}
        self.obey(self.rounds.merged(slot, 100 + slot, number, digest, (slot,), refused, self.now))

    @precondition(lambda self: self.rounds.members)
    @rule(data=st.data())
    def somebody_cannot_reach_another(self, data):
        slot, other = self.some_member(data), self.some_member(data)
        self.obey(self.rounds.cannot_reach(slot, 100 + slot, self.newest.round + 1, {other}, self.now))

    @precondition(lambda self: self.rounds.members)
    @rule(data=st.data())
    def somebody_skips(self, data):
        slot = self.some_member(data)
        self.obey(self.rounds.skipped(slot, 100 + slot, self.newest.round + 1, "no donor", self.now))

    @precondition(lambda self: self.rounds.members)
    @rule(data=st.data())
    def somebody_diverges(self, data):
        slot = self.some_member(data)
        self.obey(self.rounds.spoiled(slot, 100 + slot, self.newest.round + 1, "the loss is nan", self.now))

    @precondition(lambda self: self.newest.round > 0)
    @rule(data=st.data())
    def a_checkpoint_is_durable(self, data):
        self.rounds.durable(self.given[data.draw(st.integers(1, self.newest.round))])

    @invariant()
    def a_run_with_members_always_awaits_something(self):
        if not self.over and self.rounds.phase is not Phase.WAITING:
            assert self.rounds.next_deadline_ms is not None
        assert self.rounds.at == self.newest

    def teardown(self):
        """Whatever happened, two healthy members bring the run to its end."""
        self.somebody_joins()
        for _ in range(200):
            if self.over:
                return
            number, slots = self.newest.round + 1, self.rounds.members
            self.now += 10
            if self.rounds.phase is Phase.WAITING:
                self.somebody_joins()
            for slot in slots:
                self.obey(self.rounds.contributed(slot, 100 + slot, number, self.now))
            for slot in slots:
                self.obey(self.rounds.merged(slot, 100 + slot, number, "agreed", slots, {}, self.now))
            self.obey(self.rounds.tick(self.now))
            self.now += 1000
        raise AssertionError(f"the run did not end: {self.rounds.phase}")


TestRandomRuns = RandomRuns.TestCase
TestRandomRuns.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
