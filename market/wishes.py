"""The offers that fit each bid, cheapest first: looked up as far as somebody asks, and once for all bids that require the same."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from market.book import OrderBook
from market.constraints import CONSTRAINTS, PERSONAL, Reason, Test
from market.orders import Bid, Offer, Requirements
from storage.units import charge_nanos

_ELSEWHERE = PERSONAL | {Reason.PRICE_TOO_LOW, Reason.NOT_AVAILABLE}
_OF_HARDWARE = tuple(test for reason, test in CONSTRAINTS if reason not in _ELSEWHERE)
_OF_PERSONS = tuple(test for reason, test in CONSTRAINTS if reason in PERSONAL)


class Wishes:
    """The offers that fit each bid; price and availability are in how they are looked up.

    `looks` counts how often an offer was looked at for a bid: the effort of a clearing. `found_looks` of them are remembered and
    not spent again. Both count for each bid by itself, whatever was found for others: a clearing's effort is what it is however
    it is spent.
    """

    __slots__ = ("_book", "_found", "_ladders", "_rest", "found_looks", "known", "looks")

    def __init__(self, book: OrderBook) -> None:
        self._book = book
        self.looks = self.found_looks = 0
        self._found: dict[str, list[Offer]] = {}
        self._rest: dict[str, Iterator[Offer]] = {}
        self.known: dict[str, frozenset[str]] = {}
        """By job the ids of its offers, once somebody has looked through all of them."""
        self._ladders: dict[tuple[int, bool], tuple[Requirements, _Ladder]] = {}

    def of(self, bid: Bid) -> Iterable[Offer]:
        """Offers with something free that could seat a worker of the bid: its own, then the others, cheapest first."""
        found = self._found.get(bid.job)
        if found is None:
            found = self._found[bid.job] = []
            self._rest[bid.job] = self._fitting(bid, found, free=True)
        rest = self._rest.get(bid.job)
        return found if rest is None else chain(found, rest)

    def close(self) -> None:
        """Nobody asks any more. What was not read would hold on to all of this until Python looks for cycles."""
        self._rest.clear()

    def all_of(self, bid: Bid) -> frozenset[str]:
        """The ids of those offers."""
        for _ in self.of(bid) if bid.job not in self.known else ():
            pass
        return self.known[bid.job]

    def has_room_for(self, bid: Bid) -> bool:
        """Whether its smallest gang would find room, and pay it, if nothing were leased."""
        left, rate = max(1, bid.workers_min), bid.running_nanos_per_hour
        for offer in self._fitting(bid, [], free=False):
            if offer.matchable:
                workers = min(left, offer.gpus // bid.requires.gpus)
                left -= workers
                rate += workers * offer.price_nanos_per_gpu_hour * bid.requires.gpus
                if not left:
                    return charge_nanos(rate, 1, bid.cover_ms) <= bid.spendable_nanos
        return False

    def _fitting(self, bid: Bid, found: list[Offer], free: bool) -> Iterator[Offer]:
        """Each is added to `found` when it is given out."""
        limit, customer = bid.max_price_nanos_per_gpu_hour, bid.customer
        for name in self._book.own(customer):
            self._look(1, free)
            offer = self._book.get(name)
            assert offer is not None
            if (not free or (offer.matchable and offer.gpus_free)) and _meets(offer, bid, _OF_HARDWARE) and _meets(offer, bid, _OF_PERSONS):
                offer = offer.seen_by(customer)
                found.append(offer)
                yield offer
        ladder = self._ladder(bid, free)
        rungs, particular = ladder.rungs, bool(bid.avoid or bid.requires.own)
        at = passed = 0
        while at < len(rungs) or ladder.climb(bid):
            offer, looks, for_all = rungs[at]
            if offer.price_nanos_per_gpu_hour > limit:
                break
            at += 1
            if (for_all and not particular) or (customer not in offer.terms.own and _meets(offer, bid, _OF_PERSONS)):
                self.looks += looks - passed
                self.found_looks += (looks - passed) * free
                passed = looks
                found.append(offer)
                yield offer
        self._look(ladder.within(limit) - passed, free)
        if free:
            del self._rest[bid.job]  # all of them are found
            self.known[bid.job] = frozenset([offer.id for offer in found])

    def _ladder(self, bid: Bid, free: bool) -> _Ladder:
        # Equal requirements are mostly one object (market/order_making.py), and to hash them takes as long as the rest of a look.
        key = (id(bid.requires), free)
        known = self._ladders.get(key)
        if known is None:
            known = self._ladders[key] = bid.requires, _Ladder(self._book, bid.requires, free)
        return known[1]

    def _look(self, looks: int, free: bool) -> None:
        self.looks += looks
        self.found_looks += looks * free


class _Rung(NamedTuple):
    """`looks`: how many offers were looked at to come to this one; `for_all`: no test of `PERSONAL` can fail."""

    offer: Offer
    looks: int
    for_all: bool


class _Ladder:
    """The offers whose hardware is as required, cheapest first, as far as somebody has read; with `free`, of those with a unit for
    rent now."""

    __slots__ = ("_asks", "_rest", "_small", "rungs")

    def __init__(self, book: OrderBook, requires: Requirements, free: bool) -> None:
        self.rungs: list[_Rung] = []
        self._asks: list[int] = []
        self._rest = book.cheapest_free(requires) if free else book.cheapest(requires)
        # The book leaves out what has too little memory: it counts all the same, as when each was looked at.
        self._small: Sequence[Sequence[tuple[int, str]]] = book.too_small(requires, free)

    def climb(self, bid: Bid) -> bool:
        """Read up to the next rung, within the bid's limit; False if there is none."""
        asks, limit = self._asks, bid.max_price_nanos_per_gpu_hour
        while not asks or asks[-1] <= limit:
            offer = next(self._rest, None)
            if offer is None:
                return False
            asks.append(offer.price_nanos_per_gpu_hour)
            if _meets(offer, bid, _OF_HARDWARE):
                self.rungs.append(_Rung(offer, len(asks) + self._passed((asks[-1], offer.id)), offer.is_for_all))
                return True
        return False

    def within(self, limit_nanos: int) -> int:
        """How many offers ask no more; all of them have been read."""
        return bisect_right(self._asks, limit_nanos) + self._passed((limit_nanos + 1, ""))

    def _passed(self, up_to: tuple[int, str]) -> int:
        passed = 0
        for entries in self._small:
            passed += bisect_left(entries, up_to)
        return passed


def _meets(offer: Offer, bid: Bid, tests: Sequence[Test]) -> bool:
    for test in tests:  # noqa: SIM110  (by `all` it takes half as long again)
        if not test(offer, bid):
            return False
    return True
