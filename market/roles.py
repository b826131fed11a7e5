"""What a member may do from now on: another role, suspended, back again.

Who is suspended may read, and may end what it has; it begins nothing. What runs goes on: jobs have their money in escrow, and
the leases on its machines are other people's work. Its pending jobs wait, its machines get no new leases, and both are there
again when it is resumed, without a further word. Its key opens all the while.
"""

from __future__ import annotations

from market.checking import invalid, is_text
from market.commands import ResumeMember, SetRole, SuspendMember
from market.invitations import INVITED_ROLES
from market.member_records import MemberRecord
from market.members import OWN_ACCOUNTS, member_view
from market.outcomes import Answer, Refusal, unknown
from market.teams import PAYERS
from market.turn import Turn


def set_role(turn: Turn, command: SetRole) -> Answer | Refusal:
    """Give a member another role, once nothing of the old one is under way."""
    member = _other(turn, command.by, command.member)
    if isinstance(member, Refusal):
        return member
    if command.role not in INVITED_ROLES:
        return invalid("role", command.role, ", ".join(INVITED_ROLES))
    if member.role == command.role:
        return Answer(member_view(member), created=False)
    busy = _under_way(turn, member, command.role)
    if busy is not None:
        return busy
    if member.team and command.role not in PAYERS:
        turn.emit("member_teamed", {"member": member.name, "team": "", "by": command.by})
    turn.emit("member_role", {"member": member.name, "role": command.role, "by": command.by})
    return Answer(member_view(member))


def _under_way(turn: Turn, member: MemberRecord, role: str) -> Refusal | None:
    state = turn.state
    if role not in PAYERS:
        jobs = [job for job in state.jobs_of.get(member.name, ()) if state.jobs[job].open]
        if jobs:
            message = f"{member.name} has {len(jobs)} open job{'s' * (len(jobs) > 1)}, and a {role} submits none"
            return Refusal("member_busy", message, field="role", remedy="cancel them, or wait for them", status=409)
    if role != "provider":
        offers = [one for one in state.offers_of.get(member.name, ()) if state.offers[one].state != "withdrawn"]
        if offers:
            message = f"{member.name} has {len(offers)} offer{'s' * (len(offers) > 1)} listed, and a {role} offers nothing"
            return Refusal("member_busy", message, field="role", remedy="have them withdrawn", status=409)
    return None


def suspend_member(turn: Turn, command: SuspendMember) -> Answer | Refusal:
    member = _other(turn, command.by, command.member)
    if isinstance(member, Refusal):
        return member
    if not is_text(command.reason, 200):
        return invalid("reason", command.reason, "a sentence of at most 200 characters")
    if not member.suspended:
        fields = {"member": member.name, "reason": command.reason, "by": command.by}
        turn.emit("member_suspended", fields)
    return Answer(member_view(member), created=bool(turn.events))


def resume_member(turn: Turn, command: ResumeMember) -> Answer | Refusal:
    member = _other(turn, command.by, command.member)
    if isinstance(member, Refusal):
        return member
    if member.suspended:
        turn.emit("member_resumed", {"member": member.name, "by": command.by})
    return Answer(member_view(member), created=bool(turn.events))


def _other(turn: Turn, by: str, name: str) -> MemberRecord | Refusal:
    """The member of whom an operator speaks: not itself, not one of the market's own accounts, not a revoked one."""
    refusal = turn.require(by, ("operator",))
    if refusal is not None:
        return refusal
    member = turn.state.members.get(name)
    if member is None:
        return unknown("member", name)
    if member.name == by:
        message = "nobody changes its own standing: another operator must do it"
        return Refusal("forbidden", message, field="member", status=403)
    if member.name in OWN_ACCOUNTS or member.role == "plane":
        message = f"{member.name!r} is the market's own account and stays as it is"
        return Refusal("forbidden", message, field="member", status=403)
    if member.revoked:
        message = f"the key of {member.name!r} was revoked"
        return Refusal("key_revoked", message, field="member", remedy="add it again", status=409)
    return member
