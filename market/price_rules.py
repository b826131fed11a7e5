"""What the seats of a clearing cost, by the rule that the operator chose. Pure, in whole nano-dollars. docs/PRICES.md.

- `ask`: every seat costs what its offer asks.
- `uniform`: all seats of one class (model and region) that change hands in one clearing cost the same, by a k-double
  auction. With A the highest ask that trades, B the lowest limit that trades, L the highest limit of a bid that wanted a
  seat of the class and got none, U the lowest ask of a seat that is left: low = max(A, min(L, B, U)), high = min(B, U),
  price = low + k · (high − low), k = ½, rounded down. Where no such bid is left, nothing drives the price up: it is A.
  Where A > B no single price would suit everybody: matches are given up until one does, those worth least first.
- `spot`: as `ask` for firm bids; interruptible ones are served after them, in market/spot.py.

A machine's owner pays nothing for it; such seats have no part in any class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from market.book import OrderBook
from market.constraints import HARDWARE, Reason, cost_nanos_at, passes
from market.orders import Bid, Offer, Requirements
from market.seating import worth

ASK: Final = "ask"
UNIFORM: Final = "uniform"
SPOT: Final = "spot"
PRICE_RULES: Final[Mapping[str, str]] = {
    ASK: "each seat costs what its offer asks",
    SPOT: "as ask; an interruptible seat costs its floor, or the highest limit of those who wanted it and went without",
    UNIFORM: "one price for all seats of a model and region in a clearing, between asks and limits",
}
K_PPM: Final = 500_000
_FIXED: Final = HARDWARE | {Reason.NOT_AVAILABLE}

Class = tuple[str, str]


@dataclass(frozen=True, slots=True)
class ClassPrice:
    """What a class traded at in one clearing, how many GPUs, and between which bounds a price could have been."""

    gpu: str
    region: str
    price_nanos_per_gpu_hour: int
    gpus: int
    low_nanos: int
    high_nanos: int


@dataclass(frozen=True, slots=True)
class Priced:
    """The price of each seat by job; jobs that could not be served at these prices; the classes that traded."""

    prices: Mapping[str, tuple[int, ...]]
    given_up: frozenset[str]
    classes: tuple[ClassPrice, ...]


def price(
    rule: str,
    seats: Mapping[str, Sequence[Offer]],
    bids: Mapping[str, Bid],
    book: OrderBook,
    taken: Mapping[str, int],
    could_use: Callable[[Offer, Bid], bool] | None = None,
) -> Priced:
    """What these seats cost. `taken`: GPUs of each offer that they, or others, hold. `could_use`: whether a bid that got
    nothing could be seated on an offer of a model and region that it asks for, price and load aside."""
    if rule in (ASK, SPOT):
        asks = {job: tuple(seat.price_nanos_per_gpu_hour for seat in own) for job, own in seats.items()}
        return Priced(asks, frozenset(), _traded(seats, bids, asks))
    assert rule == UNIFORM, rule
    return _Uniform(seats, bids, book, taken, could_use or _could_use).priced()


class _Uniform:
    def __init__(
        self, seats: Mapping[str, Sequence[Offer]], bids: Mapping[str, Bid], book: OrderBook, taken: Mapping[str, int],
        could_use: Callable[[Offer, Bid], bool],
    ) -> None:  # fmt: skip
        self.seats = dict(seats)
        self.bids = bids
        self.book = book
        self.could_use = could_use
        self.taken = dict(taken)
        self.given_up: set[str] = set()

    def priced(self) -> Priced:
        while True:
            self._agree()
            bounds = self._bounds()
            at = {one: low + (high - low) * K_PPM // 1_000_000 for one, (low, high) in bounds.items()}
            prices = {job: tuple(_at(at, seat) for seat in own) for job, own in self.seats.items()}
            broke = [job for job, own in prices.items() if not self._pays(job, own)]
            if not broke:
                break
            self._give_up(min(broke, key=self._worth))
        found = _traded(self.seats, self.bids, prices)
        classes = (
            ClassPrice(one.gpu, one.region, one.price_nanos_per_gpu_hour, one.gpus, *bounds[one.gpu, one.region]) for one in found
        )
        return Priced(prices, frozenset(self.given_up), tuple(classes))

    def _agree(self) -> None:
        """Give matches up until each class has a price that nobody in it objects to."""
        while True:
            for name, own in sorted(self._by_class().items()):
                highest = max(seat.price_nanos_per_gpu_hour for _, seat in own)
                lowest = min(self.bids[job].max_price_nanos_per_gpu_hour for job, _ in own)
                if highest > lowest:
                    self._cut(name, own)
                    break
            else:
                return

    def _cut(self, name: Class, own: Sequence[tuple[str, Offer]]) -> None:
        """Keep the matches that are worth most at some price; each limit that trades is tried as the price."""
        jobs = {job for job, _ in own}
        highest = {job: max(seat.price_nanos_per_gpu_hour for other, seat in own if other == job) for job in jobs}
        limits = {job: self.bids[job].max_price_nanos_per_gpu_hour for job in jobs}
        best: tuple[int, int, set[str]] | None = None
        for at in sorted(set(limits.values())):
            kept = {job for job in jobs if highest[job] <= at <= limits[job]}
            found = (sum(self._worth(job)[0] for job in kept), -at, kept)
            if best is None or found[:2] > best[:2]:
                best = found
        assert best is not None
        assert best[2], name  # whoever has the highest limit pays all of its own asks
        for job in sorted(jobs - best[2]):
            self._give_up(job)

    def _bounds(self) -> dict[Class, tuple[int, int]]:
        found: dict[Class, tuple[int, int]] = {}
        left = [bid for job, bid in self.bids.items() if job not in self.seats and bid.essential]
        for name, own in self._by_class().items():
            asked = max(seat.price_nanos_per_gpu_hour for _, seat in own)
            bid = min(self.bids[job].max_price_nanos_per_gpu_hour for job, _ in own)
            here = self.book.cheapest(Requirements(gpu=(name[0],), region=(name[1],)))
            others = [offer for offer in here if offer.matchable]
            rivals = [
                one.max_price_nanos_per_gpu_hour
                for one in left
                if one.max_price_nanos_per_gpu_hour >= asked
                and (not one.requires.gpu or name[0] in one.requires.gpu)
                and (not one.requires.region or name[1] in one.requires.region)
                and any(self.could_use(offer, one) for offer in others)
            ]
            unsold = [
                offer.price_nanos_per_gpu_hour
                for offer in others
                if offer.gpus_free > self.taken.get(offer.id, 0) and offer.price_nanos_per_gpu_hour >= asked
            ]
            high = min([bid, *unsold])
            found[name] = (max(asked, min(max(rivals), high)), high) if rivals else (asked, asked)
        return found

    def _pays(self, job: str, prices: Sequence[int]) -> bool:
        bid = self.bids[job]
        return cost_nanos_at(bid, prices) <= bid.spendable_nanos

    def _give_up(self, job: str) -> None:
        self.given_up.add(job)
        for seat in self.seats.pop(job):
            self.taken[seat.id] -= self.bids[job].requires.gpus

    def _worth(self, job: str) -> tuple[int, str]:
        bid = self.bids[job]
        return bid.weight_ppm * worth(bid, self.seats[job]), job

    def _by_class(self) -> dict[Class, list[tuple[str, Offer]]]:
        found: dict[Class, list[tuple[str, Offer]]] = {}
        for job, own in self.seats.items():
            for seat in own:
                if seat.price_nanos_per_gpu_hour:
                    found.setdefault((seat.gpu, seat.region), []).append((job, seat))
        return found


def _could_use(offer: Offer, bid: Bid) -> bool:
    return passes(offer, bid, _FIXED)


def _at(prices: Mapping[Class, int], seat: Offer) -> int:
    return prices[seat.gpu, seat.region] if seat.price_nanos_per_gpu_hour else 0


def _traded(
    seats: Mapping[str, Sequence[Offer]], bids: Mapping[str, Bid], prices: Mapping[str, Sequence[int]]
) -> tuple[ClassPrice, ...]:
    """Each class that traded: the highest price in it, and its lowest and highest."""
    found: dict[Class, list[tuple[int, int]]] = {}
    for job, own in seats.items():
        for seat, paid in zip(own, prices[job], strict=True):
            if paid:
                found.setdefault((seat.gpu, seat.region), []).append((paid, bids[job].requires.gpus))
    return tuple(
        ClassPrice(
            gpu, region, max(paid for paid, _ in rows), sum(gpus for _, gpus in rows), min(paid for paid, _ in rows),
            max(paid for paid, _ in rows),
        )
        for (gpu, region), rows in sorted(found.items())
    )  # fmt: skip
