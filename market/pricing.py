"""What is paid: the ask of the offer, a fee out of it, and how long an escrow lasts. Integer nano-dollars."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from market.leases import Lease
from storage.units import charge_nanos, fee_total

PAUSE_FLOOR_MS = 5_000
FIRST_COVER_MS = 60_000
BUDGET_PERCENTS: Final = (50, 80, 100)


def fee_step(charged_before_nanos: int, charged_after_nanos: int, fee_ppm: int) -> int:
    """The market's part of a charge that brings a lease's total from one sum to the other."""
    return fee_total(charged_after_nanos, fee_ppm) - fee_total(charged_before_nanos, fee_ppm)


def pause_window_ms(last_round_ms: int) -> int:
    """A job pauses when its escrow lasts no longer than this: two rounds, or five seconds."""
    return max(2 * last_round_ms, PAUSE_FLOOR_MS)


def rate_nanos_per_hour(leases: Iterable[Lease]) -> int:
    return sum(lease.rate_nanos_per_hour for lease in leases)


def spendable_nanos(escrow_nanos: int, leases: Iterable[Lease]) -> int:
    """The escrow less what the leases have metered or committed and not yet paid; may be negative."""
    return escrow_nanos - sum(map(reserved_nanos, leases))


def reserved_nanos(lease: Lease) -> int:
    """What may still be charged for the lease: of a live one all it metered and what of that is in question, of an ended one
    its committed rounds, and what is kept for a dispute."""
    if lease.live:
        return lease.nanos_at(max(lease.metered_ms, lease.claimed_ms)) - lease.charged_nanos
    return lease.nanos_at(max([lease.charged_ms, *(ms for _, ms in lease.committed)])) - lease.charged_nanos + lease.held_nanos


def budget_percent(used_nanos: int, budget_nanos: int) -> int:
    """The highest of BUDGET_PERCENTS that `used_nanos` has come to; 0 below the first, and of no budget."""
    if not budget_nanos:
        return 0
    reached = 0
    for percent in BUDGET_PERCENTS:
        if used_nanos * 100 >= percent * budget_nanos:
            reached = percent
    return reached


def must_pause(escrow_nanos: int, leases: list[Lease], last_round_ms: int) -> bool:
    """Whether the escrow no longer pays the living leases for the pause window."""
    live_rate = rate_nanos_per_hour([lease for lease in leases if lease.live])
    if not live_rate:
        return False
    return spendable_nanos(escrow_nanos, leases) < charge_nanos(live_rate, 1, pause_window_ms(last_round_ms))


def cover_ms(live: int, workers_min: int, last_round_ms: int) -> int:
    """For how long the gang must be paid before a worker is added: a minute, or two windows for a replacement."""
    return 2 * pause_window_ms(last_round_ms) if 0 < live < workers_min else FIRST_COVER_MS
