"""The model as a safetensors file of named float32 tensors, cut out of a checkpoint's state; standard library only.

Safetensors is a length (u64 little-endian), a JSON header of names, shapes and offsets, and the bytes. The state holds
all parameters as one flat tensor in the order of the manifest's `tensors`, so only the header has to be written anew.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from storage.checkpoints import ManifestError, RestorePlan, TensorEntry


def model_file(plan: RestorePlan, state: bytes) -> list[bytes | memoryview]:
    """The parts of the file, in order, from the state that the plan leads to.

    Tied tensors are written once under each of their names: safetensors has no aliases, and `load_state_dict` with
    strict=True wants them all. Raises ManifestError when the bytes are not that state or their digest is another.
    """
    manifest, theta = plan.manifest, _flat_parameters(state)
    found = hashlib.sha256(theta).hexdigest()
    if found != plan.parameters:
        raise ManifestError(f"the parameters have the digest {found}, the manifest says {plan.parameters}")
    metadata = {"format": "pt", "job": manifest.job, "round": str(plan.round), "manifest": manifest.digest}
    places = _places(manifest.tensors, len(theta))
    twins = [theta[slice(*places[twin])] for twin in manifest.tied.values()]
    offset = len(theta)
    for name, part in zip(manifest.tied, twins, strict=True):
        places[name] = (offset, offset + len(part))
        offset += len(part)
    shapes = {tensor.name: tensor.shape for tensor in manifest.tensors}
    shapes |= {name: shapes[twin] for name, twin in manifest.tied.items()}
    return [safetensors_header(shapes, places, metadata), theta, *twins]


def safetensors_header(
    shapes: Mapping[str, Sequence[int]], places: Mapping[str, tuple[int, int]], metadata: Mapping[str, str]
) -> bytes:
    """What precedes the bytes of float32 tensors that lie at `places` (first byte, byte after the last)."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    for name, place in places.items():
        header[name] = {"dtype": "F32", "shape": list(shapes[name]), "data_offsets": list(place)}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def model_config(plan: RestorePlan, job: Mapping[str, Any], loss: float | None) -> dict[str, Any]:
    """What is to be known about a model besides its tensors, from the job as the market shows it.

    `loss` is the held-out loss after that round, or None. To build the model: the workload of that name (or class) with
    these options, then `load_state_dict(safetensors.torch.load_file("model.safetensors"), strict=True)`.
    """
    manifest, workload = plan.manifest, job["spec"]["workload"]
    made = workload.get("name") or workload.get("class_name")
    return {
        "model_type": made,
        "architectures": [made],
        "workload": dict(workload),
        "options": dict(job["spec"]["options"]),
        "dtype": "float32",
        "tensors": {tensor.name: list(tensor.shape) for tensor in manifest.tensors},
        "tied": dict(manifest.tied),
        "parameters": sum(tensor.elements for tensor in manifest.tensors),
        "job": manifest.job,
        "round": plan.round,
        "step": plan.step,
        "held_out_loss": loss,
        "strategy": dict(manifest.strategy),
        "seed": job["spec"]["seed"],
    }


def parameters_digest(state: bytes) -> str:
    """SHA-256 of θ in an exported state, as little-endian float32. Raises ManifestError for what is no state."""
    return hashlib.sha256(_flat_parameters(state)).hexdigest()


def _places(tensors: Sequence[TensorEntry], size: int) -> dict[str, tuple[int, int]]:
    places, offset = {}, 0
    for tensor in tensors:
        places[tensor.name] = (offset, offset + 4 * tensor.elements)
        offset += 4 * tensor.elements
    if offset != size:
        raise ManifestError(f"the tensors have {offset} bytes, the parameters {size}")
    return places


def _flat_parameters(state: bytes) -> memoryview:
    try:
        size = int.from_bytes(state[:8], "little")
        entry = json.loads(state[8 : 8 + size])["parameters"]
        begin, end = entry["data_offsets"]
        whole = entry["dtype"] == "F32" and 0 <= begin <= end <= len(state) - 8 - size
    except (ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"the state is not a safetensors file with parameters: {error!r}") from error
    if not whole:
        raise ManifestError("the state's parameters are not float32 inside the file")
    return memoryview(state)[8 + size + begin : 8 + size + end]
