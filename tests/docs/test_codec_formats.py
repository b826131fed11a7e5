"""docs/FORMATS.md, section «Contributions»: a decoder made from the page alone agrees with ours, golden bytes included."""

import itertools
import json
import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.docs.specimens import CODECS, GOLDEN, TENSOR
from trainers.codecs import codec
from trainers.layout import Layout, flat_layout, layout_of

MATRIX = layout_of([("w", (2, 3))])
MAGICS = {
    "identity": "TF4", "fp16": "TF2", "bf16": "TB2", "int8": "TQ8", "fp4": "TE4", "int2": "TQ2", "sign1": "TS1",
}  # fmt: skip


def values_by_the_page(name: str, body: bytes, count: int) -> list[float]:
    if name in {"identity", "fp16"}:
        return list(struct.unpack(f"<{count}{'f' if name == 'identity' else 'e'}", body))
    if name == "bf16":
        return [struct.unpack("<f", struct.pack("<I", one << 16))[0] for one in struct.unpack(f"<{count}H", body)]
    if name == "int8":
        found, at = [], 0
        for size in [min(65_536, count - start) for start in range(0, count, 65_536)]:
            codebook = struct.unpack_from("<256f", body, at)
            found += [codebook[place] for place in body[at + 1024 : at + 1024 + size]]
            at += 1024 + size
        return found
    chunk, floats, bits = {"fp4": (1024, 1, 4), "int2": (4096, 4, 2), "sign1": (4096, 1, 1)}[name]
    tables = struct.unpack_from(f"<{floats * math.ceil(count / chunk)}f", body)
    stream = int.from_bytes(body[4 * len(tables) :], "little")
    assert len(body) == 4 * len(tables) + math.ceil(count * bits / 8)
    codes = [stream >> bits * place & (1 << bits) - 1 for place in range(count)]
    if name == "int2":
        return [tables[4 * (place // chunk) + code] for place, code in enumerate(codes)]
    levels = {0: 1.0, 1: -1.0} if name == "sign1" else {
        code: 0.0 if code % 8 == 0 else (-1 if code & 8 else 1) * 2.0 ** (code % 8 - 7) for code in range(16)
    }  # fmt: skip
    return [levels[code] * tables[place // chunk] for place, code in enumerate(codes)]


def places_by_the_page(packed: bytes, chunks: list[tuple[int, int, int]], n: int, chunk: int, kept: int) -> list[int]:
    """Chunks are (start, size, how many travel)."""
    bits = 8 if chunk <= 256 else 12 if chunk <= 4096 else min(b for b in (16, 24, 32) if chunk <= 1 << b)
    stream = int.from_bytes(packed, "little")
    if kept * bits >= chunk:
        return [place for place in range(n) if stream >> place & 1]
    starts = [start for start, _, count in chunks for _ in range(count)]
    return [start + (stream >> bits * place & (1 << bits) - 1) for place, start in enumerate(starts)]


def selection_by_the_page(stage: str, n: int, tensors: Layout) -> tuple[list[tuple[int, int, int]], int, int]:
    """Its chunks, CHUNK and K."""
    if stage.startswith("prune"):
        kept = n - math.floor(n * round(1000 * float(stage[6:])) / 1000)
        return [(0, n, kept)], n, kept
    kept, chunk = map(int, stage[6:].split("/"))
    found = [
        (one.offset + start, min(chunk, one.size - start), min(kept, chunk, one.size - start))
        for one in tensors
        for start in range(0, one.size, chunk)
    ]
    return found, chunk, kept


def inverse_by_the_page(coefficients: np.ndarray, layout: Layout, most: int) -> np.ndarray:
    vector, at = np.zeros(coefficients.size), 0
    for tensor in layout:
        edges = [max(e for e in range(1, most + 1) if size % e == 0) for size in tensor.shape]
        into = vector[tensor.offset : tensor.offset + tensor.size].reshape(tensor.shape)
        for corner in itertools.product(*[range(size // e) for size, e in zip(tensor.shape, edges, strict=True)]):
            block = coefficients[at : at + math.prod(edges)].reshape(edges)
            at += block.size
            for axis, e in enumerate(edges):
                rows = [[math.cos(math.pi * (2 * i + 1) * k / (2 * e)) for k in range(e)] for i in range(e)]
                norms = [math.sqrt((1 if k == 0 else 2) / e) for k in range(e)]
                block = np.moveaxis(np.tensordot(np.array(rows) * norms, block, (1, axis)), 0, axis)
            into[tuple(slice(c * e, c * e + e) for c, e in zip(corner, edges, strict=True))] = block
    return vector


def by_the_page(text: str, payload: bytes, n: int, layout: Layout) -> np.ndarray:
    """The elements in float64; exact unless there is a transform."""
    *before, name = text.split("+")
    edge = next((int(stage[4:]) for stage in before if stage.startswith("dct")), None)
    stage = next((stage for stage in before if not stage.startswith("dct")), None)
    flags = 1 + (64 if edge else 0) + (0 if stage is None else 16 if stage.startswith("top_k") else 32)
    assert payload[:12] == MAGICS[name].encode() + bytes([flags]) + struct.pack("<Q", n)
    vector, at = np.zeros(n), 12
    if stage is None:
        vector[:] = values_by_the_page(name, payload[at:], n)
    else:
        chunks, chunk, kept = selection_by_the_page(stage, n, layout if edge else flat_layout(n))
        count = sum(one for _, _, one in chunks)
        bits = 8 if chunk <= 256 else 12 if chunk <= 4096 else min(b for b in (16, 24, 32) if chunk <= 1 << b)
        size = math.ceil(n / 8) if kept * bits >= chunk else math.ceil(count * bits / 8)
        places = places_by_the_page(payload[at : at + size], chunks, n, chunk, kept)
        assert len(places) == count
        vector[places] = values_by_the_page(name, payload[at + size :], count)
    return inverse_by_the_page(vector, layout, edge) if edge else vector


@pytest.mark.parametrize("text", CODECS)
def test_both_readers_decode_the_golden_contributions(text: str) -> None:
    payload = bytes.fromhex(json.loads((GOLDEN / "contribution.json").read_text())[text])
    found = by_the_page(text, payload, TENSOR.size, MATRIX)
    decoded = codec(text, MATRIX).decode(payload, TENSOR.size)
    np.testing.assert_allclose(found, decoded, rtol=0.0, atol=1e-6 if text.startswith("dct") else 0.0)


@settings(deadline=None, max_examples=40)
@given(
    values=st.sampled_from(sorted(MAGICS)),
    stage=st.sampled_from([
        "", "top_k:3/16+", "top_k:1/300+", "top_k:7/4096+", "top_k:2/5000+", "top_k:1/70000+", "prune:0.5+", "prune:0.999+"
    ]),
    edge=st.sampled_from(["", "dct:4+", "dct:64+"]),
    shape=st.sampled_from([(0,), (1,), (5,), (300,), (1025,), (4097,), (37, 24), (12, 9, 3, 3), (70, 100)]),
    seed=st.integers(0, 2**16),
)  # fmt: skip
def test_a_decoder_made_from_the_page_agrees_on_any_codec(
    values: str, stage: str, edge: str, shape: tuple[int, ...], seed: int
) -> None:
    text, layout = edge + stage + values, layout_of([("w", shape), ("b", (7,))])
    vector = np.random.default_rng(seed).standard_t(3, layout[1].offset + 7).astype(np.float32)
    payload = codec(text, layout).encode(vector)
    decoded = codec(text, layout).decode(payload, vector.size)
    found = by_the_page(text, payload, vector.size, layout)
    np.testing.assert_allclose(found, decoded, rtol=0.0, atol=2e-5 * np.abs(vector).max() if edge else 0.0)
