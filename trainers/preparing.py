"""What a job's options make of a model before it trains: recomputed activations, sharded parameters, compiled code."""

import functools
from collections.abc import Iterable

import torch


class CannotPrepare(Exception):
    """An option that this model or this machine cannot have; the message says why and what to do."""


def recompute_activations(modules: Iterable[torch.nn.Module]) -> None:
    """Keep only each module's inputs in the forward pass and compute the rest again in the backward pass.

    Sublinear memory (Chen et al., arXiv 1604.06174) for about a third more compute. Names of parameters stay.
    """
    from torch.utils.checkpoint import checkpoint

    chosen = list(modules)
    if not chosen:
        raise CannotPrepare(
            "train.activation_checkpointing found no blocks: the model has no nn.ModuleList; define checkpointed(model)"
        )
    for module in chosen:
        module.forward = functools.partial(checkpoint, module.forward, use_reentrant=False)


def blocks_of(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The members of every outermost nn.ModuleList: what a deep model repeats."""
    found: list[torch.nn.Module] = []
    for child in model.children():
        found += list(child) if isinstance(child, torch.nn.ModuleList) else blocks_of(child)
    return found


def shard(model: torch.nn.Module) -> None:
    """Fully sharded data parallel over all ranks (torch's fully_shard): block by block, then what is left."""
    from torch.distributed.fsdp import fully_shard

    for block in blocks_of(model):
        fully_shard(block)
    fully_shard(model)


def compiled(model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """The model in CUDA graphs. Raises CannotPrepare without a card.

    torch's default backend writes C++ or Triton code and starts compilers on it, which a trainer child may not: it
    starts no process. The backend `cudagraphs` compiles nothing and spares the launches of many small kernels.
    """
    if device.type != "cuda":
        raise CannotPrepare(
            "train.compile works on cards only: on a CPU torch would start a C++ compiler, and a trainer child may "
            "start no process; leave it off"
        )
    return torch.compile(model, backend="cudagraphs")  # type: ignore[return-value]  # a module, when given one
