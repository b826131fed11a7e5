"""A year of a market's transfers by a seed, in the journal's own format: what benchmarks/queries.py asks about."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from storage.journal import Journal
from storage.records import encode_record
from storage.transfer_batches import MAX_BATCH, TransferBatch
from storage.transfers import Transfer, earnings, escrow, wallet

CUSTOMERS: Final = 1_000
PROVIDERS: Final = 100
BEGAN_MS: Final = 1_735_689_600_000
YEAR_MS: Final = 365 * 86_400_000
MONTH_MS: Final = YEAR_MS // 12
_CENT: Final = 10_000_000


def write_year(journal: Path, transfers: int, seed: int) -> int:
    """Write the journal, a packed record for each MAX_BATCH of them; how many bytes it has."""
    records = -(-transfers // MAX_BATCH)
    rows = _transfers(random.Random(seed))
    with Journal.open(journal) as made:
        for number in range(records):
            n = min(MAX_BATCH, transfers - number * MAX_BATCH)
            batch = TransferBatch.of(next(rows) for _ in range(n))
            at_ms = BEGAN_MS + number * YEAR_MS // records
            made.append([encode_record(at_ms, [{"type": "transfers", "batch": batch}])])
    return sum(path.stat().st_size for path in journal.glob("*.journal"))


def _transfers(draw: random.Random) -> Iterator[Transfer]:
    """Customers' jobs one after the other: deposits, a hold, charges with a fee now and then, and the rest released."""
    job = 0
    while True:
        job += 1
        owner, name = wallet(f"c{draw.randrange(CUSTOMERS)}"), f"job-{job:06d}"
        held = escrow(name)
        charges = [draw.randrange(_CENT, 100 * _CENT) for _ in range(draw.randrange(5, 60))]
        budget = sum(charges) * 2
        for part in range(8):
            yield Transfer(f"{name}-in{part}", "deposit", "world", owner, budget // 8 + 1)
        yield Transfer(f"{name}-hold", "hold", owner, held, budget, name)
        left = budget
        for number, amount in enumerate(charges):
            lease = f"{name}-l{number % 4}"
            yield Transfer(f"{name}-c{number}", "charge", held, earnings(f"p{draw.randrange(PROVIDERS)}"), amount, name, lease)
            left -= amount
            if number % 4 == 3:
                yield Transfer(f"{name}-f{number}", "fee", held, "fee", amount // 20 + 1, name, lease)
                left -= amount // 20 + 1
        yield Transfer(f"{name}-rest", "release", held, owner, left, name)
