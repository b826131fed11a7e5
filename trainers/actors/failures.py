"""Failures of workers: how they are told, whose they are, and whether they end one lease or the whole run."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

if TYPE_CHECKING:  # a worker that is warm imports little
    from trainers.actors.roster import Worker
    from trainers.child_messages import ChildFailed

Json = dict[str, Any]

Why = Literal["drained", "preempted", "outbid", "max_lease", "maintenance", "maintenance_unannounced"]
LEAVING: Final[frozenset[str]] = frozenset(get_args(Why))
"""Why a worker goes although nothing has failed."""
SAME_PLACE_DEATHS = 3
REMEDY = "Lower the learning rate, clip gradients (train.clip), or compute in fp32 or bf16 (train.precision)."
CUSTOMER_FAILURES = frozenset({"exception", "nan", "shape", "memory", "import"})
_REASONS = {
    "died": "worker_killed", "hang": "worker_slow", "stale": "stale", "nan": "bad_contribution",
    **{why: why for why in LEAVING},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Halt:
    """How a run ended: state done, paused or failed, with the market's reason."""

    state: str
    reason: str
    detail: str


class CustomerFailed(Exception):
    """The customer's code cannot go on; ends the run."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}")


class Failures:
    """One run's. Code that ends worker after worker in the same place is at fault itself."""

    def __init__(self) -> None:
        self._deaths: dict[int, set[int]] = defaultdict(set)

    def reason(self, worker: Worker, answer: Json, place: int, others: int) -> str:
        """The market's reason for the loss of a worker that failed in the round `place`, where `others` are members too.

        Raises CustomerFailed when it is the customer's: numbers that are not finite are not while others go on well.
        """
        kind, detail = answer["kind"], detail_of(answer)
        if kind in CUSTOMER_FAILURES and not (kind == "nan" and others):
            raise CustomerFailed(kind, f"slot {worker.slot}, round {place}: {detail}")
        if kind in {"died", "hang"}:
            self._deaths[place].add(worker.epoch)
            alone = not others and kind == "hang"
            if len(self._deaths[place]) >= SAME_PLACE_DEATHS or alone:
                reason = "hang" if kind == "hang" else "exception"
                raise CustomerFailed(reason, f"{len(self._deaths[place])} workers ended in round {place}: {detail}")
        return _REASONS[kind]


def detail_of(answer: Json) -> str:
    """What a failed call says of itself."""
    return f"{answer['message']}\n{answer['traceback']}".strip()


def failure(kind: str, message: str, traceback: str) -> Json:
    """How a worker tells its run that a call failed."""
    return {"ok": False, "kind": kind, "message": message, "traceback": traceback}


def failed_answer(failed: ChildFailed) -> Json:
    """The same of its child's failure."""
    return failure(failed.kind, failed.message, failed.traceback)
