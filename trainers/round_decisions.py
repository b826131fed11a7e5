"""What the round machine is told about, and what it decides: values, each decision with a sentence why.

Times are milliseconds on the caller's monotonic clock. A member is called by its slot. Steps are global inner steps, the
ones that learning-rate schedules follow; positions count batches of the whole job, so that each is given out once.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from trainers.round_lengths import RoundLengths


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """How long a run is, how its work is shared out and how patient it is.

    Args:
        total_steps, inner_steps: the run ends after total_steps; a round takes it inner_steps further, and one that begins
            at step later_from or after it inner_steps_later, where that is there.
        nominal_members: with this, a round is inner_steps · nominal_members batches in all, shared out by speed to
            whoever is there; None: every member trains inner_steps, however many there are.
        overlap_steps: steps of the next round that a member trains while this round is being merged.
        every_step: members exchange in every inner step, so that nobody can be ahead of a slow one.
        agrees: members end a round with equal parameters, so that digests are compared.
        min_members: members that the first round waits for; later ones go on with whoever is there.
        first_deadline_ms: for the inner steps of a member whose speed is not known yet.
        tolerance, grace_ms: a known member may take (median + tolerance · MAD) of what members took, measured against
            their own averages, and grace_ms more.
        exchange_deadline_ms: to merge, once everybody has contributed.
        joining_grace_ms: more for a member that must fetch its state first.
        max_late: a member that is late this often in a row is lost.
        max_void_rounds: this many void rounds or rewinds without a committed round between them end the run.
    """

    total_steps: int
    inner_steps: int
    nominal_members: int | None = None
    overlap_steps: int = 0
    every_step: bool = False
    agrees: bool = True
    min_members: int = 1
    first_deadline_ms: int = 120_000
    tolerance: float = 6.0
    grace_ms: int = 2_000
    exchange_deadline_ms: int = 20_000
    joining_grace_ms: int = 20_000
    max_late: int = 3
    max_void_rounds: int = 3
    inner_steps_later: int | None = None
    later_from: int = 0

    def end_of(self, step: int) -> int:
        """Where the round ends that begins at that step."""
        return RoundLengths(self.total_steps, self.inner_steps, self.inner_steps_later, self.later_from).end_of(step)


@dataclass(frozen=True, slots=True, order=True)
class Standing:
    """How far somebody is: committed rounds, the steps and batches behind them."""

    round: int
    step: int
    position: int


START = Standing(0, 0, 0)
NOWHERE = Standing(-1, 0, 0)
"""Of a member whose state is no longer the job's: it takes one over before it trains on."""


@dataclass(frozen=True, slots=True)
class Member:
    """A worker that has loaded the job. `at`: where its state stands (START after a plain load)."""

    slot: int
    epoch: int
    name: str
    at: Standing


@dataclass(frozen=True, slots=True)
class Share:
    """One member's part of a round.

    Args:
        first_step, steps: what it trains now. position: of its first batch; the following ones are its own.
        ahead: steps that it goes on to train while the round is being merged, with the batches that follow.
        donors: members that hold the state before the round, from which it takes that state over first; empty: from the
            durable checkpoint; None: it holds it.
        deadline_ms: absolute. limit_ms: how long it may work before it must give up; a member that others can go on
            without may be late, as long again.
    """

    slot: int
    first_step: int
    steps: int
    position: int
    ahead: int
    donors: tuple[int, ...] | None
    deadline_ms: int
    limit_ms: int


@dataclass(frozen=True, slots=True)
class Lost:
    """A member that is gone, and the reason in one word: what the market is told."""

    slot: int
    epoch: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class StartRound:
    """Train, then merge among all of these members (the exchange's attempt 0)."""

    round: int
    step_before: int
    step_after: int
    position_after: int
    shares: tuple[Share, ...]
    why: str

    @property
    def slots(self) -> tuple[int, ...]:
        """The round's members."""
        return tuple(share.slot for share in self.shares)


@dataclass(frozen=True, slots=True)
class MergeAgain:
    """The exchange of this round goes on among these members only; whatever one of them has merged stands for all."""

    round: int
    attempt: int
    slots: tuple[int, ...]
    why: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """This member is late: the round goes on without it, it takes the state over afterwards and keeps what it made."""

    slot: int
    round: int
    why: str


@dataclass(frozen=True, slots=True)
class Warned:
    """This member did something that the next time costs it its place."""

    slot: int
    reason: str
    why: str


@dataclass(frozen=True, slots=True)
class RoundCommitted:
    """The round is done: its members agree on the digest. `contributors` were merged, `lost` went during the round,
    `late` were left out, `warned` did something wrong; the exchange took `attempts`.
    """

    round: int
    step: int
    position: int
    digest: str
    duration_ms: int
    contributors: tuple[int, ...]
    holders: tuple[int, ...]
    lost: tuple[Lost, ...]
    late: tuple[int, ...]
    warned: tuple[Warned, ...]
    attempts: int
    why: str


@dataclass(frozen=True, slots=True)
class MemberLost:
    """End this member's lease; nothing from it counts any more."""

    lost: Lost
    why: str


@dataclass(frozen=True, slots=True)
class VoidRound:
    """The round leads to nothing; members drop what they made for it. It is tried again with whoever is there."""

    round: int
    why: str


@dataclass(frozen=True, slots=True)
class Rewind:
    """Nobody has the newest state any more, or nobody knows whose is right: back to one that somebody has.

    That is the durable checkpoint's, or a newer one that a member still holds. Round numbers are used again.
    """

    from_round: int
    to_round: int
    why: str


@dataclass(frozen=True, slots=True)
class Wait:
    """No round can start until members join."""

    why: str


@dataclass(frozen=True, slots=True)
class Finished:
    """All steps are trained and committed."""

    round: int
    why: str


@dataclass(frozen=True, slots=True)
class Halted:
    """No further round will start: it was asked for, or it is hopeless (`failed`): `diverged` when the members come to no
    agreement, `nan` when the numbers of all of them are not finite.
    """

    round: int
    failed: Literal["", "diverged", "nan"]
    why: str


Decision: TypeAlias = (
    StartRound
    | MergeAgain
    | LeftOut
    | Warned
    | RoundCommitted
    | MemberLost
    | VoidRound
    | Rewind
    | Wait
    | Finished
    | Halted
)
