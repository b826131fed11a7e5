"""The codec battery: every codec must pass it, alone and behind each kind of selection and transform."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from trainers.codecs import VALUES, BadPayload, codec, kernels
from trainers.codecs.base import CHECKED, LARGEST, refuse_not_finite
from trainers.codecs.dct import Dct
from trainers.codecs.int8 import BINS, CHUNK
from trainers.layout import layout_of

STAGED = [
    "top_k:3/16+identity", "top_k:2/20+int2", "top_k:2/100+fp16", "top_k:1/300+sign1", "top_k:5/9000+int8",
    "prune:0.5+fp16", "prune:0.97+fp4", "prune:0+bf16", "dct:8+identity", "dct+int8", "dct:4+top_k:3/16+fp16",
    "dct:64+top_k:2/64+sign1", "dct:8+prune:0.75+int2",
]  # fmt: skip
EVERY = [*VALUES, *STAGED]
BEYOND = np.nextafter(LARGEST, np.float32(np.inf))
FINITE = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
EXTREME = st.floats(-float(LARGEST), float(LARGEST), width=32)


@st.composite
def vectors(draw, elements=FINITE, least=0):
    """Short ones of any values, and longer ones that reach over the ends of chunks."""
    if draw(st.booleans()):
        return draw(arrays.arrays(np.float32, st.integers(least, 40), elements=elements))
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    size = draw(st.sampled_from([300, 1023, 1025, 4095, 4096, 4097, 9001]))
    return (random.standard_t(3, size) * 10.0 ** draw(st.integers(-8, 4))).astype(np.float32)


every_codec = pytest.mark.parametrize("name", EVERY)
few = settings(max_examples=8, deadline=None)


@every_codec
@few
@given(vector=vectors(EXTREME))
def test_length_promised_is_length_sent_and_bytes_repeat(name, vector):
    try:
        made = codec(name).encode(vector)
        codec(name).decode(made, vector.size)
    except BadPayload:
        assert "dct" in name, "only a transform makes larger elements"
        return
    assert type(made) is bytes
    assert len(made) == codec(name).promised_bytes(vector.size)
    assert made == codec(name).encode(vector.copy())
    decoded = codec(name).decode(memoryview(made), vector.size)
    assert decoded.dtype == np.float32
    assert decoded.shape == vector.shape
    assert (np.abs(decoded) <= LARGEST).all()
    assert decoded.tobytes() == codec(name).decode(made, vector.size).tobytes()


@every_codec
@few
@given(vector=vectors(least=1), data=st.data())
def test_refuses_what_is_cut_grown_or_of_another_length(name, vector, data):
    made, payload = codec(name), codec(name).encode(vector)
    cut = data.draw(st.integers(0, len(payload) - 1))
    for bad, elements in [(payload[:cut], vector.size), (payload + b"\0", vector.size), (payload, vector.size + 1)]:
        with pytest.raises(BadPayload):
            made.decode(bad, elements)


@every_codec
@few
@given(noise=st.binary(max_size=300), elements=st.integers(0, 400))
def test_random_bytes_are_refused(name, noise, elements):
    with pytest.raises(BadPayload):
        codec(name).decode(noise, elements)


@every_codec
@few
@given(vector=vectors(least=1), seed=st.integers(0, 2**16), changes=st.integers(1, 40))
def test_a_body_of_random_bytes_is_refused_or_decodes_to_values_that_may_be(name, vector, seed, changes):
    random, made = np.random.default_rng(seed), codec(name)
    payload = np.frombuffer(made.encode(vector), dtype=np.uint8).copy()
    for at in random.integers(12, payload.size, size=changes):
        payload[at : at + 4] = random.choice([0, 1, 127, 128, 255], size=payload[at : at + 4].size)
    for body in (payload[12:], random.integers(0, 256, payload.size - 12, dtype=np.uint8)):
        try:
            decoded = made.decode(payload[:12].tobytes() + body.tobytes(), vector.size)
        except BadPayload:
            continue
        assert decoded.shape == vector.shape
        assert (np.abs(decoded) <= LARGEST).all()


@every_codec
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, np.finfo(np.float32).max])
@pytest.mark.parametrize("size", [10, 5000])
def test_refuses_to_encode_or_decode_what_is_not_finite_or_counts_as_that(name, bad, size):
    vector = np.ones(size, dtype=np.float32)
    made = codec(name)
    payload = made.encode(vector)
    vector[size // 2] = bad
    with pytest.raises(BadPayload):
        made.encode(vector)
    if not made.dense:  # places come first: see the bodies of random bytes
        return
    poisoned = payload[:12] + np.full((len(payload) - 12) // 4 + 1, bad, "<f4").tobytes()
    with pytest.raises(BadPayload):
        made.decode(poisoned[: len(payload)], size)


@pytest.mark.parametrize("name", [name for name in EVERY if "dct" not in name])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_element_that_may_travel_is_two_to_the_sixtieth(name, sign):
    made, vector = codec(name), np.linspace(-1, 1, 5000, dtype=np.float32)
    vector[2500] = sign * LARGEST
    decoded = made.decode(made.encode(vector), vector.size)
    assert LARGEST >= np.abs(decoded).max() > 0
    vector[2500] = sign * BEYOND
    with pytest.raises(BadPayload, match=r"1\.15e\+18 counts as not finite"):
        made.encode(vector)


@pytest.mark.parametrize("name", ["identity", "int8", "fp4", "int2", "sign1"])
def test_a_scale_or_a_mean_beyond_that_is_refused(name):
    made = codec(name)
    for value, refused in ((LARGEST, False), (BEYOND, True)):
        body = np.full((made.promised_bytes(64) - 12) // 4 + 1, value, "<f4").tobytes()
        payload = (made.encode(np.ones(64, dtype=np.float32))[:12] + body)[: made.promised_bytes(64)]
        if refused:
            with pytest.raises(BadPayload, match="counts as not finite"):
                made.decode(payload, 64)
        else:
            assert np.abs(made.decode(payload, 64)).max() <= LARGEST


# how near a value comes back


def rms(vector):
    return float(np.sqrt(np.mean(np.square(vector.astype(np.float64)))))


NORMAL = np.random.default_rng(1).normal(size=3 * CHUNK + 17).astype(np.float32) * np.float32(1e-3)
EXACT = {"identity": 0.0, "fp16": 2**-11, "bf16": 2**-8}
RELATIVE = {"int8": 0.02, "fp4": 0.2, "int2": 0.41, "sign1": 0.61}


@pytest.mark.parametrize("name", EXACT)
@few
@given(vector=vectors())
def test_short_floats_round_each_value_to_the_nearest(name, vector):
    made = codec(name)
    error = np.abs(made.decode(made.encode(vector), vector.size) - vector)
    smallest_step = 2.0**-25 if name == "fp16" else 0.0
    inside = np.abs(vector) < (65504.0 if name == "fp16" else np.inf)
    assert (error <= np.abs(vector) * EXACT[name] + smallest_step)[inside].all()


def test_fp16_rounds_as_numpy_does():
    edges = np.array(
        [65504.0, 65519.9, 65520.0, 1e18, 2.0**-14, 2.0**-24, 2.0**-25, 0.0, -0.0, 1e-45], dtype=np.float32
    )
    halves = np.arange(1 << 15, dtype=np.uint16).view(np.float16).astype(np.float32)[:0x7C00]
    between = (halves[1:] + halves[:-1]) / 2
    values = np.concatenate([edges, NORMAL, halves, between, np.nextafter(between, 0), np.nextafter(between, np.inf)])
    values = np.concatenate([values, -values]).astype(np.float32)
    sent = np.frombuffer(codec("fp16").encode(values), dtype="<u2", offset=12)
    assert (sent == np.clip(values, -65504.0, 65504.0).astype(np.float16).view(np.uint16)).all()


@pytest.mark.parametrize("name", RELATIVE)
@pytest.mark.parametrize("scale", [1e-36, 1e-20, 1.0, 1e17])
def test_quantisers_lose_no_more_of_a_normal_vector_than_they_should(name, scale):
    vector = NORMAL * np.float32(scale)
    made = codec(name)
    decoded = made.decode(made.encode(vector), vector.size)
    assert rms(decoded.astype(np.float64) - vector) <= RELATIVE[name] * rms(vector)


def test_no_value_within_three_sigma_is_off_by_more_than_an_int8_bin():
    decoded = codec("int8").decode(codec("int8").encode(NORMAL), NORMAL.size)
    inside = np.abs(NORMAL) < 2.9 * rms(NORMAL)
    assert np.abs(decoded - NORMAL)[inside].max() <= 6.1 * rms(NORMAL) / BINS


@few
@given(vector=vectors(least=2), scale=st.sampled_from([1.0, 1e-30, 1e-38, 1e-42, 1e10]))
def test_int8_means_are_those_of_its_bins(vector, scale):
    vector = (vector * scale).astype(np.float32)
    payload = codec("int8").encode(vector)
    codebook, places = np.frombuffer(payload, "<f4", BINS, 12), np.frombuffer(payload, np.uint8, -1, 12 + 4 * BINS)
    sigma = np.sqrt(np.sum(np.square(vector.astype(np.float64))) / (vector.size - 1))
    for place in set(places.tolist()):
        mean = vector[places == place].astype(np.float64).mean()
        assert abs(codebook[place] - mean) <= 2.0**-22 * max(sigma, abs(mean)) + 1e-45


@few
@given(vector=vectors(EXTREME), share=st.floats(0.0, 1.0), seed=st.integers(0, 2**16))
def test_int8_leaves_zeros_what_they_are(vector, share, seed):
    still = np.random.default_rng(seed).random(vector.size) < share
    vector[still] = 0.0
    decoded = codec("int8").decode(codec("int8").encode(vector), vector.size)
    assert not decoded[still].any()


@pytest.mark.parametrize("others", [0.0, 1e-4], ids=["alone", "with others near them"])
def test_what_is_frozen_beside_large_updates_stays_and_the_small_ones_are_not_lost(others):
    vector = np.full(CHUNK, others, dtype=np.float32)
    vector[::3], vector[::1000] = 0.0, 1.0
    decoded = codec("int8").decode(codec("int8").encode(vector), vector.size)
    np.testing.assert_allclose(decoded, vector, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("scale", [1e-42, 1e-38, 1e-20, 1.0, 1e10])
def test_compiled_int8_gives_the_bits_of_numpy(monkeypatch, scale):
    pytest.importorskip("numba")
    monkeypatch.setattr(kernels, "_ready", [])
    tails = np.random.default_rng(2).standard_t(1.2, size=CHUNK + 9).astype(np.float32)
    vectors = [NORMAL, tails, np.round(NORMAL * 4e3) / np.float32(4.0), np.full(999, 0.1, dtype=np.float32)]
    vectors += [np.where(np.arange(one.size) % 3, one, 0.0).astype(np.float32) for one in vectors]
    made, scaled = codec("int8"), [vector * np.float32(scale) for vector in vectors]
    plain = [made.encode(vector) for vector in scaled]
    decoded = [made.decode(payload, vector.size).tobytes() for payload, vector in zip(plain, scaled, strict=True)]
    assert kernels.warm_up()
    assert [made.encode(vector) for vector in scaled] == plain
    assert [made.decode(one, vector.size).tobytes() for one, vector in zip(plain, scaled, strict=True)] == decoded


def test_int8_keeps_chunks_of_very_different_scale_apart():
    small = NORMAL[:CHUNK] * np.float32(1e-6)
    both = np.concatenate([NORMAL[:CHUNK], small])
    decoded = codec("int8").decode(codec("int8").encode(both), both.size)[CHUNK:]
    assert rms(decoded - small) < 0.02 * rms(small)


@few
@given(vector=vectors())
def test_fp4_takes_the_nearest_power_of_two_of_the_scale_and_keeps_the_largest(vector):
    decoded = codec("fp4").decode(codec("fp4").encode(vector), vector.size)
    for start in range(0, vector.size, 1024):
        part, got = vector[start : start + 1024], decoded[start : start + 1024]
        scale = np.abs(part).max()
        assert set(np.abs(got).tolist()) <= {0.0, *(float(scale * np.float32(2.0**-e)) for e in range(7))}
        assert (np.abs(got)[np.abs(part) == scale] == scale).all()
        # half way between powers of two is a third off at most; what becomes zero is below 0.75 of the least power
        assert (np.abs(got - part) <= np.maximum(np.abs(part) * 0.33334, scale * 0.75 / 64) * 1.001).all()


@few
@given(vector=vectors())
def test_int2_and_sign1_keep_signs_and_the_mean_magnitude(vector):
    for name in ("int2", "sign1"):
        decoded = codec(name).decode(codec(name).encode(vector), vector.size)
        assert (decoded[vector > 0] >= 0).all()
        assert (decoded[vector < 0] <= 0).all()
        assert np.isclose(np.abs(decoded.astype(np.float64)).sum(), np.abs(vector.astype(np.float64)).sum(), rtol=1e-5)


# slices, selections, transforms


@pytest.mark.parametrize("name", VALUES)
def test_a_slice_of_a_dense_codec_stands_by_itself(name):
    made, (first, last) = codec(name), (CHUNK, 2 * CHUNK)
    assert made.dense
    whole = made.decode(made.encode(NORMAL), NORMAL.size)
    part = made.decode(made.encode(NORMAL[first:last]), last - first)
    assert whole[first:last].tobytes() == part.tobytes()


def test_what_selects_or_transforms_is_not_dense():
    assert not any(codec(name).dense for name in STAGED)


def largest(vector, kept):
    """Places of the largest magnitudes, the earlier of equal ones, one after the other."""
    return sorted(sorted(range(len(vector)), key=lambda place: (-abs(vector[place]), place))[:kept])


@few
@given(
    vector=st.one_of(vectors(), arrays.arrays(np.float32, st.integers(0, 60), elements=st.sampled_from([-1, 0, 1, 2]))),
    chunk=st.sampled_from([1, 2, 16, 256, 257, 4096, 4097, 70_000]),
    kept=st.integers(1, 40),
)
def test_top_k_sends_the_largest_of_each_chunk_and_nothing_else(vector, chunk, kept):
    kept = min(kept, chunk)
    made = codec(f"top_k:{kept}/{chunk}+identity")
    payload = made.encode(vector)
    expected = np.zeros_like(vector)
    for start in range(0, vector.size, chunk):
        places = [start + place for place in largest(vector[start : start + chunk].tolist(), kept)]
        expected[places] = vector[places]
    assert made.decode(payload, vector.size).tolist() == expected.tolist()
    assert len(payload) == made.promised_bytes(vector.size)


def test_top_k_packs_two_places_in_three_bytes():
    vector = np.zeros(3 * 4096, dtype=np.float32)
    vector[[0x123, 4096 + 0xABC, 8192 + 0xFFF]] = 1.0
    payload = codec("top_k:1/4096+fp16").encode(vector)
    assert payload[12:17] == bytes([0x23, 0xC1, 0xAB, 0xFF, 0x0F])
    assert codec("top_k:64/4096+int2").promised_bytes(1 << 20) == 12 + 256 * (96 + 16) + 4 * 16


@few
@given(vector=vectors(), fraction=st.sampled_from(["0", "0.3", "0.5", "0.9", "0.999"]))
def test_prune_drops_exactly_its_fraction_and_the_smallest(vector, fraction):
    made = codec(f"prune:{fraction}+identity")
    kept = vector.size - int(vector.size * float(fraction) + 1e-9)
    places = largest(vector.tolist(), kept)
    expected = np.zeros_like(vector)
    expected[places] = vector[places]
    assert made.decode(made.encode(vector), vector.size).tolist() == expected.tolist()


MODEL = layout_of([("w", (48, 20)), ("b", (48,)), ("scale", ()), ("c", (6, 4, 3, 3)), ("odd", (7, 61))])


def cosines(size):
    places = np.arange(size)
    matrix = np.cos(np.pi * (2 * places[None, :] + 1) * places[:, None] / (2 * size)) * np.sqrt(2 / size)
    matrix[0] /= np.sqrt(2)
    return matrix


@few
@given(edge=st.integers(1, 64), seed=st.integers(0, 2**16))
def test_dct_blocks_are_those_of_the_layout_and_orthonormal(edge, seed):
    """A matrix of cosines for each dimension of each block, by the definition; and back again."""
    vector = np.random.default_rng(seed).normal(size=sum(one.size for one in MODEL)).astype(np.float32)
    made = codec(f"dct:{edge}+identity", MODEL)
    payload = made.encode(vector)
    coefficients, at = np.frombuffer(payload, "<f4", -1, 12), 0
    for tensor in MODEL:
        edges = [max(e for e in range(1, edge + 1) if size % e == 0) for size in tensor.shape]
        values = vector[tensor.offset : tensor.offset + tensor.size].reshape(tensor.shape)
        for corner in np.ndindex(*[size // e for size, e in zip(tensor.shape, edges, strict=True)]):
            block = values[tuple(slice(c * e, c * e + e) for c, e in zip(corner, edges, strict=True))].astype(
                np.float64
            )
            for axis, e in enumerate(edges):
                block = np.moveaxis(np.tensordot(cosines(e), block, (1, axis)), 0, axis)
            np.testing.assert_allclose(coefficients[at : at + block.size], block.reshape(-1), atol=3e-5)
            at += block.size
    assert np.abs(made.decode(payload, vector.size) - vector).max() <= 1e-5 * np.abs(vector).max()


@pytest.mark.parametrize("edge", [1, 3, 8, 60, 61, 64, 128])
def test_compiled_dct_gives_the_bits_of_numpy(monkeypatch, edge):
    pytest.importorskip("numba")
    monkeypatch.setattr(kernels, "_ready", [])
    layout = layout_of([*[(one.name, one.shape) for one in MODEL], ("strips", (128, 192)), ("prime", (61, 128))])
    vector = np.random.default_rng(edge).standard_t(2, sum(one.size for one in layout)).astype(np.float32)
    vector[:2] = 3e38, -3e38  # whose sums are infinite
    made = Dct(layout, edge)
    coefficients = made.forward(vector)
    back = made.inverse(coefficients)
    assert kernels.warm_up()
    assert made.forward(vector).tobytes() == coefficients.tobytes()
    assert made.inverse(coefficients).tobytes() == back.tobytes()


def test_the_loops_are_worth_loading_once_their_lack_has_cost_as_much(monkeypatch):
    monkeypatch.setattr(kernels, "_ready", [])
    monkeypatch.setattr(kernels, "_forgone_ns", [0.0])
    made, payload = codec("int8"), codec("int8").encode(NORMAL)
    assert not kernels.worth_loading()
    kernels.kernels(kernels.LOADING_NS - 2.0 * NORMAL.size)
    assert not kernels.worth_loading()
    for _ in range(4):
        made.decode(payload, NORMAL.size)
    assert kernels.worth_loading()
    monkeypatch.setattr(kernels, "_ready", [None])
    assert not kernels.worth_loading(), "they are there"


def test_dct_and_top_k_compete_within_a_tensor_and_need_its_layout():
    size = sum(one.size for one in MODEL)
    vector = np.concatenate([np.full(one.size, 10.0**-place, dtype=np.float32) for place, one in enumerate(MODEL)])
    made = codec("dct:64+top_k:1/4096+identity", MODEL)
    decoded = made.decode(made.encode(vector), size)
    assert made.promised_bytes(size) == 12 + 8 + 4 * len(MODEL)
    for tensor in MODEL:
        assert np.any(decoded[tensor.offset : tensor.offset + tensor.size])
    with pytest.raises(BadPayload):
        made.decode(made.encode(vector), size + 1)


# the modules


def test_int8_bytes_are_those_of_the_format_document():
    payload = codec("int8").encode(np.arange(-50, 50, dtype=np.float32))
    assert payload[:12] == b"TQ8\x01" + (100).to_bytes(8, "little")
    assert len(payload) == 12 + 1024 + 100
    assert hashlib.sha256(payload).hexdigest() == "443e3b76344cab06fc8650f56b98d8a9854d7b22741e4e034371f079efd2eaf3"


def test_codecs_need_no_torch_and_their_texts_no_numpy():
    code = (
        "import sys; import trainers.codec_text; assert 'numpy' not in sys.modules; "
        "import trainers.codecs; print(sorted({'torch', 'numba', 'ray'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("size", [1, CHECKED - 1, CHECKED, CHECKED + 1, 2 * CHECKED + 1])
def test_one_element_that_is_not_finite_is_found_wherever_it_is(size: int) -> None:
    vector = np.full(size, LARGEST, dtype=np.float32)
    refuse_not_finite(vector)
    refuse_not_finite(vector[:0])
    beyond = np.nextafter(LARGEST, np.float32(np.inf))
    for place in {0, size // 2, size - 1}:
        for wrong in (np.nan, np.inf, -np.inf, beyond, -beyond):
            spoilt = vector.copy()
            spoilt[place] = wrong
            with pytest.raises(BadPayload, match="finite"):
                refuse_not_finite(spoilt)
