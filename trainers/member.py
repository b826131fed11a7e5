"""One member's copy of the outer state: what it contributes, what it merges, what it holds after every round. No torch.

A round of cadence "round": `contribute` (the inner steps are done), then either `payload` (everybody gets everybody's) or
`cut` and `combine` (everybody merges one slice for all), then `merge` makes a tentative state and its digest, and `commit`
adopts it once all members agree. Nothing is changed in place, so a round that comes to nothing leaves nothing behind.
With cadence "step" the same happens in every inner step (`merge`, then `step_result`), and `finish` ends the round.

Vectors are flat float32 [n] in the model's parameter order.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from trainers.codecs import BadPayload, Vector
from trainers.codecs.base import refuse_not_finite, sum_of_squares
from trainers.contributions import (
    Bundle,
    Contribution,
    Reduced,
    encode_parts,
    is_lossless,
    seen_of,
    slices_of,
    unpack_bundle,
)
from trainers.filled import Payload, parts_of, whole
from trainers.layout import Layout, elements_of, layout_of
from trainers.member_exports import FORMAT, OWN, exported_state, read_description, read_export, write_export
from trainers.merging import weighted_mean
from trainers.round_merges import (
    MemberError,
    Merged,
    Pending,
    RoundOrder,
    assemble,
    assemble_whole,
    digest_of,
    read_updates,
    sent_in_part,
)
from trainers.strategies import Moment, Part, State, Strategy, strategy

__all__ = ["Member", "MemberError", "Merged", "RoundOrder", "read_description", "staged"]

MOST_TOKENS = 1e12


class Member:
    """The outer state after `round` committed rounds. The same calls give the same bits everywhere."""

    def __init__(
        self, spec: Mapping[str, Any], layout: Layout, initial: Vector, *, slot: int = 0, epoch: int = 0
    ) -> None:
        """Before the first round. `spec`: a normalised job spec: {strategy, steps, seed} are read."""
        self.spec: dict[str, Any] = {
            "strategy": dict(spec["strategy"]), "steps": int(spec["steps"]), "seed": int(spec.get("seed", 0)),
        }  # fmt: skip
        self.layout, self.slot, self.epoch = layout, slot, epoch
        self.strategy: Strategy = strategy(self.spec["strategy"], layout)
        self._state: State = self.strategy.init(np.array(initial, dtype=np.float32))
        self._pending: Pending | None = None
        self._digest: str | None = None
        self.round = 0
        self.step = 0
        self.position = 0
        self.accepted: tuple[int, ...] = ()
        self.tentative: Merged | None = None
        self.bundle: Bundle | None = None
        """What the last committed round merged; None when the round cannot be replayed from it."""
        self._refused: Mapping[int, str] = {}  # in the steps of the round in progress

    @property
    def parameters(self) -> Vector:
        """θ. Do not change it."""
        return self._state["parameters"]

    @property
    def state(self) -> State:
        """All vectors of the outer state by name. Do not change them."""
        return self._state

    @property
    def replays(self) -> bool:
        """Whether a round can be made again from the state before it and its bundle."""
        return self.strategy.cadence == "round" and "parameters" in self.strategy.shared

    def digest(self) -> str:
        """SHA-256 of θ as little-endian float32."""
        if self._digest is None:
            self._digest = digest_of(self._state)
        return self._digest

    # a merge

    def contribute(
        self, local: Vector, order: RoundOrder, *, step: int | None = None, rate: float = 0.0, weight: float = 1.0,
        room: Vector | None = None,
    ) -> float:  # fmt: skip
        """Take what this member has trained (or, with `step`, one step's gradient) into the merge of `order`.

        `room`, float32 [n]: where a merged gradient may be put, which then is `step_result`.
        Returns the norm of what is to be sent (0 for a step's). Raises MemberError for a round that is not next, BadPayload when something counts as not finite.
        """
        if order.round != self.round + 1:
            raise MemberError(f"round {order.round} is not next here; {self.round} rounds are committed")
        moment = self._moment(order, step, rate)
        if self.strategy.applies != "gradient":  # that is looked at as it is encoded
            refuse_not_finite(local)
        vectors, state = self.strategy.contribute(self._state, local, moment)
        weighted = bool(self.spec["strategy"].get("weighted", False))
        self._pending = Pending(
            order, moment, self.strategy.parts(moment), tuple(vectors), state, weight if weighted else 1.0, room
        )
        self.tentative = None
        if step is not None:
            return 0.0
        return math.sqrt(sum_of_squares(vectors[0]))

    @property
    def merging(self) -> int | None:
        """The round whose merge is in progress."""
        return None if self._pending is None else self._pending.order.round

    @property
    def sizes(self) -> tuple[int, bool]:
        """Of the merge in progress: bytes of the whole encoding, and whether slices can be merged by themselves."""
        pending = self._in_progress()
        size = sum(part.codec.promised_bytes(part.elements) for part in pending.parts)
        return size, len(pending.parts) == 1 and pending.parts[0].codec.dense and self.strategy.exchange == "reduce"

    @property
    def at_step(self) -> int:
        """Of the merge in progress: the global inner step (the round's first for one merge a round)."""
        return self._in_progress().moment.step

    @property
    def partners(self) -> tuple[int, ...]:
        """Whose contributions this member merges, itself included."""
        return self.strategy.partners(self._in_progress().moment)

    def mixed(self, order: RoundOrder) -> tuple[tuple[int, int], ...]:
        """The ranges (offset, size) of the parameters that the merge of that round may change."""
        return self.strategy.mixed(self._moment(order, None, 0.0))

    def payload(self) -> Payload:
        """The whole contribution; in parts, without a copy of what was contributed, where nothing is lost and nobody keeps
        it for later. Raises BadPayload when an element is not finite.
        """
        pending = self._in_progress()
        if pending.payload is None:
            body, head = encode_parts(pending.parts, pending.vectors), self._contribution(pending)
            as_it_lies = is_lossless(pending.parts) and not self.replays
            pending.payload = head.in_parts(body) if as_it_lies else head.pack(body)
            pending.seen = seen_of(pending.parts, pending.vectors, pending.payload)
            pending.sent = self.strategy.sent(pending.state, pending.seen, pending.moment)
            pending.cut, pending.reduces = {}, False
        return pending.payload

    def cut(self, owners: Sequence[int]) -> dict[int, bytes]:
        """The contribution in slices, one for each owner. Raises BadPayload when an element is not finite."""
        pending = self._in_progress()
        if sorted(pending.cut) != sorted(owners):
            [part], [vector] = pending.parts, pending.vectors
            decoded, cut = np.empty_like(vector), {}
            for owner, (start, stop) in slices_of(part.elements, owners).items():
                slice_part = (Part(stop - start, part.codec),)
                cut[owner] = self._contribution(pending).pack(encode_parts(slice_part, (vector[start:stop],)))
                [decoded[start:stop]] = seen_of(slice_part, (vector[start:stop],), cut[owner])
            pending.sent = self.strategy.sent(pending.state, (decoded,), pending.moment)
            pending.cut, pending.payload, pending.reduces = cut, None, True
        return pending.cut

    def sent_digest(self) -> str:
        """SHA-256 of the contribution's bytes, whole or in the order of its slices, as they were sent."""
        pending = self._in_progress()
        digest = hashlib.sha256()
        if pending.payload is not None:
            sent = parts_of(pending.payload)
        else:
            sent = tuple(pending.cut[owner] for owner in sorted(pending.cut))
        for part in sent:
            digest.update(part)
        return digest.hexdigest()

    def combine(self, received: Mapping[int, Payload], owners: Sequence[int]) -> bytes:
        """As the owner of a slice: the mean of what all members sent of it, encoded. Bad slices are left out."""
        pending = self._in_progress()
        start, stop = slices_of(pending.parts[0].elements, owners)[self.slot]
        part = (Part(stop - start, pending.parts[0].codec),)
        updates, pending.left_out = read_updates(pending, part, received, self._most_weight)
        if not updates:
            body = encode_parts(part, (np.zeros(stop - start, dtype=np.float32),))
            return Reduced(pending.order.round, pending.moment.step, (), 0.0).pack(body)
        weights = [update.weight for update in updates]
        mean = weighted_mean([update.vectors[0] for update in updates], weights)
        slots = tuple(update.slot for update in updates)
        body = encode_parts(part, (mean,))
        return Reduced(pending.order.round, pending.moment.step, slots, math.fsum(weights)).pack(body)

    def merge(self, results: Mapping[int, Payload], among: Sequence[int] | None = None) -> Merged:
        """The state after the merge, from whole contributions by slot or reduced slices by owner; not adopted yet.

        `among`: the members of the exchange; whose slices are not in the mean, or who made a bad one of it, is named as refused.
        Raises MemberError when nothing usable is among them, BadPayload when the outcome is not finite (the job's own doing).
        """
        pending = self._in_progress()
        merged = self._merge(results, pending, frozenset(pending.order.slots if among is None else among))
        self.tentative = merged
        return merged

    def commit(self, digest: str | None = None) -> str:
        """Adopt the tentative state; `digest` is the one that the members agreed on. Raises MemberError."""
        merged = self.tentative
        if merged is None or (digest is not None and merged.digest != digest):
            raise MemberError("there is no such state to adopt")
        order = merged.order
        self._state, self._digest = merged.state, merged.digest
        self.round, self.step, self.position = order.round, order.step_after, order.position_after
        self.accepted, self.bundle = merged.accepted, merged.bundle
        self._pending = self.tentative = None
        return merged.digest

    def abandon(self) -> None:
        """Forget the merge in progress: its round is void."""
        self._pending = self.tentative = None

    def defer(self, local: Vector, order: RoundOrder) -> None:
        """Late work: what was trained for a round that went on without it is kept for a later contribution."""
        self._state = self.strategy.defer(self._state, local, self._moment(order, None, 0.0))
        self.abandon()

    # cadence "step"

    def step_result(self) -> Vector:
        """Adopt the step's merged state; what the child applies: new parameters, or the mean gradient."""
        merged = self.tentative
        assert merged is not None, "a step's result before its merge"
        self._state, self._digest = merged.state, None
        self._refused = {**merged.refused, **self._refused}
        self._pending = self.tentative = None
        return self._state["gradient" if self.strategy.applies == "gradient" else "parameters"]

    def finish(self, trained: Vector, order: RoundOrder) -> Merged:
        """End a round of steps at the parameters that the child ended at; tentative until `commit`.

        Whose contribution to one of the steps was refused is named, and not accepted.
        """
        if order.round != self.round + 1:
            raise MemberError(f"round {order.round} is not next here; {self.round} rounds are committed")
        state = {name: vector for name, vector in self._state.items() if name != "gradient"}
        state["parameters"] = trained
        accepted = tuple(slot for slot in order.slots if slot not in self._refused)
        self.tentative = Merged(order, state, digest_of(state), accepted, self._refused, None)
        self._refused = {}
        return self.tentative

    def become(self, other: "Member") -> None:
        """Stand where a `staged` copy of this member stands: back where it was, or ahead where the copy was led."""
        self._state, self._digest, self._refused = other._state, other._digest, {}
        self.round, self.step, self.position = other.round, other.step, other.position
        self.accepted, self.bundle = other.accepted, other.bundle
        self.abandon()

    # leaving and coming

    def switch(self, options: Mapping[str, Any]) -> None:
        """Go on with another strategy, or the same with other options, from the next round."""
        if dict(options) == self.spec["strategy"]:
            return
        after = strategy(options, self.layout)
        self._state = after.switch_from(self._state)
        self.strategy, self.spec = after, {**self.spec, "strategy": dict(options)}
        self.bundle, self._digest = None, None
        self.abandon()

    def export(self, *, own: bool = False) -> bytes:
        """What a newcomer or a checkpoint needs, as safetensors; equal states give equal bytes.

        `own`: with what belongs to this member alone (residuals), under names that begin with "own/".
        """
        shared = self.strategy.shared or frozenset({"parameters"})
        tensors = {name: vector for name, vector in self._state.items() if name in shared}
        if own:
            tensors |= {OWN + name: vector for name, vector in self._state.items() if name not in shared}
        described = {
            "v": FORMAT, "spec": self.spec, "round": self.round, "step": self.step, "position": self.position,
            "accepted": self.accepted, "layout": [[tensor.name, tensor.shape] for tensor in self.layout],
        }  # fmt: skip
        return write_export(described, tensors)

    @classmethod
    def restore(cls, exported: bytes, *, slot: int = 0, epoch: int = 0, own: bool = False) -> "Member":
        """From `export`; `own`: take what belonged to the exporting member too. Raises MemberError."""
        try:
            described, tensors = read_export(exported)
            layout = layout_of([(str(name), tuple(map(int, shape))) for name, shape in described["layout"]])
            parameters = tensors["parameters"]
            if parameters.shape != (elements_of(layout),):
                raise ValueError(f"{parameters.size} parameters; its layout has {elements_of(layout)}")
            member = cls(described["spec"], layout, parameters, slot=slot, epoch=epoch)
            member.round, member.step = int(described["round"]), int(described["step"])
            member.position = int(described["position"])
            member.accepted = tuple(map(int, described["accepted"]))
            member._state = exported_state(tensors, member.strategy, member._state, own=own)
        except (KeyError, ValueError, TypeError, LookupError, safetensors.SafetensorError) as error:
            raise MemberError(f"not an exported member: {error}") from None
        return member

    def take_over(
        self, exported: bytes, round: int | None = None, digest: str | None = None, *, own: bool = False
    ) -> None:
        """Stand where a peer stands; this member's own vectors (residuals) stay. Raises MemberError.

        `round`, `digest`: what is expected there, where that is known. `own`: what was the peer's own takes their place.
        """
        peer = Member.restore(exported, slot=self.slot, epoch=self.epoch, own=own)
        if round not in (None, peer.round) or digest not in (None, peer.digest()):
            raise MemberError(f"a state of round {peer.round}, {peer.digest()[:12]}, not of {round}, {digest}")
        if peer.spec["seed"] != self.spec["seed"] or peer.spec["steps"] != self.spec["steps"]:
            raise MemberError("the state of another job")
        if any(vector.size != self.parameters.size for vector in peer._state.values()):
            raise MemberError(f"vectors of another size than this model's {self.parameters.size} parameters")
        keeps = not own and self.spec["strategy"] == peer.spec["strategy"]
        others = {*peer.strategy.shared, "parameters"}
        mine = {name: vector for name, vector in self._state.items() if keeps and name not in others}
        self.strategy, self.spec = peer.strategy, peer.spec
        self._state, self._digest = {**peer._state, **mine}, None
        self.round, self.step, self.position, self.accepted = peer.round, peer.step, peer.position, peer.accepted
        self.bundle, self._refused = None, {}
        self.abandon()

    def apply(self, bundle: Bundle) -> str:
        """Make a round again from its bundle; the digest after it. Raises MemberError."""
        if bundle.round != self.round + 1 or bundle.step_before != self.step or not self.replays:
            raise MemberError(f"the bundle of round {bundle.round} does not follow round {self.round}")
        order = RoundOrder(bundle.round, bundle.step_before, bundle.step_after, bundle.position, bundle.slots)
        moment = self._moment(order, None, 0.0)
        parts, reduces = self.strategy.parts(moment), bundle.topology == "reduce"
        self._pending = Pending(order, moment, parts, (), self._state, 1.0, reduces=reduces)
        self.merge(bundle.payloads)
        return self.commit()

    @classmethod
    def replay(cls, base: bytes, deltas: Sequence[bytes]) -> bytes:
        """The state after the last of these bundles, from a base; as `export` of a member that was there, without what
        is a member's own: what the base's maker owed then it has sent since. Raises MemberError.
        """
        member = cls.restore(base)
        for delta in deltas:
            try:
                member.apply(unpack_bundle(delta))
            except BadPayload as error:
                raise MemberError(str(error)) from None
        return member.export()

    # inside

    def _moment(self, order: RoundOrder, step: int | None, rate: float) -> Moment:
        at = order.step_before if step is None else step
        return Moment(order.round, at, self.slot, order.slots, rate, self.spec["seed"])

    def _in_progress(self) -> Pending:
        if self._pending is None:
            raise MemberError("no merge is in progress here")
        return self._pending

    def _contribution(self, pending: Pending) -> Contribution:
        return Contribution(pending.order.round, pending.moment.step, self.epoch, self.slot, pending.weight)

    @property
    def _most_weight(self) -> float:
        """Nobody counts for more than its work: one without weights, no more than a round's tokens can be with them."""
        return MOST_TOKENS if self.spec["strategy"].get("weighted", False) else 1.0

    def _merge(self, results: Mapping[int, Payload], pending: Pending, among: frozenset[int]) -> Merged:
        if pending.reduces:
            found = assemble(pending, results, among)
        else:
            found = assemble_whole(pending, results, self._most_weight)
        if not found.updates:
            raise MemberError(
                f"nothing to merge in round {pending.order.round}: {found.refused or 'nobody contributed'}"
            )
        mine = self._state
        if pending.sent is not None and self.slot in found.accepted:
            mine = sent_in_part(self.strategy, mine, pending, found.lost) if found.lost else pending.sent
        if pending.room is None:
            state = self.strategy.merge(mine, found.updates, pending.moment)
        else:
            state = self.strategy.merge_into(pending.room, mine, found.updates, pending.moment)
        order = pending.order
        changed = state["parameters"] is not self._state["parameters"]
        if changed and not np.isfinite(state["parameters"]).all():
            raise BadPayload(f"round {order.round} would make parameters that are not finite")
        bundle = None
        if self.replays:
            bundle = Bundle(
                order.round, order.step_before, order.step_after, "reduce" if pending.reduces else "gather",
                order.slots, order.position_after, {key: whole(one) for key, one in results.items()},
            )  # fmt: skip
        digest = digest_of(state) if self.strategy.cadence == "round" else ""
        return Merged(order, state, digest, found.accepted, found.refused, bundle)


def staged(member: Member) -> Member:
    """A copy that stays as it is while the member goes on. Costs nothing: states are never changed in place."""
    copied = object.__new__(Member)
    copied.__dict__.update(member.__dict__)
    copied.abandon()
    return copied
