"""How long those who got seats had waited, and those who got none have (market/waits.py), of jobs from files."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from market.engine.columns import NANOS, Jobs
from market.waits import Wait, waits_view


def waits_of(jobs: Jobs, served: Collection[int]) -> dict[str, Any]:
    """In hours; `served` are rows."""
    found = [
        Wait(gpus, team, waited, row in served)
        for row, (gpus, team, waited) in enumerate(zip(jobs.gpus_max, jobs.team, jobs.waited, strict=True))
    ]
    return waits_view(found, "hours", NANOS)
