"""How long those who got machines had waited, and how long those who got none have, by size of the gang and by team. Pure.

Beside the welfare of a clearing, which says nothing of who pays for it by waiting.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple

from market.orders import BookSnapshot

GANGS: Final = ((1, 1), (2, 4), (5, 8), (9, 32), (33, 2**62))


class Wait(NamedTuple):
    """One job's. `gpus` is the most that its gang takes; an empty team is none."""

    gpus: int
    team: str
    waited: int
    served: bool


def gang_name(gpus: int) -> str:
    """The class of sizes that a gang is of: `1`, `2-4`, `5-8`, `9-32` or `33+`."""
    low, high = next((low, high) for low, high in GANGS if low <= gpus <= high)
    return str(low) if low == high else f"{low}+" if high == GANGS[-1][1] else f"{low}-{high}"


def waits_view(waits: Sequence[Wait], unit: str = "ms", per: int = 1) -> dict[str, Any]:
    """{all, by_gang, by_team}: for each {served, waiting}, and for each of these {count, p50_ms, p99_ms}.

    `unit` names another unit, of which `per` times what `waited` is in are one. p50 and p99 are the waits that half and 99 of 100 did not exceed (nearest rank), None of nobody. Gangs are in the order of
    their sizes, teams in that of their names; `by_team` is empty where nobody is of a team.
    """
    by_gang: dict[str, list[Wait]] = {gang_name(low): [] for low, _ in GANGS}
    by_team: dict[str, list[Wait]] = {name: [] for name in sorted({one.team for one in waits})}
    for one in waits:
        by_gang[gang_name(one.gpus)].append(one)
        by_team[one.team].append(one)
    return {
        "all": _split(waits, unit, per),
        "by_gang": {name: _split(own, unit, per) for name, own in by_gang.items() if own},
        "by_team": {name: _split(own, unit, per) for name, own in by_team.items()} if set(by_team) - {""} else {},
    }


def waits_of_snapshot(snapshot: BookSnapshot, served: Collection[str]) -> dict[str, Any] | None:
    """In milliseconds, of the bids that need somebody; None of a book that somebody made up, which says no time of its own."""
    if snapshot.inputs is None:
        return None
    now_ms = snapshot.inputs.at_ms
    return waits_view([
        Wait(max(1, bid.workers_max) * bid.requires.gpus, bid.team, max(0, now_ms - bid.waits_since_ms), bid.job in served)
        for bid in snapshot.bids
        if bid.essential
    ])  # fmt: skip


def _split(waits: Sequence[Wait], unit: str, per: int) -> dict[str, Any]:
    return {
        name: _summary(sorted(one.waited for one in waits if one.served == served), unit, per)
        for name, served in (("served", True), ("waiting", False))
    }


def _summary(waits: Sequence[int], unit: str, per: int) -> dict[str, Any]:
    found: dict[str, Any] = {"count": len(waits)}
    for share in (50, 99):
        at = waits[-(-len(waits) * share // 100) - 1] if waits else None
        found[f"p{share}_{unit}"] = at if at is None or per == 1 else at / per
    return found
