"""What an operator says of teams and grants: frozen values like those of market/commands.py."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SetTeam:
    """Make a team, or change it. None keeps what is (a new one has weight 1 and no quota); `quota_units` 0: no quota."""

    team: str
    by: str
    weight: int | None = None
    quota_units: int | None = None


@dataclass(frozen=True, slots=True)
class RemoveTeam:
    """Forget a team that has no members and nothing in use; what is left of its credits goes back."""

    team: str
    by: str


@dataclass(frozen=True, slots=True)
class MoveMember:
    """The member is of this team from now on, or of none (empty). Living leases stay with the team of their grant."""

    member: str
    team: str
    by: str


@dataclass(frozen=True, slots=True)
class GrantCredit:
    """Give a member or a team money that is spent first, is never paid out, and expires at `expires_ms` if that is said."""

    id: str
    member: str | None
    team: str | None
    amount_nanos: int
    expires_ms: int | None
    reason: str
    by: str


TeamCommand = SetTeam | RemoveTeam | MoveMember | GrantCredit
