"""A script's batches by their number in the job, so that members who come and go read none of them twice.

The run gives every member numbers that nobody else has (trainers/workloads/streams.py). What a number stands for depends
on what the script has; docs/WORKLOADS.md has the table with what each kind promises. While a batch is made the global
generators are seeded by (seed, number), so that it comes out the same on every machine; afterwards they are as before.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from torg.randomness import Randomness
from trainers.workload import Batch
from trainers.workloads.streams import SampleStream

Numbered = Callable[[int], Batch]


def numbered(batches: object, seed: int) -> Numbered:
    """A function from a batch's number (0, 1, …) to the batch. Raises TypeError for what has no batches."""
    if isinstance(batches, DataLoader):
        return _of_loader(batches, seed)
    if isinstance(batches, Dataset) and not isinstance(batches, IterableDataset):
        raise TypeError("batches is a Dataset of samples; wrap it: DataLoader(dataset, batch_size=…, shuffle=True)")
    if isinstance(batches, Sequence):
        if not batches:
            raise ValueError("batches is empty")
        return lambda index: batches[index % len(batches)]
    if isinstance(batches, Iterable):
        return Passes(batches, seed)
    if callable(batches):
        return _seeded(batches, seed)
    raise TypeError(
        f"batches is of type {type(batches).__name__}; it must be a DataLoader, a list of batches, a function of the "
        "batch's number, or something that can be iterated"
    )


def all_of(batches: Iterable[Batch], seed: int) -> list[Batch]:
    """Every batch of one pass, in this process, whatever workers a loader would have."""
    if isinstance(batches, DataLoader):
        batches = _in_this_process(batches)
    with Randomness(seed, 3):
        return list(batches)


class Passes:
    """Batches of something that can be iterated, one pass after the other, by number: what lies between is skipped.

    Every pass begins with the generators in a state that (seed, its number) names. A number below the last one begins its
    pass again, which an iterator that is gone for good cannot.
    """

    def __init__(self, source: Iterable[Batch], seed: int) -> None:
        self._source, self._seed = source, seed
        self._starts = [0]
        """Number of the first batch of every pass that was begun."""
        self._begin(0)

    def __call__(self, index: int) -> Batch:
        """Batch number `index`. Raises ValueError when there is none."""
        if index < self._next:
            if isinstance(self._source, Iterator):
                raise ValueError(
                    f"batch {index} is wanted again, and batches is an iterator that is past it; {_REMEDY}"
                )
            self._begin(max(place for place, start in enumerate(self._starts) if start <= index))
        while True:
            found = self._take(index)
            if self._next > index:
                return found

    def _begin(self, place: int) -> None:
        self._place, self._next = place, self._starts[place]
        self._random = Randomness(self._seed, place, 4)
        with self._random:
            self._iterator = iter(self._source)

    def _take(self, index: int) -> Batch:
        """The next batch; at the end of a pass the next pass is begun, and nothing returned that counts."""
        try:
            with self._random:
                found = next(self._iterator)
        except StopIteration:
            if isinstance(self._source, Iterator):
                raise ValueError(
                    f"the iterator ended after {self._next} batches, and batch {index} is wanted; {_REMEDY}"
                ) from None
            if self._next == self._starts[self._place]:
                raise ValueError(f"batches gave nothing in pass {self._place + 1}") from None
            if len(self._starts) == self._place + 1:
                self._starts.append(self._next)
            self._begin(self._place + 1)
            return None
        self._next += 1
        return found


_REMEDY = "let setup() give what can be iterated again: a DataLoader, a list, or a function of the batch's number"


def _of_loader(loader: "DataLoader[Any]", seed: int) -> Numbered:
    """Samples by arithmetic where the loader shuffles or goes through them; else as its sampler says, pass by pass."""
    if isinstance(loader.sampler, DistributedSampler):
        raise TypeError("batches has a DistributedSampler; leave it out, members are given different batches anyway")
    if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        return Passes(_in_this_process(loader), seed)
    fetch = _Fetch(loader)
    if loader.batch_size is None or not _goes_through_all(loader):
        orders: Passes = Passes(loader.batch_sampler, seed)
        return lambda index: fetch(orders(index), seed, index)
    count = len(loader.dataset)  # type: ignore[arg-type]  # map-style
    stream = SampleStream(count, loader.batch_size)
    if isinstance(loader.sampler, RandomSampler):
        return lambda index: fetch(stream.samples(seed, index).tolist(), seed, index)
    return lambda index: fetch([(index * stream.batch + place) % count for place in range(stream.batch)], seed, index)


def _goes_through_all(loader: "DataLoader[Any]") -> bool:
    """Whether a pass has each sample once, in order or shuffled."""
    sampler = loader.sampler
    if type(sampler) is SequentialSampler:
        return True
    return type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == len(loader.dataset)  # type: ignore[arg-type]


class _Fetch:
    """Samples of a map-style data set as the batch that its loader would make of them."""

    def __init__(self, loader: "DataLoader[Any]") -> None:
        self._dataset, self._collate = loader.dataset, loader.collate_fn

    def __call__(self, numbers: Sequence[int], seed: int, index: int) -> Batch:
        with Randomness(seed, index, 5):
            at_once = getattr(self._dataset, "__getitems__", None)
            samples = at_once(list(numbers)) if at_once else [self._dataset[number] for number in numbers]
            return self._collate(samples)


def _in_this_process(loader: "DataLoader[Any]") -> "DataLoader[Any]":
    """The same loader without processes of its own, which a trainer child may not start."""
    if loader.num_workers == 0:
        return loader
    how: dict[str, Any] = {"collate_fn": loader.collate_fn}
    if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        how |= {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
    else:
        how |= {"batch_sampler": loader.batch_sampler}
    return DataLoader(loader.dataset, **how)


def _seeded(batches: Callable[[int], Batch], seed: int) -> Numbered:
    def made(index: int) -> Batch:
        with Randomness(seed, index, 5):
            return batches(index)

    return made
