"""A run as a pure state machine: members come and go, rounds commit with whoever is there, every decision says why.

waiting → training → training …  In a round every member trains its share, then merges with the others directly; it tells
us when it has contributed and, with the digest of the state that came out, when it has merged. Time and news come in as
arguments, decisions go out as values. A member adopts a merged state only when the next decision builds on it, and all
who merge a round merge the same (`trainers.mesh` promises that), so a death leaves no two different states.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from trainers.round_decisions import (
    NOWHERE,
    START,
    Decision,
    Finished,
    Halted,
    LeftOut,
    Lost,
    Member,
    MemberLost,
    MergeAgain,
    Rewind,
    RoundCommitted,
    RoundPlan,
    Share,
    Standing,
    StartRound,
    VoidRound,
    Wait,
    Warned,
)
from trainers.run_state import Decisions, Late, Phase, RunState, listed, standing_at

__all__ = [
    "NOWHERE", "START", "Decision", "Finished", "Halted", "LeftOut", "Lost", "Member", "MemberLost", "MergeAgain",
    "Phase", "Rewind", "RoundCommitted", "RoundPlan", "Rounds", "Share", "Standing", "StartRound", "VoidRound", "Wait",
    "Warned",
]  # fmt: skip


class Rounds(RunState):
    """One run. Every method takes what happened and returns what to do now, in order.

    Reports carry slot, epoch and round; one that fits no running member or not the round in progress is stale: it is
    counted in `stale` and changes nothing. Repeated reports change nothing.
    """

    def join(self, member: Member, now_ms: int) -> Decisions:
        """A worker has loaded the job; it takes part from the next boundary on, or at once when the run waits."""
        if self.phase is Phase.OVER or member.slot in self.members:
            return ()
        # What a newcomer says of itself may be no state of this run.
        self._arrivals[member.slot] = member if member.at <= self.at else standing_at(member, NOWHERE)
        return self._start(now_ms, f"{member.name} joined") if self.phase is Phase.WAITING else ()

    def resume(self, members: Iterable[Member], now_ms: int) -> Decisions:
        """All living members at once: one by one, the first to come might lack the newest state and cause a rewind."""
        assert self.phase is Phase.WAITING
        assert not self._members
        self._arrivals = {member.slot: member for member in members}
        assert all(member.at <= self.at for member in self._arrivals.values())
        return self._start(now_ms, f"the run resumes at round {self.round}")

    def contributed(self, slot: int, epoch: int, round: int, now_ms: int) -> Decisions:
        """A member has done its share of the round; it merges on its own."""
        if self._is_late(slot, epoch, round):
            late = self._late.pop(slot)
            if self.plan.nominal_members is not None:  # it gets a smaller share; else it would slow all down
                self._patience.measured(slot, late.steps, now_ms - late.began_ms)
            return self._arrive(late.member, f"{late.member.name} has caught up", now_ms)
        if self._is_stale(slot, epoch, round) or slot in self._contributed:
            return ()
        self._contributed |= {slot}
        self._deadlines.pop(slot, None)
        self._measure(slot, now_ms)
        return self._advance(now_ms)

    def merged(
        self, slot: int, epoch: int, round: int, digest: str, accepted: Iterable[int],
        refused: Mapping[int, str], now_ms: int,
    ) -> Decisions:  # fmt: skip
        """A member has merged these contributions into a state of this digest, and refused others."""
        if self._is_stale(slot, epoch, round) or slot in self._merged:
            return ()
        if slot not in self._contributed:  # the two answers of a member may overtake each other
            self._contributed |= {slot}
            self._measure(slot, now_ms)
        self._merged[slot] = (digest, tuple(sorted(accepted)))
        self._refused[slot] = dict(refused)
        self._deadlines.pop(slot, None)
        self._complaints.pop(slot, None)
        return self._advance(now_ms)

    def progressed(self, slot: int, now_ms: int) -> None:
        """Bytes move at a member that exchanges or takes a state over: a slow line is no reason to give it up."""
        self._complaints.pop(slot, None)  # it is not stuck
        least_ms = self._fetching.get(slot)
        if self.plan.every_step:
            least_ms = self.plan.first_deadline_ms
        elif slot in self._contributed:
            least_ms = self.plan.exchange_deadline_ms
        if slot in self._deadlines and least_ms is not None:
            self._deadlines[slot] = max(self._deadlines[slot], now_ms + least_ms)

    def skipped(self, slot: int, epoch: int, round: int, why: str, now_ms: int) -> Decisions:
        """A member cannot take part in this round (its donors died, for example); it comes again at the boundary."""
        if self._is_stale(slot, epoch, round):
            return ()
        member = self._members[slot]
        if self._times_late[slot] + 1 >= self.plan.max_late:
            return self.lost(slot, epoch, "stale", why, now_ms)
        self._times_late[slot] += 1
        self._left_out.add(slot)
        self._arrivals[slot] = member  # where it stood, which counts again if the round comes to nothing
        left = LeftOut(slot, round, f"Going on without slot {slot} ({member.name}) in round {round}: {why}")
        return (left, *self._without([slot], now_ms))

    def spoiled(self, slot: int, epoch: int, round: int, what: str, now_ms: int) -> Decisions:
        """A member's own numbers (loss, gradient, what it would send) are not finite: it contributes nothing, is warned once
        the round is committed, and takes over what the others made. When all are like that, the job has diverged.
        """
        if self._is_late(slot, epoch, round):
            member = self._late.pop(slot).member
            self._arrivals[slot] = member
            warned = self._warn(slot, "nan", f"what it made late for round {round} is not finite: {what}")
            again = self._start(now_ms, f"{member.name} has caught up") if self.phase is Phase.WAITING else ()
            return (*warned, *again)
        if self._is_stale(slot, epoch, round) or slot in self._merged:
            return ()
        assert self._started is not None
        self._spoiled[slot] = what
        if set(self._spoiled) == set(self._started.slots):
            self.phase, self._deadlines = Phase.OVER, {}
            told = "; ".join(f"slot {one}: {words}" for one, words in sorted(self._spoiled.items()))
            return (
                Halted(self.round, "nan", f"every member of round {round} has numbers that are not finite: {told}"),
            )
        self._arrivals[slot] = self._members[slot]  # where it stood, which counts again if the round comes to nothing
        return self._without([slot], now_ms)

    def cannot_reach(self, slot: int, epoch: int, round: int, missing: Collection[int], now_ms: int) -> Decisions:
        """A member has waited in vain for these others in the exchange; whom most complain about is lost.

        Whoever still trains its share is not missing yet.
        """
        ready = frozenset(self._members) if self.plan.every_step else self._contributed & frozenset(self._members)
        if self._is_stale(slot, epoch, round) or slot in self._merged or slot not in ready:
            return ()
        awaited = ready & frozenset(missing) - {slot}
        if not awaited:
            return ()
        self._complaints[slot] = awaited
        silent = set(self._members) - set(self._merged) - set(self._complaints)
        if self.plan.every_step:  # who is silent is computing: its turn to complain comes
            return () if silent else self._drop_unreachable(now_ms)
        blamed = frozenset[int]().union(*self._complaints.values())
        stuck = silent <= blamed and len(silent) <= len(self._complaints)
        return self._drop_unreachable(now_ms) if stuck else ()

    def lost(self, slot: int, epoch: int, reason: str, detail: str, now_ms: int) -> Decisions:
        """A member is gone: died, silent, drained, its lease over."""
        waiting = self._arrivals.get(slot) or (self._late[slot].member if slot in self._late else None)
        member = self._members.get(slot) or waiting
        if member is None or member.epoch != epoch or self.phase is Phase.OVER:
            self.stale += 1
            return ()
        out = [self._drop(member, reason, detail)]
        self._arrivals.pop(slot, None)
        self._late.pop(slot, None)
        return (*out, *self._without([slot], now_ms)) if slot in self._members else tuple(out)

    def durable(self, at: Standing) -> None:
        """The checkpoint of this round is in the store."""
        self.durable_at = max(self.durable_at, at)

    def change(self, plan: RoundPlan, *, alike: bool = False) -> None:
        """Another plan from the next round on; `alike`: all members take one member's state over first."""
        self._next_plan = plan
        self._alike = self._alike or alike
        self._ahead = frozenset()

    def stop(self, why: str, now_ms: int) -> Decisions:
        """Start no further round: the one in progress is finished first."""
        self._stop = why
        return self._start(now_ms, why) if self.phase is Phase.WAITING else ()

    def tick(self, now_ms: int) -> Decisions:
        """Whoever missed a deadline is left out, or lost when nobody can go on without it."""
        out: list[Decision] = []
        for slot, late in sorted(self._late.items()):
            if late.until_ms <= now_ms:
                del self._late[slot]
                out.append(self._drop(late.member, "deadline", "its late work did not come either"))
        overdue = [slot for slot, deadline_ms in sorted(self._deadlines.items()) if deadline_ms <= now_ms]
        if not overdue:
            return tuple(out)
        training = [slot for slot in overdue if slot not in self._contributed]
        if not training:
            return (*out, *self._drop_unreachable(now_ms))
        if self.plan.every_step or len(training) == len(self._members):
            if len(training) > 1 and not self._extended:  # nobody is ahead, so all are as late as the work is
                self._extended = True
                self._deadlines = dict.fromkeys(self._deadlines, 2 * now_ms - self._began_ms)
                return tuple(out)
            return (*out, *self._drop_overdue(training, "while training", now_ms))
        return (*out, *self._leave_out(training, now_ms))

    # decisions

    def _start(self, now_ms: int, why: str) -> Decisions:
        """At a boundary: the next round with everybody who is there, or why there is none."""
        self.plan = self._next_plan
        self._members = {**self._members, **self._arrivals}
        self._arrivals, self._deadlines = {}, {}
        if self.at.step >= self.plan.total_steps or self._stop is not None:
            self.phase = Phase.OVER
            if self.at.step >= self.plan.total_steps:
                return (Finished(self.round, f"all {self.plan.total_steps} steps are trained and committed"),)
            return (Halted(self.round, "", f"stopping after round {self.round}: {self._stop}"),)
        needed = 1 if self._resumed else self.plan.min_members
        if len(self._members) < needed:
            self.phase = Phase.WAITING
            there = len(self._members)
            return (Wait(f"waiting: {there} of {needed} members are there for round {self.round + 1}; {why}"),)
        holders = tuple(slot for slot, member in sorted(self._members.items()) if member.at == self.at)
        if not holders and self.at > self.durable_at:
            newest = max(self.durable_at, *(member.at for member in self._members.values()))
            return (self._rewind(newest, "no living member holds it"), *self._start(now_ms, why))
        return (self._begin(now_ms, why, holders),)

    def _advance(self, now_ms: int) -> Decisions:
        """What follows when somebody has contributed or merged, or is no longer awaited."""
        if not self._members:
            return self._void_round(now_ms, "no member is left")
        if len(self._merged) == len(self._members):
            return self._compare(now_ms)
        if self._contributed >= set(self._members) and not self._deadlines:
            self._deadlines = {
                slot: now_ms + self.plan.exchange_deadline_ms for slot in self._members if slot not in self._merged
            }
        return ()

    def _compare(self, now_ms: int) -> Decisions:
        """Digests are in: the majority is right and the odd ones are named; without one, nobody is."""
        ranked = Counter(digest for digest, _ in self._merged.values()).most_common()
        if not self.plan.agrees:
            ranked = [(self._merged[min(self._merged)][0], len(self._merged))]
        if len(ranked) > 1 and ranked[0][1] == ranked[1][1]:
            told = ", ".join(f"slot {slot} has {digest[:12]}" for slot, (digest, _) in sorted(self._merged.items()))
            return self._disputed(now_ms, told)
        digest = ranked[0][0]
        started = self._started
        assert started is not None
        self.at = Standing(started.round, started.step_after, started.position_after)
        out: list[Decision] = []
        for slot, (other, _) in sorted(self._merged.items()):
            if self.plan.agrees and other != digest:
                self._members[slot] = standing_at(self._members[slot], NOWHERE)
                why = f"its parameters after round {self.round} differ from those of {ranked[0][1]} others"
                out += self._warn(slot, "digest", why)
            else:
                self._members[slot] = standing_at(self._members[slot], self.at)
        out += self._warn_refused(digest)
        for slot, what in sorted(self._spoiled.items()):
            if slot in self._arrivals:  # and not lost meanwhile
                out += self._warn(slot, "nan", f"its numbers of round {self.round} are not finite: {what}")
        return (*out, *self._committed(started, digest, now_ms))

    def _warn_refused(self, digest: str) -> list[Decision]:
        """Whose contribution most of those refused that agree (or its only partner did), one's own word not counted."""
        out: list[Decision] = []
        judges = [slot for slot, (other, _) in self._merged.items() if not self.plan.agrees or other == digest]
        for slot in sorted(self._members):
            others = [judge for judge in judges if judge != slot]
            words = [self._refused[judge][slot] for judge in sorted(others) if slot in self._refused[judge]]
            if words and slot not in self._warned and (not self.plan.agrees or 2 * len(words) > len(others)):
                # Of a slice only its owner knows what is wrong.
                said = next((one for one in words if "finite" in one), words[0])
                reason = "nan" if "finite" in said else "payload"
                out += self._warn(slot, reason, f"its contribution is refused: {said}")
        return out

    def _committed(self, started: StartRound, digest: str, now_ms: int) -> Decisions:
        self._void, self._resumed = 0, True
        holders = tuple(slot for slot, member in sorted(self._members.items()) if member.at == self.at)
        for slot in holders:
            self._times_late.pop(slot, None)
        accepted = self._accepted(holders)
        overlaps = any(share.ahead for share in started.shares)
        self._ahead = frozenset(holders) if overlaps else frozenset()
        why = f"Round {self.round} committed: {len(accepted)} contributions, {len(holders)} members"
        why += (" agree" if self.plan.agrees else " have merged") + self._without_whom()
        took, lost, self._lost = now_ms - self._began_ms, tuple(self._lost), []
        done = RoundCommitted(
            self.round, self.at.step, self.at.position, digest, took, tuple(sorted(accepted)), holders, lost,
            tuple(sorted(self._left_out)), tuple(self._warned[slot] for slot in sorted(self._warned)),
            self._attempt + 1, why,
        )  # fmt: skip
        return (done, *self._start(now_ms, f"round {self.round} is committed"))

    def _accepted(self, holders: Sequence[int]) -> set[int]:
        """Whose contributions count: those that most holders have merged, or, where each merges others, that any has.

        Holders of one digest merged the same, so words that differ are lies. Without a majority those with most words
        count: a lie must not make a committed round nobody's work.
        """
        assert self._started is not None
        dealt = {share.slot for share in self._started.shares}
        votes = Counter(slot for holder in holders for slot in dealt & set(self._merged[holder][1]))
        least = min(len(holders) // 2 + 1, max(votes.values(), default=1)) if self.plan.agrees else 1
        return {slot for slot, count in votes.items() if count >= least}

    def _disputed(self, now_ms: int, disagreeing: str) -> Decisions:
        round, why = self.round + 1, f"after round {self.round + 1} no majority agrees: {disagreeing}"
        out: list[Decision] = [VoidRound(round, f"Round {round} is void: {why}")]
        self._void += 1
        self._ahead = frozenset()
        if self._void >= self.plan.max_void_rounds:
            return (*out, self._give_up(why))
        if self.durable_at.round == 0:  # only a plain load gives the initial state, so these members cannot go on
            out += [self._drop(member, "digest", why) for _, member in sorted(self._members.items())]
            self._members = {}
        self._members = {slot: standing_at(member, NOWHERE) for slot, member in self._members.items()}
        out.append(self._rewind(self.durable_at, "its members do not agree"))
        return (*out, *self._start(now_ms, why))

    def _void_round(self, now_ms: int, why: str) -> Decisions:
        self._void += 1
        self._ahead = frozenset()
        self._alike = self._alike or self._was_alike
        void = VoidRound(self.round + 1, f"Round {self.round + 1} is void: {why}{self._without_whom()}")
        if self._void >= self.plan.max_void_rounds:
            return (void, self._give_up(why))
        return (void, *self._start(now_ms, "the round before was void"))

    def _leave_out(self, slots: list[int], now_ms: int) -> Decisions:
        """The round goes on without members that take much longer than usual; their work is not lost."""
        out: list[Decision] = []
        for slot in slots:
            member, took = self._members[slot], now_ms - self._began_ms
            self._times_late[slot] += 1
            if self._times_late[slot] >= self.plan.max_late:
                out.append(self._drop(member, "deadline", f"late {self._times_late[slot]} times in a row"))
                continue
            self._left_out.add(slot)
            until_ms = now_ms + took + self.plan.grace_ms
            self._late[slot] = Late(
                standing_at(member, NOWHERE), self.round + 1, until_ms, self._began_ms, self._steps_of(slot)
            )
            why = f"no contribution within {took} ms; it comes back when it has one"
            out.append(LeftOut(slot, self.round + 1, f"Leaving slot {slot} ({member.name}) out: {why}"))
        return (*out, *self._without(slots, now_ms))

    def _drop_overdue(self, slots: list[int], doing: str, now_ms: int) -> Decisions:
        detail = f"no answer within {now_ms - self._began_ms} ms of the round's start {doing}"
        out = [self._drop(self._members[slot], "deadline", detail) for slot in slots]
        return (*out, *self._without(slots, now_ms))

    def _drop_unreachable(self, now_ms: int) -> Decisions:
        """The exchange is stuck: whom most cannot reach is lost; without complaints, whoever has not merged."""
        pairs = {(slot, other) for slot, missing in self._complaints.items() for other in missing}
        pairs = {(slot, other) for slot, other in pairs if other in self._members}
        votes = Counter(other for _, other in pairs)
        waiting = [slot for slot in sorted(self._members) if slot not in self._merged]
        if not votes:
            return self._drop_overdue(waiting, "while merging", now_ms)
        cut = Counter(slot for pair in {frozenset(pair) for pair in pairs} for slot in pair)
        # Who complains about everybody is on the wrong side of the cut itself.
        worst = max(cut, key=lambda slot: (cut[slot], votes[slot], slot))
        self._complaints = {}
        detail = f"it and {cut[worst]} others could not reach each other in the exchange"
        return (self._drop(self._members[worst], "network_cut", detail), *self._without([worst], now_ms))

    def _without(self, slots: Iterable[int], now_ms: int) -> Decisions:
        """The same round goes on without these members."""
        for slot in slots:
            self._members.pop(slot, None)
            self._deadlines.pop(slot, None)
            self._merged.pop(slot, None)
        if self.phase is not Phase.TRAINING:
            return ()
        if not self._members:
            return self._void_round(now_ms, "no member is left")
        if len(self._merged) == len(self._members):
            return self._compare(now_ms)
        self._attempt += 1
        self._complaints = {}
        living = tuple(sorted(self._members))
        if self._contributed >= set(living):
            ends = now_ms + self.plan.exchange_deadline_ms
            self._deadlines = {slot: ends for slot in living if slot not in self._merged}
        why = f"Merging round {self.round + 1} among slots {listed(living)}{self._without_whom()}"
        return (MergeAgain(self.round + 1, self._attempt, living, why),)

    def _arrive(self, member: Member, why: str, now_ms: int) -> Decisions:
        self._arrivals[member.slot] = member
        return self._start(now_ms, why) if self.phase is Phase.WAITING else ()
