"""Who comes in by a code, and what a member may do: invitations, roles, suspension, and who said so."""

from __future__ import annotations

from market.commands import (
    AddBudget,
    AddMember,
    CancelJob,
    Join,
    MakeInvite,
    MoveMember,
    ResumeMember,
    RevokeInvite,
    RevokeMember,
    SetRole,
    SetTeam,
    SubmitJob,
    SuspendMember,
    Tick,
)
from tests.market.scene import USD, Scene, digest, make_spec

HOUR = 3_600_000


def invite(scene: Scene, id: str = "i1", role: str = "customer", team: str = "", member: str = "", by: str = "op") -> None:
    scene.do(MakeInvite(id, role, team, member, digest(f"code {id}"), HOUR, by))


def join(id: str = "i1", member: str = "cy", key: str = "cy's", code: str | None = None) -> Join:
    return Join(id, digest(f"code {code or id}"), member, digest(key))


def test_a_code_makes_one_member_once() -> None:
    scene = Scene()
    scene.do(SetTeam("bio", "op"))
    invite(scene, team="bio")
    made = scene.do(join())
    assert (made["member"], made["role"], made["team"]) == ("cy", "customer", "bio")
    assert not scene.say(join()).created, "an answer that was lost is given again"
    assert not scene.say(join(member="")).created
    assert scene.refused(join(member="dan", key="dan's")).code == "invite_used"
    assert scene.refused(RevokeInvite("i1", "op")).code == "invite_used"
    known = scene.exchange.member_by_key(digest("cy's"))
    assert known is not None
    assert known["member"] == "cy"
    assert [one["state"] for one in scene.exchange.invites(scene.now_ms)] == ["used"]
    said = scene.of_type("member_added")[-1]
    assert (said["member"], said["by"]) == ("cy", "op")
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()
    assert all(b"code i1" not in record for record in scene.records)


def test_codes_that_open_nothing_are_refused_by_name() -> None:
    scene = Scene()
    invite(scene)
    wrong, never = scene.refused(join(code="other")), scene.refused(join("i9"))
    assert (wrong.code, wrong.message) == (never.code, never.message) == ("invite_unknown", "there is no invitation with this code")
    scene.do(RevokeInvite("i1", "op"))
    assert scene.refused(join()).code == "invite_revoked"
    assert scene.refused(join(code="other")).code == "invite_unknown", "only who has the code is told more"
    invite(scene, "i2")
    scene.now_ms += HOUR
    scene.do(Tick())
    assert scene.refused(join("i2")).code == "invite_expired"
    scene.do(AddMember("op2", "operator", digest("op2"), "op"))
    invite(scene, "i3", by="op2")
    scene.do(RevokeMember("op2", "op"))
    assert scene.refused(join("i3")).code == "invite_revoked", "nor does a code of an operator that is none any more"


def test_a_name_that_is_taken_uses_no_code_up() -> None:
    scene = Scene()
    scene.do(RevokeMember("bob", "op"))
    invite(scene)
    for name in ("ann", "bob", "world", "grants", "a b"):
        assert scene.refused(join(member=name)).field == "member"
    assert scene.refused(join(key="ann")).field == "key_sha256"
    scene.do(join())
    invite(scene, "i2", member="dan")
    assert scene.refused(join("i2", member="eve", key="d")).field == "member"
    assert scene.do(join("i2", member="", key="d"))["member"] == "dan"


def test_only_operators_invite_and_only_into_roles_of_people() -> None:
    scene = Scene()
    ask = MakeInvite("i1", "customer", "", "", digest("c"), HOUR, "ann")
    assert scene.refused(ask).status == 403
    assert scene.refused(MakeInvite("i1", "plane", "", "", digest("c"), HOUR, "op")).field == "role"
    assert scene.refused(MakeInvite("i1", "customer", "bio", "", digest("c"), HOUR, "op")).code == "unknown_team"
    assert scene.refused(MakeInvite("i1", "customer", "", "ann", digest("c"), HOUR, "op")).field == "member"
    assert scene.refused(MakeInvite("i1", "customer", "", "", digest("c"), 0, "op")).field == "for_ms"
    scene.do(SetTeam("bio", "op"))
    assert scene.refused(MakeInvite("i1", "provider", "bio", "", digest("c"), HOUR, "op")).field == "team"
    invite(scene)
    assert scene.refused(MakeInvite("i1", "customer", "", "", digest("c"), HOUR, "op")).code == "conflict"
    assert scene.refused(RevokeInvite("i1", "ann")).status == 403


def test_a_role_changes_when_nothing_of_the_old_one_is_under_way() -> None:
    scene = Scene()
    scene.do(SetTeam("bio", "op"))
    scene.do(MoveMember("ann", "bio", "op"))
    scene.submit()
    busy = scene.refused(SetRole("ann", "provider", "op"))
    assert (busy.code, busy.message) == ("member_busy", "ann has 1 open job, and a provider submits none")
    scene.do(CancelJob("job-1", "ann"))
    assert scene.do(SetRole("ann", "provider", "op"))["team"] is None
    scene.offer("offer-a", "ann")
    assert scene.refused(SetRole("ann", "customer", "op")).message == "ann has 1 offer listed, and a customer offers nothing"
    assert scene.refused(SubmitJob("j", make_spec(), "ann")).status == 403
    for by, member, role in (("ann", "bob", "operator"), ("op", "op", "customer"), ("op", "plane", "customer")):
        assert scene.refused(SetRole(member, role, by)).status == 403
    assert scene.refused(SetRole("bob", "plane", "op")).field == "role"
    assert scene.refused(SetRole("nobody", "customer", "op")).code == "unknown_member"
    assert scene.of_type("member_role") == [{"type": "member_role", "member": "ann", "role": "provider", "by": "op"}]


def test_who_is_suspended_begins_nothing_and_what_runs_goes_on() -> None:
    scene = Scene()
    scene.running()
    scene.submit("job-2")
    scene.do(SuspendMember("ann", "unpaid", "op"))
    assert scene.refused(SubmitJob("job-3", make_spec(), "ann")).code == "member_suspended"
    assert scene.refused(AddBudget("b", "job-1", USD, "ann")).code == "member_suspended"
    told = scene.exchange.explain("job-2")
    assert told is not None
    assert told["detail"] == "ann is suspended: the job waits until it is resumed"
    scene.wait(2_000)
    scene.round(1, {0: 1_000, 1: 1_000})
    scene.checkpoint(1)
    scene.lose(1, "worker_killed")
    scene.offer("offer-9", "p3", 0.5)
    scene.clear()
    assert len(scene.live()) == 2, "a gang that runs is kept whole"
    scene.do(CancelJob("job-1", "ann"))
    scene.clear()
    assert scene.state("job-2")[0] == "pending"
    scene.do(ResumeMember("ann", "op"))
    scene.clear()
    assert scene.state("job-2")[0] == "running"
    actors = [(one["type"], one["by"]) for one in scene.events if one["type"].startswith("member_") and one.get("member") == "ann"]
    assert actors == [("member_added", "market"), ("member_suspended", "op"), ("member_resumed", "op")]


def test_the_machines_of_a_suspended_provider_get_no_new_leases() -> None:
    scene = Scene()
    scene.running()
    scene.do(SuspendMember("p1", "", "op"))
    assert len(scene.live()) == 2
    assert scene.refused(scene.make_offer("offer-9", "p1", 0.5, 1)).code == "member_suspended"
    scene.do(scene.make_offer("offer-1", "p1", 0.5, 1))
    scene.do(CancelJob("job-1", "ann"))
    scene.submit("job-2", workers__min=1, workers__max=2)
    scene.clear()
    assert [one["provider"] for one in scene.live("job-2")] == ["p2"]
    scene.do(ResumeMember("p1", "op"))
    scene.clear()
    assert len(scene.live("job-2")) == 2


def test_a_suspended_operator_operates_nothing_and_nobody_suspends_itself() -> None:
    scene = Scene()
    scene.do(AddMember("op2", "operator", digest("op2"), "op"))
    scene.do(SuspendMember("op2", "", "op"))
    assert scene.refused(ResumeMember("op2", "op2")).status == 403
    assert scene.refused(SetTeam("bio", "op2")).status == 403
    assert scene.refused(SuspendMember("op", "", "op")).status == 403
    assert scene.refused(SuspendMember("ann", "", "bob")).status == 403
    assert scene.refused(SuspendMember("plane", "", "op")).message == "'plane' is the market's own account and stays as it is"


def test_older_events_name_nobody_and_replay() -> None:
    scene = Scene()
    scene.do(RevokeMember("bob", "op"))
    again = type(scene.exchange)(scene.settings)
    for event in scene.events:
        older = {name: value for name, value in event.items() if name != "by" or not event["type"].startswith("member_")}
        again.replay(scene.now_ms, [older])
    assert again.members() == scene.exchange.members()
