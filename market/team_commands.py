"""What operators say of members, teams, grants and limits, and who joins: frozen values like those of market/commands.py."""

from __future__ import annotations

from typing import Final

from storage.values import value


@value
class SetTeam:
    """Make a team, or change it. None keeps what is (a new one has weight 1 and no quota); `quota_units` 0: no quota."""

    team: str
    by: str
    weight: int | None = None
    quota_units: int | None = None


@value
class RemoveTeam:
    """Forget a team that has no members and nothing in use; what is left of its credits goes back."""

    team: str
    by: str


@value
class MoveMember:
    """The member is of this team from now on, or of none (empty). Living leases stay with the team of their grant."""

    member: str
    team: str
    by: str


@value
class GrantCredit:
    """Give a member or a team money that is spent first, is never paid out, and expires at `expires_ms` if that is said."""

    id: str
    member: str | None
    team: str | None
    amount_nanos: int
    expires_ms: int | None
    reason: str
    by: str


KEEP: Final = -1


@value
class SetLimits:
    """The most that a member or a team may spend in a day or a month (UTC). None: no limit; KEEP: as it is."""

    member: str | None
    team: str | None
    by: str
    per_day_nanos: int | None = KEEP
    per_month_nanos: int | None = KEEP


@value
class MakeInvite:
    """A code, of which only the SHA-256 comes here, makes one member of that role within `for_ms`. `team` and `member` (the
    name that it must take) may be empty."""

    id: str
    role: str
    team: str
    member: str
    code_sha256: str
    for_ms: int
    by: str


@value
class RevokeInvite:
    invite: str
    by: str


@value
class Join:
    """Whoever has the code says its name (empty: the invitation's) and the SHA-256 of a key of its own making."""

    invite: str
    code_sha256: str
    member: str
    key_sha256: str


@value
class SetRole:
    member: str
    role: str
    by: str


@value
class SuspendMember:
    """No new jobs and no new leases; what runs goes on."""

    member: str
    reason: str
    by: str


@value
class ResumeMember:
    member: str
    by: str


@value
class NoteFormat:
    """The market's own process: from here on the journal may hold events of this format; `version` is the torg's."""

    format: int
    version: str
    by: str


MemberCommand = NoteFormat | MakeInvite | RevokeInvite | Join | SetRole | SuspendMember | ResumeMember
TeamCommand = SetTeam | RemoveTeam | MoveMember | GrantCredit | SetLimits | MemberCommand
