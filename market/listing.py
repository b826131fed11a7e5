"""The book of now, kept from one look to the next: only offers that something happened to are written again.

The reducer notes what it changes (`State.touched`); what follows from time or signs of life (`Volatile`) is noted where
that is heard, and offers whose terms depend on the time of day, or whose machine goes at a set time, are always written again.
"""

from __future__ import annotations

from collections.abc import Callable

from market.book import OrderBook
from market.orders import Offer
from market.snapshot_digest import MODULUS, part_of, sum_of
from market.state import OfferRecord, State, Volatile

Write = Callable[[State, OfferRecord, Volatile], Offer]


class Listing:
    """The offers of one exchange that are not withdrawn, as the book lists them, and the sum of their digests once it is asked
    for (market/snapshot_digest.py)."""

    __slots__ = ("_book", "_state", "_sum", "_timed", "_write")

    def __init__(self, state: State, write: Write) -> None:
        self._state = state
        self._write = write
        self._book = OrderBook()
        self._timed: dict[str, None] = {}
        self._sum: int | None = None
        state.touched.update(dict.fromkeys(state.offers))

    def of(self, state: State) -> bool:
        """Whether it is of this state."""
        return self._state is state

    def book(self, volatile: Volatile) -> OrderBook:
        """The book as it stands; a copy is needed to keep it, or to change it."""
        state = self._state
        if not len(self._book):
            listed = [one for one in map(state.offers.__getitem__, state.touched) if one.state != "withdrawn"]
            self._book = OrderBook(self._write(state, one, volatile) for one in listed)
            self._sum = None
            for record in listed:
                self._note_time(record)
        else:
            for name in (*state.touched, *(one for one in self._timed if one not in state.touched)):
                self._look(state.offers[name], volatile)
        state.touched.clear()
        return self._book

    def offer(self, name: str, volatile: Volatile) -> Offer | None:
        """One offer as the book has it now; None if it is not listed."""
        if name in self._state.touched or name in self._timed:
            self._state.touched.pop(name, None)
            self._look(self._state.offers[name], volatile)
        return self._book.get(name)

    def offers_sum(self, volatile: Volatile) -> int:
        """The sum of the book's digests as it stands."""
        book = self.book(volatile)
        if self._sum is None:
            self._sum = sum_of(book)
        return self._sum

    def _look(self, record: OfferRecord, volatile: Volatile) -> None:
        known = self._book.get(record.id)
        if record.state == "withdrawn":
            self._timed.pop(record.id, None)
            if known is not None:
                self._count(known, None)
                self._book.remove(record.id)
            return
        offer = self._write(self._state, record, volatile)
        if known != offer:
            self._count(known, offer)
            self._book.put(offer)
        self._note_time(record)

    def _count(self, known: Offer | None, offer: Offer | None) -> None:
        if self._sum is not None:
            less, more = (0 if one is None else part_of(one) for one in (known, offer))
            self._sum = (self._sum - less + more) % MODULUS

    def _note_time(self, record: OfferRecord) -> None:
        if record.terms.until_ms is not None or record.terms.max_unit_ms_per_customer_day is not None:
            self._timed[record.id] = None
        else:
            self._timed.pop(record.id, None)
