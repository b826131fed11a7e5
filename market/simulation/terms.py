"""How a trace is played, and what that means for a run of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from storage.units import MS_PER_HOUR, MS_PER_MINUTE

RESTART_MS: Final = MS_PER_MINUTE
"""What starting costs a job that lost a worker."""
FOREVER_MS: Final = 10**15


@dataclass(frozen=True, slots=True)
class Terms:
    """How a trace is played. `save_ms`: how often a running job makes its work durable, where it could be lost; `clear_ms`:
    how often the market clears, when something has changed; `horizon_ms`: when the simulation ends, whatever is still open;
    `window_ms`: when the last job comes."""

    seed: int = 1
    fee_ppm: int = 50_000
    clear_ms: int = MS_PER_MINUTE
    save_ms: int = 6 * MS_PER_HOUR
    horizon_ms: int = FOREVER_MS
    window_ms: int = 0
    price_rule: str = "ask"
