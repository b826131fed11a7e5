"""Tensors of which every rank holds a part (torch's DTensor, as fully_shard makes them), seen as whole ones.

Each function is a collective for such tensors: all ranks call it in the same order. Others are simply themselves.
"""

import torch


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether this rank holds only a part of it."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of it."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]  # DTensor


@torch.no_grad()
def set_whole(tensor: torch.Tensor, value: torch.Tensor) -> None:
    """Copy this rank's part of `value`, which has the whole shape. Parts are `torch.chunk`s of the first dimension."""
    if not is_sharded(tensor):
        tensor.copy_(value)
        return
    mesh, (placement,) = tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]  # DTensor
    assert placement.is_shard(0), "fully_shard cuts the first dimension"
    parts, rank = value.chunk(mesh.size()), mesh.get_local_rank()
    tensor.to_local().copy_(parts[rank] if rank < len(parts) else value[:0])  # type: ignore[attr-defined]  # DTensor


def gather_no_longer(model: torch.nn.Module) -> None:
    """Drop the whole copies that a forward pass without a backward pass leaves, so that the next one makes new ones."""
    for module in model.modules():
        if hasattr(module, "reshard"):  # torch's FSDPModule
            module.reshard()  # type: ignore[operator]
