"""Offers that fit, cheapest first, read one by one: of one set of requirements, and of one bid with what owners say of its customer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

from market.book import OrderBook
from market.constraints import CONSTRAINTS, PERSONAL, Reason, Test
from market.orders import Bid, Offer

_ELSEWHERE = PERSONAL | {Reason.PRICE_TOO_LOW, Reason.NOT_AVAILABLE}
_OF_HARDWARE = tuple(test for reason, test in CONSTRAINTS if reason not in _ELSEWHERE)
_OF_PERSONS = tuple(test for reason, test in CONSTRAINTS if reason in PERSONAL)
_OWN = -1
"""The price of an owner's machine in its own ladder: it comes first, whatever it asks of others, and is within every limit."""


class Ladder(ABC):
    """Offers, cheapest first, as far as somebody has read: their prices, and how many were looked at to come to each."""

    __slots__ = ("_ids", "looks", "offers", "prices")

    def __init__(self) -> None:
        self.offers: list[Offer] = []
        self.prices: list[int] = []
        self.looks: list[int] = []
        self._ids: dict[int, frozenset[str]] = {}

    @abstractmethod
    def climb(self, limit_nanos: int) -> bool:
        """Read one more offer; False if none is left that asks no more than this."""

    @abstractmethod
    def within(self, limit_nanos: int) -> int:
        """How many were looked at to know that there are no others that ask no more: to be asked once `climb` has said so, or a
        dearer one was read."""

    def has(self, at: int, limit_nanos: int) -> bool:
        """Whether there is an offer at this place, counted from 0, that asks no more."""
        return (at < len(self.offers) or self.climb(limit_nanos)) and self.prices[at] <= limit_nanos

    def beyond(self, at: int, limit_nanos: int) -> Iterator[Offer]:
        """Those from this place on that ask no more."""
        while self.has(at, limit_nanos):
            yield self.offers[at]
            at += 1

    def count_within(self, limit_nanos: int) -> int:
        """How many of those that were read ask no more."""
        return bisect_right(self.prices, limit_nanos)

    def ids(self, count: int) -> frozenset[str]:
        """Of the first so many."""
        found = self._ids.get(count)
        if found is None:
            found = self._ids[count] = frozenset([offer.id for offer in self.offers[:count]])
        return found

    def _add(self, offer: Offer, price_nanos: int, looks: int) -> None:
        self.offers.append(offer)
        self.prices.append(price_nanos)
        self.looks.append(looks)


class SharedLadder(Ladder):
    """The offers whose hardware is as required; with `free`, of those with a unit for rent now."""

    __slots__ = ("_asks", "_bid", "_rest", "_small", "for_all")

    def __init__(self, book: OrderBook, bid: Bid, free: bool) -> None:
        """`bid`: any of those that require this."""
        super().__init__()
        requires = bid.requires
        self._bid = bid
        self.for_all: list[bool] = []
        """Whether no test of `PERSONAL` can fail at the offer."""
        self._asks: list[int] = []
        self._rest = book.cheapest_free(requires) if free else book.cheapest(requires)
        # The book leaves out what has too little memory: it counts all the same, as when each was looked at.
        self._small: Sequence[Sequence[tuple[int, str]]] = book.too_small(requires, free)

    def climb(self, limit_nanos: int) -> bool:
        asks = self._asks
        while not asks or asks[-1] <= limit_nanos:
            offer = next(self._rest, None)
            if offer is None:
                return False
            ask = offer.price_nanos_per_gpu_hour
            asks.append(ask)
            if _meets(offer, self._bid, _OF_HARDWARE):
                self._add(offer, ask, len(asks) + self._passed((ask, offer.id)))
                self.for_all.append(offer.is_for_all)
                return True
        return False

    def within(self, limit_nanos: int) -> int:
        return bisect_right(self._asks, limit_nanos) + self._passed((limit_nanos + 1, ""))

    def _passed(self, up_to: tuple[int, str]) -> int:
        passed = 0
        for entries in self._small:
            passed += bisect_left(entries, up_to)
        return passed


class PersonalLadder(Ladder):
    """One bid's own machines, then of a shared ladder those whose owners let them to it."""

    __slots__ = ("_at", "_bid", "_own", "_particular", "_shared")

    def __init__(self, shared: SharedLadder, book: OrderBook, bid: Bid, free: bool) -> None:
        super().__init__()
        own = book.own(bid.customer)
        self._shared, self._bid = shared, bid
        self._own, self._at = len(own), 0
        self._particular = bool(bid.avoid or bid.requires.own)
        for looks, name in enumerate(own, 1):
            offer = book.get(name)
            assert offer is not None
            there = not free or (offer.matchable and offer.gpus_free)
            if there and _meets(offer, bid, _OF_HARDWARE) and _meets(offer, bid, _OF_PERSONS):
                self._add(offer.seen_by(bid.customer), _OWN, looks)

    def climb(self, limit_nanos: int) -> bool:
        shared, bid, at = self._shared, self._bid, self._at
        offers, prices, for_all = shared.offers, shared.prices, shared.for_all
        while (at < len(offers) or shared.climb(limit_nanos)) and prices[at] <= limit_nanos:
            offer = offers[at]
            at += 1
            if (for_all[at - 1] and not self._particular) or (bid.customer not in offer.terms.own and _meets(offer, bid, _OF_PERSONS)):
                self._at = at
                self._add(offer, prices[at - 1], self._own + shared.looks[at - 1])
                return True
        self._at = at
        return False

    def within(self, limit_nanos: int) -> int:
        return self._own + self._shared.within(limit_nanos)


def _meets(offer: Offer, bid: Bid, tests: Sequence[Test]) -> bool:
    for test in tests:  # noqa: SIM110  (by `all` it takes half as long again)
        if not test(offer, bid):
            return False
    return True
