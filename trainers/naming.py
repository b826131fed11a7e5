"""Under which names a model's tensors are in its `state_dict`, beside those in the flat vector."""

import torch


class NotInTheVector(Exception):
    """The model keeps state that is no parameter: training would not merge it, and a result would lack it."""


def tied_names(model: torch.nn.Module) -> dict[str, str]:
    """Further names of parameters, by the name under which `named_parameters()` gives them once.

    Raises NotInTheVector when `state_dict()` holds anything that is no parameter (a persistent buffer, extra state).
    """
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    tied: dict[str, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if first[id(parameter)] != name:
            tied[name] = first[id(parameter)]
    others = [name for name in model.state_dict() if name not in tied and name not in set(first.values())]
    if others:
        raise NotInTheVector(
            f"the model keeps {', '.join(others[:5])}, which no parameter is: members would not agree on it and the result "
            "would lack it; use register_buffer(…, persistent=False), or a layer without running statistics"
        )
    return tied
