"""Spending limits of members and teams, by the day and by the month (UTC). Looked at when money goes into an escrow.

Used of a limit is what was billed in the period and what open jobs hold in escrow and may still spend in it, granted credit
and bought money alike. Who has no limit is not counted against any. A limit that was lowered below what runs asks the runs
to pause at a boundary, as an exhausted escrow does (`spending_limit`); they go on by themselves when there is room again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from market.checking import invalid, is_int
from market.commands import KEEP, SetLimits
from market.member_records import LimitRecord, SpentRecord
from market.outcomes import Answer, Json, Refusal, unknown
from market.periods import PERIODS, Period
from market.pricing import FIRST_COVER_MS, must_pause, reserved_nanos
from market.state import Job, State
from market.turn import Turn
from storage.units import charge_nanos, format_instant, format_usd

REASON: Final = "spending_limit"
_NO_LIMIT: Final = LimitRecord()


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


def must_stop(state: State, job: Job, now_ms: int) -> bool:
    """Whether some limit no longer pays the job's living leases for the pause window."""
    for kind, name, period, limit in _limits_on(state, job.customer):
        others = sum(_reserved(state, one) for one in _open_jobs(state, kind, name) if one is not job)
        left = limit - _spent(state, kind, name, period, now_ms) - others
        if must_pause(left, state.leases_of(job), job.last_round_ms):
            return True
    return False


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
        limit = getattr(limits, f"per_{period.name}_nanos")
        view[f"per_{period.name}_nanos"] = limit
        view[f"{period.name}_billed_nanos"] = _spent(state, kind, name, period, now_ms)
        view[f"{period.name}_ends_ms"] = period.next_ms(now_ms)
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
            "ends_ms": period.next_ms(now_ms),
        }


def _limits_on(state: State, member: str) -> Iterator[tuple[str, str, Period, int]]:
    if not state.limits:
        return
    for kind, name in (("member", member), ("team", state.members[member].team)):
        limits = state.limits.get((kind, name), _NO_LIMIT)
        for period in PERIODS:
            limit = getattr(limits, f"per_{period.name}_nanos")
            if limit is not None:
                yield kind, name, period, limit


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
