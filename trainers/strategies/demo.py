"""DeMo (Peng, Quesnelle, Kingma, arXiv 2411.19870, algorithm 1): momentum stays apart, its largest frequencies are shared.

In every step, with g_m the gradient of member m and δ_m its own momentum:

    δ_m ← β δ_m + lr · g_m
    q_m = the k largest |coefficients| of each chunk of DCT(δ_m);  δ_m ← δ_m − IDCT(q_m)
    Q = mean of each coefficient over those who sent it
    θ ← θ (1 − lr · weight_decay) − lr · sign(IDCT(Q))

DCT: orthonormal, of blocks of each tensor (`trainers/codecs/dct.py`). It is linear, so δ is kept as coefficients, which are
the contribution's vector too: one transform of the gradient and one inverse a step, whatever the number of members. lr is
the inner optimiser's rate of the step; that optimiser itself rests.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainers.codecs import Vector, codec
from trainers.codecs.dct import Dct
from trainers.layout import Layout
from trainers.merging import mean_over_senders
from trainers.strategies.base import Base, Cadence, Exchange, Moment, State, Update

UNSENT = "unsent"


class Demo(Base):
    """Options: decay β, top_k k, chunk (edge of the blocks), lr, weight_decay. State: "unsent", DCT(δ), is a member's own."""

    name = "demo"
    cadence: Cadence = "step"
    exchange: Exchange = "gather"

    def __init__(self, options: Mapping[str, Any], layout: Layout) -> None:
        super().__init__(options, layout)
        self.decay, self.weight_decay = float(options["decay"]), float(options["weight_decay"])
        self.rate: float | None = options["lr"]
        self.dct = Dct(layout, int(options["chunk"]))
        self.codec = codec(f"top_k:{options['top_k']}/{options['chunk'] ** 2}+{options['codec']}")

    def init(self, parameters: Vector) -> State:
        """No momentum yet."""
        return {"parameters": parameters, UNSENT: np.zeros_like(parameters)}

    def contribute(self, state: State, local: Vector, moment: Moment) -> tuple[tuple[Vector, ...], State]:
        """DCT(β δ + lr g); the codec selects of it."""
        unsent = np.float32(self.decay) * state[UNSENT]
        unsent += np.float32(self._rate(moment)) * self.dct.forward(local)
        return (unsent,), {**state, UNSENT: unsent}

    def sent(self, state: State, decoded: tuple[Vector, ...], moment: Moment) -> State:
        """What was sent leaves the momentum."""
        if not self.error_feedback:
            return {**state, UNSENT: np.zeros_like(state[UNSENT])}
        return {**state, UNSENT: state[UNSENT] - decoded[0]}

    def merge(self, state: State, updates: Sequence[Update], moment: Moment) -> State:
        """One step along the sign of what all sent."""
        rate = self._rate(moment)
        together = mean_over_senders([update.vectors[0] for update in updates], [update.weight for update in updates])
        step = np.sign(self.dct.inverse(together))
        step *= np.float32(rate)
        return {**state, "parameters": state["parameters"] * np.float32(1.0 - rate * self.weight_decay) - step}

    def _rate(self, moment: Moment) -> float:
        return moment.rate if self.rate is None else self.rate
