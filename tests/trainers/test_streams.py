"""Streams: every sample once an epoch, whoever joins or leaves; shards on disk give each token as a target once."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.workloads.shards import OPEN_FILES, TokenShards, shard_files
from trainers.workloads.streams import SampleStream, epoch_offset, own_seed, permuted

SEEDS = st.integers(0, 2**53)
rounds_of_members = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), min_size=1, max_size=6)
"""Each round: how many steps each of its members trains; members come, go and differ in speed."""


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 3000), seed=SEEDS, epoch=st.integers(0, 2**40))
def test_an_epoch_is_a_permutation_for_any_count(count, seed, epoch):
    places = np.arange(count)
    assert np.array_equal(np.sort(permuted(places, count, seed, epoch)), places)


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(2**31, 2**62), seed=SEEDS, places=st.lists(st.integers(0, 2**31 - 1), max_size=20, unique=True)
)
def test_large_counts_need_no_memory_and_no_two_places_meet(count, seed, places):
    found = permuted(np.array(places, dtype=np.int64), count, seed, 0)
    assert len(set(found.tolist())) == len(places)
    assert all(0 <= sample < count for sample in found)


@settings(max_examples=20, deadline=None)
@given(rounds=rounds_of_members, count=st.integers(1, 40), batch=st.integers(1, 7), seed=SEEDS)
def test_over_any_schedule_of_members_no_sample_comes_twice_in_an_epoch_and_all_come(rounds, count, batch, seed):
    """The run hands out numbers in ranges side by side, one a member and round."""
    stream, drawn, position = SampleStream(count, batch), [], 0
    for members in rounds:
        starts = [position + before for before in itertools.accumulate(members, initial=0)]
        position = starts[-1]
        for start, steps in reversed(list(zip(starts, members, strict=False))):  # whoever is first
            for index in range(start, start + steps):
                draws = stream.draws(seed, index)
                drawn += zip(draws.epochs.tolist(), draws.samples.tolist(), strict=True)
    times = Counter(drawn)
    assert set(times.values()) == {1}
    whole_epochs = len(drawn) // count
    assert {(epoch, sample) for epoch in range(whole_epochs) for sample in range(count)} <= set(times)
    assert max(epoch for epoch, _ in times) == -(-len(drawn) // count) - 1


def test_every_sample_is_as_likely_at_every_place_and_no_epoch_repeats_another():
    times = np.zeros((20, 20))
    for seed in range(200):
        times[np.arange(20), permuted(np.arange(20), 20, seed, 0)] += 1
    assert ((times - 10) ** 2 / 10).sum() < 449  # χ² of 19² degrees: 1 in 1000 is above
    first, second = (permuted(np.arange(1000), 1000, 1, epoch) for epoch in (0, 1))
    assert np.mean(first == second) < 0.01
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.1


def test_an_index_beyond_any_epoch_still_has_its_batch():
    draws = SampleStream(7, 3).draws(1, 2**60)
    assert draws.samples.shape == (3,)
    assert draws.epochs[0] == 3 * 2**60 // 7
    with pytest.raises(ValueError, match="no number -1"):
        SampleStream(7, 3).draws(1, -1)
    with pytest.raises(ValueError, match="nothing to give"):
        SampleStream(0, 3)


def test_workers_own_streams_differ_and_are_the_same_again():
    seeds = {own_seed(seed, worker) for seed in range(5) for worker in range(5)}
    assert len(seeds) == 25
    assert own_seed(3, 4) in seeds
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.fixture
def shards(tmp_path):
    """Files of 1000, 5 and 333 tokens, numbered through; one an .npy array of other width."""
    (tmp_path / "deep").mkdir()
    np.arange(1000, dtype="<u2").tofile(tmp_path / "a.bin")
    np.arange(1000, 1005, dtype="<u2").tofile(tmp_path / "b.bin")
    np.save(tmp_path / "deep" / "c.npy", np.arange(70_000, 70_333, dtype=np.uint32))
    (tmp_path / "readme.txt").write_text("not tokens")
    return tmp_path


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, epoch=st.integers(0, 50))
def test_an_epoch_of_windows_has_each_target_once_and_stays_within_files(tmp_path_factory, seed, epoch):
    folder = tmp_path_factory.mktemp("shards")
    np.arange(1000, dtype="<u2").tofile(folder / "a.bin")
    np.save(folder / "c.npy", np.arange(70_000, 70_333, dtype=np.uint32))
    shards = TokenShards(shard_files(folder), 16)
    stream = SampleStream(shards.count, shards.count)
    windows = shards.drawn(stream.draws(seed, epoch), seed)  # one batch is one epoch
    assert windows.shape == (shards.count, 17)
    assert (np.diff(windows, axis=1) == 1).all(), "a window goes on within its file"
    targets = windows[:, 1:].reshape(-1)
    assert len(np.unique(targets)) == len(targets)
    assert len(targets) > (1000 + 333) - 2 * 2 * 16


def test_windows_begin_elsewhere_in_each_epoch(shards):
    found = TokenShards(shard_files(shards), 16)
    assert [path.name for path in found.files] == ["a.bin", "b.bin", "c.npy"]
    assert found.count == (1000 - 16) // 16 + 0 + (333 - 16) // 16
    assert found.file_of(0).name == "a.bin"
    assert found.file_of(found.count - 1).name == "c.npy"
    offsets = {epoch_offset(1, epoch, 16) for epoch in range(200)}
    assert offsets == set(range(16))
    assert found.windows([0], [5])[0].tolist() == list(range(5, 22))


def test_more_files_than_may_be_open(tmp_path):
    for number in range(2 * OPEN_FILES):
        np.full(40, number, dtype="<u2").tofile(tmp_path / f"{number:03}.bin")
    shards = TokenShards(shard_files(tmp_path), 16)
    every = shards.windows(range(shards.count), [0] * shards.count)
    assert sorted(set(every[:, 0].tolist())) == list(range(2 * OPEN_FILES))
    assert len(shards._open) == OPEN_FILES


BAD_SHARDS = {
    "odd.bin": (b"\0\0\0", "odd.bin has 3 bytes"),
    "empty.bin": (b"", "empty.bin has 0 bytes"),
    "no.npy": (b"\x93NUMPY but not really", "no.npy is no .npy array"),
    "nothing.npy": (b"", "nothing.npy is no .npy array"),
}


@pytest.mark.parametrize("name", BAD_SHARDS)
def test_files_that_are_no_tokens_are_named(tmp_path, name):
    content, words = BAD_SHARDS[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        TokenShards(shard_files(tmp_path), 16)


def test_arrays_of_another_kind_are_named_and_nothing_is_unpickled(tmp_path):
    np.save(tmp_path / "pictures.npy", np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"pictures\.npy holds float64 of shape \(3, 3\)"):
        TokenShards(shard_files(tmp_path), 16)
    np.save(tmp_path / "pictures.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"pictures\.npy is no"):
        TokenShards(shard_files(tmp_path), 16)
