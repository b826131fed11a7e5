"""A run as a pure state machine: members come and go, rounds commit with whoever is there, every decision says why.

waiting → training → holding → committing → training …  Time and news come in as arguments, decisions go out as values.
Nobody commits before every living member holds all that will be merged, so a death leaves no two different states.
"""

from collections import Counter
from collections.abc import Iterable
from enum import Enum

from trainers.round_decisions import (
    CommitRound,
    Decision,
    Finished,
    Halted,
    Joining,
    Lost,
    Member,
    MemberLost,
    PassContributions,
    Rewind,
    RoundCommitted,
    RoundPlan,
    StartRound,
    VoidRound,
    Wait,
)

__all__ = [
    "CommitRound", "Decision", "Finished", "Halted", "Joining", "Lost", "Member", "MemberLost", "PassContributions",
    "Phase", "Rewind", "RoundCommitted", "RoundPlan", "Rounds", "StartRound", "VoidRound", "Wait",
]  # fmt: skip

Decisions = tuple[Decision, ...]


class Phase(Enum):
    """Where the run is."""

    WAITING = "waiting"
    TRAINING = "training"
    HOLDING = "holding"
    COMMITTING = "committing"
    OVER = "over"


class Rounds:
    """One run. Every method takes what happened and returns what to do now, in order.

    Reports carry slot, epoch and round; one that fits no running member or not the round in progress is stale: it is
    counted in `stale` and changes nothing. Repeated reports change nothing.
    """

    def __init__(self, plan: RoundPlan, *, round: int = 0, durable_round: int = 0) -> None:
        """`round`: the newest one that living members hold (or the durable one); `durable_round`: the checkpoint's."""
        assert 0 <= durable_round <= round, "the newest round is at least the durable one"
        self.plan = plan
        self.round = round
        self.durable_round = durable_round
        self.phase = Phase.WAITING
        self.stale = 0
        self._resumed = round > 0
        self._members: dict[int, Member] = {}  # of the round in progress, or waiting for one
        self._arrivals: dict[int, Member] = {}  # wait for the next boundary
        self._deadlines: dict[int, int] = {}  # whose answer is awaited
        self._began_ms = 0
        self._contributed: tuple[int, ...] = ()
        self._accepted: tuple[int, ...] = ()
        self._held: dict[int, frozenset[int]] = {}
        self._digests: dict[int, str] = {}
        self._lost: list[Lost] = []
        self._speed_ms: dict[int, float] = {}  # a member's average time for inner_steps
        self._void = 0
        self._stop: str | None = None

    @property
    def members(self) -> tuple[int, ...]:
        """Slots of all living members, waiting ones too."""
        return tuple(sorted({**self._members, **self._arrivals}))

    @property
    def next_deadline_ms(self) -> int | None:
        """When `tick` will decide something, if nothing else happens."""
        return min(self._deadlines.values(), default=None)

    def join(self, member: Member, now_ms: int) -> Decisions:
        """A worker has loaded the job; it takes part from the next boundary on, or at once when the run waits."""
        if self.phase is Phase.OVER or member.slot in self._members or member.slot in self._arrivals:
            return ()
        assert member.at_round <= self.round, "a run resumes from the newest round that a member holds"
        self._arrivals[member.slot] = member
        return self._start(now_ms, f"{member.name} joined") if self.phase is Phase.WAITING else ()

    def resume(self, members: Iterable[Member], now_ms: int) -> Decisions:
        """All living members at once: one by one, the first to come might lack the newest state and cause a rewind."""
        assert self.phase is Phase.WAITING
        assert not self._members
        self._arrivals = {member.slot: member for member in members}
        assert all(member.at_round <= self.round for member in self._arrivals.values())
        return self._start(now_ms, f"the run resumes at round {self.round}")

    def contributed(self, slot: int, epoch: int, round: int, now_ms: int) -> Decisions:
        """A member finished its inner steps."""
        if self._is_stale(Phase.TRAINING, slot, epoch, round) or slot in self._contributed:
            return ()
        self._contributed = tuple(sorted((*self._contributed, slot)))
        self._deadlines.pop(slot, None)
        took, before = float(now_ms - self._began_ms), self._speed_ms.get(slot)
        self._speed_ms[slot] = took if before is None else 0.5 * (before + took)
        return self._advance(now_ms)

    def held(self, slot: int, epoch: int, round: int, slots: Iterable[int], now_ms: int) -> Decisions:
        """A member holds the contributions of these slots, whole and checked."""
        if self._is_stale(Phase.HOLDING, slot, epoch, round) or slot in self._held:
            return ()
        self._held[slot] = frozenset(slots)
        self._deadlines.pop(slot, None)
        return self._advance(now_ms)

    def committed(self, slot: int, epoch: int, round: int, digest: str, now_ms: int) -> Decisions:
        """A member merged the accepted contributions and got parameters of this digest."""
        if self._is_stale(Phase.COMMITTING, slot, epoch, round) or slot in self._digests:
            return ()
        self._digests[slot] = digest
        self._deadlines.pop(slot, None)
        return self._advance(now_ms)

    def lost(self, slot: int, epoch: int, reason: str, detail: str, now_ms: int) -> Decisions:
        """A member is gone: died, silent, drained, its lease over."""
        member = self._members.get(slot) or self._arrivals.get(slot)
        if member is None or member.epoch != epoch or self.phase is Phase.OVER:
            self.stale += 1
            return ()
        out = [self._drop(member, reason, detail)]
        if slot in self._arrivals:
            del self._arrivals[slot]
            return tuple(out)
        return (*out, *self._without([slot], now_ms))

    def durable(self, round: int) -> None:
        """The checkpoint of this round is in the store."""
        self.durable_round = max(self.durable_round, round)

    def stop(self, why: str, now_ms: int) -> Decisions:
        """Start no further round: the one in progress is finished first."""
        self._stop = why
        return self._start(now_ms, why) if self.phase is Phase.WAITING else ()

    def tick(self, now_ms: int) -> Decisions:
        """Whoever missed a deadline is lost."""
        late = [slot for slot, deadline in sorted(self._deadlines.items()) if deadline <= now_ms]
        if not late:
            return ()
        doing = {Phase.TRAINING: "training", Phase.HOLDING: "fetching contributions", Phase.COMMITTING: "committing"}
        detail = f"no answer within {now_ms - self._began_ms} ms of the round's start while {doing[self.phase]}"
        out = [self._drop(self._members[slot], "deadline", detail) for slot in late]
        return (*out, *self._without(late, now_ms))

    # decisions

    def _start(self, now_ms: int, why: str) -> Decisions:
        """At a boundary: the next round with everybody who is there, or why there is none."""
        members = {**self._members, **self._arrivals}
        self._members, self._arrivals, self._deadlines = members, {}, {}
        if self.round >= self.plan.rounds or self._stop is not None:
            self.phase = Phase.OVER
            if self.round >= self.plan.rounds:
                return (Finished(self.round, f"all {self.plan.rounds} rounds are committed"),)
            return (Halted(self.round, False, f"stopping after round {self.round}: {self._stop}"),)
        needed = 1 if self._resumed else self.plan.min_members
        if len(members) < needed:
            self.phase = Phase.WAITING
            return (Wait(f"waiting: {len(members)} of {needed} members are there for round {self.round + 1}; {why}"),)
        holders = [slot for slot, member in sorted(members.items()) if member.at_round == self.round]
        if not holders and self.round > self.durable_round:
            newest = max(self.durable_round, *(member.at_round for member in members.values()))
            return (self._rewind(newest, "no living member holds it"), *self._start(now_ms, why))
        joining = tuple(
            Joining(slot, holders[index % len(holders)] if holders else None)
            for index, slot in enumerate(sorted(set(members) - set(holders)))
        )
        return (self._begin(now_ms, why, joining, holders),)

    def _begin(self, now_ms: int, why: str, joining: tuple[Joining, ...], holders: list[int]) -> StartRound:
        number, slots = self.round + 1, tuple(sorted(self._members))
        first_step = self.round * self.plan.inner_steps
        steps = min(self.plan.inner_steps, self.plan.total_steps - first_step)
        assert steps > 0, "a plan has rounds = ceil(total_steps / inner_steps)"
        self.phase, self._began_ms = Phase.TRAINING, now_ms
        self._contributed, self._accepted, self._held, self._digests = (), (), {}, {}
        fetching = {entry.slot for entry in joining}
        self._deadlines = {slot: now_ms + self._patience_ms(slot, slot in fetching) for slot in slots}
        sentence = f"Starting round {number} with slots {_list(slots)}: {why}"
        if joining:
            sentence += "".join(f"; slot {e.slot} joins from {_donor(e, self.round)}" for e in joining)
        evaluator = (holders or list(slots))[0] if self.round > 0 else None
        deadlines = tuple(self._deadlines[slot] for slot in slots)
        return StartRound(number, first_step, steps, slots, joining, evaluator, deadlines, sentence)

    def _advance(self, now_ms: int) -> Decisions:
        """Go to the next phase when nobody is awaited any more."""
        if self._deadlines:
            return ()
        if self.phase is Phase.TRAINING:
            return self._pass_contributions(now_ms)
        if self.phase is Phase.HOLDING:
            return self._commit(now_ms)
        return self._compare(now_ms)

    def _pass_contributions(self, now_ms: int) -> Decisions:
        self.phase = Phase.HOLDING
        to = self._await(now_ms)
        why = f"Exchanging round {self.round + 1} among slots {_list(to)}{self._without_whom()}"
        return (PassContributions(self.round + 1, self._contributed, to, self._exchange_ends(now_ms), why),)

    def _commit(self, now_ms: int) -> Decisions:
        everybody_holds = frozenset.intersection(*(self._held[slot] for slot in self._members))
        self._accepted = tuple(slot for slot in self._contributed if slot in everybody_holds)
        if not self._accepted:
            return self._void_round(now_ms, "no contribution is held by every living member")
        self.phase = Phase.COMMITTING
        to = self._await(now_ms)
        why = f"Committing round {self.round + 1} with the contributions of slots {_list(self._accepted)}"
        if left_out := sorted(set(self._contributed) - set(self._accepted)):
            why += f"; not every member could hold slots {_list(left_out)}"
        return (CommitRound(self.round + 1, self._accepted, to, self._exchange_ends(now_ms), why),)

    def _compare(self, now_ms: int) -> Decisions:
        """Digests are in: the majority is right and the odd ones are named; without one, nobody is."""
        ranked = Counter(self._digests.values()).most_common()
        if len(ranked) > 1 and ranked[0][1] == ranked[1][1]:
            disagreeing = ", ".join(f"slot {slot} has {digest[:12]}" for slot, digest in sorted(self._digests.items()))
            return self._disputed(now_ms, disagreeing)
        digest = ranked[0][0]
        odd = [slot for slot, other in sorted(self._digests.items()) if other != digest]
        detail = f"its parameters after round {self.round + 1} differ from those of {ranked[0][1]} others"
        out = [self._drop(self._members[slot], "digest", detail) for slot in odd]
        for slot in odd:
            del self._members[slot]
        self.round += 1
        self._void, self._resumed = 0, True
        self._members = {slot: _at(member, self.round) for slot, member in self._members.items()}
        holders = tuple(sorted(self._members))
        step = min(self.round * self.plan.inner_steps, self.plan.total_steps)
        why = f"Round {self.round} committed: {len(self._accepted)} contributions, {len(holders)} members agree"
        why += self._without_whom()
        took, lost, self._lost = now_ms - self._began_ms, tuple(self._lost), []
        done = RoundCommitted(self.round, step, digest, took, self._accepted, holders, lost, why)
        return (*out, done, *self._start(now_ms, f"round {self.round} is committed"))

    def _disputed(self, now_ms: int, disagreeing: str) -> Decisions:
        round, why = self.round + 1, f"after round {self.round + 1} no majority agrees: {disagreeing}"
        out: list[Decision] = [VoidRound(round, f"Round {round} is void: {why}")]
        self._void += 1
        if self._void >= self.plan.max_void_rounds:
            return (*out, self._give_up(why))
        if self.durable_round == 0:  # only a plain load gives the initial state, so these members cannot go on
            out += [self._drop(member, "digest", why) for _, member in sorted(self._members.items())]
            self._members = {}
        self._members = {slot: _at(member, -1) for slot, member in self._members.items()}
        out.append(self._rewind(self.durable_round, "its members do not agree"))
        return (*out, *self._start(now_ms, why))

    def _void_round(self, now_ms: int, why: str) -> Decisions:
        self._void += 1
        void = VoidRound(self.round + 1, f"Round {self.round + 1} is void: {why}{self._without_whom()}")
        if self._void >= self.plan.max_void_rounds:
            return (void, self._give_up(why))
        return (void, *self._start(now_ms, "the round before was void"))

    def _give_up(self, why: str) -> Halted:
        self.phase, self._deadlines = Phase.OVER, {}
        return Halted(self.round, True, f"giving up after {self._void} void rounds in a row: {why}")

    def _rewind(self, to_round: int, why: str) -> Rewind:
        back = Rewind(self.round, to_round, f"Rewinding from round {self.round} to {to_round}: {why}")
        self.round = to_round
        return back

    def _without(self, slots: Iterable[int], now_ms: int) -> Decisions:
        """The same round goes on without these members."""
        for slot in slots:
            del self._members[slot]
            self._deadlines.pop(slot, None)
        if self.phase is Phase.WAITING:
            return ()
        if not self._members:
            return self._void_round(now_ms, "no member is left")
        if self.phase is Phase.HOLDING and self._deadlines:
            return self._pass_again(frozenset(slots))
        return self._advance(now_ms)

    def _pass_again(self, gone: frozenset[int]) -> Decisions:
        """Contributions may have gone with their makers: those who hold not yet wait only for the others'."""
        self._contributed = tuple(slot for slot in self._contributed if slot not in gone)
        to, ends = tuple(sorted(self._deadlines)), max(self._deadlines.values())
        why = f"Exchanging round {self.round + 1} again{self._without_whom()}"
        return (PassContributions(self.round + 1, self._contributed, to, ends, why),)

    # bookkeeping

    def _drop(self, member: Member, reason: str, detail: str) -> MemberLost:
        lost = Lost(member.slot, member.epoch, reason, detail)
        self._lost.append(lost)
        self._speed_ms.pop(member.slot, None)
        return MemberLost(lost, f"Going on without slot {member.slot} ({member.name}): {reason}, {detail}")

    def _await(self, now_ms: int) -> tuple[int, ...]:
        to = tuple(sorted(self._members))
        self._deadlines = {slot: self._exchange_ends(now_ms) for slot in to}
        return to

    def _exchange_ends(self, now_ms: int) -> int:
        return now_ms + self.plan.exchange_deadline_ms

    def _patience_ms(self, slot: int, fetching: bool) -> int:
        known = self._speed_ms.get(slot)
        patience = self.plan.first_deadline_ms if known is None else round(known * self.plan.slack) + self.plan.grace_ms
        return patience + (self.plan.joining_grace_ms if fetching else 0)

    def _is_stale(self, phase: Phase, slot: int, epoch: int, round: int) -> bool:
        member = self._members.get(slot)
        in_time = self.phase is phase and round == self.round + 1
        if in_time and member is not None and member.epoch == epoch:
            return False
        self.stale += 1
        return True

    def _without_whom(self) -> str:
        gone = "; ".join(f"slot {lost.slot} {lost.reason}: {lost.detail}" for lost in self._lost)
        return f" without {gone}" if gone else ""


def _list(slots: Iterable[int]) -> str:
    return ", ".join(map(str, slots))


def _donor(entry: Joining, round: int) -> str:
    return f"the checkpoint of round {round}" if entry.donor is None else f"slot {entry.donor}"


def _at(member: Member, round: int) -> Member:
    return Member(member.slot, member.epoch, member.name, round)
