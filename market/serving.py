"""Who is served, for the most weighted welfare: greedy passes in several orders, then improvement, in counted looks. Pure.

What is maximised is Σ weight · (limit − ask) · hours · GPUs (market/worth.py). Bids that are due come first; where there are
teams, a team's turn comes before everything (market/fair_share.py), and worth decides within a team alone.

1. **Greedy.** Bids by weight × limit × hours; each takes the cheapest seats that are left. Also by what the smallest gang is
   worth, and by limit − its cheapest ask; the best of the three.
2. **Improvement.** For every bid that went empty, the largest worth first: those who sit where it could are lifted, the least
   worth first and of its own team only, until it fits; then it, they and the others of the team are seated again. Kept if the
   sum has grown. Nobody who is due is lifted. Again until nothing grows or the effort is spent.

The result is never below the first greedy pass. Everything is in whole numbers and in an order of its own, so that the order
of the input is nothing and a replay gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from market.book import OrderBook
from market.fair_share import Turns
from market.orders import Bid, Offer, Standing
from market.seating import Seating, worth
from market.wishes import Wishes
from storage.units import charge_nanos
from storage.values import value

MOST_LIFTED: Final = 8
Key = Callable[[Bid], tuple[Any, ...]]


@value
class Served:
    """Who sits where, by job in the order of service; who was not looked at, and whom a quota stops."""

    seats: Mapping[str, Sequence[Offer]]
    looks: int
    not_considered: frozenset[str] = frozenset()
    over_quota: Mapping[str, int] | None = None
    """Units that the team had been granted when its quota stopped the bid."""
    kept_for: str | None = None
    """The job that is due and for which free seats are kept."""
    taken: Mapping[str, int] | None = None
    """GPUs that are taken, or kept for somebody, by offer; offers that are as before are not in it."""


class Auction:
    """One clearing being made. Without `turns` teams have their quotas, and worth alone decides."""

    def __init__(
        self, book: OrderBook, bids: Sequence[Bid], standings: Iterable[Standing], effort: int, turns: bool = True
    ) -> None:
        self.bids = {bid.job: bid for bid in sorted(bids, key=lambda one: one.job)}
        self.standings = {one.team: one for one in standings}
        self.turns = turns and bool(self.standings)
        self.wishes = Wishes(book)
        self.effort = effort
        self._orders: dict[Key, list[Bid]] = {}
        self._passes: dict[tuple[str, ...], tuple[_Pass, int]] = {}

    def serve(self) -> Served:
        """See the module."""
        best = self.pass_by(_by_limit)
        value = least = self.value(best.seats)
        empty = any(job not in best.seats for job in self.bids)
        if len(self.bids) > 1 and empty and best.seats:
            for key in (_by_gang, self._by_surplus()):
                if self.looks < self.effort:
                    other = self.pass_by(key)
                    if (found := self.value(other.seats)) > value:
                        best, value = other, found
            self.improve(best)
        assert self.value(best.seats) >= least
        return Served(
            best.seats, self.looks, frozenset(best.skipped), best.over_quota,
            best.kept_for, best.taken,
        )  # fmt: skip

    @property
    def looks(self) -> int:
        """The effort so far."""
        return self.wishes.looks

    def value(self, seats: Mapping[str, Sequence[Offer]]) -> int:
        return sum(self.bids[job].weight_ppm * worth(self.bids[job], own) for job, own in seats.items())

    def pass_by(self, key: Key) -> _Pass:
        """Everybody once, each on the cheapest seats that are left."""
        if self.turns:
            turns = Turns(self.bids.values(), self.standings.values(), key)
            return self._pass(turns, turns)
        order = self._in_order(key)
        names = tuple(bid.job for bid in order)
        if names in self._passes:  # another order came to the same: what it would come to is known, and what it would take
            state, again = self._passes[names]
            if self.looks + again <= self.effort:
                self.wishes.looks += again
                return state
        looks, found = self.looks, self.wishes.found_looks
        state = self._pass(order)
        self._passes[names] = state, self.looks - looks - (self.wishes.found_looks - found)
        return state

    def _in_order(self, key: Key) -> list[Bid]:
        found = self._orders.get(key)
        if found is None:
            found = self._orders[key] = sorted(self.bids.values(), key=key)
        return found

    def _pass(self, order: Iterable[Bid], turns: Turns | None = None) -> _Pass:
        state, wishes = _Pass(self.wishes, self.standings), self.wishes
        for asked in order:
            if wishes.looks >= self.effort:
                state.skipped.add(asked.job)
                continue
            wishes.looks += 1
            bid = state.cut(asked)
            if bid is None:
                state.over_quota[asked.job] = state.granted[asked.team]
                continue
            seats = state.place(bid)
            if seats is not None:
                state.take(bid, seats)
                if turns is not None:
                    turns.granted(bid, len(seats) * bid.requires.gpus)
            elif bid.due and state.kept_for is None and wishes.has_room_for(bid):
                state.kept_for = bid.job
                state.keep_for(bid)
        return state

    def improve(self, state: _Pass) -> None:
        """Make room for bids that went empty, as long as that is worth it."""
        worth_now, grown = self.value(state.seats), True
        vain = self._looks_in_vain(state)
        while grown and self.looks < self.effort:
            grown = False
            for bid in [one for one in self._in_order(_by_gang) if one.job not in state.seats and one.job != state.kept_for]:
                if self.looks >= self.effort:
                    return
                if bid.job not in state.seats and bid.job not in state.skipped:
                    before, worth_now = worth_now, self._make_room(state, bid, worth_now, vain)
                    if worth_now > before:
                        grown, vain = True, self._looks_in_vain(state)

    def _looks_in_vain(self, state: _Pass) -> int | None:
        """How many looks it takes to find out of all that went empty that they still cannot be seated, all of their offers each.
        None: not known, since it is not free seats alone that decides (owners' terms, teams, money that does not pay them)."""
        if self.turns or not self.wishes.is_for_all:
            return None
        looks = 0
        for job, bid in self.bids.items():
            if job not in state.seats and job not in state.skipped and job != state.kept_for:
                wish = self.wishes.of(bid)
                if wish.ids is None or not _pays_all(bid):
                    return None
                looks += wish.reach
        return looks

    def _make_room(self, state: _Pass, bid: Bid, worth_before: int, vain: int | None) -> int:
        """What all seats are worth after it, at least as much as before. `vain`: see `_looks_in_vain`."""
        places = self.wishes.all_of(bid)
        sitting = [
            other
            for job, seats in state.seats.items()
            if not (other := self.bids[job]).due and (not self.turns or other.team == bid.team) and not places.isdisjoint([seat.id for seat in seats])
        ]
        if not sitting:
            return worth_before
        seats_before, taken_before = dict(state.seats), dict(state.taken)
        least_first = sorted(sitting, key=lambda one: (one.weight_ppm * worth(one, state.seats[one.job]), one.job))
        lifted: list[Bid] = []
        for other in least_first[:MOST_LIFTED]:
            state.lift(other)
            lifted.append(other)
            if state.seat(bid):
                break
        if bid.job in state.seats:
            self._seat_others(state, bid, lifted, vain if vain is not None and _no_freer(state.taken, taken_before) else None)
            worth_now = self.value(state.seats)
            if worth_now > worth_before:
                return worth_now
        for job in list(state.seats):
            if state.seats[job] is not seats_before.get(job):
                state.lift(self.bids[job])
        for job, kept in seats_before.items():
            if job not in state.seats:
                state.take(self.bids[job], kept)
        return worth_before

    def _seat_others(self, state: _Pass, bid: Bid, lifted: list[Bid], vain: int | None) -> None:
        """Let everybody else try again, now that the bid sits. `vain`: those who went empty before would in vain, with so many
        looks, the bid's own among them; only who was lifted may find room elsewhere."""
        if vain is not None:
            self.wishes.looks += vain - self.wishes.of(bid).reach
            for one in sorted(lifted, key=_by_limit):
                state.seat(one)
            return
        nobody = {*state.seats, *state.skipped, state.kept_for}
        for one in self._in_order(_by_limit):
            if one.job not in nobody and (not self.turns or one.team == bid.team):
                state.seat(one)

    def _by_surplus(self) -> Key:
        wishes = self.wishes

        def key(bid: Bid) -> tuple[Any, ...]:
            cheapest = wishes.cheapest(bid)
            ask = bid.max_price_nanos_per_gpu_hour if cheapest is None else cheapest.price_nanos_per_gpu_hour
            gain = (bid.max_price_nanos_per_gpu_hour - ask) * bid.expected_ms * bid.weight_ppm
            return _first(bid, -gain)

        return key


def _pays_all(bid: Bid) -> bool:
    """Whether money is nothing to it: it could pay its largest gang at its limit."""
    dearest = bid.max_price_nanos_per_gpu_hour * bid.requires.gpus * bid.workers_max
    return charge_nanos(bid.running_nanos_per_hour + dearest, 1, bid.cover_ms) <= bid.spendable_nanos


def _no_freer(taken: Mapping[str, int], before: Mapping[str, int]) -> bool:
    """Whether no offer has more room than before."""
    return all(taken[offer] >= gpus for offer, gpus in before.items())


class _Pass(Seating):
    """Seats, and who did not get any for another reason than that there were too few."""

    __slots__ = ("kept_for", "over_quota", "skipped")

    def __init__(self, wishes: Wishes, standings: Mapping[str, Standing]) -> None:
        super().__init__(wishes, standings)
        self.skipped: set[str] = set()
        self.over_quota: dict[str, int] = {}
        self.kept_for: str | None = None


def _first(bid: Bid, key: int) -> tuple[Any, ...]:
    """Due bids first, the longest waiting of them before the others; then by `key`; ties by submission."""
    return (not bid.due, bid.waits_since_ms if bid.due else key, bid.submitted_ms, bid.job)


def _by_limit(bid: Bid) -> tuple[Any, ...]:
    return _first(bid, -bid.weight_ppm * bid.max_price_nanos_per_gpu_hour * bid.expected_ms)


def _by_gang(bid: Bid) -> tuple[Any, ...]:
    size = max(1, bid.workers_min) * bid.requires.gpus
    return _first(bid, -bid.weight_ppm * bid.max_price_nanos_per_gpu_hour * bid.expected_ms * size)
