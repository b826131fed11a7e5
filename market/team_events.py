"""Teams' events become state; called by market/reducer.py alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from market.events import Event
from market.fair_share import Usage
from market.member_records import TeamRecord
from market.state import State


def note_use(state: State, team: str, units: int, at_ms: int) -> None:
    """The team has `units` more in use, or fewer."""
    state.usage[team] = state.usage.get(team, Usage(at_ms=at_ms)).changed(units, at_ms)


def _team_set(state: State, event: Event, at_ms: int) -> None:
    state.teams[event["team"]] = TeamRecord(event["team"], event["weight"], event["quota_units"], at_ms)


def _team_removed(state: State, event: Event, at_ms: int) -> None:
    del state.teams[event["team"]]
    state.usage.pop(event["team"], None)
    for kept in (state.limits, state.spent):
        kept.pop(("team", event["team"]), None)


def _member_teamed(state: State, event: Event, at_ms: int) -> None:
    state.members[event["member"]].team = event["team"]


TEAM_HANDLERS: Final[Mapping[str, Callable[[State, Event, int], Any]]] = {
    "team_set": _team_set,
    "team_removed": _team_removed,
    "member_teamed": _member_teamed,
}
