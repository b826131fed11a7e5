"""Who sits where while a clearing goes on: free seats, the cheapest that fit a bid, and taking them back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

from market.fair_share import within_quota
from market.ladders import Ladder
from market.orders import Bid, Offer, Standing
from market.wishes import Wishes
from storage.units import charge_nanos


class Seating:
    """Seats as they are taken and given back; `taken` counts GPUs by offer, `_full` are those of which all are, `_passed` how many
    of the cheapest offers of a ladder have no room for a worker."""

    __slots__ = ("_full", "_let", "_passed", "_standings", "_wishes", "granted", "seats", "taken")

    def __init__(self, wishes: Wishes, standings: Mapping[str, Standing]) -> None:
        self._wishes = wishes
        self._standings = standings
        self.taken: dict[str, int] = {}
        self._full: set[str] = set()
        self._passed: dict[Ladder, int] = {}
        self._let: dict[tuple[str, str], int] = {}
        self.granted = dict.fromkeys(standings, 0)
        self.seats: dict[str, list[Offer]] = {}

    def cut(self, bid: Bid) -> Bid | None:
        """The bid as far as its team's quota goes, or None."""
        standing = self._standings.get(bid.team)
        return bid if standing is None else within_quota(standing, bid, self.granted[bid.team])

    def place(self, bid: Bid) -> list[Offer] | None:
        """The cheapest free seats for the bid, as many as it wants and can pay; None if not enough for its smallest gang."""
        wishes = self._wishes
        wish = wishes.of(bid)
        if wish.ids is not None and wish.ids <= self._full:
            wishes.looks += wish.reach
            return None
        ladder, limit = wish.ladder, wish.limit
        offers, prices = ladder.offers, ladder.prices
        passed = begin = self._passed.get(ladder, 0)
        if passed and prices[passed - 1] > limit:
            begin = ladder.count_within(limit)
        known = offers[begin : wish.reach]
        rest = known if wish.ids is not None else chain(known, ladder.beyond(max(begin, wish.reach), limit))
        found: list[Offer] = []
        taken, gpus, most, rate = self.taken, bid.requires.gpus, bid.workers_max, bid.running_nanos_per_hour
        looked, roomy, there_are = begin, -1, True
        for looked, offer in enumerate(rest, begin + 1):
            if offer.gpus_free - taken.get(offer.id, 0) < gpus:
                continue
            if roomy < 0:
                roomy = looked - 1
            room = self._room(offer, bid) // gpus
            if room <= 0:
                continue
            step = offer.price_nanos_per_gpu_hour * gpus
            for _ in range(min(room, most - len(found))):
                if charge_nanos(rate + step, 1, bid.cover_ms) > bid.spendable_nanos:
                    most = len(found)  # it can pay no more
                    break
                rate += step
                found.append(offer)
            if len(found) == most:
                break
        else:
            there_are = False
        self._passed[ladder] = max(passed, looked if roomy < 0 else roomy)
        wishes.looks += looked
        wishes.note(wish, looked, not there_are)
        return found if len(found) >= max(1, bid.workers_min) else None

    def seat(self, asked: Bid) -> bool:
        """Let the bid have its seats, as far as its team's quota goes; False if there are none."""
        bid = self.cut(asked) if self._standings else asked
        seats = None if bid is None else self.place(bid)
        if bid is None or seats is None:
            return False
        self.take(bid, seats)
        return True

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
        left, at, wish = max(1, bid.workers_min), 0, self._wishes.of(bid)
        while there_are := wish.ladder.has(at, wish.limit):
            offer = wish.ladder.offers[at]
            at += 1
            workers = min(left, max(0, self._room(offer, bid)) // bid.requires.gpus)
            self._use(offer, workers * bid.requires.gpus)
            left -= workers
            if not left:
                break
        self._wishes.note(wish, at, not there_are)

    def _room(self, offer: Offer, bid: Bid) -> int:
        free = offer.gpus_free - self.taken.get(offer.id, 0)
        if offer.terms.max_units_per_customer is None:
            return free
        return min(free, offer.room_for(bid.customer) - self._let.get((offer.id, bid.customer), 0))

    def _move(self, bid: Bid, seats: Sequence[Offer], gpus: int) -> None:
        for offer in seats:
            self._use(offer, gpus)
            if offer.terms.max_units_per_customer is not None:
                key = (offer.id, bid.customer)
                self._let[key] = self._let.get(key, 0) + gpus
        if bid.team in self.granted:
            self.granted[bid.team] += gpus * len(seats)

    def _use(self, offer: Offer, gpus: int) -> None:
        taken = self.taken[offer.id] = self.taken.get(offer.id, 0) + gpus
        assert 0 <= taken <= offer.gpus_free, f"{offer.id} is sold twice"
        if taken == offer.gpus_free:
            self._full.add(offer.id)
        else:
            self._full.discard(offer.id)
        if gpus < 0:
            self._passed.clear()


def worth(bid: Bid, seats: Sequence[Offer]) -> int:
    """(limit − ask) · ms · GPUs of these seats, in nano-dollars times milliseconds per hour."""
    limit = bid.max_price_nanos_per_gpu_hour
    asked = sum(seat.price_nanos_per_gpu_hour for seat in seats)
    return (limit * len(seats) - asked) * bid.requires.gpus * bid.expected_ms
