"""Runs as scripts: what happened on the left, what the machine decided on the right; then random runs."""

import dataclasses

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trainers.rounds import (
    CommitRound,
    Finished,
    Halted,
    Joining,
    Member,
    MemberLost,
    PassContributions,
    Phase,
    Rewind,
    RoundCommitted,
    RoundPlan,
    Rounds,
    StartRound,
    VoidRound,
    Wait,
)

PLAN = RoundPlan(rounds=4, inner_steps=30, total_steps=110, min_members=2, first_deadline_ms=60_000, grace_ms=1_000)


def member(slot: int, at_round: int = 0) -> Member:
    return Member(slot, epoch=100 + slot, name=f"p{slot}", at_round=at_round)


def kinds(decisions: tuple) -> list[type]:
    return [type(decision) for decision in decisions]


class Script:
    """A run with a clock of its own that is driven step by step."""

    def __init__(self, slots=(0, 1), plan=PLAN, **at) -> None:
        plan = dataclasses.replace(plan, min_members=max(2, len(slots)))
        self.rounds, self.now, self.last = Rounds(plan, **at), 0, ()
        for slot in slots:
            self.last = self.rounds.join(member(slot, at.get("round", 0)), self.now)

    def after(self, ms):
        self.now += ms
        return self

    def contribute(self, *slots):
        for slot in slots:
            self.last = self.rounds.contributed(slot, 100 + slot, self.rounds.round + 1, self.now)
        return self

    def hold(self, *slots, what=None):
        what = self.last[-1].contributions if what is None else what
        for slot in slots:
            self.last = self.rounds.held(slot, 100 + slot, self.rounds.round + 1, what, self.now)
        return self

    def commit(self, **digests):
        number = self.rounds.round + 1
        for slot, digest in digests.items():
            self.last = self.rounds.committed(int(slot[1:]), 100 + int(slot[1:]), number, digest, self.now)
        return self

    def lose(self, slot, reason="died"):
        self.last = self.rounds.lost(slot, 100 + slot, reason, "its process is gone", self.now)
        return self

    def whole_round(self, *slots):
        self.after(1000).contribute(*slots)
        return self.hold(*slots).commit(**{f"s{slot}": f"d{self.rounds.round + 1}" for slot in slots})

    def of(self, kind):
        found = [decision for decision in self.last if isinstance(decision, kind)]
        assert len(found) == 1, f"{kind.__name__} in {self.last}"
        return found[0]


def test_the_first_round_waits_for_the_gang():
    script = Script(slots=(0,))
    assert "1 of 2 members" in script.of(Wait).why
    script.last = script.rounds.join(member(1), 5)
    started = script.of(StartRound)
    assert (started.round, started.first_step, started.steps, started.slots) == (1, 0, 30, (0, 1))
    assert started.evaluator is None
    assert started.joining == ()


def test_a_round_goes_train_hold_commit_and_the_last_one_is_short():
    script = Script()
    assert kinds(script.contribute(0).last) == []
    passed = script.contribute(1).of(PassContributions)
    assert (passed.contributions, passed.to) == ((0, 1), (0, 1))
    assert script.hold(0, what=(0, 1)).last == ()
    assert script.hold(1, what=(0, 1)).of(CommitRound).accepted == (0, 1)
    done = script.after(2000).commit(s0="d", s1="d").of(RoundCommitted)
    assert (done.round, done.step, done.digest, done.contributors, done.lost) == (1, 30, "d", (0, 1), ())
    assert done.duration_ms == 2000
    assert script.of(StartRound).evaluator == 0
    last = script.whole_round(0, 1).whole_round(0, 1).of(StartRound)
    assert (last.round, last.first_step, last.steps) == (4, 90, 20)
    script.whole_round(0, 1)
    assert script.of(RoundCommitted).step == 110
    assert script.of(Finished).round == 4
    assert script.rounds.phase is Phase.OVER


def test_a_death_in_training_costs_only_its_own_share_and_says_why():
    script = Script().contribute(0).lose(1)
    assert script.of(MemberLost).lost.reason == "died"
    assert script.of(PassContributions).contributions == (0,)
    done = script.hold(0).commit(s0="d").of(RoundCommitted)
    assert [lost.slot for lost in done.lost] == [1]
    assert done.why == "Round 1 committed: 1 contributions, 1 members agree without slot 1 died: its process is gone"
    assert script.of(StartRound).slots == (0,)


def test_a_frozen_member_misses_a_deadline_made_of_its_measured_speed():
    script = Script()
    first = script.of(StartRound).deadlines_ms
    assert first == (60_000, 60_000)
    second = script.whole_round(0, 1).of(StartRound).deadlines_ms
    assert second == (script.now + 3 * 1000 + 1000,) * 2
    script.after(1000).contribute(0)
    assert script.rounds.tick(second[1] - 1) == ()
    script.last = script.rounds.tick(second[1])
    assert script.of(MemberLost).lost.reason == "deadline"
    assert "while training" in script.of(MemberLost).why
    assert script.of(PassContributions).contributions == (0,)


def test_the_work_of_a_member_that_died_after_everybody_held_it_counts():
    script = Script(slots=(0, 1, 2)).contribute(0, 1, 2)
    script.hold(0, 1, what=(0, 1, 2)).hold(2, what=(0, 1, 2)).lose(2)
    done = script.commit(s0="d", s1="d").of(RoundCommitted)
    assert done.contributors == (0, 1, 2)
    assert done.holders == (0, 1)


def test_a_contribution_that_went_with_its_maker_is_left_out_by_everybody():
    script = Script(slots=(0, 1, 2)).contribute(0, 1, 2).hold(0, what=(0, 1, 2)).lose(2)
    again = script.of(PassContributions)
    assert (again.contributions, again.to) == ((0, 1), (1,))
    assert script.hold(1, what=(0, 1)).of(CommitRound).accepted == (0, 1)


def test_what_one_living_member_could_not_hold_is_not_merged():
    script = Script(slots=(0, 1, 2)).contribute(0, 1, 2).hold(0, 1, what=(0, 1, 2)).hold(2, what=(0, 2))
    assert script.of(CommitRound).accepted == (0, 2)
    assert "not every member could hold slots 1" in script.of(CommitRound).why


def test_newcomers_join_at_the_boundary_from_living_donors_spread_evenly():
    script = Script().contribute(0)
    for slot in (5, 6, 7):
        assert script.rounds.join(member(slot), script.now) == ()
    script.contribute(1).hold(0, 1, what=(0, 1)).commit(s0="d", s1="d")
    started = script.of(StartRound)
    assert started.slots == (0, 1, 5, 6, 7)
    assert started.joining == (Joining(5, 0), Joining(6, 1), Joining(7, 0))
    assert started.deadlines_ms[2] > started.deadlines_ms[0]
    assert "slot 5 joins from slot 0" in started.why


def test_the_odd_digest_is_named_and_the_majority_goes_on():
    script = Script(slots=(0, 1, 2)).contribute(0, 1, 2).hold(0, 1, 2, what=(0, 1, 2)).commit(s0="d", s1="x", s2="d")
    assert (script.of(MemberLost).lost.slot, script.of(MemberLost).lost.reason) == (1, "digest")
    assert script.of(RoundCommitted).digest == "d"
    assert script.of(StartRound).slots == (0, 2)


def test_without_a_majority_the_run_goes_back_to_the_checkpoint_and_everybody_restores():
    script = Script(round=5, durable_round=5, plan=RoundPlan(rounds=20, inner_steps=30, total_steps=600))
    script.rounds.lost(0, 100, "died", "", 0)
    script.rounds.join(member(2, 5), 0)
    script.whole_round(1).contribute(1, 2).hold(1, 2, what=(1, 2)).commit(s1="a", s2="b")
    assert kinds(script.last) == [VoidRound, Rewind, StartRound]
    assert "slot 1 has a, slot 2 has b" in script.of(VoidRound).why
    assert script.of(Rewind).to_round == 5
    assert script.of(StartRound).joining == (Joining(1, None), Joining(2, None))
    assert script.of(StartRound).round == 6


def test_a_dispute_before_any_checkpoint_ends_the_members_not_the_run():
    script = Script().contribute(0, 1).hold(0, 1, what=(0, 1)).commit(s0="a", s1="b")
    assert kinds(script.last) == [VoidRound, MemberLost, MemberLost, Rewind, Wait]
    assert script.rounds.members == ()


def test_when_nobody_is_left_the_round_is_void_and_newcomers_restart_from_the_checkpoint():
    script = Script().whole_round(0, 1).whole_round(0, 1)
    script.rounds.durable(1)
    script.lose(0).lose(1)
    assert kinds(script.last) == [MemberLost, VoidRound, Wait]
    assert "no member is left" in script.of(VoidRound).why
    script.last = script.rounds.join(member(2), script.now)
    assert kinds(script.last) == [Rewind, StartRound]
    assert script.of(StartRound).joining == (Joining(2, None),)
    assert script.of(StartRound).first_step == 30


def test_a_restarted_run_goes_on_from_the_newest_round_that_a_living_member_holds():
    (started,) = Rounds(PLAN, round=3, durable_round=1).resume([member(0, 2), member(1, 3), member(2, 0)], 0)
    assert started.round == 4
    assert started.joining == (Joining(0, 1), Joining(2, 1))
    rewound, started = Rounds(PLAN, round=3, durable_round=1).resume([member(0, 2), member(2, 0)], 0)
    assert (rewound.to_round, started.round, started.joining) == (2, 3, (Joining(2, 0),))


def test_stop_finishes_the_round_in_progress_first():
    script = Script().contribute(0)
    assert script.rounds.stop("the escrow is used up", script.now) == ()
    script.contribute(1).hold(0, 1, what=(0, 1)).commit(s0="d", s1="d")
    assert kinds(script.last) == [RoundCommitted, Halted]
    assert script.of(Halted).why == "stopping after round 1: the escrow is used up"
    assert not script.of(Halted).failed


def test_rounds_that_stay_void_end_the_run():
    script = Script()
    for _ in range(3):
        script.contribute(0, 1).hold(0, what=()).hold(1, what=(0, 1))
    assert script.of(Halted).failed
    assert "giving up after 3 void rounds" in script.of(Halted).why


STALE = {
    "another round": lambda run: run.contributed(0, 100, 2, 0),
    "another epoch": lambda run: run.contributed(0, 99, 1, 0),
    "a stranger": lambda run: run.contributed(9, 109, 1, 0),
    "another phase": lambda run: run.committed(0, 100, 1, "d", 0),
    "a loss of another epoch": lambda run: run.lost(0, 99, "died", "", 0),
}


@pytest.mark.parametrize("stale", STALE.values(), ids=STALE)
def test_stale_reports_are_counted_and_change_nothing(stale):
    rounds = Script().rounds
    assert stale(rounds) == ()
    assert rounds.stale == 1
    assert rounds.members == (0, 1)


class RandomRuns(RuleBasedStateMachine):
    """Members that train, die, lie, hang and restore in any order; what they hold is tracked beside the machine."""

    plan = RoundPlan(rounds=6, inner_steps=10, total_steps=60, max_void_rounds=1000)

    def __init__(self) -> None:
        super().__init__()
        self.rounds, self.now, self.next_slot = Rounds(self.plan), 0, 0
        self.started: StartRound | None = None
        self.passed: PassContributions | None = None
        self.order: CommitRound | None = None
        self.holding: dict[int, set[int]] = {}
        self.committed: dict[int, str] = {}
        self.newest = 0
        self.over = False

    def obey(self, decisions):
        for decision in decisions:
            assert decision.why
            assert not self.over, "nothing is decided after the end"
            if isinstance(decision, StartRound):
                self.started, self.passed, self.order, self.holding = decision, None, None, {}
                assert decision.round == self.newest + 1
                assert set(decision.slots) == set(self.rounds.members)
                assert all(j.donor is None or j.donor in decision.slots for j in decision.joining)
            elif isinstance(decision, PassContributions):
                self.passed = decision
            elif isinstance(decision, CommitRound):
                assert decision.accepted
                assert all(set(decision.accepted) <= self.holding[slot] for slot in decision.to)
                self.order = decision
            elif isinstance(decision, RoundCommitted):
                assert decision.round == self.newest + 1
                self.newest, self.started = decision.round, None
                self.committed[decision.round] = decision.digest
            elif isinstance(decision, Rewind):
                assert decision.to_round <= decision.from_round == self.newest
                self.newest = decision.to_round
            elif isinstance(decision, Finished):
                assert self.newest == self.plan.rounds
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

    @precondition(lambda self: self.rounds.members and self.rounds.phase is Phase.TRAINING)
    @rule(data=st.data())
    def somebody_contributes(self, data):
        slot = self.some_member(data)
        self.obey(self.rounds.contributed(slot, 100 + slot, self.newest + 1, self.now))

    @precondition(lambda self: self.rounds.members and self.rounds.phase is Phase.HOLDING)
    @rule(data=st.data(), all_of_them=st.booleans())
    def somebody_holds(self, data, all_of_them):
        slot, offered = self.some_member(data), self.passed.contributions
        held = offered if all_of_them else data.draw(st.sets(st.sampled_from(offered)))
        self.holding.setdefault(slot, set(held))
        self.obey(self.rounds.held(slot, 100 + slot, self.newest + 1, held, self.now))

    @precondition(lambda self: self.rounds.members and self.rounds.phase is Phase.COMMITTING)
    @rule(data=st.data(), lies=st.integers(0, 9))
    def somebody_commits(self, data, lies):
        slot = self.some_member(data)
        digest = f"lie-{slot}" if lies == 0 else f"d{self.newest + 1}-{self.order.accepted}"
        self.obey(self.rounds.committed(slot, 100 + slot, self.newest + 1, digest, self.now))

    @precondition(lambda self: self.newest > 0)
    @rule(data=st.data())
    def a_checkpoint_is_durable(self, data):
        self.rounds.durable(data.draw(st.integers(0, self.newest)))

    @invariant()
    def a_run_with_members_always_awaits_something(self):
        if not self.over and self.rounds.phase is not Phase.WAITING:
            assert self.rounds.next_deadline_ms is not None
        assert self.rounds.round == self.newest

    def teardown(self):
        """Whatever happened, two healthy members bring the run to its end."""
        self.somebody_joins()
        for _ in range(200):
            if self.over:
                return
            phase, number, slots = self.rounds.phase, self.newest + 1, self.rounds.members
            self.now += 10
            if phase is Phase.WAITING:
                self.somebody_joins()
            for slot in slots:
                if phase is Phase.TRAINING:
                    self.obey(self.rounds.contributed(slot, 100 + slot, number, self.now))
                elif phase is Phase.HOLDING:
                    self.holding.setdefault(slot, set(self.passed.contributions))
                    self.obey(self.rounds.held(slot, 100 + slot, number, self.passed.contributions, self.now))
                elif phase is Phase.COMMITTING:
                    self.obey(self.rounds.committed(slot, 100 + slot, number, "agreed", self.now))
            self.now = max(self.now, (self.rounds.next_deadline_ms or 0) - 500_000)
        raise AssertionError(f"the run did not end: {self.rounds.phase}")


TestRandomRuns = RandomRuns.TestCase
TestRandomRuns.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
