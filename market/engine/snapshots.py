"""A live market's snapshot as the engine's arrays, and the engine's seats as what the market says of a clearing.

Offers whose attributes are equal as far as any bid can tell stand in one bucket (`Class`); a bid's list are the buckets that
suit it, of which its customer's own cost it nothing. What differs from offer to offer or from pair to pair is checked in the
loops: price, reliability, how long the machine stays, what an owner lets to one customer, and offers that a bid may not have.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from market.book import OrderBook
from market.clearing import ENGINE, Clearing, Match
from market.engine.arrays import (
    FAR,
    HELD,
    UNBOUNDED,
    Arrays,
    Group,
    Wholes,
    group_arrays,
    job_arrays,
    offer_arrays,
    ranks,
    reals,
    up,
    wholes,
)  # fmt: skip
from market.engine.memory import Memory, resumed
from market.engine.solve import DEFAULT_SEED, default_budget, solve_arrays
from market.orders import LEAST_STAY_MS, PPM, Bid, BookSnapshot, Offer, Standing
from market.seating import worth
from market.serving import Auction, Served
from storage.units import MS_PER_HOUR

MOST_GPUS = 100_000
MOST_MS = 2**50


@dataclass(frozen=True, slots=True)
class Seated:
    """Who sits where: for each job one offer for each worker, as its customer sees it, cheapest first (as `Match.offers`).

    Args:
        taken: GPUs of each offer that somebody got.
        looks: the effort that was spent.
        bound: no clearing's Σ weight · (limit − ask) · hours · GPUs is above it, in nano-dollars; None where not asked for.
        memory: what the next clearing may begin with.
    """

    seats: Mapping[str, tuple[Offer, ...]]
    taken: Mapping[str, int]
    looks: int
    bound: float | None
    memory: Memory


def seat_snapshot(
    snapshot: BookSnapshot,
    budget: int | None = None,
    memory: Memory | None = None,
    *,
    seed: int = DEFAULT_SEED,
    bound: bool = False,
) -> Seated:
    """Seat the bids of a snapshot with an effort of `budget` million looks, for the most weighted welfare.

    Every seat meets `market.clearing.CONSTRAINTS`, every gang `covers`, and no team gets more than its quota. The order of
    the snapshot is nothing; the same snapshot, budget, memory and seed give the same bits.
    """
    view = _View(snapshot.offers if snapshot.book is None else tuple(snapshot.book), snapshot.bids, snapshot.standings)
    effort = default_budget(view.arrays) if budget is None else budget
    before = None if memory is None else resumed(view.arrays, view.offer_ids, view.bid_ids, memory)
    solved = solve_arrays(view.arrays, effort, seed, bound=bound, before=before)
    jobs, places, gpus, owned = solved.seating.seated()
    seats: dict[str, list[Offer]] = {}
    for job, place, count, mine in zip(jobs.tolist(), places.tolist(), gpus.tolist(), owned.tolist(), strict=True):
        bid, offer = view.bids[job], view.offers[place]
        one = offer.seen_by(bid.customer) if mine else offer
        seats.setdefault(bid.job, []).extend([one] * (count // bid.requires.gpus))
    found = {
        job: tuple(sorted(gang, key=lambda one: (one.price_nanos_per_gpu_hour, one.id))) for job, gang in seats.items()
    }
    left_over = solved.seating.free[0].tolist()
    taken = {
        one.id: one.gpus_free - left for one, left in zip(view.offers, left_over, strict=True) if left < one.gpus_free
    }
    looks = int(solved.seating.looks[0])
    proven = None if solved.bound is None else up(solved.bound / MS_PER_HOUR)
    left = Memory(view.offer_ids, solved.prices, view.bid_ids, solved.budget_prices, np.stack((jobs, places, gpus)))
    return Seated(found, taken, looks, proven, left)


def serve_snapshot(snapshot: BookSnapshot, book: OrderBook, effort: int, budget: int) -> Served:
    """Who is served, as `market.clearing` asks: bids that are due as small books serve them, first; the engine the rest.

    `effort` bounds the looks for bids that are due, `budget` the engine's own, in millions.
    """
    due = tuple(bid for bid in snapshot.bids if bid.due)
    first = Auction(book, due, snapshot.standings, effort, turns=False).serve() if due else Served({}, 0)
    rest = tuple(bid for bid in snapshot.bids if not bid.due)
    standings = tuple(_after(one, snapshot.bids, first) for one in snapshot.standings)
    found = seat_snapshot(BookSnapshot(_left(book, due, first), rest, standings), budget)
    taken = dict(first.taken or {})
    for name, gpus in found.taken.items():
        taken[name] = taken.get(name, 0) + gpus
    return Served(
        {**first.seats, **found.seats},
        first.looks + found.looks,
        first.not_considered,
        first.over_quota,
        first.kept_for,
        taken,
    )


def clear_snapshot(
    snapshot: BookSnapshot, budget: int | None = None, memory: Memory | None = None
) -> tuple[Clearing, Memory]:
    """The snapshot's bids seated by the engine alone, each at the ask; and what the next clearing may begin with.

    Nobody is due here and nobody told why it got nothing: `market.clearing.clear` with the algorithm ENGINE sees to both.
    """
    found = seat_snapshot(snapshot, budget, memory)
    bids = {bid.job: bid for bid in snapshot.bids}
    matches = tuple(
        Match(
            job,
            tuple(one.id for one in gang),
            bids[job].requires.gpus,
            tuple(one.price_nanos_per_gpu_hour for one in gang),
        )
        for job, gang in sorted(found.seats.items())
    )
    welfare = sum(worth(bids[job], gang) for job, gang in found.seats.items()) // MS_PER_HOUR
    return Clearing(matches, (), ENGINE, looks=found.looks, welfare_nanos=welfare), found.memory


def _left(book: OrderBook, due: Sequence[Bid], first: Served) -> tuple[Offer, ...]:
    """What is left for the others."""
    if not first.taken:
        return tuple(book)
    units: dict[str, dict[str, int]] = {}
    for bid in due:
        for seat in first.seats.get(bid.job, ()):
            of = units.setdefault(seat.id, {})
            of[bid.customer] = of.get(bid.customer, 0) + bid.requires.gpus
    found = []
    for offer in book:
        gone = first.taken.get(offer.id, 0)
        if gone:
            more = units.get(offer.id, {})
            held = {name: offer.units_of.get(name, 0) + more.get(name, 0) for name in {*offer.units_of, *more}}
            found.append(replace(offer, gpus_free=offer.gpus_free - gone, units_of=held))
        else:
            found.append(offer)
    return tuple(found)


def _after(standing: Standing, bids: Sequence[Bid], first: Served) -> Standing:
    """The team with what its due bids got."""
    got = sum(
        len(first.seats.get(bid.job, ())) * bid.requires.gpus for bid in bids if bid.due and bid.team == standing.team
    )
    return replace(standing, units=standing.units + got)


class _View:
    """Offers and bids that can match at all, in the order of the arrays."""

    def __init__(self, listed: Sequence[Offer], asking: Sequence[Bid], standings: Sequence[Standing]) -> None:
        offers = [offer for offer in listed if offer.matchable and offer.gpus_free > 0]
        bids = sorted((bid for bid in asking if _could_be(bid)), key=lambda one: one.job)
        teams = {one.team: one for one in standings}
        classes = _Classes(offers, bids)
        columns: dict[str, Any] = {
            "price": reals([offer.price_nanos_per_gpu_hour for offer in offers]),
            "gpus": wholes([min(offer.gpus_free, MOST_GPUS) for offer in offers]),
            "reliability": reals([offer.reliability for offer in offers]),
            "max_hours": reals([FAR if one.stays_ms is None else min(one.stays_ms, MOST_MS) for one in offers]),
        }
        until = sorted({_until_ms(bid) for bid in bids}) if any(one.closes_ms is not None for one in offers) else []
        columns["interconnect"] = _open_ranks(offers, until)
        limited = [offer.terms.max_units_per_customer for offer in offers]
        if any(most is not None for most in limited):
            columns["cap"] = wholes([UNBOUNDED if most is None else most for most in limited])
        region_of = np.zeros(len(classes.examples), dtype=np.int64)
        order, of_offers = offer_arrays(classes.of_offer, region_of, ranks([one.id for one in offers]), columns)
        self.offers = [offers[row] for row in order.tolist()]
        self.offer_ids = [offer.id for offer in self.offers]
        self.bids, self.bid_ids = bids, [bid.job for bid in bids]
        customers = {name: place for place, name in enumerate(sorted({bid.customer for bid in bids}))}
        _hold(of_offers, self.offers, customers)
        of_groups, places = group_arrays(classes.groups)
        of_jobs = job_arrays(classes.of_bid, places, _bid_columns(bids, customers, sorted(teams), until), [])
        of_jobs |= _shut(of_jobs["job"], self.offers, bids)
        of_jobs["team_gpus"] = wholes([
            UNBOUNDED if one.quota_units is None else max(0, one.quota_units - one.units)
            for one in (teams[name] for name in sorted(teams))
        ])  # fmt: skip
        self.arrays = Arrays(**of_offers, **of_groups, **of_jobs)


def _could_be(bid: Bid) -> bool:
    return bid.workers_max >= max(1, bid.workers_min) and bid.spendable_nanos >= 0


def _until_ms(bid: Bid) -> int:
    """Until when a machine must be open for it."""
    return bid.asked_ms + max(bid.lasts_ms, LEAST_STAY_MS)


def _open_ranks(offers: Sequence[Offer], until: Sequence[int]) -> Any:
    """Of how many of these times each offer is still open; it stands in the column that says of files how machines are joined."""
    closes = [FAR if one.closes_ms is None else one.closes_ms for one in offers]
    return np.searchsorted(np.asarray(until, dtype=np.float64), closes, side="right")


def _bid_columns(
    bids: Sequence[Bid], customers: Mapping[str, int], named: Sequence[str], until: Sequence[int]
) -> dict[str, Any]:
    teams = {name: place for place, name in enumerate(named)}
    limit = [bid.max_price_nanos_per_gpu_hour for bid in bids]
    slope = [bid.weight_ppm * bid.expected_ms for bid in bids]
    return {
        "least": wholes([min(max(1, bid.workers_min) * bid.requires.gpus, 2**40) for bid in bids]),
        "most": wholes([min(bid.workers_max, MOST_GPUS) * bid.requires.gpus for bid in bids]),
        "chunk": wholes([bid.requires.gpus for bid in bids]),
        "limit": reals(limit),
        "worth": reals([up(one * each) / PPM for one, each in zip(limit, slope, strict=True)]) * (1.0 + 2.0**-51),
        "slope": reals(slope) / PPM * (1.0 - 2.0**-51),
        "hours": reals([bid.requires.stays_ms for bid in bids]),
        "reliability_min": reals([bid.requires.reliability for bid in bids]),
        "rate_max": wholes([_rate_max(bid) for bid in bids]),
        "interconnect_min": wholes([bisect_left(until, _until_ms(bid)) + 1 if until else 0 for bid in bids]),
        "customer": wholes([customers[bid.customer] for bid in bids]),
        "team": wholes([teams.get(bid.team, -1) for bid in bids]),
    }


def _rate_max(bid: Bid) -> int:
    """The most that its new workers may ask per hour together: the largest that `covers` allows."""
    if bid.cover_ms <= 0:
        return UNBOUNDED - 1
    most = ((bid.spendable_nanos + 1) * MS_PER_HOUR - 1) // bid.cover_ms - bid.running_nanos_per_hour
    return max(-1, min(most, UNBOUNDED - 1))


def _hold(of_offers: dict[str, Any], offers: Sequence[Offer], customers: Mapping[str, int]) -> None:
    """What customers with bids have already of offers whose owner limits that."""
    held: list[tuple[int, int]] = []
    first = []
    for offer in offers:
        first.append(len(held))
        if offer.terms.max_units_per_customer is not None:
            held.extend((customers[name], units) for name, units in sorted(offer.units_of.items()) if name in customers)
    of_offers["offer"]["held_first"], of_offers["offer"]["held_last"] = first, [*first[1:], len(held)][: len(first)]
    of_offers["held"] = np.array(held, dtype=HELD)


def _shut(job: Any, offers: Sequence[Offer], bids: Sequence[Bid]) -> dict[str, Any]:
    """Offers that a bid avoids, or of which its customer has had as many hours today as its owner lets."""
    places = {offer.id: place for place, offer in enumerate(offers)} if any(bid.avoid for bid in bids) else {}
    counted = [
        place
        for place, offer in enumerate(offers)
        if offer.terms.max_unit_ms_per_customer_day is not None and offer.unit_ms_of
    ]
    tired: dict[str, set[int]] = {}
    for customer in sorted({bid.customer for bid in bids}) if counted else ():
        tired[customer] = {place for place in counted if not offers[place].has_hours_for(customer)}
    shut: list[int] = []
    first = []
    for bid in bids:
        first.append(len(shut))
        if bid.avoid or tired.get(bid.customer):
            shut.extend(sorted({places[name] for name in bid.avoid if name in places} | tired.get(bid.customer, set())))
    job["shut_first"], job["shut_last"] = first, [*first[1:], len(shut)][: len(first)]
    return {"shut": wholes(shut)}


class _Classes:
    """Offers in classes that no bid can tell apart but by figures, and for each bid the classes that suit it."""

    def __init__(self, offers: Sequence[Offer], bids: Sequence[Bid]) -> None:
        memories = sorted({bid.requires.vram_gib for bid in bids if bid.requires.vram_gib > 0})
        shares = {bid.requires.share for bid in bids if bid.requires.share is not None}
        owners = {name for bid in bids for name in bid.requires.own}
        customers = {bid.customer for bid in bids}
        steps = np.searchsorted(memories, [offer.vram_gib for offer in offers], side="right").tolist()
        known: dict[Any, int] = {}
        self.examples: list[Offer] = []
        found: list[int] = []
        names: dict[Any, Any] = {}

        def named(values: tuple[str, ...], among: set[Any]) -> Any:
            """Those that anybody asks for; the same tuples come again and again."""
            key = (values, id(among))
            if key not in names:
                names[key] = tuple(sorted(set(values) & among))
            return names[key]

        for offer, step in zip(offers, steps, strict=True):
            terms = offer.terms
            key = (
                offer.gpu, offer.region, step, offer.isolation, offer.network, offer.environments,
                named(offer.shares, shares) if offer.shares else (), offer.provider if offer.provider in owners else "",
                named(terms.own, customers) if terms.own else (), terms.allow and (1, named(terms.allow, customers)),
                named(terms.deny, customers) if terms.deny else (), terms.min_lease_ms, terms.max_lease_ms,
            )  # fmt: skip
            place = known.get(key)
            if place is None:
                place = known[key] = len(self.examples)
                self.examples.append(offer)
            found.append(place)
        order = sorted(known, key=repr)
        renamed = {known[key]: place for place, key in enumerate(order)}
        self.examples = [self.examples[known[key]] for key in order]
        self.of_offer: Wholes = wholes([renamed[one] for one in found])
        self._masks: dict[Any, Any] = {}
        self._told = {name for one in self.examples for name in (*one.terms.own, *one.terms.allow, *one.terms.deny)}
        times = [(one.terms.min_lease_ms, one.terms.max_lease_ms) for one in self.examples]
        self._least = sorted({least for least, _ in times if least is not None})
        self._most = sorted({most for _, most in times if most is not None})
        self._guarded = any(one.terms.allow for one in self.examples)
        signatures: dict[Any, int] = {}
        self.groups: list[list[Group]] = []
        of_bid: list[int] = []
        for bid in bids:
            wants = bid.requires
            customer = bid.customer if bid.customer in self._told else ""
            asks: Any = (
                wants.gpu, wants.vram_gib, wants.region, wants.isolation == "process", wants.share, wants.network,
                wants.environments, wants.own, customer, bisect_right(self._least, max(bid.expected_ms, wants.stays_ms)),
                bisect_left(self._most, bid.lasts_ms),
            )  # fmt: skip
            if asks not in signatures:
                signatures[asks] = len(self.groups)
                self.groups.append(self._suiting(bid, customer, asks[-2:]))
            of_bid.append(signatures[asks])
        self.of_bid: Wholes = wholes(of_bid)

    def _mask(self, key: Hashable, test: Callable[[Offer], bool]) -> Any:
        if key not in self._masks:
            self._masks[key] = np.fromiter(map(test, self.examples), dtype=bool, count=len(self.examples))
        return self._masks[key]

    def _suiting(self, bid: Bid, customer: str, times: tuple[int, int]) -> list[Group]:
        wants, name = bid.requires, bid.customer
        fits = np.ones(len(self.examples), dtype=bool)
        if wants.gpu:
            fits &= self._mask(("gpu", wants.gpu), lambda one: one.gpu in wants.gpu)
        if wants.vram_gib > 0:
            fits &= self._mask(("vram", wants.vram_gib), lambda one: one.vram_gib >= wants.vram_gib)
        if wants.region:
            fits &= self._mask(("region", wants.region), lambda one: one.region in wants.region)
        if wants.isolation != "process":
            fits &= self._mask("isolation", lambda one: one.isolation == "sandbox")
        if wants.network:
            fits &= self._mask("network", lambda one: one.network)
        if wants.environments:
            fits &= self._mask("environments", lambda one: one.environments)
        if wants.share is not None:
            fits &= self._mask(("share", wants.share), lambda one: wants.share in one.shares)
        if wants.own:
            fits &= self._mask(("own", wants.own, name), lambda one: one.belongs_to(name, wants.own))
        told = customer or None  # whose own machines do not bound its jobs
        if times[0] < len(self._least):
            fits &= self._mask(("least", times[0], told), lambda one: one.is_worth_it_for(bid))
        if times[1]:
            fits &= self._mask(("most", times[1], told), lambda one: one.lets_as_long_as(bid))
        owned: frozenset[int] = frozenset()
        if customer:
            fits &= self._mask(("lets", customer), lambda one: one.terms.lets(customer))
            mine = self._mask(("mine", customer), lambda one: customer in one.terms.own)
            owned = frozenset(np.flatnonzero(fits & mine).tolist())
        elif self._guarded:
            fits &= self._mask("open", lambda one: not one.terms.allow)
        return [Group(tuple(np.flatnonzero(fits).tolist()), 0, owned)]
