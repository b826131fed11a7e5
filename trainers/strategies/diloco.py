"""DiLoCo (Douillard et al., arXiv 2311.08105, algorithm 1): inner AdamW, outer SGD with Nesterov momentum.

Δ = mean_m Δ_m;  u ← μ u + Δ;  θ ← θ − η (Δ + μ u).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainers.codecs import Vector
from trainers.layout import Layout
from trainers.strategies.base import Moment, PseudoGradients, State, Update


class Diloco(PseudoGradients):
    """Options: outer_lr η, outer_momentum μ."""

    name = "diloco"
    shared = frozenset({"parameters", "momentum"})

    def __init__(self, options: Mapping[str, Any], layout: Layout) -> None:
        super().__init__(options, layout)
        self.rate, self.momentum = np.float32(options["outer_lr"]), np.float32(options["outer_momentum"])

    def init(self, parameters: Vector) -> State:
        """Momentum starts at zero."""
        return {"parameters": parameters, "momentum": np.zeros_like(parameters)}

    def merge(self, state: State, updates: Sequence[Update], moment: Moment) -> State:
        """One outer step."""
        stepped = nesterov(state["parameters"], state["momentum"], self.merged(updates), self.rate, self.momentum)
        return {**state, "parameters": stepped[0], "momentum": stepped[1]}


def nesterov(
    parameters: Vector, velocity: Vector, gradient: Vector, rate: np.float32, momentum: np.float32
) -> tuple[Vector, Vector]:
    """One step of SGD with Nesterov momentum as PyTorch has it: new parameters, new velocity. All float32 [n]."""
    after = momentum * velocity
    after += gradient
    step = momentum * after
    step += gradient
    step *= rate
    return np.subtract(parameters, step, out=step), after
