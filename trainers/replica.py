"""One member's copy of the outer state: what everybody agrees on after every round. numpy only, no torch.

All vectors are flat float32 [n] in the model's parameter order.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from trainers.codecs import BadPayload, Vector, codec
from trainers.codecs.base import sum_of_squares
from trainers.layout import flat_layout
from trainers.strategies import Moment, State, Update, strategy

FORMAT = 1


class ReplicaError(Exception):
    """The replica refuses: another round, a slot that it does not hold, a state that is none. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class ContributionInfo:
    """What is worth saying about a contribution: SHA-256 of its bytes, their count, the norm of what they encode."""

    digest: str
    size_bytes: int
    norm: float


@dataclass(frozen=True, slots=True)
class Held:
    """Slots whose contributions of a round this member holds, whole and checked, and why others were refused."""

    slots: tuple[int, ...]
    refused: Mapping[int, str]


class Replica:
    """Parameters and outer momentum after `round` committed rounds. The same calls give the same bits everywhere."""

    def __init__(self, spec: Mapping[str, Any], initial: Vector) -> None:
        """A job's outer state before its first round, from a normalised spec (or what `export` kept of one)."""
        self._spec: dict[str, Any] = {"strategy": dict(spec["strategy"]), "steps": int(spec["steps"])}
        self._strategy = strategy(spec["strategy"], flat_layout(np.size(initial)))
        self._codec = codec(spec["strategy"].get("codec", "identity"))
        self._state: State = self._strategy.init(np.array(initial, dtype=np.float32))
        self._held: dict[int, bytes] = {}
        self._held_round = 0
        self._accepted: tuple[int, ...] = ()
        self.round = 0
        self._digest: str | None = None

    @property
    def parameters(self) -> Vector:
        """θ. Do not change it."""
        return self._state["parameters"]

    @property
    def step(self) -> int:
        """Inner steps behind θ, per worker."""
        return min(self.round * int(self._spec["strategy"]["inner_steps"]), int(self._spec["steps"]))

    @property
    def accepted(self) -> tuple[int, ...]:
        """Slots merged in the last committed round."""
        return self._accepted

    @property
    def state(self) -> State:
        """All tensors of the outer state by name. Do not change them."""
        return self._state

    def contribute(self, trained_parameters: Vector) -> tuple[bytes, ContributionInfo]:
        """This worker's contribution to round `round + 1`. Raises BadPayload when it is not finite."""
        (update,), _ = self._strategy.contribute(self._state, trained_parameters, self._moment(()))
        payload = self._codec.encode(update)
        norm = math.sqrt(sum_of_squares(update))
        return payload, ContributionInfo(hashlib.sha256(payload).hexdigest(), len(payload), norm)

    def hold(self, round: int, payloads: Mapping[int, bytes]) -> Held:
        """Keep contributions, by slot, until `commit`; may be called again with more. Raises ReplicaError.

        Each is decoded once here: a payload that will not decode is refused now and cannot break the commit.
        """
        if round != self.round + 1:
            raise ReplicaError(f"round {round} is not next here; {self.round} rounds are committed")
        if self._held_round != round:
            self._held, self._held_round = {}, round
        refused = {}
        for slot, payload in payloads.items():
            try:
                self._codec.decode(payload, self.parameters.size)
                self._held[slot] = payload
            except BadPayload as error:
                refused[slot] = str(error)
        return Held(tuple(sorted(self._held)), refused)

    def commit(self, round: int, accepted: Sequence[int]) -> str:
        """Merge the accepted slots' contributions, in ascending order whatever order is given; the new digest.

        Again for the last round: the same digest. Raises ReplicaError for any other round, no or unknown slots.
        """
        slots = tuple(sorted(set(accepted)))
        if round == self.round and slots == self._accepted:
            return self.digest()
        if round != self.round + 1:
            raise ReplicaError(f"round {round} cannot be committed; {self.round} rounds are")
        missing = [slot for slot in slots if self._held_round != round or slot not in self._held]
        if missing or not slots:
            raise ReplicaError(f"round {round} without contributions of slots {missing}" if slots else "no slots")
        updates = [Update(slot, 1.0, (self._codec.decode(self._held[slot], self.parameters.size),)) for slot in slots]
        merged = self._strategy.merge(self._state, updates, self._moment(slots))
        if not np.isfinite(merged["parameters"]).all():
            raise ReplicaError(f"round {round} would make parameters that are not finite")
        self._state, self._accepted, self.round = merged, slots, round
        self._held, self._digest = {}, None
        return self.digest()

    def drop_round(self) -> None:
        """Forget what is held for a round that became void."""
        self._held = {}

    def digest(self) -> str:
        """SHA-256 of θ as little-endian float32."""
        if self._digest is None:
            self._digest = hashlib.sha256(self.parameters.astype("<f4", copy=False).data).hexdigest()
        return self._digest

    def _moment(self, slots: tuple[int, ...]) -> Moment:
        return Moment(self.round + 1, self.step, slots[0] if slots else 0, slots)

    def export(self) -> bytes:
        """Everything a newcomer or a checkpoint needs, as safetensors; the same state gives the same bytes."""
        described = {
            "v": FORMAT,
            "spec": self._spec,
            "round": self.round,
            "step": self.step,
            "accepted": self._accepted,
        }
        metadata = {"torg": json.dumps(described, sort_keys=True, separators=(",", ":"))}
        return bytes(safetensors.numpy.save({name: self._state[name] for name in sorted(self._state)}, metadata))

    @classmethod
    def restore(cls, exported: bytes) -> "Replica":
        """From `export`. Raises ReplicaError for bytes that are not one."""
        try:
            described = read_description(exported)
            state = {name: np.array(tensor) for name, tensor in safetensors.numpy.load(exported).items()}
            replica = cls(described["spec"], state["parameters"])
            replica.round, replica._accepted = int(described["round"]), tuple(map(int, described["accepted"]))
        except (KeyError, ValueError, TypeError, LookupError, safetensors.SafetensorError) as error:
            raise ReplicaError(f"not an exported replica: {error}") from None
        expected = replica._state
        if set(state) != set(expected):
            raise ReplicaError(f"not an exported replica: it has {', '.join(sorted(state))}")
        for name, tensor in state.items():
            if tensor.dtype != np.float32 or tensor.shape != expected[name].shape or not np.isfinite(tensor).all():
                raise ReplicaError(f"not an exported replica: {name} is of another kind or not finite")
        replica._state = state
        return replica


def read_description(exported: bytes) -> dict[str, Any]:
    """The JSON that `export` put beside the tensors: {v, spec, round, step, accepted}. Raises ValueError, KeyError."""
    size = int.from_bytes(exported[:8], "little")
    header = json.loads(exported[8 : 8 + size])
    described = json.loads(header["__metadata__"]["torg"])
    if described["v"] != FORMAT:
        raise ValueError(f"format {described['v']}")
    return dict(described)
