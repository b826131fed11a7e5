"""What the round machine is told about, and what it decides: values, each decision with a sentence why.

Times are milliseconds on the caller's monotonic clock. A member is called by its slot.
"""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """How long a run is and how patient.

    Args:
        rounds, inner_steps, total_steps: round r trains steps (r−1)·inner_steps … of total_steps.
        min_members: members that the first round waits for; later ones go on with whoever is there.
        first_deadline_ms: for the inner steps of a member whose speed is not known yet.
        slack, grace_ms: a known member may take slack times what it took on average, and grace_ms more.
        exchange_deadline_ms: to hold all contributions, and again to commit them.
        joining_grace_ms: more for a member that must fetch its state first.
        max_void_rounds: this many void rounds or rewinds without a committed round between them end the run.
    """

    rounds: int
    inner_steps: int
    total_steps: int
    min_members: int = 1
    first_deadline_ms: int = 120_000
    slack: float = 3.0
    grace_ms: int = 2_000
    exchange_deadline_ms: int = 20_000
    joining_grace_ms: int = 20_000
    max_void_rounds: int = 3


@dataclass(frozen=True, slots=True)
class Member:
    """A worker that has loaded the job. `at_round`: the committed round whose state it holds (0 after a plain load)."""

    slot: int
    epoch: int
    name: str
    at_round: int


@dataclass(frozen=True, slots=True)
class Joining:
    """A member that takes over the state before its first inner step: a living donor's, or the durable checkpoint's."""

    slot: int
    donor: int | None


@dataclass(frozen=True, slots=True)
class Lost:
    """A member that is gone, and the reason in one word: what the market is told."""

    slot: int
    epoch: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class StartRound:
    """Train: `joining` members restore first. `evaluator` tells the held-out loss of what the round begins with."""

    round: int
    first_step: int
    steps: int
    slots: tuple[int, ...]
    joining: tuple[Joining, ...]
    evaluator: int | None
    deadlines_ms: tuple[int, ...]  # one a slot, absolute
    why: str


@dataclass(frozen=True, slots=True)
class PassContributions:
    """Hand the contributions of these slots to these members to hold. A later one for the same round replaces it."""

    round: int
    contributions: tuple[int, ...]
    to: tuple[int, ...]
    deadline_ms: int
    why: str


@dataclass(frozen=True, slots=True)
class CommitRound:
    """Tell these members to merge exactly the accepted slots, in this order."""

    round: int
    accepted: tuple[int, ...]
    to: tuple[int, ...]
    deadline_ms: int
    why: str


@dataclass(frozen=True, slots=True)
class RoundCommitted:
    """The round is done: its members agree on the digest. `contributors` were merged, `lost` went during the round."""

    round: int
    step: int
    digest: str
    duration_ms: int
    contributors: tuple[int, ...]
    holders: tuple[int, ...]
    lost: tuple[Lost, ...]
    why: str


@dataclass(frozen=True, slots=True)
class MemberLost:
    """End this member's lease; nothing from it counts any more."""

    lost: Lost
    why: str


@dataclass(frozen=True, slots=True)
class VoidRound:
    """The round leads to nothing; replicas drop what they hold of it. It is tried again with whoever is there."""

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
    """All rounds are committed."""

    round: int
    why: str


@dataclass(frozen=True, slots=True)
class Halted:
    """No further round will start: it was asked for, or it is hopeless (`failed`)."""

    round: int
    failed: bool
    why: str


Decision: TypeAlias = (
    StartRound
    | PassContributions
    | CommitRound
    | RoundCommitted
    | MemberLost
    | VoidRound
    | Rewind
    | Wait
    | Finished
    | Halted
)
