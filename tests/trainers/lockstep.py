"""Members of a tiny job in lock step, driving strategies by hand: real codecs, a quadratic to minimise, no torch."""

from collections.abc import Iterable, Mapping

import numpy as np

from trainers.codecs import Vector
from trainers.layout import elements_of, layout_of
from trainers.strategies import Moment, Update, strategy

LAYOUT = layout_of(
    [("in.weight", (16, 24)), ("in.bias", (24,)), ("mid.weight", (24, 16)), ("gain", ()), ("out", (5, 7))]
)
ELEMENTS = elements_of(LAYOUT)
TARGET = np.linspace(-1, 1, ELEMENTS, dtype=np.float32)


def noisy_target(slot: int, at: int) -> Vector:
    """What this member's data at that moment pull towards, so that members disagree."""
    return TARGET + np.random.default_rng([slot, at]).normal(size=ELEMENTS).astype(np.float32) * np.float32(0.05)


def trained(parameters: Vector, slot: int, round: int) -> Vector:
    """Ten steps of gradient descent on ½‖θ − target‖²."""
    for _ in range(10):
        parameters = parameters - np.float32(0.1) * (parameters - noisy_target(slot, round))
    return parameters


class Job:
    """All members of one job; `states` and `locals` by slot are what each would hold."""

    def __init__(self, options: Mapping[str, object], slots: Iterable[int], seed: int = 1) -> None:
        self.strategy, self.seed, self.round = strategy(options, LAYOUT), seed, 0
        self.states = {slot: self.strategy.init(np.zeros(ELEMENTS, dtype=np.float32)) for slot in slots}
        self.locals = {slot: self.states[slot]["parameters"] for slot in self.states}
        self.heard: list[dict[int, tuple[Vector, ...]]] = []
        self.made: list[dict[int, Vector]] = []

    def moment(self, slot: int) -> Moment:
        """Now, to that member."""
        rate = 0.05 / (1 + self.round // 20)
        return Moment(self.round, 10 * self.round, slot, tuple(sorted(self.states)), rate, self.seed)

    def decoded(self, vectors: tuple[Vector, ...], moment: Moment) -> tuple[Vector, ...]:
        """What comes out of the wire."""
        parts = self.strategy.parts(moment)
        assert [part.elements for part in parts] == [vector.size for vector in vectors]
        payloads = [part.codec.encode(vector) for part, vector in zip(parts, vectors, strict=True)]
        assert [len(payload) for payload in payloads] == [part.codec.promised_bytes(part.elements) for part in parts]
        return tuple(part.codec.decode(payload, part.elements) for part, payload in zip(parts, payloads, strict=True))

    def work(self, slot: int) -> Vector:
        """What the member makes of a round: parameters, or the gradient of a step."""
        if self.strategy.cadence == "round":
            return trained(self.locals[slot], slot, self.round)
        return self.locals[slot] - noisy_target(slot, self.round)

    def advance(self, late: frozenset[int] = frozenset(), idle: bool = False) -> None:
        """One round, or one step. The work of `late` members comes to nothing now; of `idle` ones there is none."""
        self.round += 1
        made = {slot: self.locals[slot] if idle else self.work(slot) for slot in self.states}
        sent, after = {}, {}
        for slot, state in self.states.items():
            moment = self.moment(slot)
            if slot in late:
                after[slot] = self.strategy.defer(state, made[slot], moment)
                continue
            vectors, tentative = self.strategy.contribute(state, made[slot], moment)
            sent[slot] = self.decoded(vectors, moment)
            after[slot] = self.strategy.sent(tentative, sent[slot], moment)
        self.heard.append(sent)
        self.made.append(made)
        for slot, state in after.items():
            moment = self.moment(slot)
            among = [other for other in self.strategy.partners(moment) if other in sent]
            updates = [Update(other, 1.0, sent[other]) for other in among]
            merged = self.strategy.merge(state, updates, moment) if updates else state
            self.locals[slot] = self._went_on(merged, made[slot], moment)
            dropped = {name: vector for name, vector in merged.items() if name != "gradient"}
            self.states[slot] = {**dropped, "parameters": self.locals[slot]} if "gradient" in merged else merged

    def _went_on(self, merged: Mapping[str, Vector], local: Vector, moment: Moment) -> Vector:
        if self.strategy.applies == "gradient":
            return self.locals[moment.slot] - np.float32(0.1) * merged["gradient"]
        return self.strategy.resume(merged, local, moment)

    def join(self, slot: int) -> None:
        """A newcomer has what is shared, of any member, and of the rest what a beginner has."""
        donor = self.states[min(self.states)]
        shared = self.strategy.shared or frozenset({"parameters"})
        self.states[slot] = {
            **self.strategy.init(donor["parameters"]),
            **{name: donor[name] for name in shared if name in donor},
        }
        self.locals[slot] = donor["parameters"]

    def leave(self, slot: int) -> None:
        """Gone, with all that was its own."""
        del self.states[slot], self.locals[slot]

    def bits(self) -> bytes:
        """Everything that anybody holds."""
        states = [self.states[slot][name] for slot in sorted(self.states) for name in sorted(self.states[slot])]
        return b"".join(vector.tobytes() for vector in [*states, *(self.locals[slot] for slot in sorted(self.locals))])
