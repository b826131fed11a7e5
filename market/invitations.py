"""Invitations: a code that makes one member, once. The market keeps the code's SHA-256, the journal too, and nobody the code.

A code is `join_ID_SECRET`: ID names the invitation and is no secret, SECRET has 192 random bits. What a wrong secret is told is
what an unknown ID is told, after the same comparison; only who has the code learns that it was used, revoked, or is too late.
"""

from __future__ import annotations

import hmac
from typing import Final

from market.checking import MAX_INT, invalid, is_digest, is_int, is_name
from market.commands import Join, MakeInvite, RevokeInvite
from market.member_records import InviteRecord
from market.members import check_new_member, member_view
from market.outcomes import Answer, Json, Refusal, conflict, unknown
from market.state import State
from market.teams import PAYERS
from market.turn import Turn

INVITED_ROLES: Final = ("customer", "provider", "operator")
MAX_OPEN_INVITES: Final = 1_000
LONGEST_INVITE_MS: Final = 30 * 86_400_000
_NO_CODE: Final = "0" * 64


def make_invite(turn: Turn, command: MakeInvite) -> Answer | Refusal:
    refusal = turn.require(command.by, ("operator",)) or _check(turn, command)
    if refusal is not None:
        return refusal
    if command.id in turn.state.invites:
        return conflict("invitation", command.id)
    opened = sum(one.state(turn.now_ms) == "open" for one in turn.state.invites.values())
    if opened >= MAX_OPEN_INVITES:
        return Refusal("too_many_invites", f"{MAX_OPEN_INVITES} invitations are open", status=429)
    fields = {"invite": command.id, "role": command.role, "team": command.team, "member": command.member}
    fields |= {"code_sha256": command.code_sha256, "by": command.by}
    turn.emit("invite_made", {**fields, "expires_ms": turn.now_ms + command.for_ms})
    return Answer(invite_view(turn.state.invites[command.id], turn.now_ms))


def _check(turn: Turn, command: MakeInvite) -> Refusal | None:
    if not is_name(command.id):
        return invalid("id", command.id, "1 to 64 letters, digits, dots, dashes")
    if command.role not in INVITED_ROLES:
        return invalid("role", command.role, ", ".join(INVITED_ROLES))
    if not is_digest(command.code_sha256):
        return invalid("code_sha256", command.code_sha256, "a SHA-256 in hex")
    if not is_int(command.for_ms, 1, LONGEST_INVITE_MS):
        return invalid("for_ms", command.for_ms, f"1 to {LONGEST_INVITE_MS}")
    if command.team and command.team not in turn.state.teams:
        return unknown("team", command.team)
    if command.team and command.role not in PAYERS:
        return invalid("team", command.team, f"for a {command.role}, who submits no jobs; leave it out")
    if command.member:
        return check_new_member(turn.state, command.member)
    return None


def revoke_invite(turn: Turn, command: RevokeInvite) -> Answer | Refusal:
    refusal = turn.require(command.by, ("operator",))
    if refusal is not None:
        return refusal
    invite = turn.state.invites.get(command.invite)
    if invite is None:
        return unknown("invitation", command.invite)
    if invite.used_by:
        return _used(invite)
    if not invite.revoked:
        turn.emit("invite_revoked", {"invite": invite.id, "by": command.by})
    return Answer(invite_view(invite, turn.now_ms), created=bool(turn.events))


def join(turn: Turn, command: Join) -> Answer | Refusal:
    """Somebody with a code becomes a member. Told again with the same key: answered."""
    state, invite = turn.state, turn.state.invites.get(command.invite)
    kept = _NO_CODE if invite is None else invite.code_sha256
    if not hmac.compare_digest(kept.encode(), command.code_sha256.encode("utf-8", "replace")) or invite is None:
        message = "there is no invitation with this code"
        return Refusal("invite_unknown", message, field="code", remedy="copy the whole code", status=404)
    name = command.member or invite.member
    if invite.used_by:
        known = state.members[invite.used_by]
        if known.key_sha256 == command.key_sha256 and command.member in ("", known.name):
            return Answer(_joined(state, known.name), created=False)
        return _used(invite)
    refusal = _check_join(turn, invite, name, command.key_sha256)
    if refusal is not None:
        return refusal
    made = {"member": name, "role": invite.role, "key_sha256": command.key_sha256, "by": invite.by}
    turn.emit("member_added", made)
    if invite.team in state.teams:
        turn.emit("member_teamed", {"member": name, "team": invite.team, "by": invite.by})
    turn.emit("invite_used", {"invite": invite.id, "member": name})
    return Answer(_joined(state, name))


def _check_join(turn: Turn, invite: InviteRecord, name: str, key_sha256: str) -> Refusal | None:
    again = "ask for a new one"
    match invite.state(turn.now_ms):
        case "revoked":
            return Refusal("invite_revoked", "this invitation was revoked", "code", again, 409)
        case "expired":
            return Refusal("invite_expired", "this invitation has expired", "code", again, 409)
    maker = turn.state.members[invite.by]
    if maker.revoked or maker.suspended or maker.role != "operator":
        return Refusal("invite_revoked", "who made this invitation is no operator any more", "code", again, 409)
    if invite.member and name != invite.member:
        return invalid("member", name, f"{invite.member}, whom this invitation is for")
    if not is_digest(key_sha256):
        return invalid("key_sha256", key_sha256, "a SHA-256 in hex")
    if key_sha256 in turn.state.by_key:
        return Refusal("conflict", "this key is or was somebody's", field="key_sha256", status=409)
    if len(turn.state.members) >= turn.settings.max_members:
        return Refusal("too_many_members", f"the market holds {turn.settings.max_members} members", status=429)
    return check_new_member(turn.state, name)


def _used(invite: InviteRecord) -> Refusal:
    return Refusal("invite_used", "this invitation was used", field="code", remedy="ask for a new one", status=409)


def _joined(state: State, name: str) -> Json:
    return member_view(state.members[name]) | {"market": state.market_id}


def invite_view(invite: InviteRecord, now_ms: int) -> Json:
    """Without the code and its hash."""
    return {
        "invite": invite.id,
        "role": invite.role,
        "team": invite.team or None,
        "member": invite.member or None,
        "state": invite.state(now_ms),
        "used_by": invite.used_by or None,
        "expires_ms": min(invite.expires_ms, MAX_INT),
        "made_ms": invite.made_ms,
        "by": invite.by,
    }
