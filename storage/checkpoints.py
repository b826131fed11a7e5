"""What a checkpoint is: a small manifest that names everything needed to go on training, by digest.

The state itself is one blob (safetensors with the parameters θ and the outer momentum, flat float32). The
manifest is canonical JSON, kept in the blob store too, so that its digest names the checkpoint.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from storage.blobs import DIGEST
from storage.canonical import NotCanonical, canonical_bytes, digest_of, parse_json

FORMAT = "torg-checkpoint-1"


class ManifestError(ValueError):
    """These bytes are not a manifest; the text says which field."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of the model, in the order in which the flat vector holds them."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def elements(self) -> int:
        """How many numbers it has."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Manifest:
    """One durable state of a job: after `round` rounds and `step` inner steps per worker.

    `state` is the digest of the safetensors blob (θ and momentum), `state_bytes` its length, `parent` the digest
    of the manifest before, `parameters` the digest of θ that the members agreed on, `strategy` the job's strategy
    with its hyper-parameters, `code` and `data` the digests of what trained and on what (None for built-in or none).
    """

    job: str
    round: int
    step: int
    parent: str | None
    tensors: tuple[TensorEntry, ...]
    state: str
    state_bytes: int
    parameters: str
    strategy: Mapping[str, Any]
    code: str | None
    data: str | None
    created_at_ms: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON with the format's name."""
        tensors = [{"name": t.name, "shape": list(t.shape), "dtype": t.dtype} for t in self.tensors]
        return {"format": FORMAT, **asdict(self), "strategy": dict(self.strategy), "tensors": tensors}

    def encode(self) -> bytes:
        """The canonical bytes; their SHA-256 is `digest`."""
        return canonical_bytes(self.to_json())

    @property
    def digest(self) -> str:
        """The name of this checkpoint."""
        return digest_of(self.to_json())

    @classmethod
    def from_json(cls, value: object) -> "Manifest":
        """Read what `to_json` made; raises ManifestError that names the field."""
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise ManifestError(f"not a manifest of format {FORMAT}")
        expected = {"format", *cls.__dataclass_fields__}
        if set(value) != expected:
            odd = sorted(set(value) ^ expected)
            raise ManifestError(f"fields missing or unknown: {', '.join(odd)}")
        fields = {name: item for name, item in value.items() if name != "format"}
        for name in ("round", "step", "state_bytes", "created_at_ms"):
            if type(fields[name]) is not int or fields[name] < 0:
                raise ManifestError(f"{name} is not a count: {fields[name]!r}")
        for name in ("state", "parameters", "parent", "code", "data"):
            text = fields[name]
            if not (text is None and name in {"parent", "code", "data"}) and not (
                isinstance(text, str) and DIGEST.fullmatch(text)
            ):
                raise ManifestError(f"{name} is not a digest: {text!r}")
        if not isinstance(fields["job"], str) or not isinstance(fields["strategy"], dict):
            raise ManifestError("job is not a text or strategy is not an object")
        fields["tensors"] = tuple(_tensor(item) for item in _list(fields["tensors"]))
        return cls(**fields)

    @classmethod
    def decode(cls, data: bytes) -> "Manifest":
        """Read what `encode` made; raises ManifestError."""
        try:
            return cls.from_json(parse_json(data))
        except NotCanonical as error:
            raise ManifestError(str(error)) from error


def removable(manifests: Sequence[Manifest], keep: int) -> tuple[Manifest, ...]:
    """Which checkpoints of one job may go, oldest first: all but the newest `keep`, and never the newest.

    Newest is by (round, created_at_ms). Only what this returns may be deleted, and only after the newest one's
    record is in the journal.
    """
    assert len({manifest.job for manifest in manifests}) <= 1, "checkpoints of one job only"
    ordered = sorted(manifests, key=lambda manifest: (manifest.round, manifest.created_at_ms, manifest.digest))
    return tuple(ordered[: max(0, len(ordered) - max(1, keep))])


def removable_blobs(manifests: Sequence[Manifest], keep: int) -> tuple[str, ...]:
    """Digests of state blobs and manifests that may go, without those that a kept checkpoint still names."""
    gone = removable(manifests, keep)
    kept = [manifest for manifest in manifests if manifest not in gone]
    needed = {manifest.state for manifest in kept} | {manifest.digest for manifest in kept}
    names = dict.fromkeys(name for manifest in gone for name in (manifest.digest, manifest.state))
    return tuple(name for name in names if name not in needed)


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


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ManifestError(f"tensors is not a list: {value!r}")
    return value


def _tensor(value: Any) -> TensorEntry:
    try:
        name, shape, dtype = value["name"], value["shape"], value["dtype"]
    except (TypeError, KeyError) as error:
        raise ManifestError(f"a tensor needs name, shape and dtype: {value!r}") from error
    whole = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    if not isinstance(name, str) or not isinstance(dtype, str) or not whole:
        raise ManifestError(f"a tensor needs name, shape and dtype: {value!r}")
    return TensorEntry(name, tuple(shape), dtype)
