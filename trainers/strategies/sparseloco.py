"""SparseLoCo, also CCLoco (Sarfi et al., arXiv 2508.15706, algorithm 1; Covenant, arXiv 2603.08163): top-k, 2 bits, error feedback.

    e_m ← β e_m + Δ_m;  send Δ̂_m = Q(top-k of e_m);  e_m ← e_m − Δ̂_m
    θ ← θ − α · mean_m Δ̂_m

No outer momentum: the residual e is the momentum. α is in the step only: in the residual too it would count squared.
Before the mean, each contribution is scaled by min(1, median_j ‖Δ̂_j‖ / ‖Δ̂_m‖), so that none outweighs the others.

`average_over`: "workers" divides each element's sum by all contributions; "senders" by those that sent it, which makes
sparse contributions that overlap little count up to M times as much.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainers.codecs import Vector
from trainers.layout import Layout
from trainers.merging import clip_to_median, mean_over_senders, weighted_mean
from trainers.strategies.base import RESIDUAL, Exchange, Moment, PseudoGradients, State, Update


class SparseLoco(PseudoGradients):
    """Options: decay β, outer_lr α, average_over. Without error_feedback, what was not sent is lost (an ablation)."""

    name = "sparseloco"
    exchange: Exchange = "gather"

    def __init__(self, options: Mapping[str, Any], layout: Layout) -> None:
        super().__init__(options, layout)
        self.decay, self.rate = np.float32(options["decay"]), np.float32(options["outer_lr"])
        self.mean = mean_over_senders if options["average_over"] == "senders" else weighted_mean

    def contribute(self, state: State, local: Vector, moment: Moment) -> tuple[tuple[Vector, ...], State]:
        """β e + Δ."""
        owed = state["parameters"] - local
        if RESIDUAL in state:
            owed += self.decay * state[RESIDUAL]
        return (owed,), {**state, RESIDUAL: owed}

    def merge(self, state: State, updates: Sequence[Update], moment: Moment) -> State:
        """One plain step of rate α."""
        vectors = clip_to_median([update.vectors[0] for update in updates])
        step: Vector = self.mean(vectors, [update.weight for update in updates])
        step *= self.rate
        return {**state, "parameters": np.subtract(state["parameters"], step, out=step)}
