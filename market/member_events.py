"""Members' events become state: keys, standing, invitations, secrets; called by market/reducer.py alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from market.events import Event
from market.member_records import InviteRecord, MemberRecord
from market.state import State


def _member_added(state: State, event: Event, at_ms: int) -> None:
    member = MemberRecord(event["member"], event["role"], event["key_sha256"], at_ms)
    before = state.members.get(member.name)
    if before is not None:  # another key for a revoked member
        member.team, member.suspended = before.team, before.suspended
        state.touch_provider(member.name)
    state.members[member.name] = member
    state.by_key[member.key_sha256] = member.name


def _member_revoked(state: State, event: Event, at_ms: int) -> None:
    state.members[event["member"]].revoked = True


def _member_rotated(state: State, event: Event, at_ms: int) -> None:
    member = state.members[event["member"]]
    member.old_key_sha256, member.old_until_ms = member.key_sha256, event["old_until_ms"]
    member.key_sha256 = event["key_sha256"]
    state.by_key[member.key_sha256] = member.name


def _member_role(state: State, event: Event, at_ms: int) -> None:
    state.members[event["member"]].role = event["role"]


def _member_suspended(state: State, event: Event, at_ms: int) -> None:
    state.members[event["member"]].suspended = True
    state.touch_provider(event["member"])


def _member_resumed(state: State, event: Event, at_ms: int) -> None:
    state.members[event["member"]].suspended = False
    state.touch_provider(event["member"])


def _invite_made(state: State, event: Event, at_ms: int) -> None:
    state.invites[event["invite"]] = InviteRecord(
        id=event["invite"], role=event["role"], team=event["team"], member=event["member"],
        code_sha256=event["code_sha256"], expires_ms=event["expires_ms"], by=event["by"], made_ms=at_ms,
    )  # fmt: skip


def _invite_revoked(state: State, event: Event, at_ms: int) -> None:
    state.invites[event["invite"]].revoked = True


def _invite_used(state: State, event: Event, at_ms: int) -> None:
    state.invites[event["invite"]].used_by = event["member"]


def _secret_set(state: State, event: Event, at_ms: int) -> None:
    state.secrets.setdefault(event["member"], {})[event["name"]] = {"token": event["token"], "set_ms": at_ms}


def _secret_removed(state: State, event: Event, at_ms: int) -> None:
    del state.secrets[event["member"]][event["name"]]


MEMBER_HANDLERS: Final[Mapping[str, Callable[[State, Event, int], Any]]] = {
    "member_added": _member_added,
    "member_revoked": _member_revoked,
    "member_rotated": _member_rotated,
    "member_role": _member_role,
    "member_suspended": _member_suspended,
    "member_resumed": _member_resumed,
    "invite_made": _invite_made,
    "invite_revoked": _invite_revoked,
    "invite_used": _invite_used,
    "secret_set": _secret_set,
    "secret_removed": _secret_removed,
}
