"""The order book: live offers indexed by (model, region), each bucket sorted by price, then id."""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator

from market.orders import Offer, Requirements

_Entry = tuple[int, str]


class OrderBook:
    """Offers by id and by price. Two offers of one price are ordered by id, so that the order of arrival is nothing."""

    __slots__ = ("_buckets", "_offers")

    def __init__(self, offers: Iterable[Offer] = ()) -> None:
        self._offers: dict[str, Offer] = {}
        self._buckets: dict[tuple[str, str], list[_Entry]] = {}
        for offer in sorted(offers, key=lambda one: one.id):
            self.put(offer)

    def __len__(self) -> int:
        return len(self._offers)

    def __iter__(self) -> Iterator[Offer]:
        return iter(self._offers.values())

    def get(self, offer_id: str) -> Offer | None:
        """The offer as it stands now, or None."""
        return self._offers.get(offer_id)

    def put(self, offer: Offer) -> None:
        """List the offer, in place of an older version of it."""
        known = self._offers.get(offer.id)
        if known is not None and _place(known) == _place(offer):
            self._offers[offer.id] = offer
            return
        if known is not None:
            self.remove(offer.id)
        self._offers[offer.id] = offer
        insort(self._buckets.setdefault((offer.gpu, offer.region), []), _entry(offer))

    def remove(self, offer_id: str) -> None:
        """Take the offer off the book; unknown ids are a bug."""
        offer = self._offers.pop(offer_id)
        bucket = self._buckets[offer.gpu, offer.region]
        del bucket[bisect_left(bucket, _entry(offer))]
        if not bucket:
            del self._buckets[offer.gpu, offer.region]

    def cheapest(self, requires: Requirements) -> Iterator[Offer]:
        """Offers of the wanted models and regions, cheapest first; the caller checks what is not indexed."""
        buckets = [
            entries
            for (gpu, region), entries in self._buckets.items()
            if (not requires.gpu or gpu in requires.gpu) and (not requires.region or region in requires.region)
        ]
        for _, offer_id in heapq.merge(*buckets):
            yield self._offers[offer_id]


def _entry(offer: Offer) -> _Entry:
    return (offer.price_nanos_per_gpu_hour, offer.id)


def _place(offer: Offer) -> tuple[str, str, int]:
    return (offer.gpu, offer.region, offer.price_nanos_per_gpu_hour)
