"""Local SGD (Stich, arXiv 1805.09767, algorithm 1): workers train apart for H steps, then all go on from their mean.

θ ← θ − mean_m Δ_m, which is mean_m θ_m. The inner optimiser may be any; its state stays with its worker.
"""

from collections.abc import Sequence

from trainers.strategies.base import Moment, PseudoGradients, State, Update


class LocalSgd(PseudoGradients):
    """DiLoCo's special case η = 1, μ = 0."""

    name = "local_sgd"

    def merge(self, state: State, updates: Sequence[Update], moment: Moment) -> State:
        """The mean of the trained parameters."""
        return {**state, "parameters": state["parameters"] - self.merged(updates)}
