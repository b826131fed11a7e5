"""What a run asks of a worker, as the fields of its calls. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainers.round_decisions import Share, StartRound

Json = dict[str, Any]

MERGE_TIMEOUT_S = 24 * 3600.0
HEADSTART_S = 0.5
"""A worker gives up so long before it is late for good, so that it says why."""


@dataclass(frozen=True, slots=True)
class Began:
    """What all orders of a round have in common. `start`: the run and which try of which round it is; `digest`: of the
    state before the round, None when members do not agree on one.
    """

    start: Sequence[Any]
    members: Sequence[Sequence[Any]]
    digest: str | None
    strategy: Mapping[str, Any]
    accepted: Sequence[int]
    switched: bool


def base_of(round: int, digest: str | None) -> Json:
    """Which state something builds on."""
    return {"round": round, "digest": digest}


def train_order(start: StartRound, share: Share, began: Began, *, evaluate: bool, fresh: bool) -> Json:
    """One worker's share of a round; see `Worker.train`."""
    return {
        "round": start.round, "start": list(began.start), "step_before": start.step_before, "step_after": start.step_after,
        "position_after": start.position_after, "slots": list(start.slots), "members": began.members,
        "base": base_of(start.round - 1, began.digest), "strategy": began.strategy,
        "first_step": share.first_step, "steps": share.steps, "position": share.position, "ahead": share.ahead,
        "donors": None if share.donors is None else list(share.donors), "evaluate": evaluate,
        "timeout_s": max(1.0, share.limit_ms / 1000 - HEADSTART_S),
        "fresh": fresh, "switched": began.switched, "accepted": began.accepted,
    }  # fmt: skip


def merge_order(number: int, start: Sequence[Any], attempt: int, members: Sequence[Sequence[Any]]) -> Json:
    """A round's exchange among these members; see `Worker.merge`."""
    return {
        "round": number, "start": list(start), "attempt": attempt, "members": members, "timeout_s": MERGE_TIMEOUT_S,
    }  # fmt: skip


def prepare_order(round: int, digest: str | None, members: Sequence[Sequence[Any]]) -> Json:
    """To take over what these members hold after that round; see `Worker.prepare`."""
    return {"base": base_of(round, digest), "members": members}
