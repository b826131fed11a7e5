"""Teams of members: weights and quotas, who is in which, and what a job is told about its turn (market/fair_share.py)."""

from __future__ import annotations

from collections import Counter
from typing import Final

from market.checking import invalid, is_int, is_name
from market.commands import MoveMember, RemoveTeam, SetTeam
from market.credits import end_grant
from market.fair_share import NO_TEAM, Usage, counted_unit_ms, quota_sentence, rank_of, within_quota
from market.orders import Bid, BookSnapshot, Standing
from market.outcomes import Answer, Json, Refusal, unknown
from market.spending import limits_view
from market.state import Job, State
from market.turn import Turn

MAX_WEIGHT: Final = 1_000_000
MAX_QUOTA: Final = 1_000_000
MAX_TEAMS: Final = 1_000
PAYERS: Final = ("customer", "operator")
_RESERVED: Final = ("none", "no-team")
_NO_TEAM_SHOWN: Final = "members of no team"


def set_team(turn: Turn, command: SetTeam) -> Answer | Refusal:
    refusal = turn.require(command.by, ("operator",))
    if refusal is not None:
        return refusal
    if not is_name(command.team) or command.team in _RESERVED:
        return invalid("team", command.team, f"1 to 64 letters, digits, dots, dashes, and not {_RESERVED[0]}")
    known = turn.state.teams.get(command.team)
    weight = command.weight if command.weight is not None else known.weight if known else 1
    if not is_int(weight, 1, MAX_WEIGHT):
        return invalid("weight", weight, f"a whole number from 1 to {MAX_WEIGHT}")
    quota = command.quota_units
    if quota is not None and not is_int(quota, 0, MAX_QUOTA):
        return invalid("quota_units", quota, f"units, 1 to {MAX_QUOTA}, or 0 for no quota")
    quota = quota or None if quota is not None else known.quota_units if known else None
    if known is None and len(turn.state.teams) >= MAX_TEAMS:
        return Refusal("too_many_teams", f"the market holds {MAX_TEAMS} teams", status=429)
    if known is None or (known.weight, known.quota_units) != (weight, quota):
        fields = {"team": command.team, "weight": weight, "quota_units": quota, "by": command.by}
        turn.emit("team_set", fields)
    found = next(row for row in teams_view(turn.state, turn.now_ms) if row["team"] == command.team)
    return Answer(found, created=bool(turn.events))


def remove_team(turn: Turn, command: RemoveTeam) -> Answer | Refusal:
    refusal = turn.require(command.by, ("operator",))
    if refusal is not None:
        return refusal
    if command.team not in turn.state.teams:
        return unknown("team", command.team)
    members = [one.name for one in turn.state.members.values() if one.team == command.team]
    if members:
        shown = ", ".join(members[:3]) + (", …" if len(members) > 3 else "")
        return Refusal("team_in_use", f"team {command.team} has members: {shown}", "team", "move them to another", 409)
    units = turn.state.usage.get(command.team, Usage()).units
    if units:
        return Refusal("team_in_use", f"team {command.team} has {units} units in use", "team", "wait for its leases", 409)
    for name in turn.state.grants_of.get(("team", command.team), ()):
        if not turn.state.grants[name].over:
            end_grant(turn, turn.state.grants[name])
    turn.emit("team_removed", {"team": command.team, "by": command.by})
    return Answer({"team": command.team, "removed": True})


def move_member(turn: Turn, command: MoveMember) -> Answer | Refusal:
    refusal = turn.require(command.by, ("operator",))
    if refusal is not None:
        return refusal
    member = turn.state.members.get(command.member)
    if member is None:
        return unknown("member", command.member)
    if command.team != NO_TEAM and command.team not in turn.state.teams:
        return unknown("team", command.team)
    if command.team != NO_TEAM and member.role not in PAYERS:
        message = f"{member.name!r} is a {member.role} and submits no jobs"
        return Refusal("forbidden", message, field="member", status=403)
    if member.team != command.team:
        turn.emit("member_teamed", {"member": member.name, "team": command.team, "by": command.by})
    return Answer({"member": member.name, "team": member.team or None}, created=bool(turn.events))


def standings(state: State, now_ms: int) -> tuple[Standing, ...]:
    """Of every team and of those without one, last; empty where there are no teams."""
    if not state.teams:
        return ()
    rows = [(one.name, one.weight, one.quota_units) for one in state.teams.values()]
    found: list[Standing] = []
    for name, weight, quota in [*rows, (NO_TEAM, 1, None)]:
        used = state.usage.get(name, Usage()).at(now_ms)
        found.append(Standing(name, weight, quota, used.units, used.unit_ms))
    return tuple(found)


def has_room(state: State, bid: Bid, workers: int) -> bool:
    """Whether the quota of the bid's team leaves room for so many of its workers now."""
    team = state.teams.get(bid.team)
    if team is None or team.quota_units is None:
        return True
    return state.usage.get(bid.team, Usage()).units + workers * bid.requires.gpus <= team.quota_units


def check_gang_in_quota(state: State, customer: str, spec: Json) -> Refusal | None:
    """Refuse a job whose smallest gang is more than its team may ever have (unless it says `wait`)."""
    if not state.teams or spec.get("wait", False):
        return None
    team = state.teams.get(state.members[customer].team)
    units = spec["workers"]["min"] * spec["workers"]["gpus"]
    if team is None or team.quota_units is None or units <= team.quota_units:
        return None
    return Refusal(
        "over_team_quota",
        f"the smallest gang has {units} units, and team {team.name} may use {team.quota_units} at once",
        field="workers.min",
        remedy="ask for fewer, have an operator raise the quota, or say `wait: true`",
    )


def teams_view(state: State, now_ms: int) -> list[Json]:
    """Every team: weight, quota, use, and its share of what all have used lately beside what its weight gives it."""
    open_jobs = Counter(state.members[state.jobs[name].customer].team for name in state.open_jobs)
    own = Counter(one.team for one in state.members.values() if not one.revoked)
    found = _that_count(standings(state, now_ms), open_jobs)
    return [
        {
            "team": one.team or None,
            "members": own[one.team] if one.team else None,
            "weight": one.weight,
            "quota_units": one.quota_units,
            "units": one.units,
            "used_unit_ms": one.used_unit_ms,
            "used_ppm": _ppm(counted_unit_ms(one), sum(map(counted_unit_ms, found))),
            "share_ppm": _ppm(one.weight, sum(each.weight for each in found)),
            "open_jobs": open_jobs[one.team],
            "limits": limits_view(state, "team", one.team, now_ms),
        }
        for one in found
    ]


def _that_count(found: tuple[Standing, ...], jobs: Counter[str]) -> list[Standing]:
    """Those without a team take part where they want or have used something."""
    return [one for one in found if one.team != NO_TEAM or jobs[NO_TEAM] or counted_unit_ms(one)]


def _ppm(part: int, whole: int) -> int:
    return part * 1_000_000 // whole if whole else 0


def quota_refuses(snapshot: BookSnapshot, bid: Bid) -> str | None:
    """What the quota of the bid's team says to it now; None if it does not stand in its way."""
    own = next((one for one in snapshot.standings if one.team == bid.team), None)
    if own is None or within_quota(own, bid) is not None:
        return None
    return quota_sentence(own)


def share_sentence(state: State, snapshot: BookSnapshot, job: Job) -> str | None:
    """Who goes before this job for its team's usage, and why; None if nobody does."""
    ranks = {one.team: rank_of(one) for one in snapshot.standings}
    team = state.members[job.customer].team
    before = Counter(
        bid.team for bid in snapshot.bids if bid.essential and bid.team != team and ranks[bid.team] < ranks[team]
    )
    if not before:
        return None
    jobs = Counter(bid.team for bid in snapshot.bids)
    found = _that_count(snapshot.standings, jobs)
    [own] = [one for one in found if one.team == team]
    used = _ppm(counted_unit_ms(own), sum(map(counted_unit_ms, found)))
    share = _ppm(own.weight, sum(one.weight for one in found))
    how = "is over its share" if used > share else "has used more for its weight than others"
    first = ", ".join(f"{n} job{'s' * (n > 1)} of {_shown(name)}" for name, n in sorted(before.items()))
    verb = "goes" if sum(before.values()) == 1 else "go"
    used_text = f"{_percent(used)} of what was used (half-life 7 days) for a weight of {_percent(share)}"
    return f"{_shown(team)} {how}: {used_text}; {first} {verb} first"


def _shown(team: str) -> str:
    return f"team {team}" if team else _NO_TEAM_SHOWN


def _percent(ppm: int) -> str:
    return f"{(ppm + 5_000) // 10_000} %"
