"""One merge of one round as a member sees it: its order, its contribution in the making, what it reads of the others."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from trainers.codecs import BadPayload, Vector
from trainers.contributions import (
    Bundle,
    decode_parts,
    slices_of,
    unpack_contribution,
    unpack_reduced,
)
from trainers.strategies import Moment, Part, State, Update


class MemberError(Exception):
    """The member refuses: another round, nothing to merge, a state that is none. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class RoundOrder:
    """One round as all its members know it. Steps are global inner steps; `position` counts batches of the whole job."""

    round: int
    step_before: int
    step_after: int
    position_after: int
    slots: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Merged:
    """The tentative state after a round: everything but the decision to go on from it."""

    order: RoundOrder
    state: State
    digest: str
    accepted: tuple[int, ...]
    refused: Mapping[int, str]
    bundle: Bundle | None


@dataclass(slots=True)
class Pending:
    """This member's part in the merge that is in progress."""

    order: RoundOrder
    moment: Moment
    parts: tuple[Part, ...]
    vectors: tuple[Vector, ...]
    state: State  # with what contributing changed of the own vectors
    weight: float
    sent: State | None = None
    payload: bytes | None = None
    cut: dict[int, bytes] = field(default_factory=dict)


def read_updates(
    pending: Pending, parts: Sequence[Part], received: Mapping[int, bytes], most_weight: float
) -> tuple[list[Update], dict[int, str]]:
    """Updates in slot order, and why the others are none. Nobody counts for more than `most_weight`."""
    updates, refused = [], {}
    for slot in sorted(received):
        try:
            found = unpack_contribution(received[slot], round=pending.order.round, step=pending.moment.step, slot=slot)
            if found.weight > most_weight:
                raise BadPayload(f"its weight is {found.weight}; at most {most_weight} is allowed")
            updates.append(Update(slot, found.weight, decode_parts(parts, found.body)))
        except BadPayload as error:
            refused[slot] = str(error)
    return updates, refused


def assemble(pending: Pending, results: Mapping[int, bytes]) -> tuple[list[Update], tuple[int, ...]]:
    """One update from everybody's slices of the mean, and whose contributions are in all of them. Raises
    MemberError.
    """
    [part] = pending.parts
    mean, weight = np.empty(part.elements, dtype=np.float32), 0.0
    accepted = set(pending.order.slots)
    for owner, (start, stop) in slices_of(part.elements, sorted(results)).items():
        try:
            found = unpack_reduced(results[owner], round=pending.order.round, step=pending.moment.step)
            [mean[start:stop]] = decode_parts((Part(stop - start, part.codec),), found.body)
        except BadPayload as error:
            raise MemberError(f"slot {owner} made a bad slice of the mean: {error}") from None
        if stop > start:
            accepted &= set(found.slots)
            weight = max(weight, found.weight)
    if weight <= 0.0:
        return [], ()
    return [Update(min(accepted, default=pending.moment.slot), weight, (mean,))], tuple(sorted(accepted))


def digest_of(state: State) -> str:
    """SHA-256 of θ as little-endian float32."""
    return hashlib.sha256(state["parameters"].astype("<f4", copy=False).data).hexdigest()
