"""What a model's `state_dict` holds beside the flat vector: further names of tied parameters, and buffers."""

import safetensors.torch
import torch


def tied_names(model: torch.nn.Module) -> dict[str, str]:
    """Further names of parameters, by the name under which `named_parameters()` gives them once."""
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    every = model.named_parameters(remove_duplicate=False)
    return {name: first[id(parameter)] for name, parameter in every if first[id(parameter)] != name}


def kept_buffers(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Tensors of `state_dict()` that are no parameters: persistent buffers, constant or changed by training.

    Extra state that is no tensor is left out: a model file cannot hold it.
    """
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    state = model.state_dict()
    return {name: kept for name, kept in state.items() if name not in parameters and isinstance(kept, torch.Tensor)}


def export_buffers(model: torch.nn.Module) -> bytes:
    """They as they are now, as safetensors."""
    # Two names may share memory, which the format refuses.
    copies = {name: kept.detach().cpu().contiguous().clone() for name, kept in kept_buffers(model).items()}
    return bytes(safetensors.torch.save(copies))
