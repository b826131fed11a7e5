"""A model's parameters and gradients as one flat float32 vector, in the order of `model.named_parameters()`.

Vectors are numpy float32 [n]; each parameter is copied once, whatever its dtype and device.
"""

from collections.abc import Sequence

import numpy as np
import torch


class ShapeChanged(Exception):
    """The model's parameters are not those that it had when it was loaded."""


class FlatModel:
    """Copies between a model and flat vectors. The optimiser's state is left as it is."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.parameters = list(model.parameters())
        self.shapes = self._shapes()
        self.elements = sum(parameter.numel() for parameter in self.parameters)
        self._viewed: tuple[np.ndarray, list[torch.Tensor]] | None = None

    @torch.no_grad()
    def write_parameters(self, flat: np.ndarray) -> None:
        """θ into `flat`. Raises ShapeChanged."""
        self.check()
        copy_all(self._views(flat), self.parameters)

    @torch.no_grad()
    def read_parameters(self, flat: np.ndarray) -> None:
        """`flat` into θ. Raises ShapeChanged."""
        self.check()
        copy_all(self.parameters, self._views(flat))

    @torch.no_grad()
    def write_gradient(self, flat: np.ndarray) -> None:
        """The gradient into `flat`: zeros where there is none."""
        for view, parameter in zip(self._views(flat), self.parameters, strict=True):
            if parameter.grad is None:
                view.zero_()
            else:
                view.copy_(parameter.grad)

    @torch.no_grad()
    def read_gradient(self, flat: np.ndarray) -> None:
        """`flat` into the gradient of every parameter that is trained, those that had none in this step too."""
        for view, parameter in zip(self._views(flat), self.parameters, strict=True):
            if not parameter.requires_grad:
                continue
            if parameter.grad is None:
                parameter.grad = torch.empty_like(parameter)
            parameter.grad.copy_(view)

    @torch.no_grad()
    def mix(self, flat: np.ndarray, ranges: Sequence[tuple[int, int]], keep: float) -> None:
        """θ[i] ← keep · θ[i] + (1 − keep) · flat[i] for i in `ranges`, each (offset, size)."""
        self.check()
        offset = 0
        for view, parameter in zip(self._views(flat), self.parameters, strict=True):
            size = parameter.numel()
            for start, length in ranges:
                first, last = max(start - offset, 0), min(start + length - offset, size)
                if first < last:
                    mixed = parameter.detach().reshape(-1).clone()
                    mixed[first:last] = keep * mixed[first:last] + (1 - keep) * view.reshape(-1)[first:last].to(mixed)
                    parameter.copy_(mixed.reshape(parameter.shape))
            offset += size

    def check(self) -> None:
        """Raises ShapeChanged when the model's parameters have other names or shapes than at first."""
        now = self._shapes()
        if now != self.shapes:
            changed = sorted({name for name, _ in set(now) ^ set(self.shapes)})
            raise ShapeChanged(f"the model changed after it was loaded: {', '.join(changed[:5])}")

    def _views(self, flat: np.ndarray) -> list[torch.Tensor]:
        """`flat` cut into the parameters' shapes; kept for the vector that was cut last."""
        if self._viewed is None or self._viewed[0] is not flat:
            assert flat.size == self.elements, "not this model's vector"
            parts = torch.from_numpy(flat).split([parameter.numel() for parameter in self.parameters])
            views = [part.view(shape) for part, (_, shape) in zip(parts, self.shapes, strict=True)]
            self._viewed = (flat, views)
        return self._viewed[1]

    def _shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        return [(name, tuple(parameter.shape)) for name, parameter in self.model.named_parameters()]


def copy_all(targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
    """Each source into its target, with few calls."""
    torch._foreach_copy_(list(targets), list(sources))  # type: ignore[attr-defined]  # torch's own optimisers use it
