"""A model's parameters and gradients as one flat float32 vector, in the order of `model.named_parameters()`.

Vectors are numpy float32 [n]; each parameter is copied once, whatever its dtype and device. When a child has several
ranks all of them call these methods together: rank 0 writes vectors for all, each reads for itself.
"""

from collections.abc import Sequence

import numpy as np
import torch

from trainers.sharding import is_sharded, set_whole, whole


class ShapeChanged(Exception):
    """The model's parameters are not those that it had when it was loaded."""


class FlatModel:
    """Copies between a model and flat vectors. The optimiser's state is left as it is."""

    def __init__(self, model: torch.nn.Module, *, writes: bool = True, alone: bool = True) -> None:
        """`writes`: this is rank 0; `alone`: there is no other rank."""
        self.model = model
        self.writes, self.alone = writes, alone
        self.parameters: list[torch.Tensor] = list(model.parameters())
        self.shapes = self._shapes()
        self.elements = sum(parameter.numel() for parameter in self.parameters)
        self.sharded = any(is_sharded(parameter) for parameter in self.parameters)
        self._viewed: tuple[np.ndarray, list[torch.Tensor]] | None = None

    @torch.no_grad()
    def write_parameters(self, flat: np.ndarray) -> None:
        """θ into `flat`. Raises ShapeChanged."""
        self.check()
        self._write(flat, self.parameters)

    @torch.no_grad()
    def read_parameters(self, flat: np.ndarray) -> None:
        """`flat` into θ. Raises ShapeChanged."""
        self.check()
        if self.sharded:
            for parameter, view in zip(self.parameters, self._views(flat), strict=True):
                set_whole(parameter, view)
        else:
            torch._foreach_copy_(self.parameters, self._views(flat))

    @torch.no_grad()
    def write_gradient(self, flat: np.ndarray) -> None:
        """The gradient into `flat`: zeros where there is none."""
        self._write(flat, [parameter.grad for parameter in self.parameters])

    @torch.no_grad()
    def read_gradient(self, flat: np.ndarray) -> None:
        """`flat` into the gradient of every parameter that is trained, those that had none in this step too.

        Where that is possible gradients are parts of `flat` and not copied: until `drop_gradient` nobody else may write there.
        """
        for view, parameter in zip(self._views(flat), self.parameters, strict=True):
            if parameter.requires_grad:
                if self.alone and _is_plain(parameter):
                    parameter.grad = view
                    continue
                if parameter.grad is None:
                    parameter.grad = torch.empty_like(parameter)
                set_whole(parameter.grad, view)

    def drop_gradient(self) -> None:
        """No parameter has a gradient any more."""
        for parameter in self.parameters:
            parameter.grad = None

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
                    mixed = whole(parameter).detach().reshape(-1).clone()
                    mixed[first:last] = keep * mixed[first:last] + (1 - keep) * view.reshape(-1)[first:last].to(mixed)
                    set_whole(parameter, mixed.reshape(parameter.shape))
            offset += size

    def named(self) -> list[tuple[str, torch.Tensor]]:
        """The parameters with their names: the parts of this rank where they are sharded."""
        return [(name, parameter) for (name, _), parameter in zip(self.shapes, self.parameters, strict=True)]

    @torch.no_grad()
    def copy(self) -> list[torch.Tensor]:
        """This rank's own copy of θ, for `restore`."""
        return [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def restore(self, copied: Sequence[torch.Tensor]) -> None:
        """θ as it was when it was copied."""
        for parameter, kept in zip(self.parameters, copied, strict=True):
            parameter.copy_(kept)

    def check(self) -> None:
        """Raises ShapeChanged when the model's parameters have other names or shapes than at first."""
        now = self._shapes()
        if now != self.shapes:
            changed = sorted({name for name, _ in set(now) ^ set(self.shapes)})
            raise ShapeChanged(f"the model changed after it was loaded: {', '.join(changed[:5])}")

    def _write(self, flat: np.ndarray, tensors: Sequence[torch.Tensor | None]) -> None:
        """Tensors into `flat`, zeros for those that are not there."""
        views = self._views(flat)
        there = [(view, tensor) for view, tensor in zip(views, tensors, strict=True) if tensor is not None]
        if self.sharded:
            for view, tensor in there:
                full = whole(tensor)  # one after the other: together they are the whole model
                if self.writes:
                    view.copy_(full)
        elif self.writes:
            torch._foreach_copy_([view for view, _ in there], [tensor for _, tensor in there])
        if self.writes and len(there) < len(views):
            for view, missing in zip(views, tensors, strict=True):
                if missing is None:
                    view.zero_()

    def _views(self, flat: np.ndarray) -> list[torch.Tensor]:
        """`flat` cut into the parameters' shapes; kept for the vector that was cut last."""
        if self._viewed is None or self._viewed[0] is not flat:
            assert flat.size == self.elements, "not this model's vector"
            parts = torch.from_numpy(flat).split([parameter.numel() for parameter in self.parameters])  # type: ignore[no-untyped-call]
            views = [part.view(shape) for part, (_, shape) in zip(parts, self.shapes, strict=True)]
            self._viewed = (flat, views)
        return self._viewed[1]

    def _shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        return [(name, tuple(parameter.shape)) for name, parameter in self.model.named_parameters()]


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether a part of a float32 vector can be its gradient."""
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu" and tensor.is_contiguous() and not is_sharded(tensor)
