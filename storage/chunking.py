"""Where the file of a checkpoint's state is cut: at the beginnings of tensors, so that one that did not change is stored once.

The file is safetensors: a head, which says the round and so changes every time, and vectors. Vectors that hold all the model's
parameters (the parameters themselves, momentum, a residual) are cut where the model's tensors begin in them. Small tensors are
packed together, large ones are cut at fixed offsets from their own beginning. Nothing depends on what is in the tensors, so
the cuts are the same in every checkpoint of a job. A reader needs no rule: the manifest lists the chunks in order.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise

from storage.checkpoints import Chunk, Manifest, ManifestError, TensorEntry

CHUNK_BYTES = 4 << 20
PACKED_PART = 16
"""Tensors of less than a sixteenth of a chunk (256 KiB) are packed together, up to that."""
MAX_CHUNKS = 1024
"""About as many a file has at most, beside those of its many tensors: chunks of larger files are larger, by powers of two."""
LENGTH_BYTES = 8
F32_BYTES = 4

Read = Callable[[str], bytes]
"""The bytes of a blob by its digest; raises ValueError when they are missing or are not those."""


@dataclass(frozen=True, slots=True)
class _Vector:
    """A tensor of the file: where it begins and ends in it, and how many float32 it has if it is flat, else None."""

    name: str
    begin: int
    end: int
    flat: int | None


def pieces_of(file: bytes, tensors: Sequence[TensorEntry], unsound: Set[str] = frozenset()) -> list[memoryview]:
    """The file in pieces, in order and without gaps; one piece for a small file.

    tensors: the model's, in the order in which a flat vector holds them. unsound: digests of blobs that are known to be damaged
    where the pieces go. A piece of that name would not be sent again, and a tensor that does not change would be lost with every
    later checkpoint: it is cut in two. Raises ManifestError for what is no safetensors file.
    """
    view, chunk = memoryview(file), chunk_bytes(len(file))
    cuts = [0, len(file)] if len(file) <= chunk // PACKED_PART else _cuts(_beginnings(file, tensors), chunk)
    pieces = [view[begin:end] for begin, end in pairwise(cuts)]
    return [part for piece in pieces for part in _renamed(piece, unsound)] if unsound else pieces


def _renamed(piece: memoryview, unsound: Set[str]) -> list[memoryview]:
    if len(piece) < 2 or hashlib.sha256(piece).hexdigest() not in unsound:
        return [piece]
    middle = len(piece) // 2
    return [*_renamed(piece[:middle], unsound), *_renamed(piece[middle:], unsound)]


def chunk_bytes(size_bytes: int) -> int:
    """The largest chunk of a file of that size. The head's length does not matter for it but by the rarest chance."""
    chunk = CHUNK_BYTES
    while size_bytes > chunk * MAX_CHUNKS:
        chunk *= 2
    return chunk


def _beginnings(file: bytes, tensors: Sequence[TensorEntry]) -> list[int]:
    """0, where the head ends and each tensor begins, and the file's end, ascending."""
    elements = [tensor.elements for tensor in tensors]
    whole = sum(elements)
    vectors = _vectors(file)
    found = {0, len(file)}
    for vector in vectors:
        at = vector.begin
        found.add(at)
        for count in elements if vector.flat == whole else ():
            found.add(at)
            at += F32_BYTES * count
    return sorted(found)


def _cuts(beginnings: Sequence[int], chunk: int) -> list[int]:
    """0, where each chunk but the first begins, and the end."""
    head_end, end = beginnings[1], beginnings[-1]
    cuts = [0, head_end]
    for begin, after in pairwise(beginnings[1:]):
        if after - begin >= chunk // PACKED_PART:
            cuts += range(begin, after, chunk)
            cuts.append(after)
        elif after - cuts[-1] > chunk // PACKED_PART:
            cuts.append(begin)  # it begins a new pack, and the one before ends here
    return sorted({*cuts, end})


def _vectors(file: bytes | memoryview) -> list[_Vector]:
    """The tensors that the file's head describes, in the order of their places; only the head need be there."""
    try:
        size = int.from_bytes(file[:LENGTH_BYTES], "little")
        described = json.loads(bytes(file[LENGTH_BYTES : LENGTH_BYTES + size]))
        found = []
        for name, one in described.items():
            if name == "__metadata__":
                continue
            begin, end = (LENGTH_BYTES + size + int(place) for place in one["data_offsets"])
            flat = int(one["shape"][0]) if one["dtype"] == "F32" and len(one["shape"]) == 1 else None
            found.append(_Vector(name, begin, end, flat))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(f"the state is no safetensors file: {error!r}") from error
    return sorted(found, key=lambda one: one.begin)


def joined(manifest: Manifest, contents: Sequence[bytes]) -> bytes:
    """The file of the base's state from the contents of the manifest's `state_chunks`. Raises ValueError if it is another."""
    file = contents[0] if len(contents) == 1 else b"".join(contents)
    found = hashlib.sha256(file).hexdigest()
    if found != manifest.state:
        raise ManifestError(f"the chunks make a state with the digest {found}, not {manifest.state}")
    return file


def read_tensor(manifest: Manifest, name: str, read: Read) -> bytes:
    """The float32 of one tensor of the model as they were at the manifest's base, reading the head and that tensor's chunks alone.

    `name` may be one of `tied`. Each chunk is checked by who reads it; the state as a whole is not. Raises ManifestError for a
    name that is not the model's, and ValueError as `read` does.
    """
    name = manifest.tied.get(name, name)
    at = 0
    for tensor in manifest.tensors:
        if tensor.name == name:
            break
        at += F32_BYTES * tensor.elements
    else:
        raise ManifestError(f"the model has no tensor {name!r}")
    chunks = manifest.state_chunks
    first = read(chunks[0].blob)
    theta = next((one for one in _vectors(first) if one.name == "parameters"), None)
    if theta is None or theta.flat != sum(one.elements for one in manifest.tensors):
        raise ManifestError("the state has no parameters of these tensors")
    begin = theta.begin + at
    end = begin + F32_BYTES * tensor.elements
    parts = []
    for place, chunk in _placed(chunks):
        low, high = max(begin, place), min(end, place + chunk.bytes)
        if low < high:
            content = first if place == 0 else read(chunk.blob)
            parts.append(content[low - place : high - place])
    return b"".join(parts)


def _placed(chunks: Sequence[Chunk]) -> Iterator[tuple[int, Chunk]]:
    at = 0
    for chunk in chunks:
        yield at, chunk
        at += chunk.bytes
