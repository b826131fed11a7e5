"""The offers that fit each bid, cheapest first: looked up as far as somebody asks, and once for all bids that require the same."""

from __future__ import annotations

from market.book import OrderBook
from market.ladders import Ladder, PersonalLadder, SharedLadder
from market.orders import Bid, Offer, Requirements
from storage.units import charge_nanos


class Wishes:
    """The offers that fit each bid; price and availability are in how they are looked up.

    `looks` counts how often an offer was looked at for a bid: the effort of a clearing. `found_looks` of them are remembered and
    not spent again. Both count for each bid by itself, whatever was found for others: a clearing's effort is what it is however
    it is spent.
    """

    __slots__ = ("_book", "_ladders", "found_looks", "known", "looks")

    def __init__(self, book: OrderBook) -> None:
        self._book = book
        self.looks = self.found_looks = 0
        self.known: dict[str, Wish] = {}
        """By job what `of` has said."""
        self._ladders: dict[tuple[int, bool], tuple[Requirements, SharedLadder]] = {}

    def of(self, bid: Bid) -> Wish:
        """Offers with something free that could seat a worker of the bid: its own, then the others, cheapest first."""
        found = self.known.get(bid.job)
        if found is None:
            found = self.known[bid.job] = Wish(self._ladder(bid, free=True), bid.max_price_nanos_per_gpu_hour)
        return found

    @property
    def is_for_all(self) -> bool:
        """Whether it is nothing for any offer which customer asks."""
        return self._book.is_for_all

    def note(self, wish: Wish, reach: int, whole: bool) -> None:
        """The bid has read so many of its offers; `whole`: there are no more."""
        before = wish.looks
        wish.note(reach, whole)
        self.looks += wish.looks - before
        self.found_looks += wish.looks - before

    def cheapest(self, bid: Bid) -> Offer | None:
        """The first of them."""
        wish = self.of(bid)
        found = wish.ladder.has(0, wish.limit)
        self.note(wish, int(found), not found)
        return wish.ladder.offers[0] if found else None

    def all_of(self, bid: Bid) -> frozenset[str]:
        """The ids of all of them."""
        wish = self.of(bid)
        if wish.ids is None:
            more = sum(1 for _ in wish.ladder.beyond(wish.reach, wish.limit))
            self.note(wish, wish.reach + more, whole=True)
        assert wish.ids is not None
        return wish.ids

    def has_room_for(self, bid: Bid) -> bool:
        """Whether its smallest gang would find room, and pay it, if nothing were leased."""
        left, rate, limit = max(1, bid.workers_min), bid.running_nanos_per_hour, bid.max_price_nanos_per_gpu_hour
        ladder, at = self._ladder(bid, free=False), 0
        while there_are := ladder.has(at, limit):
            offer = ladder.offers[at]
            at += 1
            if offer.matchable:
                workers = min(left, offer.gpus // bid.requires.gpus)
                left -= workers
                rate += workers * offer.price_nanos_per_gpu_hour * bid.requires.gpus
                if not left:
                    break
        self.looks += ladder.looks[at - 1] if there_are else ladder.within(limit)
        return not left and charge_nanos(rate, 1, bid.cover_ms) <= bid.spendable_nanos

    def _ladder(self, bid: Bid, free: bool) -> Ladder:
        # Equal requirements are mostly one object (market/order_making.py), and to hash them takes as long as the rest of a look.
        key = (id(bid.requires), free)
        known = self._ladders.get(key)
        if known is None:
            known = self._ladders[key] = bid.requires, SharedLadder(self._book, bid, free)
        # Where nobody's terms tell customers apart, all who require the same read one ladder.
        if bid.avoid or bid.requires.own or not self._book.is_for_all:
            return PersonalLadder(known[1], self._book, bid, free)
        return known[1]


class Wish:
    """How far one bid has read its ladder: so many of its offers are within its limit, and it took `looks` to know; `ids`:
    theirs, once it is known that there are no more."""

    __slots__ = ("ids", "ladder", "limit", "looks", "reach")

    def __init__(self, ladder: Ladder, limit_nanos: int) -> None:
        self.ladder = ladder
        self.limit = limit_nanos
        self.reach = self.looks = 0
        self.ids: frozenset[str] | None = None

    def note(self, reach: int, whole: bool) -> None:
        """It has read so many; less than before says nothing."""
        if whole and self.ids is None:
            self.reach = reach
            self.looks = self.ladder.within(self.limit)
            self.ids = self.ladder.ids(reach)
        elif reach > self.reach:
            self.reach = reach
            self.looks = self.ladder.looks[reach - 1]

