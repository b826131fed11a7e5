"""Random runs of the pure machine: members train, die, lie, hang and come back in any order."""

import itertools

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.trainers.round_scripts import member
from trainers.rounds import (
    START,
    Finished,
    Halted,
    MergeAgain,
    Phase,
    Rewind,
    RoundCommitted,
    RoundPlan,
    Rounds,
    Standing,
    StartRound,
)


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
                assert set() < set(decision.contributors) <= set(self.started.slots)
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
        accepted = (slot,) if lies == 1 else self.rounds.members
        self.obey(self.rounds.merged(slot, 100 + slot, number, digest, accepted, refused, self.now))

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
