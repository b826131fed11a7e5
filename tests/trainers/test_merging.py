"""Merging: averages, and averages that one liar cannot move far."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainers.test_member import butterfly, gather, members, order, spec, trained
from trainers.merging import (
    CHUNK,
    MERGES,
    bounded_weights,
    centered_clip,
    clip_to_median,
    mean,
    mean_over_senders,
    trimmed_mean,
    weighted_mean,
)

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


@given(
    weights=st.lists(st.sampled_from([1.0, 2.5, 3e5]), min_size=1, max_size=6),
    size=st.sampled_from([1, 500, CHUNK, CHUNK + 7]),
)
def test_a_mean_in_the_callers_memory_is_the_same_to_the_bit(weights, size):
    random = np.random.default_rng(size)
    updates = [random.normal(size=size).astype(np.float32) for _ in weights]
    room = np.full(size, np.nan, dtype=np.float32)
    assert weighted_mean(updates, weights, room) is room
    assert room.tobytes() == weighted_mean(updates, weights).tobytes()


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


@pytest.mark.parametrize(
    ("said", "counts"),
    [
        ([512.0], [512.0]),
        ([480.0, 160.0], [480.0, 160.0]),
        ([480.0, 1e12], [480.0, 4800.0]),
        ([300.0, 100.0, 200.0], [300.0, 100.0, 200.0]),
        ([1e12, 100.0, 200.0], [300.0, 100.0, 200.0]),
        ([9.0, 1e12, 1e12, 9.0, 9.0], [9.0, 90.0, 90.0, 9.0, 9.0]),
    ],
)
def test_what_a_member_says_of_its_work_counts_as_far_as_the_others_bear_it_out(said, counts):
    assert bounded_weights(said) == counts


@given(honest=st.lists(st.floats(1, 1e6), min_size=2, max_size=8), lie=st.floats(1e-3, 1e12), place=st.integers(0, 8))
def test_no_claim_outweighs_all_others_together_or_makes_an_honest_member_count_for_more(honest, lie, place):
    at = min(place, len(honest))
    counts = bounded_weights([*honest[:at], lie, *honest[at:]])
    liar = counts.pop(at)
    assert 0 < liar <= min(lie, sum(counts) * (1 + 1e-9))
    assert all(count <= said for count, said in zip(counts, honest, strict=True))


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


@pytest.mark.parametrize("slices", [False, True], ids=["whole", "in slices"])
def test_who_claims_a_trillion_tokens_counts_for_no_more_than_all_others_together(slices):
    group, here = members(given=spec("fedavg", codec="identity")), order()
    locals_ = [trained(member.slot, member) for member in group]
    for member, local, weight in zip(group, locals_, (300.0, 1e12, 100.0), strict=True):
        member.contribute(local, here, weight=weight)
    results = butterfly(group, here.slots) if slices else gather(group)
    merged = {member.merge(results).digest for member in group}
    expected = np.average(np.stack(locals_).astype(np.float64), axis=0, weights=[300, 400, 100])
    assert len(merged) == 1
    assert group[0].tentative.accepted == here.slots
    np.testing.assert_allclose(group[0].tentative.state["parameters"], expected, atol=1e-6)
