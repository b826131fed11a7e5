"""Every object checks its owner: each route of the application with every role, with no key, and with another's ids."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest

from tests.api.ownership import DOORS, ROLES, Door, operations, route_of
from tests.api.square import USD, FakeProvider, FakeRun, Square, make_offer, make_spec, refusal

Json = dict[str, Any]
PRIVATE = ("customer", "provider", "job", "spare_job", "offer", "spare_offer", "lease", "manifest", "digest", "printed", "secret")


def test_every_route_has_an_entry() -> None:
    known = {route_of(key) for key in DOORS}
    told = "\n".join(f'    "{one}": Door("WHO", "OWNER"),' for one in sorted(operations() - known))
    assert not told, (
        "routes without an entry: add each to DOORS in tests/api/ownership.py, whose head says what it means "
        "(WHO as in docs/API.md; OWNER ann or host, or leave it out where the route names nobody's object; a body "
        f"that is valid, with {{job}}, {{offer}}, {{lease}} … where ids go; no other file):\n{told}"
    )
    assert not known - operations(), "entries of routes that are gone: remove them from DOORS"
    assert not [key for key, door in DOORS.items() if (door.shows or door.status != 404) and not door.because]


@dataclass
class Scene:
    """Ann's job runs on host's machine; `names` are its ids, `keys` those of members and of strangers."""

    http: httpx2.Client
    names: Json
    keys: Json
    spec: Json
    absent: Json = field(default_factory=dict)

    def send(self, operation: str, door: Door, key: str | None, names: Json) -> httpx2.Response:
        """One call with its braces filled; of a stream only the head is read."""
        method, _, path = operation.partition(" ")
        names = {**names, "action": "drain", "member": "nobody-of-that-name", "team": "no-such-team", "invite": "i0", "session": "no-such-session", "number": 9}
        url = path.format(**names) + (f"?{door.query.format(**names)}" if door.query else "")
        headers = dict(door.headers or {}) | ({"Authorization": f"Bearer {key}"} if key else {})
        with ExitStack() as open_streams:
            stream = self.http.stream(
                method, url, json=_filled(door.body, names, self.spec), content=door.content, headers=headers
            )
            answer = open_streams.enter_context(stream)
            if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                answer.read()
            return answer


def _filled(body: Any, names: Json, spec: Json) -> Any:
    if body == "{spec}":
        return spec
    if isinstance(body, str):
        return body.format(**names)
    if isinstance(body, dict):
        return {name: _filled(value, names, spec) for name, value in body.items()}
    return [_filled(one, names, spec) for one in body] if isinstance(body, list) else body


@pytest.fixture(scope="module")
def scene(square: Square) -> Iterator[Scene]:
    region = square.name("region")
    customer, ann = square.newcomer("customer", 20 * USD)
    provider, host = square.newcomer("provider")
    strangers = {"customer": square.newcomer("customer", 20 * USD)[1], "provider": square.newcomer("provider")[1]}
    ids = {name: square.name(name.replace("_", "-")) for name in ("job", "spare_job", "offer", "spare_offer")}
    spec = make_spec(region, workers__min=1, workers__max=1)
    machine = FakeProvider(host, make_offer(ids["offer"], region))
    try:
        host.place_offer(make_offer(ids["spare_offer"], square.name("region")))
        ann.submit_job(ids["job"], spec)
        ann.submit_job(ids["spare_job"], make_spec(square.name("region")))
        run = FakeRun(square.local("plane"), ids["job"])
        workers = run.workers(1)
        printed = f"printed by {customer}"
        run.read(workers, logs=[{"at_ms": 1, "source": "slot 0", "line": printed}])
        run.report(workers)
        digest = run.checkpoint()
        ann.set_secret("ANNS_OWN", "not for others")
        dispute = square.name("dispute")
        ann.open_dispute(dispute, job=ids["job"], lease=workers[0]["id"], amount_nanos=1, reason="r")
        names = {**ids, "dispute": dispute, "customer": customer, "provider": provider, "lease": workers[0]["id"], "printed": printed,
                 "digest": digest, "manifest": run.manifest,
                 "epoch": str(workers[0]["epoch"]), "secret": "ANNS_OWN", "spare_secret": "ANNS_OTHER"}  # fmt: skip
        keys = {"ann": str(ann._wire._key), "host": str(host._wire._key), **square.home.read_keys()}
        keys |= {role: str(one._wire._key) for role, one in strangers.items()}
        with httpx2.Client(base_url=square.url, timeout=30) as http:
            found = Scene(http, names, keys, spec)
            found.absent = {name: _never(value) for name, value in names.items()}
            yield found
    finally:
        machine.close()
        ann.cancel_job(ids["job"])


def _never(name: str) -> str:
    """An id of the same shape that nothing has."""
    return "f" * 64 if re.fullmatch(r"[0-9a-f]{64}", name) else name.replace("-", "-never-", 1)


def _plain(answer: httpx2.Response, names: Json) -> tuple[int, str, Json]:
    """An answer without the ids that were asked for, and without how long they are."""
    text = answer.text
    for name, value in sorted(names.items(), key=lambda one: -len(str(one[1]))):
        text = text.replace(str(value), f"<{name}>")
    headers = {name: value for name, value in answer.headers.items() if name != "content-length"}
    return answer.status_code, text, headers


@pytest.mark.parametrize("operation", DOORS)
def test_a_key_is_needed_and_its_role_counts(scene: Scene, operation: str) -> None:
    door = DOORS[operation]
    for key, code in ((None, "key_missing"), ("torg_wrong", "key_wrong")):
        answer = scene.send(operation, door, key, scene.names)
        if door.who == "anybody":
            assert answer.status_code == door.opens
            continue
        assert answer.status_code == 401
        assert operation.startswith("HEAD") or answer.json()["code"] == code
    for role in set(ROLES) - set(door.roles):
        answer = scene.send(operation, door, scene.keys[role], scene.names)
        assert (answer.status_code, answer.json()["code"]) == (403, "wrong_role"), role


def _strangers(door: Door) -> list[str]:
    return [role for role in ("customer", "provider") if role in door.roles]


@pytest.mark.parametrize("operation", [key for key, door in DOORS.items() if _strangers(door) and not door.owner])
def test_what_names_nobodys_object_shows_nothing_of_others(scene: Scene, operation: str) -> None:
    door = DOORS[operation]
    for role in _strangers(door):
        answer = scene.send(operation, door, scene.keys[role], scene.names)
        free = {*door.shows, *(name for name in PRIVATE if f"{{{name}}}" in _asked(operation, door))}
        shown = [name for name in PRIVATE if name not in free and str(scene.names[name]) in answer.text]
        assert not shown, f"a {role} sees {shown} in {answer.text[:400]}"


@pytest.mark.parametrize("operation", [key for key, door in DOORS.items() if door.owner])
def test_anothers_object_looks_as_if_it_did_not_exist(scene: Scene, operation: str) -> None:
    door = DOORS[operation]
    for role in _strangers(door):
        theirs = _plain(scene.send(operation, door, scene.keys[role], scene.names), scene.names)
        assert theirs[0] == door.status, (role, theirs)
        asked = _asked(operation, door)
        shown = [name for name in PRIVATE if f"<{name}>" in theirs[1] and f"{{{name}}}" not in asked]
        assert not shown, (role, shown, theirs)
        if door.status == 404:
            never = _plain(scene.send(operation, door, scene.keys[role], scene.absent), scene.absent)
            assert theirs == never, f"a {role} can tell that it is there"


def _asked(operation: str, door: Door) -> str:
    return f"{operation} {door.query} {json.dumps(door.body)}"


@pytest.mark.parametrize("operation", [key for key, door in DOORS.items() if door.owner])
def test_the_owner_and_the_trusted_find_it(scene: Scene, operation: str) -> None:
    door = DOORS[operation]
    assert door.owner is not None
    trusted = [role for role in door.trusted if role in door.roles] if operation.startswith("GET") else []
    for who in (door.owner, *trusted):
        answer = scene.send(operation, door, scene.keys[who], scene.names)
        assert answer.status_code < 500, (who, answer.text)
        assert answer.status_code not in (401, 403, 404), (who, answer.text)
        if door.status == 404:
            never = scene.send(operation, door, scene.keys[who], scene.absent)
            assert never.status_code == 404, "the ids of the entry do not matter to this route"
    for role in {"operator", "plane"} & set(door.roles) - set(trusted):
        if operation.startswith("GET"):
            assert scene.send(operation, door, scene.keys[role], scene.names).status_code == 404, role


def test_a_job_named_like_a_member_keeps_its_escrow_to_its_customer(square: Square) -> None:
    _, ann = square.newcomer("customer", 6 * USD)
    eve_name, eve = square.newcomer("customer")
    ann.submit_job(eve_name, make_spec(square.name("region")))
    assert ann.transfers(account=f"escrow:{eve_name}")
    assert refusal(lambda: eve.transfers(account=f"escrow:{eve_name}")).status == 404


@pytest.mark.parametrize("name", ["market", "fee", "world"])
def test_nobody_is_named_like_an_account_of_the_market(square: Square, name: str) -> None:
    refused = refusal(lambda: square.local("operator").add_member(name, "customer"))
    assert (refused.status, refused.field) == (422, "member")


def test_what_an_offer_earned_is_its_owners(scene: Scene) -> None:
    def offer_of(who: str) -> Json:
        answer = scene.http.get("/v1/offers", headers={"Authorization": f"Bearer {scene.keys[who]}"})
        return next(one for one in answer.json()["items"] if one["id"] == scene.names["offer"])

    for who in ("host", "operator", "plane"):
        assert offer_of(who)["leases"] == [scene.names["lease"]]
        assert offer_of(who)["earned_nanos"] > 0
    for who in ("ann", "customer", "provider"):
        assert (offer_of(who)["leases"], offer_of(who)["earned_nanos"]) == ([], None)
