"""Streaming DiLoCo (Douillard et al., arXiv 2501.18512, algorithm 2): one fragment at a time, in the background.

The model's tensors are dealt into P fragments. Every H/P steps one fragment p is exchanged, each in its turn:

    Δ_p = mean_m (θ_p − θ_{m,p});  u_p ← μ u_p + Δ_p;  θ_p ← θ_p − η (Δ_p + μ u_p)

While the exchange is under way the workers train τ steps more; then θ_{m,p} ← α θ_{m,p} + (1 − α) θ_p. So a worker's own
parameters differ from θ, which holds every fragment as its last exchange left it. Peak traffic is a P-th.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from trainers.codecs import Codec, Vector, codec
from trainers.layout import Layout, TensorSpec, elements_of
from trainers.strategies.base import RESIDUAL, Moment, Part, PseudoGradients, State, Update
from trainers.strategies.diloco import nesterov

Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""(offset, size) pieces of the flat vector, ascending, apart."""


class StreamingDiloco(PseudoGradients):
    """Options: fragments P, overlap_steps τ, mixing α, outer_lr η, outer_momentum μ. One round is H/P steps."""

    name = "streaming_diloco"
    shared = frozenset({"parameters", "momentum"})

    def __init__(self, options: Mapping[str, Any], layout: Layout) -> None:
        super().__init__(options, layout)
        self.rate, self.momentum = np.float32(options["outer_lr"]), np.float32(options["outer_momentum"])
        self.overlap_steps, self.keep = int(options["overlap_steps"]), float(options["mixing"])
        dealt = fragments_of(layout, int(options["fragments"]))
        self.fragments: tuple[Ranges, ...] = tuple(_ranges(fragment) for fragment in dealt)
        self.codecs: tuple[Codec, ...] = tuple(codec(str(options["codec"]), _packed(fragment)) for fragment in dealt)

    def init(self, parameters: Vector) -> State:
        """Momentum starts at zero."""
        return {"parameters": parameters, "momentum": np.zeros_like(parameters)}

    def parts(self, moment: Moment) -> tuple[Part, ...]:
        """This round's fragment."""
        turn = self._turn(moment)
        return (Part(sum(size for _, size in self.fragments[turn]), self.codecs[turn]),)

    def mixed(self, moment: Moment) -> Ranges:
        """This round's fragment."""
        return self.fragments[self._turn(moment)]

    def contribute(self, state: State, local: Vector, moment: Moment) -> tuple[tuple[Vector, ...], State]:
        """Δ_p, and what is owed of this fragment from before."""
        owed = self._progress(state, local, moment)
        if RESIDUAL not in state and not self.error_feedback:
            return (owed,), state
        if RESIDUAL in state:
            owed += gathered(state[RESIDUAL], self.mixed(moment))
        return (owed,), self.owing(state, owed, moment)

    def sent(self, state: State, decoded: tuple[Vector, ...], moment: Moment) -> State:
        """With error feedback, what the codec lost of the fragment stays owed."""
        if RESIDUAL not in state:
            return state
        if self.error_feedback:
            return self.owing(state, gathered(state[RESIDUAL], self.mixed(moment)) - decoded[0], moment)
        owing = self.owing(state, np.float32(0.0), moment)
        return owing if owing[RESIDUAL].any() else {name: owing[name] for name in owing if name != RESIDUAL}

    def owing(self, state: State, owed: Vector | np.float32, moment: Moment) -> State:
        """It is the fragment's residual; other fragments' stay."""
        before = state.get(RESIDUAL)
        if before is None:
            before = np.zeros(self.elements, dtype=np.float32)
        return {**state, RESIDUAL: scattered(before, self.mixed(moment), owed)}

    def merge(self, state: State, updates: Sequence[Update], moment: Moment) -> State:
        """One outer step of the fragment."""
        ranges = self.mixed(moment)
        before, velocity = gathered(state["parameters"], ranges), gathered(state["momentum"], ranges)
        stepped = nesterov(before, velocity, self.merged(updates), self.rate, self.momentum)
        parameters = scattered(state["parameters"], ranges, stepped[0])
        return {**state, "parameters": parameters, "momentum": scattered(state["momentum"], ranges, stepped[1])}

    def resume(self, state: State, local: Vector, moment: Moment) -> Vector:
        """The own parameters, the fragment mixed with the merged one."""
        ranges, keep = self.mixed(moment), np.float32(self.keep)
        mixed = keep * gathered(local, ranges) + (np.float32(1.0) - keep) * gathered(state["parameters"], ranges)
        return scattered(local, ranges, mixed)

    def defer(self, state: State, local: Vector, moment: Moment) -> State:
        """What mixing takes out of the own parameters is still owed; the share that it keeps will be in the next Δ_p."""
        owed = self._progress(state, local, moment)
        owed *= np.float32(1.0 - self.keep)
        if RESIDUAL in state:
            owed += gathered(state[RESIDUAL], self.mixed(moment))
        return self.owing(state, owed, moment)

    def _turn(self, moment: Moment) -> int:
        return (moment.round - 1) % len(self.fragments)

    def _progress(self, state: State, local: Vector, moment: Moment) -> Vector:
        ranges = self.mixed(moment)
        return gathered(state["parameters"], ranges) - gathered(local, ranges)


def fragments_of(layout: Layout, count: int) -> tuple[tuple[TensorSpec, ...], ...]:
    """The layout's tensors dealt into `count` fragments of nearly equal size, neighbours into different ones.

    Of each `count` tensors in a row, the largest goes to the fragment that is smallest so far, and so on: strided as in
    the paper, and no fragment is much larger than a P-th. A model of fewer tensors is cut into equal pieces instead.
    """
    if len(layout) < count:
        edges = [elements_of(layout) * at // count for at in range(count + 1)]
        cut = [TensorSpec(f"piece{low}", (high - low,), low, high - low) for low, high in pairwise(edges)]
        return tuple((piece,) for piece in cut if piece.size)
    dealt: list[list[TensorSpec]] = [[] for _ in range(count)]
    sizes = [0] * count
    for first in range(0, len(layout), count):
        free = set(range(count))
        for tensor in sorted(layout[first : first + count], key=lambda tensor: (-tensor.size, tensor.offset)):
            smallest = min(free, key=lambda fragment: (sizes[fragment], fragment))
            free.remove(smallest)
            dealt[smallest].append(tensor)
            sizes[smallest] += tensor.size
    return tuple(tuple(sorted(fragment, key=lambda tensor: tensor.offset)) for fragment in dealt)


def gathered(vector: Vector, ranges: Ranges) -> Vector:
    """The ranges of the vector, joined into a new one."""
    return np.concatenate([vector[offset : offset + size] for offset, size in ranges])


def scattered(vector: Vector, ranges: Ranges, values: Vector | np.float32) -> Vector:
    """A copy of the vector with the ranges' values replaced, by those of a joined vector or by one."""
    changed, at = vector.copy(), 0
    for offset, size in ranges:
        changed[offset : offset + size] = values[at : at + size] if isinstance(values, np.ndarray) else values
        at += size
    return changed


def _ranges(fragment: Sequence[TensorSpec]) -> Ranges:
    """The fragment's tensors as ranges; those that touch as one."""
    joined: list[tuple[int, int]] = []
    for tensor in fragment:
        if joined and sum(joined[-1]) == tensor.offset:
            joined[-1] = (joined[-1][0], joined[-1][1] + tensor.size)
        else:
            joined.append((tensor.offset, tensor.size))
    return tuple(joined)


def _packed(fragment: Sequence[TensorSpec]) -> Layout:
    """The fragment's tensors as they lie in its own, joined vector."""
    packed, offset = [], 0
    for tensor in fragment:
        packed.append(TensorSpec(tensor.name, tensor.shape, offset, tensor.size, tensor.dtype))
        offset += tensor.size
    return tuple(packed)
