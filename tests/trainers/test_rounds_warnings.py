"""Members that do wrong, cannot be reached or do not agree: who is named, warned, dropped, and when nobody is."""

import dataclasses

from tests.trainers.round_scripts import LONG, PLAN, Script, kinds, share
from trainers.rounds import (
    Halted,
    MemberLost,
    MergeAgain,
    Phase,
    Rewind,
    RoundCommitted,
    Standing,
    StartRound,
    VoidRound,
    Wait,
    Warned,
)


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


def test_of_a_slice_the_word_of_its_owner_says_what_is_wrong():
    script = Script(slots=(0, 1, 2)).contribute(0, 1, 2)
    script.merge(0, accepted=(0, 2), refused={1: "not in every slice of the mean"})
    script.merge(1, 2, accepted=(0, 2), refused={1: "an element of magnitude 3e+38 counts as not finite"})
    assert (script.of(Warned).slot, script.of(Warned).reason) == (1, "nan")
    assert "3e+38" in script.of(Warned).why


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
