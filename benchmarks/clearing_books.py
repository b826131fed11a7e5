"""Seeded books in the shape of real ones: asks as listed on a public GPU market in 2026, gangs and hours as in the
Philly trace (2017). The row order of the jobs is the order in which they arrive.

Gang sizes are the trace's, tilted (each size's count times size to a power) until demand over supply is the load that
was asked for; hours are drawn along the trace's quantiles for gangs of that size. The trace has no prices: limits are
the listed price of the wanted model times a lognormal factor (median 1.25, sigma 0.45).
"""

from __future__ import annotations

import numpy as np

from market.engine.book import Book, book_of
from market.engine.columns import JOB_COLUMNS, OFFER_COLUMNS, jobs_of, offers_of

# model, listings, median ask in dollars per GPU-hour, GiB, interconnect of machines with several
MODELS = (
    ("H200", 6, 2.619, 140, 2), ("H100_NVL", 2, 2.173, 94, 1), ("RTX5090", 11, 0.468, 32, 0),
    ("H100_SXM", 5, 1.87, 80, 2), ("RTX6000Ada", 1, 0.37, 48, 0), ("RTX4090", 13, 0.395, 24, 0),
    ("RTX3090", 2, 0.166, 24, 0), ("RTXPRO6000", 1, 1.13, 96, 0), ("A100_SXM4", 4, 0.76, 40, 2),
    ("L40S", 4, 0.6, 45, 0), ("RTX4070STi", 1, 0.18, 16, 0), ("RTXA6000", 2, 0.425, 48, 1),
    ("A100_PCIE", 1, 0.87, 80, 1), ("B200", 2, 4.705, 179, 2), ("V100", 1, 0.106, 16, 2), ("RTX3080", 1, 0.092, 10, 0),
    ("RTX4060Ti", 1, 0.13, 16, 0), ("A40", 2, 0.667, 45, 0), ("RTX3070", 2, 0.48, 8, 0), ("RTX3060", 1, 0.27, 12, 0),
    ("RTX3060Ti", 1, 0.1, 8, 0), ("RTXA2000", 2, 0.666, 12, 0),
)  # fmt: skip
MACHINES = {1: 19, 2: 22, 4: 14, 5: 1, 8: 9, 16: 1}
REGIONS = {"NA": 26, "EU": 20, "AS": 17, "OC": 3}
GANGS = {1: 76_627, 2: 1_818, 4: 1_870, 8: 1_643, 12: 7, 16: 199, 24: 7, 32: 67, 64: 6, 128: 3}
QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
HOURS = {
    1: (0.014, 0.017, 0.034, 0.31, 0.754, 2.364, 5.316, 37.612),
    2: (0.003, 0.004, 0.006, 0.102, 12.632, 46.166, 64.924, 207.966),
    8: (0.035, 0.06, 0.52, 6.579, 48.136, 97.891, 146.009, 296.359),
    9: (0.01, 0.019, 0.157, 5.871, 28.949, 70.156, 123.924, 320.108),
}
LEVELS = ("none", "nvlink", "nvswitch")
Rows = list[list[str]]


def rows_of(offers: int, jobs: int, load: float, seed: int) -> tuple[Rows, Rows]:
    """Rows under the headings of `torg clear`; `load` is the most that all jobs want over all GPUs offered."""
    random = np.random.default_rng([seed, offers, jobs])
    made = [_offer(random, place) for place in range(offers)]
    supply = sum(int(row[4]) for row in made)
    sizes = random.choice(list(GANGS), size=jobs, p=_tilted(load * supply / jobs))
    return made, [_job(random, place, int(size)) for place, size in enumerate(sizes)]


def book(offers: int, jobs: int, load: float, seed: int) -> Book:
    """The same as a book."""
    rows = rows_of(offers, jobs, load, seed)
    return book_of(offers_of(OFFER_COLUMNS, rows[0]), jobs_of(JOB_COLUMNS, rows[1]))


def _tilted(mean: float) -> list[float]:
    sizes, counts = np.asarray(list(GANGS), dtype=float), np.asarray(list(GANGS.values()), dtype=float)
    low, high = -5.0, 10.0
    for _ in range(60):
        weights = counts * sizes ** ((low + high) / 2)
        low, high = ((low + high) / 2, high) if weights @ sizes / weights.sum() < mean else (low, (low + high) / 2)
    return list(weights / weights.sum())


def _pick(random: np.random.Generator, weights: dict[str, int] | dict[int, int]) -> object:
    names, counts = list(weights), np.asarray(list(weights.values()), dtype=float)
    return names[random.choice(len(names), p=counts / counts.sum())]


def _model(random: np.random.Generator) -> tuple[str, int, float, int, int]:
    counts = np.asarray([one[1] for one in MODELS], dtype=float)
    return MODELS[random.choice(len(MODELS), p=counts / counts.sum())]


def _offer(random: np.random.Generator, place: int) -> list[str]:
    name, _, ask, vram, level = _model(random)
    gpus = int(str(_pick(random, MACHINES)))
    return [
        f"o{place:06d}", name, str(vram), f"{ask * random.lognormal(0.0, 0.2):.4f}", str(gpus),
        str(_pick(random, REGIONS)), f"{1 - random.exponential(0.03) % 0.3:.4f}",
        str(random.choice(["", "24", "72", "168", "720"], p=[0.4, 0.1, 0.15, 0.2, 0.15])),
        str(random.choice(["0", "0.5", "2", "8"], p=[0.7, 0.1, 0.1, 0.1])),
        LEVELS[level if gpus > 1 and random.random() < 0.8 else 0],
    ]  # fmt: skip


def _job(random: np.random.Generator, place: int, size: int) -> list[str]:
    wanted = [_model(random) for _ in range(random.choice([1, 2, 3], p=[0.5, 0.3, 0.2]))]
    names = sorted({one[0] for one in wanted})
    any_model = random.random() < 0.05
    hours = _hours(random, size)
    regions = sorted({str(_pick(random, REGIONS)) for _ in range(random.choice([0, 1, 2], p=[0.55, 0.25, 0.2]))})
    elastic = size > 1 and random.random() < 0.5
    least = max(1, size // int(random.choice([2, 4]))) if elastic else size
    level = min(one[4] for one in wanted) if random.random() < 0.2 and not any_model else 0
    return [
        f"j{place:06d}", str(least), str(size), "" if any_model else "|".join(names), "|".join(regions),
        str(random.choice(["", "0.9", "0.95", "0.99"], p=[0.5, 0.2, 0.2, 0.1])),
        f"{max(one[2] for one in wanted) * 1.25 * random.lognormal(0.0, 0.45):.4f}", f"{hours:.4f}",
        f"{hours * random.uniform(1.1, 4) + random.exponential(6):.3f}" if random.random() < 0.6 else "",
        LEVELS[level], "true" if random.random() < 0.3 else "false", "false" if random.random() < 0.1 else "true",
    ]  # fmt: skip


def _hours(random: np.random.Generator, size: int) -> float:
    table = HOURS[1 if size == 1 else 2 if size < 8 else 8 if size == 8 else 9]
    return float(np.exp(np.interp(random.random(), QUANTILES, np.log(table))))
