"""A small trace of the Philly trace's shape, and a few machines: synthetic, from a seed."""

from __future__ import annotations

import random

from market.simulation.supply import Machine
from market.simulation.trace import BareJob, Churn, TraceJob

HOUR_MS = 3_600_000
USD = 10**9
MACHINES = [
    Machine("m1", "", "A100", 4, 40.0, "eu", 80 * USD // 100),
    Machine("m2", "", "A100", 2, 40.0, "us", 70 * USD // 100),
    Machine("m3", "", "RTX4090", 8, 24.0, "eu", 40 * USD // 100),
    Machine("m4", "", "RTX3060", 1, 12.0, "eu", 10 * USD // 100),
    Machine("m5", "", "H100", 8, 80.0, "us", 200 * USD // 100),
]
CHURN = [
    Churn(0, True, "a"), Churn(0, True, "b"), Churn(3 * HOUR_MS, False, "a"), Churn(4 * HOUR_MS, True, "c"),
    Churn(9 * HOUR_MS, False, "b"), Churn(10 * HOUR_MS, True, "d"), Churn(12 * HOUR_MS, False, "c"),
]  # fmt: skip


def philly_like(jobs: int, seed: int = 7, tenants: str = "abc") -> list[BareJob]:
    """Mostly single GPUs, a few gangs, times over four orders of magnitude."""
    source, at, found = random.Random(seed), 0, []
    for number in range(jobs):
        at += int(source.expovariate(1 / 600_000))
        gpus = source.choices([1, 2, 4, 8, 16], [80, 8, 6, 4, 2])[0]
        duration = max(1_000, int(1_000 * source.lognormvariate(8.0, 1.6)))
        found.append(BareJob(f"job-{number + 1}", source.choice(tenants), at, duration, gpus))
    return found


def job(name: str, *, at_h: float = 0, hours: float = 1, gpus: int = 1, least: int | None = None, usd: float = 1.0, **more: object) -> TraceJob:
    """A job in short words: of tenant `t`, for any machine."""
    ms = round(hours * HOUR_MS)
    fields: dict[str, object] = {
        "tenant": "t", "interruptible": False, "models": (), "regions": (), "vram_gib": 0.0, "estimate_ms": ms, "patience_ms": None,
    } | more  # fmt: skip
    return TraceJob(
        id=name, submitted_ms=round(at_h * HOUR_MS), duration_ms=ms, gpus_min=gpus if least is None else least, gpus_max=gpus,
        limit_nanos=round(usd * USD), **fields,  # type: ignore[arg-type]
    )  # fmt: skip
