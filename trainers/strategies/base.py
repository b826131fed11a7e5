"""What a strategy is: how workers' results become the parameters that everybody goes on from. Pure functions.

No function here changes its arguments, keeps anything, reads a clock or draws a random number: what must last is in the
state, what differs from round to round is in the moment. The same calls give the same bits on every member.

Sign convention of this folder: Δ = θ − θ_m (a pseudo-gradient: the outer step subtracts it), and "residual" in a state is
work in the units of Δ that the others have not seen yet. Vectors are float32 [n] in the layout's order.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from trainers.codecs import Codec, Vector, codec
from trainers.layout import Layout, elements_of
from trainers.merging import MERGES, weighted_mean

State: TypeAlias = Mapping[str, Vector]
"""The outer state by name: "parameters" is always there. A name of no strategy's `init` ("residual") may be absent: zero."""

Cadence: TypeAlias = Literal["round", "step"]
Applies: TypeAlias = Literal["parameters", "gradient"]
Exchange: TypeAlias = Literal["reduce", "gather", "pairs"]

RESIDUAL = "residual"


@dataclass(frozen=True, slots=True)
class Moment:
    """When and by whom.

    `round` is the one that is being made, from 1; `step` the global inner step (cadence "round": of the round's start;
    cadence "step": this one); `slots` those of the round, ascending; `rate` the inner learning rate now (cadence "step").
    """

    round: int
    step: int
    slot: int
    slots: tuple[int, ...]
    rate: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a contribution: so many elements, encoded so. A contribution is its parts' encodings, joined."""

    elements: int
    codec: Codec


@dataclass(frozen=True, slots=True)
class Update:
    """The decoded parts of one member's contribution, or of the weighted mean of several (`slot` is then the lowest).

    `weight` is the tokens behind it where the job weights by them, else 1; of a mean, the sum.
    """

    slot: int
    weight: float
    vectors: tuple[Vector, ...]


class Strategy(Protocol):
    """How members that trained apart agree. `trainers/strategies/diloco.py` is the shortest whole one."""

    name: str
    cadence: Cadence
    """"step": `local` is the gradient of one inner step, merged in each; "round": the parameters after a round's steps."""
    applies: Applies
    """"gradient": the merged state has "gradient", which the workers' own optimisers apply; cadence "step" only."""
    exchange: Exchange
    """"reduce": `merge` needs no more than the weighted mean; "gather": each one's; "pairs": the partner's."""
    shared: frozenset[str]
    """Names in the state that are equal at every member after a merge. The rest is a member's own."""
    overlap_steps: int
    """Steps of the next round that are trained while this round's exchange is under way."""
    error_feedback: bool
    """What the codec lost is still owed."""
    keep: float
    """Share of the own parameters that `resume` keeps in the ranges of `mixed`."""

    def init(self, parameters: Vector) -> State:
        """The state of a job that starts from these parameters."""

    def parts(self, moment: Moment) -> tuple[Part, ...]:
        """What a contribution of this moment consists of."""

    def contribute(self, state: State, local: Vector, moment: Moment) -> tuple[tuple[Vector, ...], State]:
        """What to send, one vector a part, and the own state with it (nothing sent yet, so all of it is still owed)."""

    def sent(self, state: State, decoded: tuple[Vector, ...], moment: Moment) -> State:
        """The state of `contribute` once the others will see `decoded` of it."""

    def owing(self, state: State, owed: Vector, moment: Moment) -> State:
        """The state of `contribute` when `owed` of its first part is what the others have not seen of it and shall yet."""

    def partners(self, moment: Moment) -> tuple[int, ...]:
        """Whose contributions `moment.slot` merges, itself included, ascending."""

    def merge(self, state: State, updates: Sequence[Update], moment: Moment) -> State:
        """The state after it. `updates` ascend by slot; `state` is that of `sent` when the own update is among them."""

    def merge_into(self, room: Vector, state: State, updates: Sequence[Update], moment: Moment) -> State:
        """`merge`; "gradient" may lie in `room`, float32 [n], which is none of the others."""

    def start(self, state: State) -> Vector:
        """The parameters to train a round from, of a worker that holds no others than the state's."""

    def resume(self, state: State, local: Vector, moment: Moment) -> Vector:
        """The parameters to train on from, by the merged state, of a worker that has trained as far as `local`."""

    def mixed(self, moment: Moment) -> tuple[tuple[int, int], ...]:
        """The ranges (offset, size) that `resume` changes."""

    def defer(self, state: State, local: Vector, moment: Moment) -> State:
        """Late work, whose round went on without it: the state with it in the residual. Cadence "round" only."""

    def switch_from(self, state: State) -> State:
        """Another strategy's state as this one's: what both know by one name is kept, the rest begins anew."""


class Base(ABC):
    """What most strategies have in common: one part, everybody merges everybody's, all go on from the parameters."""

    name: str
    cadence: Cadence = "round"
    applies: Applies = "parameters"
    exchange: Exchange = "reduce"
    shared: frozenset[str] = frozenset({"parameters"})
    overlap_steps: int = 0
    keep: float = 0.0

    def __init__(self, options: Mapping[str, Any], layout: Layout) -> None:
        """From whole options (`trainers.options.strategy_options`)."""
        self.elements = elements_of(layout)
        self.codec: Codec = codec(str(options["codec"]), layout)
        self.error_feedback = bool(options["error_feedback"])
        self.merge_name = str(options.get("merge", "mean"))
        if self.merge_name != "mean":
            self.exchange = "gather"  # order statistics need each one's

    def init(self, parameters: Vector) -> State:
        """Nothing but the parameters."""
        return {"parameters": parameters}

    def parts(self, moment: Moment) -> tuple[Part, ...]:
        """The whole vector."""
        return (Part(self.elements, self.codec),)

    def partners(self, moment: Moment) -> tuple[int, ...]:
        """Everybody."""
        return tuple(sorted(moment.slots))

    def owing(self, state: State, owed: Vector, moment: Moment) -> State:
        """One step's gradient is of no use later; strategies of rounds keep what is owed."""
        return state

    def start(self, state: State) -> Vector:
        """The parameters that all agree on."""
        return state["parameters"]

    def resume(self, state: State, local: Vector, moment: Moment) -> Vector:
        """Where a round starts by the merged state."""
        return self.start(state)

    def mixed(self, moment: Moment) -> tuple[tuple[int, int], ...]:
        """All."""
        return ((0, self.elements),)

    def defer(self, state: State, local: Vector, moment: Moment) -> State:
        """One step's gradient is of no use later; strategies of rounds keep what is late."""
        return state

    @abstractmethod
    def merge(self, state: State, updates: Sequence[Update], moment: Moment) -> State:
        """See `Strategy`."""

    def merge_into(self, room: Vector, state: State, updates: Sequence[Update], moment: Moment) -> State:
        """In memory of its own."""
        return self.merge(state, updates, moment)

    def switch_from(self, state: State) -> State:
        """One name means one thing in all strategies, so what `init` names is kept; a residual is owed whoever pays it."""
        mine = self.init(state["parameters"])
        owed = {RESIDUAL: state[RESIDUAL]} if RESIDUAL in state and self.cadence == "round" else {}
        return {name: state.get(name, fresh) for name, fresh in mine.items()} | owed

    def merged(self, updates: Sequence[Update], room: Vector | None = None) -> Vector:
        """One vector from all contributions' first parts; a mean lies in `room`, where there is one."""
        vectors, weights = [update.vectors[0] for update in updates], [update.weight for update in updates]
        return weighted_mean(vectors, weights, room) if self.merge_name == "mean" else MERGES[self.merge_name](vectors)


class PseudoGradients(Base):
    """A strategy whose workers send Δ = θ − θ_m after a round of inner steps.

    With error feedback (Seide et al. 2014; Karimireddy et al., arXiv 1901.09847) what the codec lost is sent with the
    next Δ. Without it only late work is. That is the residual e_m, and a round starts from θ.

    With `keep_unsent` a round starts from θ − e_m: what a worker learned and could not send yet stays in its own parameters,
    as in CHOCO-SGD (Koloskova et al., arXiv 1902.00340, algorithm 2, γ = 1, with all as neighbours). Δ has e_m in it then.
    """

    def __init__(self, options: Mapping[str, Any], layout: Layout) -> None:
        super().__init__(options, layout)
        self.keep_unsent = bool(options.get("keep_unsent", False))

    def start(self, state: State) -> Vector:
        """θ, or θ − e_m."""
        kept = self.keep_unsent and RESIDUAL in state
        return state["parameters"] - state[RESIDUAL] if kept else state["parameters"]

    def contribute(self, state: State, local: Vector, moment: Moment) -> tuple[tuple[Vector, ...], State]:
        """Δ, and what is owed from before."""
        owed = state["parameters"] - local
        if RESIDUAL in state and not self.keep_unsent:
            owed += state[RESIDUAL]
        return (owed,), {**state, RESIDUAL: owed}

    def sent(self, state: State, decoded: tuple[Vector, ...], moment: Moment) -> State:
        """With error feedback, what the codec lost stays owed."""
        rest = {name: vector for name, vector in state.items() if name != RESIDUAL}
        return {**rest, RESIDUAL: state[RESIDUAL] - decoded[0]} if self.error_feedback else rest

    def owing(self, state: State, owed: Vector, moment: Moment) -> State:
        """It is the residual."""
        return {**state, RESIDUAL: owed}

    def defer(self, state: State, local: Vector, moment: Moment) -> State:
        """All of it is still owed."""
        return self.contribute(state, local, moment)[1]
