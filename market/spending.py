"""Spending limits of members and teams, by the day and by the month (UTC). Looked at when money goes into an escrow.

Used of a limit is what was billed in the period and what open jobs hold in escrow and may still spend in it, granted credit
and bought money alike. Who has no limit is not counted against any. A limit that was lowered below what runs asks the runs
to pause at a boundary, as an exhausted escrow does (`spending_limit`); they go on by themselves when there is room again.

Half, four fifths and all of a limit are said once in each of its periods, as events, by what was billed and what living leases
have run up; a limit that makes a run pause is used up. Changing a limit arms again whatever is then still ahead, and says at
once what is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from market.checking import invalid, is_int
from market.commands import KEEP, SetLimits
from market.member_records import LimitRecord, SpentRecord, ToldRecord
from market.outcomes import Answer, Json, Refusal, unknown
from market.periods import PERIODS, Period
from market.pricing import BUDGET_PERCENTS, FIRST_COVER_MS, budget_percent, must_pause, reserved_nanos
from market.state import Job, State
from market.turn import Turn
from storage.units import charge_nanos, format_instant, format_usd

REASON: Final = "spending_limit"
_NO_LIMIT: Final = LimitRecord()
_NOTHING_TOLD: Final = ToldRecord()


def set_limits(turn: Turn, command: SetLimits) -> Answer | Refusal:
    refusal = turn.require(command.by, ("operator",))
    if refusal is not None:
        return refusal
    state, kind = turn.state, "team" if command.team is not None else "member"
    name = command.team if command.team is not None else command.member
    if (command.team is None) == (command.member is None) or name is None:
        return invalid("member", command.member, "a member or a team, one of the two")
    if name not in (state.teams if kind == "team" else state.members):
        return unknown(kind, name)
    known, most = state.limits.get((kind, name), _NO_LIMIT), turn.settings.max_amount_nanos
    wanted: dict[str, int | None] = {}
    for field in ("per_day_nanos", "per_month_nanos"):
        asked = getattr(command, field)
        if asked is not None and asked != KEEP and not is_int(asked, 0, most):
            return invalid(field, asked, f"nano-dollars from 0 to {most}, or none")
        wanted[field] = getattr(known, field) if asked == KEEP else asked
    if LimitRecord(**wanted) != known:
        holder = {"member": command.member or "", "team": command.team or ""}
        turn.emit("limit_set", {**holder, **wanted, "by": command.by})
        _tell(turn, kind, name, None, ())
    return Answer({kind: name, **(limits_view(state, kind, name, turn.now_ms) or wanted)}, created=bool(turn.events))


def check_limits(state: State, member: str, amount_nanos: int, now_ms: int, field: str) -> Refusal | None:
    """Refuse to hold so much more for the member; None if every limit leaves room for it, and for nothing."""
    if not amount_nanos:
        return None
    for kind, name, period, limit in _limits_on(state, member):
        spent, held = _spent(state, kind, name, period, now_ms), _held(state, kind, name)
        room = limit - spent - held
        if amount_nanos <= room:
            continue
        used = f"{format_usd(spent)} billed, {format_usd(held)} in escrow"
        what = "budget" if field.startswith("limits") else "sum"
        fewer = f"ask for at most {format_usd(room)} USD" if room > 0 else "wait"
        return Refusal(
            "over_spending_limit",
            f"{kind} {name} may spend {format_usd(limit)} USD a {period.name}: {format_usd(spent + held)} are used ({used}), "
            f"and the {what} is {format_usd(amount_nanos)}",
            field=field,
            remedy=f"{fewer}: the next {period.name} begins {_minute(period.next_ms(now_ms))}, and what open jobs do not "
            "spend is free when they end",
            status=402,
        )
    return None


Which = tuple[str, str, str]
"""A limit: member or team, whose, day or month."""


def must_stop(state: State, job: Job, now_ms: int) -> list[Which]:
    """The limits that no longer pay the job's living leases for the pause window."""
    found: list[Which] = []
    for kind, name, period, limit in _limits_on(state, job.customer):
        others = sum(_reserved(state, one) for one in _open_jobs(state, kind, name) if one is not job)
        left = limit - _spent(state, kind, name, period, now_ms) - others
        if must_pause(left, state.leases_of(job), job.last_round_ms):
            found.append((kind, name, period.name))
    return found


def tell_limits(turn: Turn, job: Job, used_up: Sequence[Which] = ()) -> None:
    """Say what the limits on the job's customer have come to and was not told in this period."""
    if turn.state.limits:
        for kind, name in _holders(turn.state, job.customer):
            _tell(turn, kind, name, job.id, used_up)


def _tell(turn: Turn, kind: str, name: str, job: str | None, used_up: Sequence[Which]) -> None:
    state, now_ms = turn.state, turn.now_ms
    limits, most = state.limits.get((kind, name), _NO_LIMIT), BUDGET_PERCENTS[-1]
    waiting = [period for period in PERIODS if limits.of(period) and percent_told(state, kind, name, period, now_ms) < most]
    if not waiting:
        return
    accrued = state.accrued_nanos(kind, name)
    for period in waiting:
        told, limit = percent_told(state, kind, name, period, now_ms), limits.of(period) or 0
        used = _spent(state, kind, name, period, now_ms) + accrued
        now, all_of_it = budget_percent(used, limit), (kind, name, period.name) in used_up
        for percent in BUDGET_PERCENTS:
            if told < percent <= now or (percent == most and all_of_it):
                fields: Json = {"member": name if kind == "member" else "", "team": name if kind == "team" else "", "job": job}
                fields |= {"period": period.name, "ends_ms": period.next_ms(now_ms), "percent": percent}
                turn.emit("limit_reached", fields | {"used_nanos": used, "limit_nanos": limit})


def percent_told(state: State, kind: str, name: str, period: Period, now_ms: int) -> int:
    """The highest percent of a limit that was told in the period that `now_ms` is in; 0 before the first."""
    return state.limits_told.get((kind, name), _NOTHING_TOLD).within(period, now_ms)


def limits_reached(state: State, now_ms: int) -> Iterator[int]:
    """Of every limit that is in force, by the day and by the month, what was told of it in this period."""
    for (kind, name), limits in state.limits.items():
        yield from (percent_told(state, kind, name, period, now_ms) for period in PERIODS if limits.of(period) is not None)


def may_run(state: State, job: Job, now_ms: int) -> bool:
    """Whether every limit leaves enough for the first minute of the job's smallest gang."""
    workers = job.spec["workers"]
    price = job.spec["limits"]["max_price_nanos_per_gpu_hour"]
    if not price:  # it runs on its customer's own machines alone
        return True
    minute = charge_nanos(price, workers["gpus"] * max(1, workers["min"]), FIRST_COVER_MS)
    for kind, name, period, limit in _limits_on(state, job.customer):
        reserved = sum(_reserved(state, one) for one in _open_jobs(state, kind, name))
        if limit - _spent(state, kind, name, period, now_ms) - reserved < min(minute, state.escrow(job)):
            return False
    return True


def watch_limits(turn: Turn, job: Job) -> None:
    """Keep a job that has nobody yet from starting over a limit, and let it go on when there is room again."""
    if job.state == "pending" and turn.state.limits and not may_run(turn.state, job, turn.now_ms):
        turn.want(job, "pause", REASON)
        turn.set_job(job, "paused", REASON, told(turn.state, job, turn.now_ms))
    elif job.state == "paused" and job.wanted_reason == REASON and may_run(turn.state, job, turn.now_ms):
        turn.want(job, "run", "limit_free")
        turn.set_job(job, "pending", "limit_free")


def told(state: State, job: Job, now_ms: int) -> str:
    """Which limits a job waits for, what of them is billed, and when they are free again."""
    found: list[str] = []
    for kind, name, period, limit in _limits_on(state, job.customer):
        spent = _spent(state, kind, name, period, now_ms)
        end = _minute(period.next_ms(now_ms))
        found.append(f"{kind} {name}: {format_usd(spent)} of {format_usd(limit)} USD a {period.name} are billed, until {end}")
    return "; ".join(found) or "it goes on by itself"


def limits_view(state: State, kind: str, name: str, now_ms: int) -> Json | None:
    """A member's or a team's limits, what is used of them, and when each frees; None without limits."""
    limits = state.limits.get((kind, name), _NO_LIMIT)
    if limits == _NO_LIMIT:
        return None
    held = _held(state, kind, name)
    view: Json = {"held_nanos": held}
    for period in PERIODS:
        limit = limits.of(period)
        view[f"per_{period.name}_nanos"] = limit
        view[f"{period.name}_billed_nanos"] = _spent(state, kind, name, period, now_ms)
        view[f"{period.name}_ends_ms"] = period.next_ms(now_ms)
        view[f"{period.name}_reached_percent"] = percent_told(state, kind, name, period, now_ms)
    return view


def room_view(state: State, member: str, now_ms: int) -> Iterator[Json]:
    """What each limit on the member leaves to be held now, and when it frees."""
    for kind, name, period, limit in _limits_on(state, member):
        spent, held = _spent(state, kind, name, period, now_ms), _held(state, kind, name)
        yield {
            "of": kind,
            "name": name,
            "period": period.name,
            "limit_nanos": limit,
            "billed_nanos": spent,
            "held_nanos": held,
            "left_nanos": max(0, limit - spent - held),
            "reached_percent": percent_told(state, kind, name, period, now_ms),
            "ends_ms": period.next_ms(now_ms),
        }


def _limits_on(state: State, member: str) -> Iterator[tuple[str, str, Period, int]]:
    if not state.limits:
        return
    for kind, name in _holders(state, member):
        limits = state.limits.get((kind, name), _NO_LIMIT)
        for period in PERIODS:
            limit = limits.of(period)
            if limit is not None:
                yield kind, name, period, limit


def _holders(state: State, member: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("member", member), ("team", state.members[member].team)


def _spent(state: State, kind: str, name: str, period: Period, now_ms: int) -> int:
    return state.spent.get((kind, name), SpentRecord()).within(period, now_ms)


def _open_jobs(state: State, kind: str, name: str) -> Iterator[Job]:
    for job in state.open_jobs:
        customer = state.jobs[job].customer
        if name == (customer if kind == "member" else state.members[customer].team):
            yield state.jobs[job]


def _held(state: State, kind: str, name: str) -> int:
    return sum(state.escrow(job) for job in _open_jobs(state, kind, name))


def _reserved(state: State, job: Job) -> int:
    return sum(reserved_nanos(lease) for lease in state.leases_of(job))


def _minute(at_ms: int) -> str:
    return format_instant(at_ms)[:16].replace("T", " ") + " UTC"
