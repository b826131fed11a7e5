"""What saying something else than the truth gains, by price rule: single agents in random books of one class.

    python -m benchmarks.misreporting --books 400 --json

Each book has `--machines` machines of one GPU with costs uniform in 0.2 to 1.0 USD per GPU-hour and `--jobs` jobs of one
worker and one hour with values uniform in 0.3 to 1.5. One customer and one provider of each book are drawn; each is
cleared with what is true and with nine other reports, its truth times 0.5 to 0.95 (a customer) or 1.05 to 2 (a provider),
everybody else telling the truth. A report's gain is what it changes of (value − price), or of (price − cost). Regret is the
gain of the best report in hindsight, which nobody has; `habit` is the mean gain of the one factor that is best on average.
All in USD per book and agent; `welfare_share` is what the rule keeps of the welfare under `ask`. The same seed gives the
same figures.
"""

import argparse
import json
import random
from dataclasses import replace

from market.clearing import clear
from market.orders import Bid, BookSnapshot, Offer, Requirements
from market.price_rules import PRICE_RULES
from storage.units import NANOS_PER_USD

LOWER = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98)
HIGHER = (1.02, 1.05, 1.1, 1.15, 1.2, 1.3, 1.5, 1.75, 2.0)


def book(rng: random.Random, machines: int, jobs: int) -> BookSnapshot:
    """Truthful offers and bids."""
    offers = tuple(
        Offer(f"o{n:03d}", "p", "T4", 1, 1, 16.0, "eu", 0.99, "process", round(rng.uniform(0.2, 1.0) * NANOS_PER_USD))
        for n in range(machines)
    )
    bids = tuple(
        Bid(f"j{n:03d}", n, 1, 1, Requirements(), round(rng.uniform(0.3, 1.5) * NANOS_PER_USD), 10**12) for n in range(jobs)
    )
    return BookSnapshot(offers, bids)


def customers_gain(snapshot: BookSnapshot, place: int, factor: float) -> int:
    """(value − price) of one customer that says `factor` times its value."""
    bid = snapshot.bids[place]
    said = replace(bid, max_price_nanos_per_gpu_hour=round(bid.max_price_nanos_per_gpu_hour * factor))
    bids = (*snapshot.bids[:place], said, *snapshot.bids[place + 1 :])
    found = clear(replace(snapshot, bids=bids), reasons=False)
    paid = [match.prices_nanos_per_gpu_hour[0] for match in found.matches if match.job == bid.job]
    return bid.max_price_nanos_per_gpu_hour - paid[0] if paid else 0


def providers_gain(snapshot: BookSnapshot, place: int, factor: float) -> int:
    """(price − cost) of one provider that asks `factor` times its cost."""
    offer = snapshot.offers[place]
    said = replace(offer, price_nanos_per_gpu_hour=round(offer.price_nanos_per_gpu_hour * factor))
    offers = (*snapshot.offers[:place], said, *snapshot.offers[place + 1 :])
    found = clear(replace(snapshot, offers=offers), reasons=False)
    paid = [match.prices_nanos_per_gpu_hour[0] for match in found.matches if match.offers[0] == offer.id]
    return paid[0] - offer.price_nanos_per_gpu_hour if paid else 0


def measure(rule: str, books: int, machines: int, jobs: int, seed: int) -> dict[str, float]:
    """What the truth gains, what the best report in hindsight adds, what the best habit adds, and the welfare that is kept."""
    rng = random.Random(seed)
    told: dict[str, list[list[int]]] = {"customer": [], "provider": []}
    welfare = best = 0
    for _ in range(books):
        snapshot = replace(book(rng, machines, jobs), price_rule=rule)
        welfare += clear(snapshot, reasons=False).welfare_nanos
        best += clear(replace(snapshot, price_rule="ask"), reasons=False).welfare_nanos
        one, other = rng.randrange(jobs), rng.randrange(machines)
        told["customer"].append([customers_gain(snapshot, one, factor) for factor in (1.0, *LOWER)])
        told["provider"].append([providers_gain(snapshot, other, factor) for factor in (1.0, *HIGHER)])
    answer: dict[str, float] = {"welfare_share": round(welfare / best, 4)}
    for who, rows in told.items():
        truth = sum(row[0] for row in rows)
        gains = [sum(row[place] for row in rows) - truth for place in range(1, len(rows[0]))]
        answer[f"{who}_truth_usd"] = round(truth / books / NANOS_PER_USD, 4)
        answer[f"{who}_regret_usd"] = round(sum(max(row) - row[0] for row in rows) / books / NANOS_PER_USD, 4)
        answer[f"{who}_habit_usd"] = round(max(gains) / books / NANOS_PER_USD, 4)
    return answer


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--books", type=int, default=400)
    parser.add_argument("--machines", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON line, as always")
    asked = parser.parse_args()
    found = {rule: measure(rule, asked.books, asked.machines, asked.jobs, asked.seed) for rule in PRICE_RULES}
    print(json.dumps({"benchmark": "misreporting", "books": asked.books, "machines": asked.machines, "jobs": asked.jobs, "seed": asked.seed, "rules": found}))  # fmt: skip


if __name__ == "__main__":
    main()
