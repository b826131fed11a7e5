"""A member's state as bytes: safetensors whose metadata `torg` describes whose and of which round it is."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from trainers.codecs import Vector
from trainers.filled import joined
from trainers.strategies import State, Strategy
from trainers.tensor_file import Entry, head_of

FORMAT = 2
OWN = "own/"
"""Names of what belongs to one member alone begin so."""


def write_export(described: Mapping[str, Any], tensors: Mapping[str, Vector]) -> bytes:
    """Equal states give equal bytes."""
    metadata = {"torg": json.dumps(described, sort_keys=True, separators=(",", ":"))}
    assert all(vector.dtype == np.float32 for vector in tensors.values()), "vectors are float32"
    head, places = head_of([Entry(name, "F32", vector.shape) for name, vector in tensors.items()], metadata)
    return joined([head, *(tensors[name] for name in places)])


def read_export(exported: bytes) -> tuple[dict[str, Any], dict[str, Vector]]:
    """The description and the tensors. Raises ValueError, LookupError, TypeError or SafetensorError."""
    described = read_description(exported)
    return described, {name: np.array(tensor) for name, tensor in safetensors.numpy.load(exported).items()}


def exported_state(tensors: Mapping[str, Vector], strategy: Strategy, fresh: State, *, own: bool) -> State:
    """The state of these exported tensors: what they lack is as in `fresh`, a state of the strategy before its first round.

    `own`: what is a member's own is taken too; else it is only looked at. Raises ValueError.
    """
    state = dict(fresh)
    for name, tensor in tensors.items():
        plain = name.removeprefix(OWN)
        if not name.startswith(OWN) and name not in {*strategy.shared, "parameters"}:
            raise ValueError(f"{name} is nothing of {strategy.name}")
        if tensor.dtype != np.float32 or not np.isfinite(tensor).all():
            raise ValueError(f"{name} is of another kind or not finite")
        if plain in fresh and fresh[plain].shape != tensor.shape:
            raise ValueError(f"{name} is of shape {tensor.shape}")
        if own or not name.startswith(OWN):
            state[plain] = tensor
    missing = (strategy.shared & set(fresh)) - set(tensors)
    if missing:
        raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    return state


def read_description(exported: bytes) -> dict[str, Any]:
    """The JSON that `export` put beside the tensors: {v, spec, round, step, position, accepted, layout}.

    Raises ValueError or KeyError.
    """
    size = int.from_bytes(exported[:8], "little")
    header = json.loads(exported[8 : 8 + size])
    described = json.loads(header["__metadata__"]["torg"])
    if described["v"] != FORMAT:
        raise ValueError(f"format {described['v']}; this is format {FORMAT}")
    return dict(described)
