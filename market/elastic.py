"""How many workers a job wants at which price, and which of those it has may be taken for a higher bid. Pure.

The oldest `workers.min` leases of a job are its gang; the others are growth. Of a job that says `workers.grow_below` the
growth bids that price and not more, in whatever the others leave free, and gives way to whoever bids more: so the job grows into cheap
capacity and shrinks when it gets dear. Of an interruptible job (`limits.interruptible`) the gang gives way, too, at the job's
price limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from storage.values import value

Spec = Mapping[str, Any]
One = TypeVar("One")


@value
class Wish:
    """`least` to `most` more workers, each for at most `limit` nano-dollars per GPU-hour.

    `flexible`: they come out of what firm bids leave, at the interruptible price, and may be outbid. `essential`: without
    them the gang is not whole.
    """

    least: int
    most: int
    limit_nanos_per_gpu_hour: int
    flexible: bool
    essential: bool


def is_interruptible(spec: Spec) -> bool:
    """Whether all of the job's leases may be outbid."""
    return bool(spec["limits"].get("interruptible", False))


def growth_limit(spec: Spec) -> int:
    """The most that a worker beyond the gang may cost, in nano-dollars per GPU-hour."""
    limit = int(spec["limits"]["max_price_nanos_per_gpu_hour"])
    below = spec["workers"].get("grow_below_nanos_per_gpu_hour")
    return limit if below is None else min(limit, int(below))


def may_be_outbid(spec: Spec) -> bool:
    """Whether any lease of the job may."""
    return is_interruptible(spec) or "grow_below_nanos_per_gpu_hour" in spec["workers"]


def wish_of(spec: Spec, living: int) -> Wish | None:
    """What a job with so many workers wants next; None when it has all that it may have."""
    workers = spec["workers"]
    least, most = int(workers["min"]), int(workers["max"])
    limit, own_growth = int(spec["limits"]["max_price_nanos_per_gpu_hour"]), "grow_below_nanos_per_gpu_hour" in workers
    flexible = is_interruptible(spec)
    if living >= most:
        return None
    if living >= least:
        return Wish(1, most - living, growth_limit(spec), flexible or own_growth, False)
    # A gang that holds nobody must be complete at once; one that lost somebody takes whoever comes.
    missing = least if not living else 1
    return Wish(missing, (least if own_growth else most) - living, limit, flexible, True)


def outbiddable(spec: Spec, leases: Sequence[One]) -> list[tuple[One, int]]:
    """The leases (oldest first) that may be outbid, each with the limit by which it is held, the newest first."""
    gang = int(spec["workers"]["min"])
    limit = int(spec["limits"]["max_price_nanos_per_gpu_hour"])
    grown = [(lease, growth_limit(spec)) for lease in leases[gang:]] if may_be_outbid(spec) else []
    held = [(lease, limit) for lease in leases[:gang]] if is_interruptible(spec) else []
    return [*held, *grown][::-1]
