"""Runs of the pure machine as scripts: what happens, with a clock turned by hand, and what it decides."""

import dataclasses

from trainers.rounds import (
    START,
    Member,
    RoundPlan,
    Rounds,
    Standing,
    StartRound,
)

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
