"""Events of grants and of spending limits become state; called by market/reducer.py alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from market.events import Event
from market.member_records import GrantRecord, LimitRecord, SpentRecord, ToldRecord
from market.periods import PERIODS
from market.pricing import budget_percent
from market.state import State


def note_hold(state: State, event: Event) -> None:
    """Which budget of a job a hold is part of, and which grant it is from."""
    job = state.jobs.get(event["job"])
    if job is None:
        return
    mark, kind = event["id"], event["debit"].partition(":")
    if kind[0] == "credit":
        mark = mark.removesuffix(f":{kind[2]}")
        job.granted[kind[2]] = job.granted.get(kind[2], 0) + event["amount_nanos"]
    job.holds[mark] = job.holds.get(mark, 0) + event["amount_nanos"]


def note_given(state: State, event: Event) -> None:
    """What of a job went back to which grant, and what a dispute or a correction made of what it was billed."""
    job = state.jobs.get(event["job"])
    if job is None:
        return
    kind, account, nanos = event["kind"], event["credit"].partition(":"), event["amount_nanos"]
    granted = nanos if account[0] == "credit" else 0
    if granted:
        job.returned[account[2]] = job.returned.get(account[2], 0) + nanos
    if kind != "release":
        job.noted_nanos += nanos if kind == "award" else -nanos
    if kind == "refund" and granted:
        state.disputes[event["id"].split(":")[1]].granted_nanos += granted


def _credit_granted(state: State, event: Event, at_ms: int) -> None:
    grant = GrantRecord(
        id=event["grant"], member=event["member"], team=event["team"], amount_nanos=event["amount_nanos"],
        expires_ms=event["expires_ms"], reason=event["reason"], by=event["by"], granted_ms=at_ms,
    )  # fmt: skip
    state.grants[grant.id] = grant
    holder = ("team", grant.team) if grant.team else ("member", grant.member)
    state.grants_of.setdefault(holder, {})[grant.id] = None
    if grant.expires_ms is not None:
        state.expiring[grant.id] = None


def _credit_expired(state: State, event: Event, at_ms: int) -> None:
    grant = state.grants[event["grant"]]
    grant.over = True
    state.expiring.pop(grant.id, None)


def note_spent(state: State, customer: str, nanos: int, at_ms: int) -> None:
    """A member, and the team that it is of now, were billed so much."""
    for kind, name in (("member", customer), ("team", state.members[customer].team)):
        if name:
            spent = state.spent.get((kind, name))
            if spent is None:
                spent = state.spent[kind, name] = SpentRecord()
            spent.add(nanos, at_ms)


def _limit_set(state: State, event: Event, at_ms: int) -> None:
    key = ("team", event["team"]) if event["team"] else ("member", event["member"])
    limits = LimitRecord(event["per_day_nanos"], event["per_month_nanos"])
    state.limits.pop(key, None)
    if limits != LimitRecord():
        state.limits[key] = limits
    # What is behind under the new limit was told; what is ahead again is told again.
    told, spent = state.limits_told.get(key), state.spent.get(key, SpentRecord())
    if told is None:
        return
    accrued = state.accrued_nanos(*key)
    for period in PERIODS:
        still = budget_percent(spent.within(period, at_ms) + accrued, limits.of(period) or 0)
        told.note(period, min(told.within(period, at_ms), still), at_ms)


def _limit_reached(state: State, event: Event, at_ms: int) -> None:
    key = ("team", event["team"]) if event["team"] else ("member", event["member"])
    period = next(one for one in PERIODS if one.name == event["period"])
    state.limits_told.setdefault(key, ToldRecord()).note(period, event["percent"], at_ms)


CREDIT_HANDLERS: Final[Mapping[str, Callable[[State, Event, int], Any]]] = {
    "credit_granted": _credit_granted,
    "credit_expired": _credit_expired,
    "limit_set": _limit_set,
    "limit_reached": _limit_reached,
}
