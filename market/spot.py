"""Interruptible seats: who gets what firm bids leave free, what it costs, and who is outbid. Pure, in whole numbers.

An interruptible bid pays the offer's floor where it has one (else its ask), and by the rule `spot` the highest limit of the
interruptible bids that wanted the seat and did not get it, if that is more. The highest limits are served first, each on the
cheapest seats that are left; then whoever is left without its gang may outbid. A lease is taken only by a bid

- whose limit is higher than the one by which the lease is held (so nobody is outbid by whom it outbid), and
- that gains more by it than is lost: Σ (limit − reserve) · GPUs · time of its seats, less the same of the leases that go,
  less what their restarts cost (market/restarts.py). The reserve is the floor, else the ask; the time is how long
  the bid is expected to hold the seats, or until the last of the leases would have ended by itself, whichever is less.

So welfare never falls by it. No more is taken than the smallest gang needs. docs/SPOT.md tells it for people.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from market.clearing import CONSTRAINTS, Match, Reason
from market.orders import Bid, Offer
from market.price_rules import ASK, SPOT
from storage.units import MS_PER_HOUR, charge_nanos

MOST_OUTBIDDING: Final = 64
"""Bids that may look for leases to outbid in one clearing, those with the highest limits."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """A lease that may be outbid. `remaining_ms`: for how long it would go on; `loss_nanos`: what its restart costs."""

    lease: str
    epoch: int
    job: str
    offer: str
    gpus: int
    limit_nanos_per_gpu_hour: int
    remaining_ms: int
    loss_nanos: int


@dataclass(frozen=True, slots=True)
class Preemption:
    """`job` takes `offers` (one id for each new worker) when the `victims` have left them.

    Args:
        gain_nanos: what the bid gains in `horizon_ms`. value_nanos: what the victims would have gained meanwhile.
        loss_nanos: what their restarts cost. `gain − value − loss` is above 0.
    """

    job: str
    offers: tuple[str, ...]
    gpus: int
    prices_nanos_per_gpu_hour: tuple[int, ...]
    asks_nanos_per_gpu_hour: tuple[int, ...]
    victims: tuple[Tenant, ...]
    gain_nanos: int
    value_nanos: int
    loss_nanos: int
    horizon_ms: int

    @property
    def surplus_nanos(self) -> int:
        """By how much welfare rises."""
        return self.gain_nanos - self.value_nanos - self.loss_nanos


@dataclass(frozen=True, slots=True)
class SpotClearing:
    """Who gets free seats, in the order of service, and who gets those of others."""

    matches: tuple[Match, ...] = ()
    preemptions: tuple[Preemption, ...] = ()


def reserve_nanos(offer: Offer) -> int:
    """The least that an interruptible lease of this offer costs."""
    floor = offer.floor_nanos_per_gpu_hour
    return offer.price_nanos_per_gpu_hour if floor is None else min(floor, offer.price_nanos_per_gpu_hour)


def seen_by(offer: Offer, bid: Bid) -> Offer:
    """The offer at the least price that this bid may pay: nothing for its owner, the reserve if it is interruptible."""
    own = offer.seen_by(bid.customer)
    if not bid.interruptible or own is not offer:
        return own
    return replace(offer, price_nanos_per_gpu_hour=reserve_nanos(offer))


def clear_spot(
    offers: Iterable[Offer],
    bids: Sequence[Bid],
    losers: Sequence[Bid],
    tenants: Sequence[Tenant],
    rule: str = ASK,
) -> SpotClearing:
    """See the module.

    Args:
        offers: as they are after the firm bids were served.
        bids: interruptible ones, growth included. losers: firm ones that need a gang and got none.
    """
    square = _Square(offers, tenants, rule)
    won: dict[str, list[Offer]] = {}
    lost: list[Bid] = []
    preemptions: list[Preemption] = []
    tries = 0
    for bid in sorted((*bids, *losers), key=_order):
        seats = square.place(bid) if bid.interruptible else []
        if seats:
            won[bid.job] = seats
            continue
        found = None
        if bid.essential and tries < MOST_OUTBIDDING:
            tries += 1
            found = square.displace(bid)
        if found is not None:
            preemptions.append(found)
        elif bid.interruptible:
            lost.append(bid)
    by_job = {bid.job: bid for bid in bids}
    matches = (
        Match(
            job, tuple(seat.id for seat in seats), by_job[job].requires.gpus,
            tuple(square.price(seat, by_job[job], lost) for seat in seats),
            tuple(seat.price_nanos_per_gpu_hour for seat in seats),
        )
        for job, seats in won.items()
    )  # fmt: skip
    return SpotClearing(tuple(matches), tuple(preemptions))


def _order(bid: Bid) -> tuple[int, int, str]:
    return (-bid.max_price_nanos_per_gpu_hour, bid.submitted_ms, bid.job)


@dataclass(frozen=True, slots=True)
class _Seat:
    """One worker's place and the tenants that go for it."""

    offer: Offer
    victims: tuple[Tenant, ...]
    cost_nanos: int


class _Square:
    """Free units and tenants while a clearing goes on."""

    def __init__(self, offers: Iterable[Offer], tenants: Sequence[Tenant], rule: str) -> None:
        self._offers = sorted(offers, key=lambda offer: (reserve_nanos(offer), offer.id))
        self._free = {offer.id: offer.gpus_free for offer in self._offers}
        self._let: dict[tuple[str, str], int] = {}
        self._rule = rule
        self._tenants: dict[str, list[Tenant]] = {}
        for tenant in sorted(tenants, key=lambda one: (one.limit_nanos_per_gpu_hour, one.loss_nanos, -one.epoch)):
            self._tenants.setdefault(tenant.offer, []).append(tenant)

    def place(self, bid: Bid) -> list[Offer]:
        """The cheapest free seats, as many as it wants and can pay; empty if they are not enough for its smallest gang."""
        found: list[Offer] = []
        for offer in self._fitting(bid, own=True, among=self._open(bid)):
            room = min(self._free[offer.id], self._room(offer, bid)) // bid.requires.gpus
            for _ in range(max(0, room)):
                if len(found) == bid.workers_max or not self._pays(bid, [*found, offer]):
                    break
                found.append(offer)
            if len(found) == bid.workers_max:
                break
        if len(found) < max(1, bid.workers_min):
            return []
        for offer in found:
            self._take(offer, bid)
        return found

    def price(self, seat: Offer, bid: Bid, lost: Sequence[Bid]) -> int:
        """What a seat that the bid has won costs by the rule; `seat` as the bid sees it."""
        paid = seat.price_nanos_per_gpu_hour
        if self._rule != SPOT or not paid:
            return paid
        wanted = (
            other.max_price_nanos_per_gpu_hour
            for other in lost
            if fits(seen_by(seat, other), other) and seat.gpus_free >= other.requires.gpus
        )
        return min(bid.max_price_nanos_per_gpu_hour, max(paid, *wanted, 0))

    def displace(self, bid: Bid) -> Preemption | None:
        """The seats that the bid can have by outbidding, if welfare rises by it."""
        wanted = max(1, bid.workers_min)
        seats = self._cheapest_seats(bid, wanted)
        victims = tuple(victim for seat in seats for victim in seat.victims)
        if len(seats) < wanted or not victims:
            return None
        gpus, expected = bid.requires.gpus, bid.expected_ms
        horizon = min(expected, max(victim.remaining_ms for victim in victims))
        limit = bid.max_price_nanos_per_gpu_hour
        gain = sum((limit - reserve_nanos(seat.offer)) * gpus for seat in seats) * horizon // MS_PER_HOUR
        value = sum(self._value_nanos(victim, seat.offer, expected) for seat in seats for victim in seat.victims)
        loss = sum(victim.loss_nanos for victim in victims)
        prices = tuple(self._outbid_price(seat, bid) for seat in seats)
        if gain - value - loss <= 0 or not self._pays(bid, [seat.offer for seat in seats], prices):
            return None
        for seat in seats:
            self._take(seat.offer, bid)
            self._free[seat.offer.id] += sum(victim.gpus for victim in seat.victims)
            left = [one for one in self._tenants.get(seat.offer.id, []) if one not in seat.victims]
            self._tenants[seat.offer.id] = left
        return Preemption(
            bid.job, tuple(seat.offer.id for seat in seats), gpus, prices,
            tuple(seat.offer.price_nanos_per_gpu_hour for seat in seats), victims, gain, value, loss, horizon,
        )  # fmt: skip

    def _cheapest_seats(self, bid: Bid, wanted: int) -> list[_Seat]:
        """Free ones first, then those whose tenants are worth least, one after another on each offer."""
        found: list[_Seat] = []
        expected, gpus = bid.expected_ms, bid.requires.gpus
        for offer in self._fitting(bid, among=self._open(bid, outbid=True)):
            room = self._room(offer, bid)
            free, going, cost = self._free[offer.id], list[Tenant](), 0
            waiting = [
                one
                for one in self._tenants.get(offer.id, ())
                if one.job != bid.job and one.limit_nanos_per_gpu_hour < bid.max_price_nanos_per_gpu_hour
            ]
            while room >= gpus:
                while free < gpus and waiting:
                    victim = waiting.pop(0)
                    going.append(victim)
                    free += victim.gpus
                    cost += self._value_nanos(victim, offer, expected) + victim.loss_nanos
                if free < gpus:
                    break
                found.append(_Seat(offer, tuple(going), cost))
                free, room, going, cost = free - gpus, room - gpus, [], 0
        # Seats of one offer stay in their order: a later one may stand on what an earlier one has freed.
        chosen: list[_Seat] = []
        while found and len(chosen) < wanted:
            heads = {seat.offer.id: seat for seat in reversed(found)}.values()
            best = min(heads, key=lambda seat: (seat.cost_nanos, reserve_nanos(seat.offer), seat.offer.id))
            chosen.append(best)
            found.remove(best)
        return chosen

    def _value_nanos(self, victim: Tenant, offer: Offer, expected_ms: int) -> int:
        """What the tenant would gain while the other holds its place, rounded up."""
        surplus = (victim.limit_nanos_per_gpu_hour - reserve_nanos(offer)) * victim.gpus
        return -(-max(0, surplus) * min(expected_ms, victim.remaining_ms) // MS_PER_HOUR)

    def _outbid_price(self, seat: _Seat, bid: Bid) -> int:
        paid = seen_by(seat.offer, bid).price_nanos_per_gpu_hour
        if self._rule != SPOT or not bid.interruptible:
            return paid
        return max(paid, *(victim.limit_nanos_per_gpu_hour for victim in seat.victims), 0)

    def _open(self, bid: Bid, *, outbid: bool = False) -> list[Offer]:
        """Offers with a unit free, or one that may be had by outbidding: nothing else needs a look at what fits."""
        free, limit, gpus = self._free, bid.max_price_nanos_per_gpu_hour, bid.requires.gpus
        if not outbid:
            return [offer for offer in self._offers if free[offer.id] >= gpus]
        lowest = {name: own[0].limit_nanos_per_gpu_hour for name, own in self._tenants.items() if own}
        return [offer for offer in self._offers if free[offer.id] >= gpus or lowest.get(offer.id, limit) < limit]

    def _fitting(self, bid: Bid, *, among: Sequence[Offer], own: bool = False) -> Iterator[Offer]:
        """Those that fit, as the bid sees them; `own`: also those that are its customer's, which come first."""
        mine = [offer for offer in among if bid.customer in offer.terms.own]
        others = [offer for offer in among if bid.customer not in offer.terms.own]
        for offer in (*(mine if own else ()), *others):  # an owner's jobs displace nobody on its machines
            seen = seen_by(offer, bid)
            if fits(seen, bid):
                yield seen

    def _room(self, offer: Offer, bid: Bid) -> int:
        return offer.room_for(bid.customer) - self._let.get((offer.id, bid.customer), 0)

    def _take(self, offer: Offer, bid: Bid) -> None:
        self._free[offer.id] -= bid.requires.gpus
        self._let[offer.id, bid.customer] = self._let.get((offer.id, bid.customer), 0) + bid.requires.gpus

    @staticmethod
    def _pays(bid: Bid, seats: Sequence[Offer], prices: Sequence[int] | None = None) -> bool:
        each = [seat.price_nanos_per_gpu_hour for seat in seats] if prices is None else prices
        rate = bid.running_nanos_per_hour + sum(each) * bid.requires.gpus
        return charge_nanos(rate, 1, bid.cover_ms) <= bid.spendable_nanos


def fits(offer: Offer, bid: Bid) -> bool:
    """Whether a worker of the bid could sit there were a unit free; `offer` as the bid sees it."""
    return all(test(offer, bid) for reason, test in CONSTRAINTS if reason is not Reason.CUSTOMER_LIMIT)
