"""FedAvg (McMahan et al., arXiv 1602.05629, algorithm 1): local SGD whose mean counts each worker by its data.

θ ← θ − Σ_m (n_m / n) Δ_m, n_m the tokens that m trained on this round.
"""

from trainers.strategies.local_sgd import LocalSgd


class FedAvg(LocalSgd):
    """Local SGD with `weighted` as the default (`trainers/options.py`); the weights come with the updates."""

    name = "fedavg"
