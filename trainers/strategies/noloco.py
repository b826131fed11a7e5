"""NoLoCo (Kolehmainen et al., arXiv 2506.10911, eq. 2 with the sign of eq. 32): gossip in pairs, no global step anywhere.

Every round a permutation seeded by the round makes pairs. With φ_i the slow and θ_i the trained parameters of member i,
Δ_i = θ_i − φ_i, and means over the pair:

    δ_i ← α δ_i + β · mean_j Δ_j + γ (mean_j φ_j − φ_i);   φ_i ← φ_i + δ_i

Eq. 2 prints −β, which would walk uphill: Δ points where training went. γ draws partners together; members agree only as
far as the inner learning rate lets them, so it should decay.

A contribution is two parts: Δ in the job's codec, φ in a finer one. In mean_j φ_j − φ_i both sides are as decoded, so that
equal φ give exactly zero and a codec's error cannot push members about.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainers.codecs import Codec, Vector, codec
from trainers.layout import Layout
from trainers.merging import mean, weighted_mean
from trainers.strategies.base import Exchange, Moment, Part, PseudoGradients, State, Update


class NoLoco(PseudoGradients):
    """Options: alpha α, beta β, gamma γ, slow_codec for φ. State: "parameters" φ, "velocity" δ, nobody else's the same."""

    name = "noloco"
    exchange: Exchange = "pairs"
    shared = frozenset[str]()

    def __init__(self, options: Mapping[str, Any], layout: Layout) -> None:
        super().__init__(options, layout)
        self.alpha, self.beta, self.gamma = (np.float32(options[name]) for name in ("alpha", "beta", "gamma"))
        self.slow_codec: Codec = codec(str(options["slow_codec"]), layout)

    def init(self, parameters: Vector) -> State:
        """Velocity starts at zero."""
        return {"parameters": parameters, "velocity": np.zeros_like(parameters)}

    def parts(self, moment: Moment) -> tuple[Part, ...]:
        """Progress and slow weights."""
        return Part(self.elements, self.codec), Part(self.elements, self.slow_codec)

    def contribute(self, state: State, local: Vector, moment: Moment) -> tuple[tuple[Vector, ...], State]:
        """(Δ_i, φ_i). The residual is kept as in the other strategies, in the units of −Δ_i."""
        (owed,), tentative = super().contribute(state, local, moment)
        return (-owed, state["parameters"]), tentative

    def sent(self, state: State, decoded: tuple[Vector, ...], moment: Moment) -> State:
        """With error feedback, what the codec lost of Δ_i stays owed."""
        return super().sent(state, (-decoded[0],), moment)

    def partners(self, moment: Moment) -> tuple[int, ...]:
        """The pair of this round; the odd one out is alone."""
        return next(pair for pair in pairs(moment.slots, moment.seed, moment.round) if moment.slot in pair)

    def merge(self, state: State, updates: Sequence[Update], moment: Moment) -> State:
        """One gossip step. Without an own update (it was late), the own φ still counts: half the way, not all of it."""
        weights = [update.weight for update in updates]
        progress = weighted_mean([update.vectors[0] for update in updates], weights)
        slow = {update.slot: update.vectors[1] for update in updates}
        own = slow.setdefault(moment.slot, state["parameters"])
        velocity = self.alpha * state["velocity"]
        velocity += self.beta * progress
        if len(slow) > 1:
            velocity += self.gamma * (mean([slow[slot] for slot in sorted(slow)]) - own)
        return {**state, "parameters": state["parameters"] + velocity, "velocity": velocity}


def pairs(slots: Sequence[int], seed: int, round: int) -> tuple[tuple[int, ...], ...]:
    """All slots in pairs, ascending inside each, drawn from seed and round; one is alone when they are odd."""
    drawn = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, round]))).permutation(sorted(slots))
    return tuple(tuple(sorted(map(int, drawn[at : at + 2]))) for at in range(0, len(drawn), 2))
