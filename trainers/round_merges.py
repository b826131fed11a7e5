"""One merge of one round as a member sees it: its order, its contribution in the making, what it reads of the others."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from trainers.codecs import BadPayload, Vector
from trainers.contributions import (
    CONTRIBUTION,
    Bundle,
    decode_parts,
    slices_of,
    unpack_contribution,
    unpack_reduced,
)
from trainers.filled import Payload, whole
from trainers.merging import bounded_weights
from trainers.strategies import Moment, Part, State, Strategy, Update


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
    room: Vector | None = None  # where a merged gradient may be put
    sent: State | None = None
    payload: Payload | None = None
    seen: tuple[Vector, ...] = ()  # what everybody decodes `payload` to
    cut: dict[int, bytes] = field(default_factory=dict)
    reduces: bool = False  # slices of the mean are exchanged, not whole contributions
    left_out: dict[int, str] = field(default_factory=dict)  # as the owner of a slice: whose slices, and why


def read_updates(
    pending: Pending, parts: Sequence[Part], received: Mapping[int, Payload], most_weight: float
) -> tuple[list[Update], dict[int, str]]:
    """Updates in slot order, and why the others are none. Who claims more than `most_weight` is refused; below that a claim
    is nobody's but the sender's, so it counts as far as `bounded_weights` lets it.
    """
    updates: list[Update] = []
    refused: dict[int, str] = {}
    for slot in sorted(received):
        try:
            if received[slot] is pending.payload and parts is pending.parts:
                weight, vectors = pending.weight, pending.seen
            else:
                payload = whole(received[slot])
                found = unpack_contribution(payload, round=pending.order.round, step=pending.moment.step, slot=slot)
                weight, vectors = found.weight, decode_parts(parts, found.body)
            if weight > most_weight:
                raise BadPayload(f"its weight is {weight}; at most {most_weight} is allowed")
            updates.append(Update(slot, weight, vectors))
        except BadPayload as error:
            refused[slot] = str(error)
    weights = bounded_weights([update.weight for update in updates]) if updates else []
    return [replace(update, weight=weight) for update, weight in zip(updates, weights, strict=True)], refused


@dataclass(frozen=True, slots=True)
class Assembled:
    """What comes of an exchange: the updates in slot order, whose contributions are wholly in them, who was refused and why,
    and which elements [start, stop) came to nothing.
    """

    updates: list[Update]
    accepted: tuple[int, ...]
    refused: Mapping[int, str]
    lost: tuple[tuple[int, int], ...] = ()


def assemble_whole(pending: Pending, results: Mapping[int, Payload], most_weight: float) -> Assembled:
    """Everybody's contribution as it is."""
    updates, refused = read_updates(pending, pending.parts, results, most_weight)
    return Assembled(updates, tuple(update.slot for update in updates), refused)


def assemble(pending: Pending, results: Mapping[int, Payload], among: frozenset[int]) -> Assembled:
    """The mean of everybody's contributions from its slices, as one update.

    All have the same slices, so that all refuse the same: nobody has moved where a slice is none, and its owner, who made
    it, is not accepted. Else one owner could stop everybody but itself.
    """
    [part] = pending.parts
    mean, weight = np.zeros(part.elements, dtype=np.float32), 0.0
    accepted, bad, lost = set(pending.order.slots), dict[int, str](), []
    for owner, (start, stop) in slices_of(part.elements, sorted(results)).items():
        try:
            found = unpack_reduced(whole(results[owner]), round=pending.order.round, step=pending.moment.step)
            [mean[start:stop]] = decode_parts((Part(stop - start, part.codec),), found.body)
        except BadPayload as error:
            bad[owner] = f"it made a bad slice of the mean: {error}"
            lost.append((start, stop))
            continue
        if stop > start:
            accepted &= set(found.slots)
            weight = max(weight, found.weight)
    if weight <= 0.0:
        accepted &= among if bad else set()
    accepted -= set(bad)
    outside = {slot: pending.left_out.get(slot, "not in every slice of the mean") for slot in sorted(among - accepted)}
    updates = (
        [Update(min(accepted, default=pending.moment.slot), weight or 1.0, (mean,))] if weight > 0.0 or bad else []
    )
    return Assembled(updates, tuple(sorted(accepted)), outside | bad, tuple(lost))


def sent_in_part(strategy: Strategy, before: State, pending: Pending, lost: Sequence[tuple[int, int]]) -> State:
    """The own state with what this member contributed in slices, when the elements `lost` [start, stop) came to nothing:
    all of that is still owed, but for what `resume` keeps. `before`: the state before the contribution.
    """
    [part], [vector] = pending.parts, pending.vectors
    owed = np.zeros_like(vector)
    if strategy.error_feedback:
        for owner, (start, stop) in slices_of(part.elements, sorted(pending.cut)).items():
            body = memoryview(pending.cut[owner])[CONTRIBUTION.size :]
            [seen] = decode_parts((Part(stop - start, part.codec),), body)
            np.subtract(vector[start:stop], seen, out=owed[start:stop])
    for start, stop in lost:
        owed[start:stop] = vector[start:stop]
    if strategy.keep > 0.0:  # that share of the progress is in the next contribution; what was owed before it is not
        owed_before = strategy.contribute(before, before["parameters"], pending.moment)[0][0]
        for start, stop in lost:
            owed[start:stop] -= np.float32(strategy.keep) * (vector[start:stop] - owed_before[start:stop])
    return strategy.owing(pending.state, owed, pending.moment)


def digest_of(state: State) -> str:
    """SHA-256 of θ as little-endian float32."""
    return hashlib.sha256(state["parameters"].astype("<f4", copy=False).data).hexdigest()
