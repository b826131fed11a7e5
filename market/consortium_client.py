"""The part of the SDK for those who run a market together: members, invitations, teams, limits, grants. Mixed into `market.client.Market`."""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from market.wire import Refused, Wire

Json = dict[str, Any]
LONGEST_ID: Final = 256


class Consortium:
    """Routes for operators, each one method."""

    _wire: Wire

    def set_role(self, member: str, role: str) -> Json:
        return self._wire.json("POST", f"/v1/members/{part(member)}/role", body={"role": role})

    def suspend_member(self, member: str, *, reason: str = "") -> Json:
        """Nothing new of this member begins; what runs goes on (operator)."""
        return self._wire.json("POST", f"/v1/members/{part(member)}/suspend", body={"reason": reason})

    def resume_member(self, member: str) -> Json:
        return self._wire.json("POST", f"/v1/members/{part(member)}/resume", body={})

    def invites(self) -> list[Json]:
        """Every invitation, without codes (operator)."""
        items: list[Json] = self._wire.json("GET", "/v1/invites")["items"]
        return items

    def make_invite(self, role: str, *, team: str | None = None, member: str | None = None, for_ms: int) -> Json:
        """{invite, code, expires_ms, …}: the code is shown this once (operator). Not retried."""
        body = {"role": role, "team": team, "member": member, "for_ms": for_ms}
        return self._wire.json("POST", "/v1/invites", body=body, repeatable=False)

    def revoke_invite(self, invite: str) -> Json:
        return self._wire.json("POST", f"/v1/invites/{part(invite)}/revoke", body={})

    def join(self, code: str, key_sha256: str, *, member: str | None = None) -> Json:
        """{member, role, team, market, …}: a new member with a key of its own; needs no key."""
        return self._wire.json("POST", "/v1/join", body={"code": code, "member": member, "key_sha256": key_sha256})

    def teams(self) -> list[Json]:
        """Every team with its use and share (operator)."""
        items: list[Json] = self._wire.json("GET", "/v1/teams")["items"]
        return items

    def set_team(self, team: str, *, weight: int | None = None, quota_units: int | None = None) -> Json:
        """Make a team or change it; None keeps, `quota_units` 0 is no quota (operator)."""
        body = {"weight": weight, "quota_units": quota_units}
        return self._wire.json("PUT", f"/v1/teams/{part(team)}", body=body)

    def remove_team(self, team: str) -> Json:
        return self._wire.json("POST", f"/v1/teams/{part(team)}/remove", body={})

    def move_member(self, member: str, team: str | None) -> Json:
        """The member belongs to this team from now on, or to none (operator)."""
        return self._wire.json("POST", f"/v1/members/{part(member)}/team", body={"team": team})

    def set_limits(
        self, limits: Mapping[str, int | None], *, member: str | None = None, team: str | None = None
    ) -> Json:  # fmt: skip
        """`limits`: per_day_nanos and per_month_nanos, either or both; None is no limit (operator)."""
        whose = f"members/{part(member)}" if member is not None else f"teams/{part(team or '')}"
        return self._wire.json("PUT", f"/v1/{whose}/limits", body=dict(limits))

    def book_transfers(self, transfers: Sequence[Mapping[str, Any]]) -> Json:
        """{created, existed, refused, items: [{id, status}…]}: deposits and payouts `{id, kind, account, amount_nanos, linked}`, up to
        8,190 (operator)."""
        return self._wire.json("POST", "/v1/transfers/batch", body={"transfers": [dict(one) for one in transfers]})

    def correct(self, id: str, transfer: str, *, reason: str, amount_nanos: int | None = None) -> Json:
        """Reverse a booked transfer, or a part of it (operator)."""
        body = {"id": id, "transfer": transfer, "amount_nanos": amount_nanos, "reason": reason}
        return self._wire.json("POST", "/v1/corrections", body=body)

    def close_period(self, through_ms: int | None = None) -> Json:
        """Seal the books up to an instant; None: up to now (operator). Without an instant it is not retried."""
        return self._wire.json("POST", "/v1/periods", body={"through_ms": through_ms}, repeatable=through_ms is not None)

    def periods(self) -> list[Json]:
        """Every closed period, oldest first (operator)."""
        found: list[Json] = self._wire.json("GET", "/v1/periods")["items"]
        return found

    def period(self, number: int) -> Json:
        """A closed period with every balance at its end (operator)."""
        return self._wire.json("GET", f"/v1/periods/{number}")

    def grants(self) -> list[Json]:
        """Every grant and what is left of it (operator)."""
        items: list[Json] = self._wire.json("GET", "/v1/grants")["items"]
        return items

    def grant(
        self, id: str, amount_nanos: int, *, reason: str, member: str | None = None, team: str | None = None,
        expires_ms: int | None = None,
    ) -> Json:  # fmt: skip
        """Credit for a member or a team: spent first, never paid out (operator)."""
        body = {"id": id, "member": member, "team": team, "amount_nanos": amount_nanos}
        return self._wire.json("POST", "/v1/grants", body={**body, "expires_ms": expires_ms, "reason": reason})


def part(name: str) -> str:
    """One segment of a path: an id with a slash in it must not become another route. Raises Refused where it can be no id."""
    if not 0 < len(name) <= LONGEST_ID or "/" in name or name in (".", ".."):
        raise Refused("no_such_id", f"{name[:64]!r} is no id", remedy="ids are of one word, without slashes", status=404)
    return quote(name, safe="")


def items(answer: Json) -> list[Json]:
    """What a route answers that lists."""
    found = answer["items"]
    assert isinstance(found, list), "a list route answered without items"
    return found
