"""Members, invitations, teams, granted credits and limits, as the journal tells of them. What becomes of them is in the reducers."""

from __future__ import annotations

from dataclasses import dataclass, field

from market.periods import PERIODS, Period


@dataclass(slots=True)
class MemberRecord:
    name: str
    role: str
    key_sha256: str
    added_ms: int
    revoked: bool = False
    old_key_sha256: str | None = None
    old_until_ms: int = 0
    team: str = ""
    suspended: bool = False

    def opens(self, key_sha256: str, now_ms: int) -> bool:
        """Whether this key is the member's now: the newest one, or the one before within its grace."""
        if self.revoked:
            return False
        return key_sha256 == self.key_sha256 or (key_sha256 == self.old_key_sha256 and now_ms < self.old_until_ms)


@dataclass(slots=True)
class InviteRecord:
    """An invitation; `team` and `member` (for whom it is) may be empty, `used_by` is once it was used."""

    id: str
    role: str
    team: str
    member: str
    code_sha256: str
    expires_ms: int
    by: str
    made_ms: int
    revoked: bool = False
    used_by: str = ""

    def state(self, now_ms: int) -> str:
        """`used`, `revoked`, `expired` or `open`."""
        if self.used_by:
            return "used"
        return "revoked" if self.revoked else "open" if now_ms < self.expires_ms else "expired"


@dataclass(slots=True)
class TeamRecord:
    """`weight` against those of the other teams; at most `quota_units` in use at once (None: no quota)."""

    name: str
    weight: int
    quota_units: int | None
    set_ms: int


@dataclass(slots=True)
class GrantRecord:
    """Credit of a member or (then `member` is empty) of a team; `over`: it has expired, and that is journaled."""

    id: str
    member: str
    team: str
    amount_nanos: int
    expires_ms: int | None
    reason: str
    by: str
    granted_ms: int
    over: bool = False

    def expired(self, now_ms: int) -> bool:
        return self.over or (self.expires_ms is not None and self.expires_ms <= now_ms)


@dataclass(frozen=True, slots=True)
class LimitRecord:
    """The most that may be spent in a day and in a month; None: no limit."""

    per_day_nanos: int | None = None
    per_month_nanos: int | None = None

    def of(self, period: Period) -> int | None:
        """The limit of that period."""
        return self.per_day_nanos if period.name == "day" else self.per_month_nanos


@dataclass(slots=True)
class ToldRecord:
    """The highest percent of a limit that was told, of the newest day and the newest month in which something was."""

    newest: dict[str, int] = field(default_factory=dict)
    percents: dict[str, int] = field(default_factory=dict)

    def note(self, period: Period, percent: int, at_ms: int) -> None:
        self.newest[period.name], self.percents[period.name] = period.number_of(at_ms), percent

    def within(self, period: Period, now_ms: int) -> int:
        """What was told in the period that `now_ms` is in."""
        return self.percents.get(period.name, 0) if self.newest.get(period.name) == period.number_of(now_ms) else 0


@dataclass(slots=True)
class SpentRecord:
    """What was billed in the newest day and the newest month of market/periods.py in which something was."""

    newest: dict[str, int] = field(default_factory=dict)
    nanos: dict[str, int] = field(default_factory=dict)

    def add(self, nanos: int, at_ms: int) -> None:
        for period in PERIODS:
            name, number = period.name, period.number_of(at_ms)
            before = self.nanos[name] if self.newest.get(name) == number else 0
            self.newest[name], self.nanos[name] = number, before + nanos

    def within(self, period: Period, now_ms: int) -> int:
        """What was billed in the period that `now_ms` is in."""
        return self.nanos.get(period.name, 0) if self.newest.get(period.name) == period.number_of(now_ms) else 0
