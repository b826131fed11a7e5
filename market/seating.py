"""Who sits where while a clearing goes on: free seats, the cheapest that fit a bid, and taking them back."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

from market.book import OrderBook
from market.constraints import CONSTRAINTS, Reason
from market.fair_share import within_quota
from market.orders import Bid, Offer, Standing
from storage.units import charge_nanos

_LASTING = tuple(test for reason, test in CONSTRAINTS if reason not in (Reason.PRICE_TOO_LOW, Reason.NOT_AVAILABLE))


def _lasts(offer: Offer, bid: Bid) -> bool:
    """Whether the offer meets every constraint but price and availability: asked of every offer for every bid."""
    for test in _LASTING:  # noqa: SIM110  (by `all` it takes half as long again)
        if not test(offer, bid):
            return False
    return True


class Wishes:
    """The offers that fit each bid, cheapest first, looked up as far as somebody asked and then remembered.

    `looks` counts how often an offer was looked at for a bid: the effort of a clearing. `found_looks` of them are remembered and
    not spent again.
    """

    __slots__ = ("_book", "_found", "_rest", "found_looks", "looks")

    def __init__(self, book: OrderBook) -> None:
        self._book = book
        self.looks = self.found_looks = 0
        self._found: dict[str, list[Offer]] = {}
        self._rest: dict[str, Iterator[Offer]] = {}

    def of(self, bid: Bid) -> Iterator[Offer]:
        """Offers with something free that could seat a worker of the bid: its own, then the others, cheapest first."""
        found = self._found.get(bid.job)
        if found is None:
            found = self._found[bid.job] = []
            self._rest[bid.job] = self._fitting(bid, free=True)
        yield from found
        for offer in self._rest[bid.job]:
            found.append(offer)
            yield offer

    def has_room_for(self, bid: Bid) -> bool:
        """Whether its smallest gang would find room, and pay it, if nothing were leased."""
        left, rate = max(1, bid.workers_min), bid.running_nanos_per_hour
        for offer in self._fitting(bid, free=False):
            if offer.matchable:
                workers = min(left, offer.gpus // bid.requires.gpus)
                left -= workers
                rate += workers * offer.price_nanos_per_gpu_hour * bid.requires.gpus
                if not left:
                    return charge_nanos(rate, 1, bid.cover_ms) <= bid.spendable_nanos
        return False

    def _fitting(self, bid: Bid, free: bool) -> Iterator[Offer]:
        book, limit = self._book, bid.max_price_nanos_per_gpu_hour
        for name in book.own(bid.customer):
            self.looks += 1
            self.found_looks += free
            offer = book.get(name)
            assert offer is not None
            if (not free or (offer.matchable and offer.gpus_free)) and _lasts(offer, bid):
                yield offer.seen_by(bid.customer)
        small, passed = book.too_small(bid.requires, free), 0
        for offer in book.cheapest_free(bid.requires) if free else book.cheapest(bid.requires):
            if offer.price_nanos_per_gpu_hour > limit:
                break
            # The book leaves out what has too little memory: it counts all the same, as when each was looked at.
            if small:
                passed = self._pass_over(small, (offer.price_nanos_per_gpu_hour, offer.id), passed, free)
            self.looks += 1
            self.found_looks += free
            if bid.customer not in offer.terms.own and _lasts(offer, bid):
                yield offer
        self._pass_over(small, (limit + 1, ""), passed, free)

    def _pass_over(self, small: Sequence[Sequence[tuple[int, str]]], up_to: tuple[int, str], passed: int, free: bool) -> int:
        """Count what comes before this entry in these lists, but what was counted before."""
        now = sum(bisect_left(entries, up_to) for entries in small)
        self.looks += now - passed
        self.found_looks += (now - passed) * free
        return now


class Seating:
    """Seats as they are taken and given back; `taken` counts GPUs by offer."""

    __slots__ = ("_let", "_standings", "_wishes", "granted", "seats", "taken")

    def __init__(self, wishes: Wishes, standings: Mapping[str, Standing]) -> None:
        self._wishes = wishes
        self._standings = standings
        self.taken: dict[str, int] = {}
        self._let: dict[tuple[str, str], int] = {}
        self.granted = dict.fromkeys(standings, 0)
        self.seats: dict[str, list[Offer]] = {}

    def cut(self, bid: Bid) -> Bid | None:
        """The bid as far as its team's quota goes, or None."""
        standing = self._standings.get(bid.team)
        return bid if standing is None else within_quota(standing, bid, self.granted[bid.team])

    def place(self, bid: Bid) -> list[Offer] | None:
        """The cheapest free seats for the bid, as many as it wants and can pay; None if not enough for its smallest gang."""
        found: list[Offer] = []
        gpus, most, least = bid.requires.gpus, bid.workers_max, max(1, bid.workers_min)
        rate = bid.running_nanos_per_hour
        for offer in self._wishes.of(bid):
            self._wishes.looks += 1
            room = self._room(offer, bid) // gpus
            if room <= 0:
                continue
            step = offer.price_nanos_per_gpu_hour * gpus
            for _ in range(min(room, most - len(found))):
                if charge_nanos(rate + step, 1, bid.cover_ms) > bid.spendable_nanos:
                    return found if len(found) >= least else None
                rate += step
                found.append(offer)
            if len(found) == most:
                break
        return found if len(found) >= least else None

    def take(self, bid: Bid, seats: list[Offer]) -> None:
        self.seats[bid.job] = seats
        self._move(bid, seats, bid.requires.gpus)

    def lift(self, bid: Bid) -> list[Offer]:
        """Give back what the bid has."""
        seats = self.seats.pop(bid.job)
        self._move(bid, seats, -bid.requires.gpus)
        return seats

    def keep_for(self, bid: Bid) -> None:
        """Let nobody else have the free seats that this bid could use, up to its smallest gang."""
        left = max(1, bid.workers_min)
        for offer in self._wishes.of(bid):
            workers = min(left, max(0, self._room(offer, bid)) // bid.requires.gpus)
            self.taken[offer.id] = self.taken.get(offer.id, 0) + workers * bid.requires.gpus
            left -= workers
            if not left:
                return

    def _room(self, offer: Offer, bid: Bid) -> int:
        free = offer.gpus_free - self.taken.get(offer.id, 0)
        if offer.terms.max_units_per_customer is None:
            return free
        return min(free, offer.room_for(bid.customer) - self._let.get((offer.id, bid.customer), 0))

    def _move(self, bid: Bid, seats: Sequence[Offer], gpus: int) -> None:
        for offer in seats:
            taken = self.taken[offer.id] = self.taken.get(offer.id, 0) + gpus
            assert 0 <= taken <= offer.gpus_free, f"{offer.id} is sold twice"
            if offer.terms.max_units_per_customer is not None:
                key = (offer.id, bid.customer)
                self._let[key] = self._let.get(key, 0) + gpus
        if bid.team in self.granted:
            self.granted[bid.team] += gpus * len(seats)


def worth(bid: Bid, seats: Sequence[Offer]) -> int:
    """(limit − ask) · ms · GPUs of these seats, in nano-dollars times milliseconds per hour."""
    limit = bid.max_price_nanos_per_gpu_hour
    asked = sum(seat.price_nanos_per_gpu_hour for seat in seats)
    return (limit * len(seats) - asked) * bid.requires.gpus * bid.expected_ms
