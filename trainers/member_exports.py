"""A member's state as bytes: safetensors whose metadata `torg` describes whose and of which round it is."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from trainers.codecs import Vector
from trainers.filled import joined
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
