"""Reading data once an epoch, whoever joins or leaves: batch numbers become samples through a seeded permutation.

The run gives each worker ranges of batch numbers that nobody else has (`Workload.stream_batch`). Number i with B samples
a batch stands for the draws i·B … i·B+B−1; draw d is sample π_e(d mod N) of epoch e = ⌊d / N⌋, and π_e permutes 0 … N−1.
So every sample comes once in every N draws, by arithmetic alone: nothing is stored, sent or agreed on but the seed.

π_e is a Feistel network (Luby and Rackoff 1988) over the bits that N needs, walked until it lands below N (Black and
Rogaway, «Ciphers with Arbitrary Finite Domains», 2002, section 3): a bijection for any N, no matter how good its rounds.
Few samples are sorted by a hash instead, which is as cheap and leaves no small network to be weak.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Draws", "SampleStream", "epoch_offset", "epoch_offsets", "own_seed", "permuted"]

Indices = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

ROUNDS = 8
FEW = 512
GOLDEN, FIRST, SECOND = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
HALF_WORD = np.uint64(32)


@dataclass(frozen=True, slots=True)
class Draws:
    """Which samples a batch has and in which epoch each is drawn, both int64 [B]; a batch may straddle two epochs."""

    samples: Indices
    epochs: Indices


class SampleStream:
    """An endless stream of batches over `count` samples: each sample once an epoch, every epoch in another order."""

    def __init__(self, count: int, batch: int) -> None:
        """`count` samples in all, `batch` of them in a batch. Raises ValueError when one is below 1."""
        if count < 1 or batch < 1:
            raise ValueError(f"a stream of {count} samples in batches of {batch} has nothing to give")
        self.count, self.batch = count, batch

    def draws(self, seed: int, index: int) -> Draws:
        """The samples of batch number `index` (0, 1, …), with their epochs."""
        if index < 0:
            raise ValueError(f"a batch has no number {index}")
        first = index * self.batch  # whole numbers of Python: an index may exceed what an epoch times N fits in
        epoch, place = divmod(first, self.count)
        ahead = place + np.arange(self.batch, dtype=np.int64)
        epochs, places = epoch + ahead // self.count, ahead % self.count
        samples = np.empty(self.batch, dtype=np.int64)
        for each in range(int(epochs[0]), int(epochs[-1]) + 1):
            among = epochs == each
            samples[among] = permuted(places[among], self.count, seed, each)
        return Draws(samples, epochs)

    def samples(self, seed: int, index: int) -> Indices:
        """The samples of batch number `index`, int64 [B]."""
        return self.draws(seed, index).samples


def epoch_offset(seed: int, epoch: int, below: int) -> int:
    """Where the windows of an epoch begin, 0 … below−1: so that no two epochs cut a text at the same places."""
    return int(np.random.SeedSequence([seed, epoch, 1]).generate_state(1, np.uint64)[0] % np.uint64(below))


def epoch_offsets(seed: int, epochs: Indices, below: int) -> Indices:
    """`epoch_offset` of each, int64 [B]; a batch has few epochs."""
    named, which = np.unique(epochs, return_inverse=True)
    return np.array([epoch_offset(seed, int(epoch), below) for epoch in named], dtype=np.int64)[which]


def own_seed(seed: int, worker: int) -> int:
    """The seed of one worker's own stream, for data that only this worker has: then its steps are the batch numbers."""
    return int(np.random.SeedSequence([seed, worker, 2]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def permuted(places: Indices, count: int, seed: int, epoch: int) -> Indices:
    """π(places) for the permutation π of 0 … count−1 that (seed, epoch) names; int64, the shape of `places`."""
    keys: Words = np.random.SeedSequence([seed, epoch]).generate_state(ROUNDS, np.uint64).astype(np.uint64)
    if count <= FEW:
        hashes = _mixed(_mixed(np.arange(count, dtype=np.uint64) ^ keys[0]) ^ keys[1])
        return np.argsort(hashes)[places].astype(np.int64)
    bits = (count - 1).bit_length()
    walked = _feistel(places.astype(np.uint64), keys, bits)
    while (outside := walked >= count).any():
        walked[outside] = _feistel(walked[outside], keys, bits)
    return walked.astype(np.int64)


def _feistel(words: Words, keys: Words, bits: int) -> Words:
    """A permutation of all words of so many bits: each part is changed in turn by a hash of the other one and a key.

    The hash is the top of two multiplications, whose high bits depend on every low one.
    """
    low_bits = bits // 2
    low, high = words & np.uint64((1 << low_bits) - 1), words >> np.uint64(low_bits)
    of_low, of_high = np.uint64(64 - low_bits), np.uint64(64 - (bits - low_bits))
    for turn, key in enumerate(keys):
        hashed = ((high if turn % 2 else low) ^ key) * FIRST
        hashed = (hashed ^ (hashed >> HALF_WORD)) * SECOND
        if turn % 2:
            low = low ^ (hashed >> of_low)
        else:
            high = high ^ (hashed >> of_high)
    return (high << np.uint64(low_bits)) | low


def _mixed(words: Words) -> Words:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): every bit of the input changes half of the output."""
    words = words + GOLDEN
    words = (words ^ (words >> np.uint64(30))) * FIRST
    words = (words ^ (words >> np.uint64(27))) * SECOND
    return words ^ (words >> np.uint64(31))
