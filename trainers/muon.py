"""Muon: hidden matrices move by orthogonalised momentum, all other parameters by AdamW.

Keller Jordan's Muon (kellerjordan.github.io/posts/muon) with the scale of Moonlight (arXiv 2502.16982, eq. 4), by which a
matrix moves as far as AdamW would move it, so that AdamW's rates and decay keep their meaning; as the inner optimiser of
DiLoCo it is MuLoCo (arXiv 2505.23725).
"""

import torch

from trainers.preparing import blocks_of
from trainers.sharding import set_whole, whole

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic that takes every singular value near 1 in five applications."""
STEPS = 5
RMS = 0.2
"""Root mean square of AdamW's usual update, which an orthogonal matrix is scaled to."""


def hidden_matrices(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """What Muon moves: parameters of two and more dimensions within the model's blocks, no embedding among them.

    A model without blocks (members of an nn.ModuleList): all but the last, which makes the output.
    """
    looked_up = {
        id(one.weight) for one in model.modules() if isinstance(one, torch.nn.Embedding | torch.nn.EmbeddingBag)
    }

    def matrices(module: torch.nn.Module) -> list[torch.nn.Parameter]:
        return [one for one in module.parameters() if one.ndim >= 2 and id(one) not in looked_up]

    blocks = blocks_of(model)
    if not blocks:
        return matrices(model)[:-1]
    found = {id(one): one for block in blocks for one in matrices(block)}  # blocks may share parameters
    return list(found.values())


class Muon(torch.optim.Optimizer):
    """Groups with `orthogonal` are moved by Muon, the others by AdamW. State and arithmetic are float32."""

    def __init__(
        self, model: torch.nn.Module, lr: float, *, weight_decay: float = 0.1, momentum: float = 0.95,
        beta1: float = 0.9, beta2: float = 0.99, eps: float = 1e-8,
    ) -> None:  # fmt: skip
        """`weight_decay` is of everything with two and more dimensions; vectors do not decay."""
        hidden = hidden_matrices(model)
        known = {id(one) for one in hidden}
        others = [one for one in model.parameters() if id(one) not in known]
        groups = [
            {"params": hidden, "orthogonal": True, "weight_decay": weight_decay},
            {"params": [one for one in others if one.ndim >= 2], "orthogonal": False, "weight_decay": weight_decay},
            {"params": [one for one in others if one.ndim < 2], "orthogonal": False, "weight_decay": 0.0},
        ]
        defaults = {"lr": lr, "momentum": momentum, "beta1": beta1, "beta2": beta2, "eps": eps}
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closures: the loop has the gradient
        """Move every parameter that has a gradient; a collective when parameters are sharded."""
        assert closure is None
        for group in self.param_groups:
            move = self._orthogonal if group["orthogonal"] else self._adamw
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    move(parameter, parameter.grad, group)

    def _orthogonal(self, parameter: torch.Tensor, gradient: torch.Tensor, group: dict[str, float]) -> None:
        """M ← βM + (1 − β)G; θ ← θ − lr · 0.2 √max(rows, columns) · orthogonal(βM + (1 − β)G)."""
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].lerp_(gradient, 1 - group["momentum"])
        update = whole(gradient.lerp(momentum, group["momentum"]))
        matrix = update.reshape(len(update), -1)
        moved = orthogonal(matrix).mul_(-group["lr"] * RMS * max(matrix.shape) ** 0.5).view(update.shape)
        part = torch.empty_like(parameter)
        set_whole(part, moved)
        parameter.add_(part)

    def _adamw(self, parameter: torch.Tensor, gradient: torch.Tensor, group: dict[str, float]) -> None:
        state = self.state[parameter]
        if not state:
            state.update(step=0, mean=torch.zeros_like(parameter), square=torch.zeros_like(parameter))
        state["step"] += 1
        state["mean"].lerp_(gradient, 1 - group["beta1"])
        state["square"].mul_(group["beta2"]).addcmul_(gradient, gradient, value=1 - group["beta2"])
        unbiased = (1 - group["beta2"] ** state["step"]) ** 0.5
        size = state["square"].sqrt().div_(unbiased).add_(group["eps"])
        parameter.addcdiv_(state["mean"], size, value=-group["lr"] / (1 - group["beta1"] ** state["step"]))


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """A matrix [m, n] with the same singular vectors and all singular values near 1 (0.7 to 1.2); zeros stay zeros."""
    a, b, c = NEWTON_SCHULZ
    wide = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
    x = wide / (wide.norm() + 1e-7)
    for _ in range(STEPS):
        square = x @ x.mT
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    found: torch.Tensor = x.mT if wide is not matrix else x
    return found
