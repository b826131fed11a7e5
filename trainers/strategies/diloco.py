"""DiLoCo (Douillard et al., arXiv 2311.08105, algorithm 1): inner AdamW, outer SGD with Nesterov momentum."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainers.codecs.base import Vector
from trainers.merging import MERGES
from trainers.strategies.base import State


@dataclass(frozen=True, slots=True)
class Diloco:
    """Δ_m = θ − θ_m; Δ = merged Δ_m; u ← μ u + Δ; θ ← θ − η (Δ + μ u).

    Args:
        outer_lr: η. outer_momentum: μ. merge: a name in `merging.MERGES`.
    """

    outer_lr: float = 0.7
    outer_momentum: float = 0.9
    merge_name: str = "mean"

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "Diloco":
        """From the `strategy` part of a job spec."""
        return cls(
            outer_lr=float(options.get("outer_lr", 0.7)),
            outer_momentum=float(options.get("outer_momentum", 0.9)),
            merge_name=str(options.get("merge", "mean")),
        )

    def init(self, parameters: Vector) -> State:
        """Momentum starts at zero."""
        return {"parameters": parameters, "momentum": np.zeros_like(parameters)}

    def contribute(self, state: State, trained: Vector) -> Vector:
        """The pseudo-gradient Δ_m."""
        return state["parameters"] - trained

    def partners(self, round: int, slot: int, slots: Sequence[int]) -> tuple[int, ...]:
        """Everybody, by slot."""
        return tuple(sorted(slots))

    def merge(self, state: State, contributions: Sequence[Vector]) -> State:
        """One outer step."""
        rate, momentum = np.float32(self.outer_lr), np.float32(self.outer_momentum)
        gradient = MERGES[self.merge_name](contributions)
        velocity = momentum * state["momentum"]
        velocity += gradient
        step = momentum * velocity
        step += gradient
        step *= rate
        return {"parameters": np.subtract(state["parameters"], step, out=step), "momentum": velocity}
