"""The model as a safetensors file of named float32 tensors, cut out of a checkpoint's state; standard library only.

Safetensors is a length (u64 little-endian), a JSON header of names, shapes and offsets, and the bytes. The state holds
all parameters as one flat tensor in the order of the manifest's `tensors`, so only the header has to be written anew.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from storage.checkpoints import Manifest, ManifestError, TensorEntry
from storage.restore_plans import RestorePlan

WIDTHS = {"F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
          "I8": 1, "U8": 1, "BOOL": 1}  # fmt: skip
"""Bytes of a number of each kind that a model's buffers may be of."""


def model_file(plan: RestorePlan, state: bytes, buffers: bytes | None = None) -> list[bytes | memoryview]:
    """The parts of the file, in order, from the state that the plan leads to and the blob of the manifest's `buffers`.

    Tied tensors are written once under each of their names: safetensors has no aliases, and `load_state_dict` with
    strict=True wants them all, and buffers too. Raises ManifestError when the bytes are not that state or their digest is
    another, and when the buffers are no safetensors file or have a parameter's name.
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
    if buffers is None:
        return [safetensors_header(shapes, places, metadata), theta, *twins]
    kept = _buffers(buffers, manifest)
    entries = [(name, "F32", shapes[name], end - begin) for name, (begin, end) in places.items()]
    wide, narrow = ([one for one in kept if (WIDTHS[one.dtype] > WIDTHS["F32"]) == side] for side in (True, False))
    described = [*((one.name, one.dtype, one.shape, len(one.content)) for one in wide), *entries,
                 *((one.name, one.dtype, one.shape, len(one.content)) for one in narrow)]  # fmt: skip
    header = _header(described, metadata)
    return [header, *(one.content for one in wide), theta, *twins, *(one.content for one in narrow)]


@dataclass(frozen=True, slots=True)
class Buffer:
    """A tensor that is no parameter, with its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    content: memoryview


def _buffers(file: bytes, manifest: Manifest) -> list[Buffer]:
    """What a customer's model kept, the widest numbers first, so that each lies where its width divides the offset."""
    taken = {tensor.name for tensor in manifest.tensors} | set(manifest.tied)
    try:
        size = int.from_bytes(file[:8], "little")
        described = {name: one for name, one in json.loads(file[8 : 8 + size]).items() if name != "__metadata__"}
        body, found, covered = memoryview(file)[8 + size :], [], 0
        for name, one in sorted(described.items(), key=lambda each: tuple(each[1]["data_offsets"])):
            begin, end = one["data_offsets"]
            shape = tuple(int(length) for length in one["shape"])
            if name in taken or begin != covered or end - begin != prod(shape) * WIDTHS[one["dtype"]]:
                raise ManifestError(
                    f"the model's buffer {name!r} is not as its file describes it, or a parameter's twin"
                )
            found.append(Buffer(name, one["dtype"], shape, body[begin:end]))
            covered = end
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise error if isinstance(error, ManifestError) else ManifestError(f"no file of buffers: {error!r}") from error
    if covered != len(body):
        raise ManifestError("the file of the model's buffers has more bytes than it describes")
    return sorted(found, key=lambda one: -WIDTHS[one.dtype])


def safetensors_header(
    shapes: Mapping[str, Sequence[int]], places: Mapping[str, tuple[int, int]], metadata: Mapping[str, str]
) -> bytes:
    """What precedes the bytes of float32 tensors at `places` (first byte, byte after the last), which leave no gap."""
    return _header([(name, "F32", shapes[name], end - begin) for name, (begin, end) in places.items()], metadata)


def _header(tensors: Sequence[tuple[str, str, Sequence[int], int]], metadata: Mapping[str, str]) -> bytes:
    """(name, dtype, shape, bytes) of tensors that lie one behind the other."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, dtype, shape, size in tensors:
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def model_config(plan: RestorePlan, job: Mapping[str, Any], rounds: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What is to be known about a model besides its tensors, from the job and its rounds as the market shows them.

    Held-out figures are of the last evaluation up to the model's round, which `held_out_round` names; None before the
    first. To build the model: the workload of that name (or class) with these options, then
    `load_state_dict(safetensors.torch.load_file("model.safetensors"), strict=True)`.
    """
    manifest, workload = plan.manifest, job["spec"]["workload"]
    evaluated = [one for one in rounds if one["round"] <= plan.round and one.get("loss") is not None]
    last = max(evaluated, key=lambda one: int(one["round"]), default={})
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
        "held_out_round": last.get("round"),
        "held_out_loss": last.get("loss"),
        "held_out_metrics": dict(last.get("metrics") or {}),
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
