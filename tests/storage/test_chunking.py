"""A state is cut where tensors begin: what did not change has the same names, one tensor is read alone, and nothing is lost."""

from __future__ import annotations

from hashlib import sha256

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.checkpoints import Chunk, Manifest, ManifestError, TensorEntry
from storage.chunking import CHUNK_BYTES, chunk_bytes, joined, pieces_of, read_tensor

MIB = 1 << 20


def entries(**elements: int) -> tuple[TensorEntry, ...]:
    return tuple(TensorEntry(name, (count,), "float32") for name, count in elements.items())


def state_of(tensors: tuple[TensorEntry, ...], seed: int, round: int = 1, *, frozen: str = "") -> bytes:
    """Parameters and momentum; those of the tensors whose name begins with `frozen` do not depend on the seed."""
    vectors = {}
    for part, name in enumerate(("parameters", "momentum")):
        drawn = [
            np.random.default_rng([part, place, 0 if frozen and one.name.startswith(frozen) else seed]).random(one.elements, np.float32)
            for place, one in enumerate(tensors)
        ]
        vectors[name] = np.concatenate(drawn)
    return bytes(safetensors.numpy.save(vectors, {"torg": "x" * round}))


def manifest_of(tensors: tuple[TensorEntry, ...], state: bytes) -> tuple[Manifest, dict[str, bytes]]:
    pieces = [bytes(piece) for piece in pieces_of(state, tensors)]
    blobs = {sha256(piece).hexdigest(): piece for piece in pieces}
    made = Manifest(
        job="job-1", round=1, step=1, parent=None, tensors=tensors, state=sha256(state).hexdigest(), state_bytes=len(state),
        parameters="0" * 64, strategy={}, code=None, data=None, created_at_ms=1, tied={"twin": tensors[0].name},
        chunks=tuple(Chunk(sha256(piece).hexdigest(), len(piece)) for piece in pieces),
    )  # fmt: skip
    return Manifest.decode(made.encode()), blobs


MODEL = entries(frozen_embedding=3_000_000, frozen_norm=200, lora_a=4_000, frozen_layer=600_000, lora_b=4_000, head=700_000)


def test_what_is_frozen_is_stored_once_whatever_the_heads_length() -> None:
    first, second = (manifest_of(MODEL, state_of(MODEL, seed, round, frozen="frozen")) for seed, round in ((1, 1), (2, 999)))
    fresh = sum(chunk.bytes for chunk in second[0].chunks if chunk.blob not in first[1])
    trained = 2 * 4 * sum(one.elements for one in MODEL if not one.name.startswith("frozen"))
    assert trained < fresh < trained + 8_000, "its tensors, the head, and what small tensors are packed with"
    assert fresh < second[0].state_bytes / 4
    assert max(chunk.bytes for chunk in second[0].chunks) == CHUNK_BYTES


@pytest.mark.parametrize("name", [*(one.name for one in MODEL), "twin"])
def test_one_tensor_is_read_by_its_own_chunks(name: str) -> None:
    state = state_of(MODEL, 7)
    manifest, blobs = manifest_of(MODEL, state)
    read: list[int] = []

    def reading(digest: str) -> bytes:
        read.append(len(blobs[digest]))
        return blobs[digest]

    found = read_tensor(manifest, name, reading)
    theta = safetensors.numpy.load(state)["parameters"]
    place = {one.name: index for index, one in enumerate(MODEL)}[manifest.tied.get(name, name)]
    begin = sum(one.elements for one in MODEL[:place])
    assert found == theta[begin : begin + MODEL[place].elements].tobytes()
    assert sum(read) <= read[0] + max(len(found), MIB), "the head and its own"


def test_a_tensor_that_is_not_there_is_refused() -> None:
    manifest, blobs = manifest_of(MODEL, state_of(MODEL, 7))
    with pytest.raises(ManifestError, match="no tensor 'other'"):
        read_tensor(manifest, "other", blobs.__getitem__)


def test_a_small_state_is_one_blob_and_a_huge_one_has_larger_chunks() -> None:
    small = entries(a=100, b=100)
    assert len(pieces_of(state_of(small, 1), small)) == 1
    assert [chunk_bytes(size) // MIB for size in (1, 4 << 30, (4 << 30) + 1, 100 << 30)] == [4, 4, 8, 128]


def test_a_chunk_that_is_known_to_be_damaged_gets_other_names() -> None:
    state = state_of(MODEL, 3)
    pieces = pieces_of(state, MODEL)
    bad = sha256(pieces[2]).hexdigest()
    again = pieces_of(state, MODEL, {bad})
    assert bad not in {sha256(piece).hexdigest() for piece in again}
    assert len(again) == len(pieces) + 1
    assert b"".join(again) == state


def test_other_chunks_make_no_state() -> None:
    manifest, blobs = manifest_of(MODEL, state_of(MODEL, 3))
    contents = [blobs[chunk.blob] for chunk in manifest.chunks]
    assert joined(manifest, contents) == state_of(MODEL, 3)
    with pytest.raises(ManifestError, match="the chunks make a state with the digest"):
        joined(manifest, contents[::-1])


def test_what_is_no_safetensors_file_is_refused() -> None:
    with pytest.raises(ManifestError, match="no safetensors file"):
        pieces_of(b"\x00" * 2 * MIB, MODEL)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 400_000), min_size=1, max_size=12), st.integers(0, 2))
def test_cuts_lose_nothing_and_depend_on_sizes_alone(sizes: list[int], round: int) -> None:
    tensors = entries(**{f"t{number:02}": size for number, size in enumerate(sizes)})
    whole = sum(sizes)
    state, other = (
        bytes(safetensors.numpy.save({"parameters": np.full(whole, value, np.float32), "own/residual": np.zeros(3, np.float32)}, {"torg": text}))
        for value, text in ((1, ""), (2, "r" * round))
    )  # fmt: skip
    pieces = pieces_of(state, tensors)
    assert b"".join(pieces) == state
    assert all(pieces)
    assert [len(piece) for piece in pieces][1:] == [len(piece) for piece in pieces_of(other, tensors)][1:]
    if len(pieces) > 1:
        head = len(pieces[0])
        places = {sum(map(len, pieces[:number])) - head for number in range(1, len(pieces))}
        begins = {4 * sum(sizes[:number]) for number in range(len(sizes))} | {4 * whole, 12, 0}
        begins |= {12 + place for place in begins}
        for place in places - begins:  # not where a tensor begins: at a fixed offset in a large one
            assert any((place - begin) % CHUNK_BYTES == 0 for begin in begins if begin < place)
