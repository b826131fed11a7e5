"""The order book: live offers indexed by (model, region, memory), each bucket sorted by price, then id.

A copy shares its buckets with the book that it was made of until one of them changes, so that freezing a book of ten
thousand offers for a clearing costs a fraction of a millisecond.
"""

from __future__ import annotations

import heapq
import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final

from market.orders import Offer, Requirements

_Entry = tuple[int, str]
_Place = tuple[str, str, float]
_Wish = tuple[tuple[str, ...], tuple[str, ...], float]
_Buckets = dict[_Place, tuple[_Entry, ...]]
MERGED: Final = 128
"""Of how many different wishes the order by price is kept."""
MOST_WISHES: Final = 4_096
"""Of how many the places that they name are."""
MOST_JOINED: Final = 256
"""Up to so many entries several lists are made one."""


class OrderBook:
    """Offers by id and by price. Two offers of one price are ordered by id, so that the order of arrival is nothing."""

    __slots__ = ("_buckets", "_free", "_merged", "_offers", "_own", "_particular", "_places")

    def __init__(self, offers: Iterable[Offer] = ()) -> None:
        self._offers: dict[str, Offer] = {}
        self._buckets: _Buckets = {}
        self._free: _Buckets = {}
        self._own: dict[str, tuple[str, ...]] = {}
        self._particular = 0
        self._merged: dict[_Wish, _Merged] = {}
        self._places: dict[_Wish, tuple[tuple[_Place, ...], tuple[_Place, ...]]] = {}
        buckets: dict[_Place, list[_Entry]] = {}
        free: dict[_Place, list[_Entry]] = {}
        for offer in sorted(offers, key=_entry):
            self._offers[offer.id] = offer
            buckets.setdefault(_place(offer), []).append(_entry(offer))
            if _is_free(offer):
                free.setdefault(_place(offer), []).append(_entry(offer))
            self._note_owners(offer)
            self._particular += not offer.is_for_all
        self._buckets = {place: tuple(entries) for place, entries in buckets.items()}
        self._free = {place: tuple(entries) for place, entries in free.items()}

    def __len__(self) -> int:
        return len(self._offers)

    def __iter__(self) -> Iterator[Offer]:
        return iter(self._offers.values())

    def copy(self) -> OrderBook:
        """A book of its own with the same offers: what happens to one is not seen in the other."""
        made = OrderBook()
        made._offers = dict(self._offers)
        made._buckets = dict(self._buckets)
        made._free = dict(self._free)
        made._own = dict(self._own)
        made._particular = self._particular
        made._merged = self._merged  # of the same buckets, until one of the two changes
        made._places = self._places
        return made

    def get(self, offer_id: str) -> Offer | None:
        """The offer as it stands now, or None."""
        return self._offers.get(offer_id)

    def put(self, offer: Offer) -> None:
        """List the offer, in place of an older version of it."""
        known = self._offers.get(offer.id)
        if known is not None and (_place(known), _entry(known)) != (_place(offer), _entry(offer)):
            self.remove(offer.id)
            known = None
        self._offers[offer.id] = offer
        if known is None:
            if _place(offer) not in self._buckets:
                self._places = {}
            _insert(self._buckets, offer)
            self._merged = {}
        was, now = known is not None and _is_free(known), _is_free(offer)
        if now and not was:
            _insert(self._free, offer)
        elif was and not now:
            _delete(self._free, offer)
        if known is None or known.terms.own != offer.terms.own:
            if known is not None:
                self._forget_owners(known)
            self._note_owners(offer)
        if known is None or known.terms is not offer.terms or known.closes_ms != offer.closes_ms:
            self._particular += (not offer.is_for_all) - (known is not None and not known.is_for_all)

    def remove(self, offer_id: str) -> None:
        """Take the offer off the book; unknown ids are a bug."""
        offer = self._offers.pop(offer_id)
        _delete(self._buckets, offer)
        self._merged = {}
        if _place(offer) not in self._buckets:
            self._places = {}
        if _is_free(offer):
            _delete(self._free, offer)
        self._forget_owners(offer)
        self._particular -= not offer.is_for_all

    @property
    def is_for_all(self) -> bool:
        """Whether every offer is (`Offer.is_for_all`), so that it is nothing which customer asks."""
        return not self._particular

    def cheapest(self, requires: Requirements) -> Iterator[Offer]:
        """Offers of the wanted models, regions and memory, cheapest first; the caller checks what is not indexed."""
        wanted = (requires.gpu, requires.region, requires.vram_gib)
        entries = self._merged.get(wanted)
        if entries is None:
            if len(self._merged) >= MERGED:
                self._merged.clear()
            entries = self._merged[wanted] = _Merged(self._wanted(self._buckets, requires))
        for _, offer_id in entries:
            yield self._offers[offer_id]

    def cheapest_free(self, requires: Requirements) -> Iterator[Offer]:
        """Of those, the ones that have a unit for rent now."""
        buckets = _joined(self._wanted(self._free, requires))
        # Entries are read lazily and may be sold meanwhile by the caller: the offer is looked up when it is its turn.
        for _, offer_id in buckets[0] if len(buckets) == 1 else heapq.merge(*buckets):
            yield self._offers[offer_id]

    def own(self, customer: str) -> tuple[str, ...]:
        """Ids of the offers that are this customer's own, in order."""
        return self._own.get(customer, ())

    def too_small(self, requires: Requirements, free: bool) -> list[tuple[_Entry, ...]]:
        """Of the wanted models and regions, (price, id) of what has too little memory, and with `free` a unit for rent now: what
        `cheapest` and `cheapest_free` leave out, each list cheapest first."""
        return _joined(self._wanted(self._free if free else self._buckets, requires, fits=False)) if requires.vram_gib > 0 else []

    def _wanted(self, index: _Buckets, requires: Requirements, *, fits: bool = True) -> list[tuple[_Entry, ...]]:
        """The buckets of the wanted models and regions that have enough memory, or those that have too little."""
        wish = (requires.gpu, requires.region, requires.vram_gib)
        places = self._places.get(wish)
        if places is None:
            if len(self._places) >= MOST_WISHES:
                self._places.clear()
            places = self._places[wish] = _places_of(self._buckets, requires)
        return list(filter(None, map(index.get, places[not fits])))

    def _note_owners(self, offer: Offer) -> None:
        for customer in offer.terms.own:
            self._own[customer] = tuple(sorted({*self._own.get(customer, ()), offer.id}))

    def _forget_owners(self, offer: Offer) -> None:
        for customer in offer.terms.own:
            left = tuple(one for one in self._own[customer] if one != offer.id)
            self._own[customer] = left
            if not left:
                del self._own[customer]


class _Merged:
    """Several sorted lists as one, merged as far as somebody has read: most readers stop after a few. Copies of a book share
    it, also between threads."""

    __slots__ = ("_found", "_lock", "_rest")

    def __init__(self, lists: list[tuple[_Entry, ...]]) -> None:
        self._found: list[_Entry] = []
        self._rest = heapq.merge(*lists)
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[_Entry]:
        at = 0
        while True:
            if at == len(self._found) and not self._read(at):
                return
            yield self._found[at]
            at += 1

    def _read(self, at: int) -> bool:
        """Have one more, where nobody else has read it meanwhile."""
        with self._lock:
            if at == len(self._found):
                entry = next(self._rest, None)
                if entry is None:
                    return False
                self._found.append(entry)
            return True


def _joined(lists: list[tuple[_Entry, ...]]) -> list[tuple[_Entry, ...]]:
    """As one list where they are short: to sort it takes less time than to merge, or look through, one by one."""
    return [tuple(sorted(chain.from_iterable(lists)))] if len(lists) > 1 and sum(map(len, lists)) <= MOST_JOINED else lists


def _places_of(places: Iterable[_Place], requires: Requirements) -> tuple[tuple[_Place, ...], tuple[_Place, ...]]:
    """Those of the wanted models and regions: with enough memory, and with too little."""
    gpu, region, least = requires.gpu, requires.region, requires.vram_gib
    wanted = [one for one in places if (not gpu or one[0] in gpu) and (not region or one[1] in region)]
    return tuple(one for one in wanted if one[2] >= least), tuple(one for one in wanted if one[2] < least)


def _insert(index: _Buckets, offer: Offer) -> None:
    place, entry = _place(offer), _entry(offer)
    bucket = index.get(place, ())
    at = bisect_left(bucket, entry)
    index[place] = (*bucket[:at], entry, *bucket[at:])


def _delete(index: _Buckets, offer: Offer) -> None:
    place = _place(offer)
    bucket = index[place]
    at = bisect_left(bucket, _entry(offer))
    if len(bucket) == 1:
        del index[place]
    else:
        index[place] = (*bucket[:at], *bucket[at + 1 :])


def _is_free(offer: Offer) -> bool:
    return offer.matchable and offer.gpus_free > 0


def _entry(offer: Offer) -> _Entry:
    return (offer.price_nanos_per_gpu_hour, offer.id)


def _place(offer: Offer) -> _Place:
    return (offer.gpu, offer.region, offer.vram_gib)
