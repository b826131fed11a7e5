"""How much welfare any clearing of a book could reach at most: a proven bound, for books small enough to list all pairs.

With a price λ ≥ 0 per GPU of each offer beside its ask, Σ GPUs · λ + Σ over bids of what its best gang gains at these prices is
no less than any clearing's welfare, whatever the λ (Lagrange; docs/CLEARING.md). They are moved by subgradient steps in whole
numbers, so the least that was met is exact. Budgets, quotas, turns and owners' limits are left out, which only raises it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from market.book import OrderBook
from market.constraints import fits
from market.orders import Bid
from storage.units import MS_PER_HOUR

MOST_PAIRS: Final = 200_000
STEPS: Final = 80
Gain = list[tuple[int, int, str]]


def bound_nanos(book: OrderBook, bids: Iterable[Bid]) -> int | None:
    """An upper bound of Σ (limit − ask) · hours · GPUs, rounded up to a nano-dollar; None of a book that is too large."""
    wanted = sorted(bids, key=lambda one: one.job)
    if len(wanted) * len(book) > MOST_PAIRS:
        return None
    gains = [_gains(book, bid) for bid in wanted]
    room = {offer: book.get(offer) for gain in gains for _, _, offer in gain}
    capacity = {name: offer.gpus_free for name, offer in room.items() if offer is not None}
    prices = dict.fromkeys(capacity, 0)
    best: int | None = None
    size = max((value for gain in gains for value, _, _ in gain), default=0) // 4
    for step in range(STEPS):
        total = sum(capacity[name] * price for name, price in prices.items())
        used = dict.fromkeys(capacity, 0)
        for bid, gain in zip(wanted, gains, strict=True):
            total += _answer(bid, gain, prices, used)
        best = total if best is None else min(best, total)
        move = size // (step + 1)
        for name, price in prices.items():
            over = used[name] - capacity[name]
            prices[name] = max(0, price + (move if over > 0 else -move if over < 0 else 0))
    return -(-(best or 0) // MS_PER_HOUR)


def _gains(book: OrderBook, bid: Bid) -> Gain:
    """What a GPU of each fitting offer gains for the whole time, how many workers it has room for, and its id."""
    found: Gain = []
    own = set(book.own(bid.customer))
    names = (*own, *(one.id for one in book.cheapest_free(bid.requires) if one.id not in own))
    for name in names:
        offer = book.get(name)
        if offer is not None and fits(offer.seen_by(bid.customer), bid):
            ask = offer.seen_by(bid.customer).price_nanos_per_gpu_hour
            gain = (bid.max_price_nanos_per_gpu_hour - ask) * bid.expected_ms
            found.append((gain, offer.free_for(bid.customer) // bid.requires.gpus, name))
    return found


def _answer(bid: Bid, gains: Gain, prices: dict[str, int], used: dict[str, int]) -> int:
    """What the bid's best gang gains at these prices; notes what it uses."""
    gpus, least = bid.requires.gpus, max(1, bid.workers_min)
    total, seated = 0, 0
    taken: list[tuple[str, int]] = []
    for value, room, name in sorted(((gain - prices[one], room, one) for gain, room, one in gains), reverse=True):
        most = bid.workers_max if value > 0 else least
        workers = min(room, most - seated)
        if workers <= 0:
            break
        total += value * workers * gpus
        seated += workers
        taken.append((name, workers * gpus))
    if seated < least or total <= 0:
        return 0
    for name, count in taken:
        used[name] += count
    return total
