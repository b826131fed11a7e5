"""Sums of things that begin and end, by bins of time: exact integers, without walking through the bins of each."""

from __future__ import annotations

from itertools import accumulate


class StepSum:
    """How much of something there was, times how long, in each bin of `bin_ms`."""

    def __init__(self, bin_ms: int) -> None:
        self.bin_ms = bin_ms
        self._within: dict[int, int] = {}
        self._from: dict[int, int] = {}

    def change(self, at_ms: int, amount: int) -> None:
        """So much more (or fewer) from now on."""
        place = at_ms // self.bin_ms
        self._within[place] = self._within.get(place, 0) + amount * ((place + 1) * self.bin_ms - at_ms)
        self._from[place + 1] = self._from.get(place + 1, 0) + amount

    def add(self, begin_ms: int, end_ms: int, amount: int) -> None:
        """So much from the one time to the other."""
        self.change(begin_ms, amount)
        self.change(end_ms, -amount)

    def bins(self, until_ms: int) -> list[int]:
        """Amount × milliseconds of each bin from 0 up to the one before `until_ms`."""
        count = -(-until_ms // self.bin_ms)
        level = accumulate(self._from.get(place, 0) for place in range(count))
        return [self._within.get(place, 0) + self.bin_ms * now for place, now in zip(range(count), level, strict=True)]
