"""When an owner's machine is for rent by itself: what it is used for, and the hours, become units that are held. Pure.

A machine is looked at place by place: each card that is offered, or all the cores of a machine without cards. A place that
somebody else uses is held at once, and until it was idle for a while; in the owner's hours everything is held.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from market.hours import Hours
from storage.units import format_duration

DEFAULT_IDLE_FOR_MS: Final = 600_000
DEFAULT_IDLE_LOAD: Final = 0.25
DESKTOP: Final = frozenset(
    {"Xorg", "Xwayland", "gnome-shell", "kwin_x11", "kwin_wayland", "plasmashell", "mutter", "sddm-greeter"}
)
"""What shows a desktop on a card without anybody using it."""


@dataclass(frozen=True, slots=True)
class User:
    """A process that is not torg's."""

    pid: int
    name: str


@dataclass(frozen=True, slots=True)
class Place:
    """One card, or the cores of a machine. `users` are busiest first; `load` is their share of each core, and None of a card,
    which they use by being there; `problem` is why it could not be looked at.
    """

    name: str
    units: int
    users: tuple[User, ...] = ()
    load: float | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class IdleRules:
    """What its owner says. `by_use`: whether it matters what the machine does; else only the hours `not_between` do."""

    by_use: bool = True
    not_between: tuple[Hours, ...] = ()
    idle_for_ms: int = DEFAULT_IDLE_FOR_MS
    idle_load: float = DEFAULT_IDLE_LOAD


@dataclass(frozen=True, slots=True)
class Seen:
    """When each place was busy last, and the sentence of that; a place that was not looked at before is as one that was
    busy just now.
    """

    busy: Mapping[str, tuple[int, User | None, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """`units` are held, those of the places with these names among them. `reason` is one of market/holding.py."""

    units: int = 0
    places: tuple[str, ...] = ()
    reason: str = ""
    why: str = ""


def decide(
    rules: IdleRules, seen: Seen, places: Iterable[Place], now_ms: int, weekday: int, minute: int
) -> tuple[Verdict, Seen]:
    """What is held now, and what is to be remembered. `now_ms` is of a clock that only goes forward; `weekday` (0 is Monday)
    and `minute` are of the machine's wall clock.
    """
    looked_at = tuple(places)
    noted = Seen({place.name: _note(rules, seen.busy.get(place.name), place, now_ms) for place in looked_at})
    units, names = sum(place.units for place in looked_at), tuple(place.name for place in looked_at)
    for hours in rules.not_between:
        if hours.cover(weekday, minute):
            return Verdict(units, names, "hours", f"its owner's hours, {hours}"), noted
    if not rules.by_use:
        return Verdict(), noted
    held = [place for place in looked_at if _is_held(rules, noted.busy[place.name], now_ms)]
    if not held:
        return Verdict(), noted
    more = "" if len(held) == 1 else f", and {len(held) - 1} more"
    why = f"{noted.busy[held[0].name][2]}{more}; for rent once idle for {format_duration(rules.idle_for_ms)}"
    return Verdict(sum(place.units for place in held), tuple(place.name for place in held), "idle", why), noted


def _is_held(rules: IdleRules, busy: tuple[int, User | None, str], now_ms: int) -> bool:
    at_ms, _, _ = busy
    return at_ms == now_ms or now_ms - at_ms < rules.idle_for_ms


def _note(
    rules: IdleRules, before: tuple[int, User | None, str] | None, place: Place, now_ms: int
) -> tuple[int, User | None, str]:
    if place.problem:
        return now_ms, None, f"{place.name} cannot be looked at: {place.problem}"
    if not _is_busy(rules, place):
        return before or (now_ms - 1, None, f"not known yet who uses {place.name}")
    # The process that was named first stays named while it is there: a sentence that changes is a record each time.
    if before is not None and before[1] is not None and before[1] in place.users and _is_held(rules, before, now_ms):
        return now_ms, before[1], before[2]
    user = place.users[0] if place.users else None
    named = "other work" if user is None else f"user process {user.pid} {user.name}"
    return now_ms, user, f"{named} on {place.name}"


def _is_busy(rules: IdleRules, place: Place) -> bool:
    return bool(place.users) if place.load is None else place.load > rules.idle_load


def of_torg(parents: Mapping[int, int], roots: Iterable[int]) -> set[int]:
    """`roots` and everything below them; `parents` maps each process to the one that it is below."""
    below: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        below.setdefault(parent, []).append(pid)
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += below.get(pid, ())
    return found


def is_torg(argv: tuple[str, ...]) -> bool:
    """Whether a command line is of a process that torg keeps running on a machine: a provider, or a market."""
    module = next((after for word, after in pairwise(argv) if word == "-m"), "")
    if module.startswith("market."):
        return True
    program = next((word for word in argv if word.rpartition("/")[2] == "torg"), module if module == "cli" else "")
    return bool(program) and ("provide" in argv or "demo" in argv)
