"""The book of now, kept from one look to the next: only offers that something happened to are written again.

The reducer notes what it changes (`State.touched`); what follows from time or signs of life (`Volatile`) is noted where
that is heard, and offers whose terms depend on the time of day, or whose machine goes at a set time, are always written again.
"""

from __future__ import annotations

from collections.abc import Callable

from market.book import OrderBook
from market.orders import Offer
from market.state import OfferRecord, State, Volatile

Write = Callable[[State, OfferRecord, Volatile], Offer]


class Listing:
    """The offers of one exchange that are not withdrawn, as the book lists them."""

    __slots__ = ("_book", "_state", "_timed", "_write")

    def __init__(self, state: State, write: Write) -> None:
        self._state = state
        self._write = write
        self._book = OrderBook()
        self._timed: dict[str, None] = {}
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
        for name in (*state.touched, *(one for one in self._timed if one not in state.touched)):
            record = state.offers[name]
            if record.state == "withdrawn":
                self._timed.pop(name, None)
                if self._book.get(name) is not None:
                    self._book.remove(name)
                continue
            self._book.put(self._write(state, record, volatile))
            if record.terms.until_ms is not None or record.terms.max_unit_ms_per_customer_day is not None:
                self._timed[name] = None
            else:
                self._timed.pop(name, None)
        state.touched.clear()
        return self._book
