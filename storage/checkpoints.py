"""What a checkpoint is: a small manifest that names everything needed to go on training, by digest.

A *base* is the file of the whole outer state (safetensors, flat float32 vectors), in one blob or in chunks that begin where
tensors do (storage/chunking.py), so that a tensor that did not change is stored once. A *delta* adds what the rounds
since a base merged, one opaque blob a round: replaying them in order on the base's state gives the same bits as
training did (`Member.replay`). A delta's manifest repeats the whole chain, so that it needs no other manifest. The
manifest is canonical JSON, kept in the blob store too, so that its digest names the checkpoint.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

from storage.blobs import DIGEST
from storage.canonical import NotCanonical, canonical_bytes, digest_of, parse_json
from storage.formats import newer_manifest

FORMAT = "torg-checkpoint-"
VERSION = 4
MAX_DELTAS = 10_000
MAX_CHUNKS = 1_000_000

Kind = Literal["base", "delta"]

_FIRST_FIELDS = (
    "job", "round", "step", "parent", "tensors", "state", "state_bytes", "parameters", "strategy", "code", "data",
    "created_at_ms",
)  # fmt: skip
_SECOND_FIELDS = ("kind", "base", "deltas", "inner", "inner_bytes", "tied")
_THIRD_FIELDS = ("buffers", "buffers_bytes")
_FOURTH_FIELDS = ("chunks",)


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
class Chunk:
    """A part of the state's file: the blob and its length."""

    blob: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Delta:
    """What one round merged: the blob, its length, and the digest of θ after it, at `step` inner steps per worker."""

    round: int
    step: int
    blob: str
    bytes: int
    parameters: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """One durable state of a job: after `round` rounds and `step` inner steps per worker.

    `state` is the digest of the base's safetensors file, `state_bytes` its length, `chunks` the blobs that make it one after the
    other (none: it is a blob itself), `deltas` what to replay on it (none for a base), `base` the digest of the base's manifest (None for a base). `parent` is the digest of the manifest
    before, `parameters` the digest of θ that the members agreed on, `strategy` the job's strategy with its
    hyper-parameters, `code` and `data` the digests of what trained and on what (None for built-in or none). `inner` is
    the inner optimiser's state as it was at the base, None when it is not kept. `tied`: further names of tensors, by
    the name under which the flat vector holds them once. `buffers` is what the model of the member that set the base
    aside kept beside its parameters, None for a model without. `version` 1 knows bases only, 2 no buffers, 3 no chunks.
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
    kind: Kind = "base"
    base: str | None = None
    deltas: tuple[Delta, ...] = ()
    inner: str | None = None
    inner_bytes: int = 0
    tied: Mapping[str, str] = field(default_factory=dict)
    buffers: str | None = None
    buffers_bytes: int = 0
    chunks: tuple[Chunk, ...] = ()
    version: int = VERSION

    @property
    def base_round(self) -> int:
        """The round of the base's state."""
        return self.round - len(self.deltas)

    @property
    def total_bytes(self) -> int:
        """Bytes of all blobs that it names."""
        beside = self.inner_bytes + self.buffers_bytes
        return self.state_bytes + beside + sum(delta.bytes for delta in self.deltas)

    @property
    def blobs(self) -> tuple[str, ...]:
        """Digests of all blobs that it names."""
        beside = (one for one in (self.inner, self.buffers) if one is not None)
        state = (chunk.blob for chunk in self.state_chunks)
        return tuple(dict.fromkeys((*state, *beside, *(delta.blob for delta in self.deltas))))

    @property
    def state_chunks(self) -> tuple[Chunk, ...]:
        """The blobs that make the state's file, in order; at least one."""
        return self.chunks or (Chunk(self.state, self.state_bytes),)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON with the format's name."""
        value: dict[str, Any] = {name: getattr(self, name) for name in _fields(self.version)}
        value["strategy"] = dict(self.strategy)
        value["tensors"] = [{"name": t.name, "shape": list(t.shape), "dtype": t.dtype} for t in self.tensors]
        if self.version > 1:
            value["tied"] = dict(self.tied)
            value["deltas"] = [{name: getattr(delta, name) for name in _DELTA_FIELDS} for delta in self.deltas]
        if self.version > 3:
            value["chunks"] = [{"blob": chunk.blob, "bytes": chunk.bytes} for chunk in self.chunks]
        return {"format": f"{FORMAT}{self.version}", **value}

    def encode(self) -> bytes:
        """The canonical bytes; their SHA-256 is `digest`."""
        return canonical_bytes(self.to_json())

    @property
    def digest(self) -> str:
        """The name of this checkpoint."""
        return digest_of(self.to_json())

    @classmethod
    def from_json(cls, value: object) -> "Manifest":
        """Read what `to_json` made, of this version or an older one; raises ManifestError that names the field."""
        version = _version(value)
        assert isinstance(value, dict)
        expected = {"format", *_fields(version)}
        if set(value) != expected:
            odd = sorted(set(value) ^ expected)
            raise ManifestError(f"fields missing or unknown: {', '.join(odd)}")
        fields = {name: item for name, item in value.items() if name != "format"}
        for name in ("round", "step", "state_bytes", "created_at_ms", "inner_bytes", "buffers_bytes"):
            _count(name, fields.get(name, 0))
        for name in ("state", "parameters"):
            _digest(name, fields[name])
        for name in ("parent", "code", "data", "base", "inner", "buffers"):
            if fields.get(name) is not None:
                _digest(name, fields[name])
        if not isinstance(fields["job"], str) or not isinstance(fields["strategy"], dict):
            raise ManifestError("job is not a text or strategy is not an object")
        fields["tensors"] = tuple(_tensor(item) for item in _list("tensors", fields["tensors"]))
        if version > 1:
            fields["deltas"] = tuple(_delta(item) for item in _list("deltas", fields["deltas"]))
        if version > 3:
            fields["chunks"] = tuple(_chunk(item) for item in _list("chunks", fields["chunks"]))
        made = cls(**fields, version=version)
        _check_chain(made)
        _check_chunks(made)
        _check_tied(made)
        return made

    @classmethod
    def decode(cls, data: bytes | memoryview) -> "Manifest":
        """Read what `encode` made; raises ManifestError."""
        try:
            return cls.from_json(parse_json(bytes(data)))
        except NotCanonical as error:
            raise ManifestError(str(error)) from error


@dataclass(frozen=True, slots=True)
class Chain:
    """What a further delta would build on: the round that the chain has reached, its deltas, and what they weigh.

    `base_bytes` is None as long as the base's length is not known.
    """

    round: int
    length: int
    delta_bytes: int
    base_bytes: int | None

    @classmethod
    def of(cls, manifest: Manifest | None) -> "Chain | None":
        """The chain that ends at this checkpoint; None when a delta cannot build on it."""
        if manifest is None or manifest.version == 1:
            return None
        weight = sum(delta.bytes for delta in manifest.deltas)
        return cls(manifest.round, len(manifest.deltas), weight, manifest.state_bytes)

    def with_delta(self, size_bytes: int) -> "Chain":
        """The chain a round later."""
        return Chain(self.round + 1, self.length + 1, self.delta_bytes + size_bytes, self.base_bytes)


def next_kind(chain: Chain | None, round: int, *, last: bool, base_every_rounds: int) -> Kind:
    """What the checkpoint of `round` should be.

    A base when there is nothing to build on, for the last round, when a round is missing between, when a base is due
    again after `base_every_rounds`, or when what has to be replayed outweighs the state itself.
    """
    if chain is None or last or round != chain.round + 1:
        return "base"
    heavy = chain.base_bytes is not None and chain.delta_bytes >= chain.base_bytes
    return "base" if heavy or chain.length + 1 >= base_every_rounds else "delta"


def removable(manifests: Sequence[Manifest], keep: int) -> tuple[Manifest, ...]:
    """Which checkpoints of one job may go, oldest first: all but the newest `keep` and their bases, never the newest.

    Newest is by (round, created_at_ms). Only what this returns may be deleted, and only after the newest one's
    record is in the journal.
    """
    assert len({manifest.job for manifest in manifests}) <= 1, "checkpoints of one job only"
    ordered = sorted(manifests, key=lambda manifest: (manifest.round, manifest.created_at_ms, manifest.digest))
    old = ordered[: max(0, len(ordered) - max(1, keep))]
    bases = {manifest.base for manifest in ordered[len(old) :]}
    return tuple(manifest for manifest in old if manifest.digest not in bases)


def removable_blobs(manifests: Sequence[Manifest], keep: int) -> tuple[str, ...]:
    """Digests of blobs and manifests that may go, without those that a kept checkpoint still names."""
    gone = removable(manifests, keep)
    names = {manifest.digest for manifest in gone}
    kept = [manifest for manifest in manifests if manifest.digest not in names]
    needed = {name for manifest in kept for name in (manifest.digest, *manifest.blobs)}
    found = dict.fromkeys(name for manifest in gone for name in (manifest.digest, *manifest.blobs))
    return tuple(name for name in found if name not in needed)


def _tensor(value: Any) -> TensorEntry:
    try:
        name, shape, dtype = value["name"], value["shape"], value["dtype"]
    except (TypeError, KeyError) as error:
        raise ManifestError(f"a tensor needs name, shape and dtype: {value!r}") from error
    whole = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    if not isinstance(name, str) or not isinstance(dtype, str) or not whole:
        raise ManifestError(f"a tensor needs name, shape and dtype: {value!r}")
    return TensorEntry(name, tuple(shape), dtype)


_DELTA_FIELDS = ("round", "step", "blob", "bytes", "parameters")


def _fields(version: int) -> tuple[str, ...]:
    later = ((2, _SECOND_FIELDS), (3, _THIRD_FIELDS), (4, _FOURTH_FIELDS))
    return sum((names for since, names in later if version >= since), _FIRST_FIELDS)


def _version(value: object) -> int:
    format = value.get("format") if isinstance(value, dict) else None
    if not isinstance(format, str) or not format.startswith(FORMAT):
        raise ManifestError(f"not a manifest of format {FORMAT}{VERSION}")
    number = format.removeprefix(FORMAT)
    if number not in {str(known) for known in range(1, VERSION + 1)}:
        newer = newer_manifest("the checkpoint's manifest", format, f"{FORMAT}{VERSION}")
        raise ManifestError(newer or f"format {format} is not known here; this reads up to {FORMAT}{VERSION}")
    return int(number)


def _count(name: str, value: object) -> None:
    if type(value) is not int or value < 0:
        raise ManifestError(f"{name} is not a count: {value!r}")


def _digest(name: str, value: object) -> None:
    if not isinstance(value, str) or DIGEST.fullmatch(value) is None:
        raise ManifestError(f"{name} is not a digest: {value!r}")


def _list(name: str, value: object) -> list[Any]:
    if not isinstance(value, list) or len(value) > {"deltas": MAX_DELTAS, "chunks": MAX_CHUNKS}.get(name, len(value)):
        raise ManifestError(f"{name} is not a list of a sensible length")
    return value


def _check_chain(manifest: Manifest) -> None:
    if manifest.kind not in ("base", "delta"):
        raise ManifestError(f"kind is neither base nor delta: {manifest.kind!r}")
    if (manifest.kind == "delta") != bool(manifest.deltas):
        raise ManifestError(f"deltas do not fit the kind {manifest.kind}")
    if (manifest.kind == "delta") != (manifest.base is not None):
        raise ManifestError(f"base does not fit the kind {manifest.kind}")
    if manifest.inner is None and manifest.inner_bytes:
        raise ManifestError("inner_bytes without inner")
    if manifest.buffers is None and manifest.buffers_bytes:
        raise ManifestError("buffers_bytes without buffers")
    if not manifest.deltas:
        return
    rounds = [delta.round for delta in manifest.deltas]
    if rounds != list(range(manifest.base_round + 1, manifest.round + 1)):
        raise ManifestError(f"deltas are of rounds {rounds}, not of every round up to {manifest.round}")
    last = manifest.deltas[-1]
    if (last.step, last.parameters) != (manifest.step, manifest.parameters):
        raise ManifestError("deltas end at another step or other parameters than the checkpoint")


def _check_chunks(manifest: Manifest) -> None:
    if manifest.chunks and sum(chunk.bytes for chunk in manifest.chunks) != manifest.state_bytes:
        raise ManifestError(f"the chunks do not have state_bytes together, {manifest.state_bytes}")


def _check_tied(manifest: Manifest) -> None:
    names = {tensor.name for tensor in manifest.tensors}
    tied = manifest.tied
    if not isinstance(tied, dict) or not all(
        isinstance(name, str) and name not in names and twin in names for name, twin in tied.items()
    ):
        raise ManifestError("tied does not give further names of tensors that are there")


def _chunk(value: Any) -> Chunk:
    if not isinstance(value, dict) or set(value) != {"blob", "bytes"}:
        raise ManifestError(f"one of chunks needs blob and bytes: {value!r}")
    _digest("blob in chunks", value["blob"])
    _count("bytes in chunks", value["bytes"])
    if not value["bytes"]:
        raise ManifestError("a chunk is empty")
    return Chunk(**value)


def _delta(value: Any) -> Delta:
    if not isinstance(value, dict) or set(value) != set(_DELTA_FIELDS):
        raise ManifestError(f"one of deltas needs {', '.join(_DELTA_FIELDS)}: {value!r}")
    for name in ("round", "step", "bytes"):
        _count(f"{name} in deltas", value[name])
    for name in ("blob", "parameters"):
        _digest(f"{name} in deltas", value[name])
    return Delta(**value)
