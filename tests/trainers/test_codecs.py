"""The codec battery: every codec in the registry must pass it."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from trainers.codecs import CODECS, BadPayload, codec
from trainers.codecs.int8 import BINS, CHUNK

vectors = arrays.arrays(np.float32, st.integers(0, 300), elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False))
every_codec = pytest.mark.parametrize("name", sorted(CODECS))


@every_codec
@given(vector=vectors)
def test_length_promised_is_length_sent_and_bytes_repeat(name, vector):
    made, _ = codec(name).encode(vector, None)
    again, _ = codec(name).encode(vector.copy(), None)
    assert len(made) == codec(name).promised_bytes(vector.size)
    assert made == again


@every_codec
@given(vector=vectors)
def test_decodes_to_float32_of_the_same_length_within_its_range(name, vector):
    payload, _ = codec(name).encode(vector, None)
    decoded = codec(name).decode(payload, vector.size)
    assert decoded.dtype == np.float32
    assert decoded.shape == vector.shape
    if vector.size:
        assert vector.min() <= decoded.min()
        assert decoded.max() <= vector.max()


@every_codec
@given(vector=vectors.filter(lambda vector: vector.size > 0), data=st.data())
def test_refuses_what_is_cut_grown_or_of_another_length(name, vector, data):
    payload, _ = codec(name).encode(vector, None)
    cut = data.draw(st.integers(0, len(payload) - 1))
    for bad, elements in [(payload[:cut], vector.size), (payload + b"\0", vector.size), (payload, vector.size + 1)]:
        with pytest.raises(BadPayload):
            codec(name).decode(bad, elements)


@every_codec
@given(noise=st.binary(max_size=2000), elements=st.integers(0, 400))
def test_random_bytes_are_refused_never_crash(name, noise, elements):
    with pytest.raises(BadPayload):
        codec(name).decode(noise, elements)


@every_codec
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_refuses_to_encode_or_decode_what_is_not_finite(name, bad):
    vector = np.ones(10, dtype=np.float32)
    payload, _ = codec(name).encode(vector, None)
    vector[3] = bad
    with pytest.raises(BadPayload):
        codec(name).encode(vector, None)
    poisoned = payload[:12] + np.full((len(payload) - 12) // 4 + 1, bad, "<f4").tobytes()
    with pytest.raises(BadPayload):
        codec(name).decode(poisoned[: len(payload)], 10)


@every_codec
def test_error_is_bounded_by_a_bin_for_values_within_three_sigma(name):
    vector = np.random.default_rng(1).normal(size=3 * CHUNK + 17).astype(np.float32)
    payload, _ = codec(name).encode(vector, None)
    error = np.abs(codec(name).decode(payload, vector.size) - vector)
    sigma = np.sqrt(np.mean(vector.astype(np.float64) ** 2))
    inside = np.abs(vector) < 2.9 * sigma
    assert error[inside].max() <= 6.1 * sigma / BINS
    assert np.linalg.norm(error) / np.linalg.norm(vector) < 0.02


def test_int8_keeps_chunks_of_very_different_scale_apart():
    random = np.random.default_rng(2)
    small = random.normal(size=CHUNK).astype(np.float32) * np.float32(1e-6)
    both = np.concatenate([random.normal(size=CHUNK).astype(np.float32), small])
    payload, _ = codec("int8").encode(both, None)
    decoded = codec("int8").decode(payload, both.size)[CHUNK:]
    assert np.linalg.norm(decoded - small) / np.linalg.norm(small) < 0.02


@given(scale=st.sampled_from([0.0, 1e-38, 1e-20, 1.0, 1e30]))
@settings(max_examples=10)
def test_int8_survives_extreme_scales(scale):
    vector = (np.random.default_rng(3).normal(size=1000) * scale).astype(np.float32)
    payload, _ = codec("int8").encode(vector, None)
    decoded = codec("int8").decode(payload, vector.size)
    assert np.linalg.norm((decoded - vector).astype(np.float64)) <= 0.03 * np.linalg.norm(vector.astype(np.float64))


def test_int8_bytes_are_those_of_the_format_document():
    vector = np.arange(-50, 50, dtype=np.float32)
    payload, _ = codec("int8").encode(vector, None)
    assert payload[:12] == b"TQ8\x01" + (100).to_bytes(8, "little")
    assert len(payload) == 12 + 1024 + 100
    assert hashlib.sha256(payload).hexdigest() == "443e3b76344cab06fc8650f56b98d8a9854d7b22741e4e034371f079efd2eaf3"


def test_an_unknown_codec_names_the_nearest():
    with pytest.raises(LookupError, match="did you mean int8"):
        codec("int-8")
