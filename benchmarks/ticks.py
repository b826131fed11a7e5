"""What a tick of the exchange costs where many offers are listed: their providers live, and nearly none has anything to do.

    python -m benchmarks.ticks --json

An `Exchange` without journal and HTTP. Each provider is heard of every three to five seconds, a tick passes every half second, as
in the live market. In the same run every other tick looks at every offer, as after a start: `ratio` is how much more that
takes at the median. CPU seconds, without what the signs of life themselves take.
"""

from __future__ import annotations

import random
import statistics
import time

from benchmarks.report import finish, parser
from market.commands import AddMember, Heard, OpenMarket, PlaceOffer, Tick
from market.exchange import Exchange, Settings
from market.owner_terms import OwnerTerms

TICK_MS = 500
NIGHTS = OwnerTerms(prices=(("22:00-06:00", 200_000_000),), zone="Europe/Berlin")
SUNDAYS = OwnerTerms(maintenance=("02:00-06:00 sun",))


def market_of(offers: int, source: random.Random) -> Exchange:
    """One in ten asks another price at night, one in ten has maintenance."""
    exchange = Exchange(Settings(max_offers=offers, max_offers_per_provider=offers))
    exchange.step(OpenMarket("square", "1"), 0)
    exchange.step(AddMember("p", "provider", "0" * 64, "market"), 0)
    for number in range(offers):
        terms = {0: NIGHTS, 1: SUNDAYS}.get(number % 10, OwnerTerms())
        price = source.randint(10**8, 2 * 10**9)
        exchange.step(PlaceOffer(
            id=f"o{number}", name=f"o{number}", gpu="H100", gpus=8, vram_gib=80.0, region="eu", price_nanos_per_gpu_hour=price,
            floor_price_nanos_per_gpu_hour=None, isolation="sandbox", measured={}, shares=(), node="n",
            versions={"python": "3.11", "ray": "2.60", "torg": "0.1"}, by="p", terms=terms,
        ), 0)  # fmt: skip
    return exchange


def ticks(exchange: Exchange, offers: int, count: int, source: random.Random) -> dict[str, list[float]]:
    """Milliseconds of CPU of each tick, in turn: those that look at whom they must, and those that look at everybody."""
    due_ms = [source.randrange(5_000) for _ in range(offers)]
    took: dict[str, list[float]] = {"due": [], "everybody": []}
    for number in range(count):
        now_ms = 10 + TICK_MS * number
        for place, due in enumerate(due_ms):
            if due <= now_ms:
                exchange.step(Heard(f"o{place}", "p"), now_ms)
                due_ms[place] = now_ms + source.randint(3_000, 5_000)
        everybody = number % 20 == 19
        if everybody and hasattr(exchange._volatile, "agenda"):
            exchange._volatile.agenda = None
        began = time.process_time()
        exchange.step(Tick(random=1 + number), now_ms)
        spent = 1_000 * (time.process_time() - began)
        if number > 40 and number % 20 != 0:  # the first of a life, and the one after everybody, are not as the others
            took["everybody" if everybody else "due"].append(spent)
    return took


def main() -> int:
    """See the module."""
    options = parser(__doc__)
    options.add_argument("--offers", type=int, default=20_000)
    options.add_argument("--ticks", type=int, default=300)
    options.add_argument("--seed", type=int, default=1)
    asked = options.parse_args()
    source = random.Random(asked.seed)
    took = ticks(market_of(asked.offers, source), asked.offers, asked.ticks, source)
    found = {f"{name}_ms": round(statistics.median(each), 3) for name, each in took.items()}
    found |= {f"{name}_mean_ms": round(statistics.fmean(each), 3) for name, each in took.items()}
    found["ratio"] = round(found["everybody_ms"] / found["due_ms"], 1)
    return finish(found, {}, asked.json, {"offers": asked.offers, "ticks": asked.ticks})


if __name__ == "__main__":
    raise SystemExit(main())
