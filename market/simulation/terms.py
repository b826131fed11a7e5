"""How a trace is played, and what that means for a run of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from market.outcomes import Settings
from market.worth import DueRule
from storage.units import MS_PER_HOUR, MS_PER_MINUTE

RESTART_MS: Final = MS_PER_MINUTE
"""What starting costs a job that lost a worker."""
INTERRUPTIBLE_SAVE_MS: Final = MS_PER_HOUR
"""How often an interruptible job saves, or more often if all do."""
FOREVER_MS: Final = 10**15
_MANY: Final = 10**9


@dataclass(frozen=True, slots=True)
class Terms:
    """How a trace is played. `save_ms`: how often a running job makes its work durable, where it could be lost; `clear_ms`:
    how often the market clears, when something has changed; `horizon_ms`: when the simulation ends, whatever is still open;
    `window_ms`: when the last job comes; `outlook_every`: of every so many jobs one looks at its plan first (0: none);
    `interruptible`: whether any job is; `due_rule`: from when on a job that waits goes before others."""

    seed: int = 1
    fee_ppm: int = 50_000
    clear_ms: int = MS_PER_MINUTE
    save_ms: int = 6 * MS_PER_HOUR
    horizon_ms: int = FOREVER_MS
    window_ms: int = 0
    price_rule: str = "ask"
    outlook_every: int = 0
    interruptible: bool = False
    due_rule: DueRule = field(default_factory=DueRule)


def settings_of(terms: Terms) -> Settings:
    """The exchange's settings: no limit is met, and silence is no sign of death, since nobody polls for months;
    machines say when they go."""
    return Settings(
        fee_ppm=terms.fee_ppm, offer_timeout_ms=FOREVER_MS, start_timeout_ms=FOREVER_MS, silence_timeout_ms=FOREVER_MS,
        run_silence_ms=FOREVER_MS, pause_timeout_ms=FOREVER_MS, max_members=_MANY, max_offers=_MANY,
        max_open_jobs=_MANY, max_open_jobs_per_customer=_MANY, max_live_leases=_MANY,
    )  # fmt: skip
