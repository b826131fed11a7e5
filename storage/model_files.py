"""The model as a safetensors file of named float32 tensors, cut out of a checkpoint's state; standard library only."""

import hashlib
import json
from typing import Any

from storage.checkpoints import Manifest, ManifestError


def model_file(manifest: Manifest, state: bytes) -> bytes:
    """The model as a safetensors file of named float32 tensors, cut out of the state blob; standard library only.

    Safetensors is a length (u64 little-endian), a JSON header of names, shapes and offsets, and the bytes. The state
    holds all parameters as one flat tensor in the order of `manifest.tensors`, so only the header has to be written
    anew. Raises ManifestError when the bytes are not that state or their digest is not `manifest.parameters`.
    """
    theta = _flat_parameters(state)
    found = hashlib.sha256(theta).hexdigest()
    if found != manifest.parameters:
        raise ManifestError(f"the parameters have the digest {found}, the manifest says {manifest.parameters}")
    metadata = {"format": "pt", "job": manifest.job, "round": str(manifest.round), "manifest": manifest.digest}
    header: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for tensor in manifest.tensors:
        end = offset + 4 * tensor.elements
        header[tensor.name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    if offset != len(theta):
        raise ManifestError(f"the tensors have {offset} bytes, the parameters {len(theta)}")
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + theta


def parameters_digest(state: bytes) -> str:
    """SHA-256 of θ in an exported state, as little-endian float32. Raises ManifestError for what is no state."""
    return hashlib.sha256(_flat_parameters(state)).hexdigest()


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
