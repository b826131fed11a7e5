"""Merging: averages, and averages that one liar cannot move far."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.merging import MERGES, centered_clip, clip_to_median, mean, mean_over_senders, trimmed_mean, weighted_mean

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


@given(weights=st.lists(st.floats(0.5, 1e6), min_size=1, max_size=6), seed=st.integers(0, 1000))
def test_weighted_mean_counts_each_by_its_weight(weights, seed):
    updates = updates_of(len(weights), seed)
    expected = np.average(np.stack(updates).astype(np.float64), axis=0, weights=weights)
    np.testing.assert_allclose(weighted_mean(updates, weights), expected, rtol=1e-6)
    np.testing.assert_allclose(mean_over_senders(updates, weights), expected, rtol=1e-6)  # nothing is zero here


def test_equal_weights_of_any_size_are_the_mean_to_the_bit():
    updates = updates_of(4)
    assert np.array_equal(weighted_mean(updates, [512.0] * 4), mean(updates))


def test_weights_must_be_above_zero():
    with pytest.raises(AssertionError):
        weighted_mean(updates_of(2), [1.0, 0.0])


def test_mean_over_senders_counts_only_who_sent_that_element():
    one, two = np.array([4, 2, 0, 0], np.float32), np.array([8, 0, -6, 0], np.float32)
    assert list(mean_over_senders([one, two], [1.0, 3.0])) == [7.0, 2.0, -6.0, 0.0]


def test_clipping_to_the_median_quietens_the_loud_and_leaves_the_others():
    updates = [np.full(9, scale, np.float32) for scale in (1.0, 2.0, 3e30)]
    clipped = clip_to_median(updates)
    assert np.array_equal(clipped[0], updates[0])
    np.testing.assert_allclose(clipped[2], updates[1], rtol=1e-6)
    assert all(np.array_equal(each, np.zeros(3)) for each in clip_to_median([np.zeros(3, np.float32)] * 2))


@pytest.mark.parametrize("center", [None, np.full(500, np.nan), np.full(500, np.inf)], ids=["none", "nan", "inf"])
def test_centered_clip_stays_finite_between_finite_updates_whatever_centre_it_is_given(center):
    huge = [np.full(500, value, np.float32) for value in (3.4e38, 3.4e38, 3.3e38, -3.4e38)]
    merged = centered_clip(huge, center=None if center is None else center.astype(np.float32))
    assert np.isfinite(merged).all()
