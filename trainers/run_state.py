"""What a run remembers of its members and of the round in progress, and what follows from that alone. Pure.

`trainers.rounds` has what happens to a run; here is how a round is dealt out, and whom the run warns and drops.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from trainers.patience import Patience
from trainers.round_decisions import (
    START,
    Decision,
    Halted,
    Lost,
    Member,
    MemberLost,
    Rewind,
    RoundPlan,
    Share,
    Standing,
    StartRound,
    Warned,
)
from trainers.shares import share_out

Decisions = tuple[Decision, ...]


class Phase(Enum):
    """Where the run is."""

    WAITING = "waiting"
    TRAINING = "training"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class Late:
    """A member that was left out of a round and is still at it: until when it is waited for, since when and how many steps
    it trains.
    """

    member: Member
    round: int
    until_ms: int
    began_ms: int
    steps: int


class RunState:
    """See the module. Only `Rounds` changes it."""

    def __init__(self, plan: RoundPlan, *, at: Standing = START, durable: Standing = START) -> None:
        """`at`: the newest state that living members hold (or the durable one); `durable`: the checkpoint's."""
        assert durable <= at, "the newest state is at least the durable one"
        self.plan = plan
        self.at = at
        self.durable_at = durable
        self.phase = Phase.WAITING
        self.stale = 0
        self._resumed = at.round > 0
        self._members: dict[int, Member] = {}  # of the round in progress, or waiting for one
        self._arrivals: dict[int, Member] = {}  # wait for the next boundary
        self._late: dict[int, Late] = {}
        self._deadlines: dict[int, int] = {}  # whose answer is awaited
        self._fetching: dict[
            int, int
        ] = {}  # who takes a state over first, and the ms that its share may take after that
        self._began_ms = 0
        self._started: StartRound | None = None
        self._attempt = 0
        self._extended = False
        self._contributed: frozenset[int] = frozenset()
        self._merged: dict[int, tuple[str, tuple[int, ...]]] = {}  # digest and accepted slots
        self._refused: dict[int, Mapping[int, str]] = {}  # whose contributions a member refused, and why
        self._complaints: dict[int, frozenset[int]] = {}  # whom a member cannot reach
        self._lost: list[Lost] = []
        self._left_out: set[int] = set()
        self._spoiled: dict[int, str] = {}  # whose own numbers are not finite, and which
        self._warned: dict[int, Warned] = {}
        self._times_late: Counter[int] = Counter()
        self._times_warned: Counter[tuple[int, str]] = Counter()
        self._patience = Patience()
        self._ahead: frozenset[int] = frozenset()
        self._void = 0
        self._alike = self._was_alike = False
        self._next_plan = plan
        self._stop: str | None = None

    @property
    def round(self) -> int:
        """Committed rounds."""
        return self.at.round

    @property
    def holders(self) -> tuple[int, ...]:
        """Slots of members that stand where the run does."""
        return tuple(slot for slot, member in sorted(self._members.items()) if member.at == self.at)

    @property
    def members(self) -> tuple[int, ...]:
        """Slots of all living members, waiting and late ones too."""
        return tuple(sorted({*self._members, *self._arrivals, *self._late}))

    @property
    def late(self) -> tuple[int, ...]:
        """Slots of members that rounds go on without until they have done their share."""
        return tuple(sorted(self._late))

    @property
    def next_deadline_ms(self) -> int | None:
        """When `tick` will decide something, if nothing else happens."""
        return min([*self._deadlines.values(), *(late.until_ms for late in self._late.values())], default=None)

    # how a round begins

    def start_over(self, at: Standing) -> None:
        """Stand at this state, the one that can be restored, with no member: `Rounds.resume` says who there is.

        What is wanted of the run, who was warned and how fast everybody is stays known.
        """
        self.at = self.durable_at = at
        self.phase, self._resumed = Phase.WAITING, at.round > 0
        self._members, self._arrivals, self._late, self._deadlines = {}, {}, {}, {}
        self._ahead = frozenset()

    def _begin(self, now_ms: int, why: str, holders: tuple[int, ...]) -> StartRound:
        plan, number, slots = self.plan, self.round + 1, tuple(sorted(self._members))
        step_after = plan.end_of(self.at.step)
        ahead = min(plan.overlap_steps, max(0, plan.total_steps - step_after))
        self._was_alike, self._alike = self._alike, False
        if self._was_alike:
            holders = holders[:1]
        self._ahead &= frozenset(holders)
        self._attempt, self._extended = 0, False
        self._contributed, self._merged, self._complaints, self._refused = frozenset(), {}, {}, {}
        self._left_out, self._spoiled, self._warned, self._fetching = set(), {}, {}, {}
        self.phase, self._began_ms = Phase.TRAINING, now_ms
        shares, position = [], self.at.position
        budgets = share_out(
            step_after - self.at.step, slots, plan.nominal_members, self._patience.ms_per_step, equal=plan.every_step
        )
        for slot in slots:
            done = min(plan.overlap_steps if slot in self._ahead else 0, budgets[slot] - 1)
            steps, donors = budgets[slot] - done, None if slot in holders else holders
            until_ms = now_ms + self._patience.allowed_ms(plan, slot, steps, fetching=donors is not None)
            if donors:
                self._fetching[slot] = self._patience.allowed_ms(plan, slot, steps, fetching=False)
            self._deadlines[slot] = until_ms
            limit_ms = (until_ms - now_ms) * (2 if len(slots) > 1 else 1)
            shares.append(Share(slot, self.at.step + done, steps, position, ahead, donors, until_ms, limit_ms))
            position += steps + ahead
        sentence = f"Starting round {number} with slots {listed(slots)}: {why}"
        joining = [share for share in shares if share.donors is not None]
        sentence += "".join(f"; slot {share.slot} joins from {_donors(share, self.round)}" for share in joining)
        self._started = StartRound(number, self.at.step, step_after, position, tuple(shares), sentence)
        return self._started

    # whom it keeps and whom not

    def _warn(self, slot: int, reason: str, why: str) -> Decisions:
        """Once is a warning, twice is the end. At a boundary only: until then the member belongs to the round's exchange."""
        self._times_warned[slot, reason] += 1
        member = self._members.get(slot) or self._arrivals[slot]
        self._warned[slot] = Warned(slot, reason, f"Warning slot {slot} ({member.name}): {why}")
        if self._times_warned[slot, reason] == 1:
            return (self._warned[slot],)
        dropped = self._drop(member, reason, f"{why}, for the second time")
        self._members.pop(slot, None)
        self._arrivals.pop(slot, None)
        self._merged.pop(slot, None)
        self._deadlines.pop(slot, None)
        return (dropped,)

    def _drop(self, member: Member, reason: str, detail: str) -> MemberLost:
        lost = Lost(member.slot, member.epoch, reason, detail)
        self._lost.append(lost)
        self._patience.forget(member.slot)
        self._ahead -= {member.slot}
        return MemberLost(lost, f"Going on without slot {member.slot} ({member.name}): {reason}, {detail}")

    def _rewind(self, to: Standing, why: str) -> Rewind:
        back = Rewind(self.round, to.round, f"Rewinding from round {self.round} to {to.round}: {why}")
        self.at = to
        return back

    def _give_up(self, why: str) -> Halted:
        self.phase, self._deadlines = Phase.OVER, {}
        return Halted(self.round, "diverged", f"giving up after {self._void} void rounds in a row: {why}")

    # what it is told and tells

    def _measure(self, slot: int, now_ms: int) -> None:
        """How fast a member is, unless it took a state over first: that is its line's speed."""
        if slot not in self._fetching:
            self._patience.measured(slot, self._steps_of(slot), now_ms - self._began_ms)

    def _steps_of(self, slot: int) -> int:
        assert self._started is not None
        return next(share.steps for share in self._started.shares if share.slot == slot)

    def _is_late(self, slot: int, epoch: int, round: int) -> bool:
        late = self._late.get(slot)
        return late is not None and late.member.epoch == epoch and late.round == round

    def _is_stale(self, slot: int, epoch: int, round: int) -> bool:
        member = self._members.get(slot)
        in_time = self.phase is Phase.TRAINING and round == self.round + 1
        if in_time and member is not None and member.epoch == epoch:
            return False
        self.stale += 1
        return True

    def _without_whom(self) -> str:
        gone = [f"slot {lost.slot} {lost.reason}: {lost.detail}" for lost in self._lost]
        gone += [f"slot {slot}, which is late" for slot in sorted(self._left_out)]
        gone += [f"slot {slot}, whose numbers are not finite" for slot in sorted(self._spoiled)]
        return f" without {'; '.join(gone)}" if gone else ""


def listed(slots: Iterable[int]) -> str:
    return ", ".join(map(str, slots))


def _donors(share: Share, round: int) -> str:
    return f"slots {listed(share.donors)}" if share.donors else f"the checkpoint of round {round}"


def standing_at(member: Member, at: Standing) -> Member:
    return Member(member.slot, member.epoch, member.name, at)
