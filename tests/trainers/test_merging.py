"""Merging: averages, and averages that one liar cannot move far."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.merging import MERGES, centered_clip, mean, trimmed_mean

ROBUST = [trimmed_mean, centered_clip]


def updates_of(count: int, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [(1 + 0.1 * random.normal(size=500)).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("merge", MERGES.values(), ids=MERGES)
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_equal_updates_merge_to_themselves_as_float32(merge, count):
    update = updates_of(1)[0]
    merged = merge([update] * count)
    assert merged.dtype == np.float32
    np.testing.assert_allclose(merged, update, rtol=1e-6)


@given(count=st.integers(1, 9), seed=st.integers(0, 1000))
def test_mean_is_the_mean_and_leaves_its_input_alone(count, seed):
    updates = updates_of(count, seed)
    before = [update.copy() for update in updates]
    np.testing.assert_allclose(mean(updates), np.mean(updates, axis=0, dtype=np.float64), rtol=1e-6)
    assert all(np.array_equal(update, old) for update, old in zip(updates, before, strict=True))


@pytest.mark.parametrize("merge", ROBUST)
@pytest.mark.parametrize("lie", [1e6, -1e6, 3e38])
def test_one_liar_among_five_moves_robust_merges_little_and_the_mean_far(merge, lie):
    honest, liar = updates_of(4), np.full(500, lie, dtype=np.float32)
    with np.errstate(over="ignore"):
        assert np.abs(merge([*honest, liar]) - mean(honest)).max() < 0.6
        assert np.abs(mean([*honest, liar]) - mean(honest)).max() > 1e5


def test_trimming_everything_away_is_a_bug():
    with pytest.raises(AssertionError):
        trimmed_mean(updates_of(2), trimmed=1)
