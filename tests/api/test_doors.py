"""Who may pass which door, and what the market says to everybody else."""

import json
import os
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from market.client import Market
from market.homes import LOCAL_MEMBERS
from tests.api.square import USD, Square, digest, make_offer, make_spec, refusal

Json = dict[str, Any]
DIGEST = digest("nothing")
STARTED = {"epoch": 1, "worker": "w", "pid": 1, "node": "n"}
ROUND = {"job": "job-x", "round": 1, "step": 1, "digest": DIGEST, "reason": "r", "duration_ms": 1, "lost": [],
         "members": [{"lease": "l", "epoch": 1, "slot": 0, "provider": "p", "loss": 1.0, "steps": 1, "tokens": 1,
                      "leased_ms": 1, "trained_ms": 1, "bytes": 1, "contribution": DIGEST}]}  # fmt: skip
CHECKPOINT = {"job": "job-x", "round": 1, "step": 1, "manifest": DIGEST, "bytes": 1, "stall_ms": 1, "removed": []}
HALTED = {"state": "done", "reason": "done", "detail": "", "round": 1, "manifest": None}
OFFER = make_offer("offer-x", "nowhere")

# method, path, body, roles that may pass
DOORS = [
    ("POST", "/v1/market/stop", {}, "operator"),
    ("POST", "/v1/market/reopen", {}, "operator"),
    ("POST", "/v1/market/ray", {"address": "a", "token_path": "t"}, "plane"),
    ("GET", "/v1/ray", None, "provider plane"),
    ("GET", "/v1/members", None, "operator"),
    ("POST", "/v1/members", {"member": "x", "role": "customer"}, "operator"),
    ("POST", "/v1/members/x/revoke", {}, "operator"),
    ("POST", "/v1/members/x/rotate", {}, "operator"),
    ("POST", "/v1/deposits", {"id": "d", "account": "customer", "amount_nanos": 1}, "operator"),
    ("POST", "/v1/payouts", {"id": "p", "account": "provider", "amount_nanos": 1}, "operator"),
    ("POST", "/v1/offers", OFFER, "provider"),
    ("POST", "/v1/offers/offer-x/drain", {}, "provider operator"),
    ("POST", "/v1/offers/offer-x/withdraw", {}, "provider operator"),
    ("POST", "/v1/offers/offer-x/relist", {}, "provider operator"),
    ("POST", "/v1/offers/offer-x/hold", {"gpus": 0}, "provider operator"),
    ("POST", "/v1/offers/offer-x/price", {"price_nanos_per_gpu_hour": 1}, "provider operator"),
    ("GET", "/v1/leases?offer=offer-x", None, "provider"),
    ("POST", "/v1/leases/lease-x/started", STARTED, "provider"),
    ("POST", "/v1/leases/lease-x/ended", {"epoch": 1, "reason": "r", "detail": ""}, "provider"),
    ("POST", "/v1/quotes", {"spec": {}}, "customer operator"),
    ("POST", "/v1/jobs", {"id": "job-x", "spec": {}}, "customer operator"),
    ("POST", "/v1/jobs/job-x/cancel", {}, "customer operator"),
    ("POST", "/v1/jobs/job-x/budget", {"id": "b", "add_nanos": 1}, "customer operator"),
    ("POST", "/v1/jobs/job-x/retune", {"id": "t", "strategy": "ddp"}, "customer operator"),
    ("GET", "/v1/runs", None, "plane"),
    ("GET", "/v1/jobs/job-x/run", None, "plane"),
    ("POST", "/v1/rounds", ROUND, "plane"),
    ("POST", "/v1/readings", {"job": "job-x", "run_pid": 1}, "plane"),
    ("POST", "/v1/checkpoints", CHECKPOINT, "plane"),
    ("POST", "/v1/jobs/job-x/halted", HALTED, "plane"),
    ("GET", "/v1/books/verify", None, "operator"),
    ("POST", "/v1/books/rebuild", {}, "operator"),
]
OPEN_DOORS = [
    ("GET", "/v1/status", None), ("GET", "/v1/balance", None), ("GET", "/v1/transfers", None),
    ("GET", "/v1/offers", None), ("GET", "/v1/jobs", None), ("GET", "/v1/billing", None),
    ("POST", "/v1/blobs", {}), ("HEAD", f"/v1/blobs/{DIGEST}", None), ("GET", f"/v1/blobs/{DIGEST}", None), ("PUT", f"/v1/blobs/{DIGEST}", {}),
    ("POST", "/v1/sql", {"sql": "SELECT 1"}), ("GET", "/v1/jobs/job-x", None),
]  # fmt: skip


@pytest.fixture(scope="module")
def http(square: Square) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=square.url, timeout=30) as client:
        yield client


def send(http: httpx2.Client, key: str | None, method: str, path: str, body: object) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return http.request(method, path, json=body, headers=headers)


def check_problem(answer: httpx2.Response, status: int, code: str) -> Json:
    found: Json = answer.json()
    assert (answer.status_code, found["status"], found["code"]) == (status, status, code), found
    assert answer.headers["content-type"] == "application/problem+json"
    assert set(found) == {"type", "title", "status", "detail", "code", "message", "field", "remedy"}
    return found


@pytest.mark.parametrize(("method", "path", "body", "roles"), DOORS)
def test_every_other_role_is_refused(
    square: Square, http: httpx2.Client, method: str, path: str, body: object, roles: str
) -> None:
    keys = square.home.read_keys()
    for role in LOCAL_MEMBERS:
        if role not in roles.split():
            check_problem(send(http, keys[role], method, path, body), 403, "wrong_role")


@pytest.mark.parametrize(("method", "path"), [(m, p) for m, p, *_ in [*DOORS, *OPEN_DOORS] if m != "HEAD"])
def test_no_key_and_a_wrong_key_open_nothing(http: httpx2.Client, method: str, path: str) -> None:
    body = None if method == "GET" else {}
    check_problem(send(http, None, method, path, body), 401, "key_missing")
    found = check_problem(send(http, "torg_wrong", method, path, body), 401, "key_wrong")
    assert found["remedy"]


def test_a_revoked_key_is_told_so(square: Square, http: httpx2.Client) -> None:
    name, ann = square.newcomer("customer")
    key = str(ann._wire._key)
    assert send(http, key, "GET", "/v1/balance", None).status_code == 200
    square.local("operator").revoke_member(name)
    check_problem(send(http, key, "GET", "/v1/balance", None), 401, "key_revoked")


def test_keys_are_secret_on_the_disk(square: Square) -> None:
    home = square.home
    for path in (home.keys_file, home.signing_key_file):
        assert path.stat().st_mode & 0o777 == 0o600, path
    keys = set(home.read_keys().values())
    assert len(keys) == len(LOCAL_MEMBERS)
    for path in [*home.journal.rglob("*"), *home.logs.rglob("*")]:
        if path.is_file():
            content = path.read_bytes()
            assert not any(key.encode() in content for key in keys), f"{path} holds a plain key"


def test_another_customers_job_looks_like_none(square: Square) -> None:
    region, job = square.name("region"), square.name("job")
    _, ann = square.newcomer("customer", 6 * USD)
    _, eve = square.newcomer("customer", 6 * USD)
    _, provider = square.newcomer("provider")
    ann.submit_job(job, make_spec(region))
    for name in (job, "job-that-never-was"):
        asked = [
            lambda m, n=name: m.job(n), lambda m, n=name: m.explain(n), lambda m, n=name: m.rounds(n),
            lambda m, n=name: m.result(n), lambda m, n=name: m.provenance(n), lambda m, n=name: m.job_logs(n),
            lambda m, n=name: m.invoice(n), lambda m, n=name: list(m.job_events(n)),
        ]  # fmt: skip
        for ask in asked:
            for other in (eve, provider):
                refused = refusal(lambda ask=ask, other=other: ask(other))  # type: ignore[misc]
                assert (refused.status, refused.code) == (404, "unknown_job")
        for write in (lambda n=name: eve.cancel_job(n), lambda n=name: eve.add_budget(n, id="b-1", add_nanos=1)):
            refused = refusal(write)
            assert (refused.status, refused.code) == (404, "unknown_job")
    assert eve.jobs() == []
    assert eve.billing() == []
    assert ann.job(job)["state"] == "pending"
    assert square.local("operator").job(job)["id"] == job
    for account in (ann.balance()["account"], f"escrow:{job}", "fee", "nobody"):
        assert refusal(lambda account=account: eve.transfers(account=account)).status == 404  # type: ignore[misc]
    assert ann.transfers(account=f"escrow:{job}")[0]["amount_nanos"] == 5 * USD


def test_another_providers_offer_cannot_be_touched(square: Square) -> None:
    offer, region = square.name("offer"), square.name("region")
    _, owner = square.newcomer("provider")
    _, thief = square.newcomer("provider")
    owner.place_offer(make_offer(offer, region))
    tries = [
        lambda: thief.change_offer(offer, "drain"), lambda: thief.change_offer(offer, "withdraw"),
        lambda: thief.change_offer(offer, "relist"), lambda: thief.set_price(offer, 1), lambda: thief.leases(offer),
        lambda: thief.place_offer(make_offer(offer, region)),
        lambda: thief.lease_started("lease-999999", epoch=1, worker="w", pid=1, node="n"),
        lambda: thief.lease_ended("lease-999999", epoch=1, reason="r"),
    ]  # fmt: skip
    for attempt in tries:
        assert refusal(attempt).status in (403, 404, 409)
    assert owner.leases(offer)["offer"]["state"] == "open"


def test_the_same_id_twice(square: Square, http: httpx2.Client) -> None:
    name, _ = square.newcomer("customer")
    key = square.home.read_keys()["operator"]
    body = {"id": square.name("deposit"), "account": name, "amount_nanos": 5}
    first = send(http, key, "POST", "/v1/deposits", body)
    again = send(http, key, "POST", "/v1/deposits", body)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    check_problem(send(http, key, "POST", "/v1/deposits", body | {"amount_nanos": 6}), 409, "conflict")
    by_header = {"Authorization": f"Bearer {key}", "Idempotency-Key": str(body["id"])}
    rest = {"account": name, "amount_nanos": 5}
    assert http.post("/v1/deposits", json=rest, headers=by_header).status_code == 200
    check_problem(http.post("/v1/deposits", json=body | {"id": "other"}, headers=by_header), 422, "id_mismatch")
    found = check_problem(send(http, key, "POST", "/v1/deposits", rest), 422, "invalid_field")
    assert found["field"] == "id"


def test_the_short_way_answers_like_the_long_one(square: Square, http: httpx2.Client) -> None:
    name, _ = square.newcomer("customer")
    keys = square.home.read_keys()

    def both(key: str, path: str, body: Json) -> set[tuple[int, str]]:
        found = set()
        for kind in ("application/json", "application/json; charset=utf-8"):  # the second goes over the route
            headers = {"Authorization": f"Bearer {key}", "Content-Type": kind}
            answer = http.post(f"/v1/{path}", content=json.dumps(body), headers=headers)
            found.add((answer.status_code, answer.text))
        return found

    body = {"id": square.name("deposit"), "account": name, "amount_nanos": 5}
    failed = {"id": square.name("payout"), "account": "provider", "amount_nanos": 5}
    assert send(http, keys["operator"], "POST", "/v1/deposits", body).status_code == 201
    assert send(http, keys["operator"], "POST", "/v1/payouts", failed).status_code == 402
    rows = [
        ("operator", "deposits", {}, 200), ("operator", "deposits", {"amount_nanos": 6}, 409),
        ("operator", "deposits", {"account": "nobody"}, 404), ("operator", "deposits", {"amount_nanos": 2**62}, 422),
        ("customer", "deposits", {}, 403), ("nobody", "deposits", {}, 401), ("operator", "deposits", {"id": ""}, 422),
        ("operator", "payouts", failed, 402),
    ]  # fmt: skip
    for role, path, change, status in rows:
        assert [code for code, _ in both(keys.get(role, "wrong"), path, body | change)] == [status], (role, path, change)


@pytest.mark.parametrize(
    ("body", "field", "hint"),
    [
        ({"id": "d", "account": "customer", "amount_nano": 1}, "amount_nanos", None),
        ({"id": "d", "account": "customer", "amount_nanos": 1, "amount_nano": 1}, "amount_nano", "amount_nanos?"),
        ({"id": "d", "account": "customer", "amount_nanos": -1}, "amount_nanos", None),
        ({"id": "d", "account": "customer", "amount_nanos": "1"}, "amount_nanos", None),
        ({"id": "d", "account": "customer", "amount_nanos": 1.5}, "amount_nanos", None),
        ({"id": "d", "account": "customer", "amount_nanos": 2**64}, "amount_nanos", None),
        ({"id": "../d", "account": "customer", "amount_nanos": 1}, "id", None),
        ([], "body", None),
    ],
)
def test_a_bad_field_is_named(square: Square, http: httpx2.Client, body: object, field: str, hint: str | None) -> None:
    found = check_problem(
        send(http, square.home.read_keys()["operator"], "POST", "/v1/deposits", body), 422, "invalid_field"
    )
    assert found["field"] == field
    assert hint is None or hint in found["remedy"]


@pytest.mark.parametrize(
    "raw", [b'{"id": NaN}', b'{"id": "a", "id": "b"}', b'{"id": "\\ud800"}', b"{", b"[" * 100_000, b"\xff"]
)
def test_json_that_means_nothing_is_refused(square: Square, http: httpx2.Client, raw: bytes) -> None:
    headers = {"Authorization": f"Bearer {square.home.read_keys()['operator']}", "Content-Type": "application/json"}
    check_problem(http.post("/v1/deposits", content=raw, headers=headers), 400, "bad_json")


def test_a_body_without_end_is_cut_off(square: Square, http: httpx2.Client) -> None:
    headers = {"Authorization": f"Bearer {square.home.read_keys()['operator']}", "Content-Type": "application/json"}
    long = b'{"id": "' + b"a" * (3 * 1024 * 1024) + b'"}'
    check_problem(http.post("/v1/deposits", content=long, headers=headers), 413, "body_too_large")
    pieces = (long[at : at + 65_536] for at in range(0, len(long), 65_536))
    check_problem(http.post("/v1/deposits", content=pieces, headers=headers), 413, "body_too_large")


def test_unknown_routes_and_methods_are_problems(http: httpx2.Client) -> None:
    check_problem(http.get("/v1/nothing"), 404, "unknown_route")
    check_problem(http.delete("/v1/offers"), 405, "wrong_method")


def test_the_open_pages_need_no_key(square: Square, http: httpx2.Client) -> None:
    health = http.get("/healthz").json()
    assert health["ok"]
    assert health["journal_records"] >= 5
    described = http.get("/openapi.json").json()["paths"]
    for _, path, *_ in DOORS:
        shape = path.partition("?")[0].replace("job-x", "{job}").replace("offer-x", "{offer}")
        shape = shape.replace("lease-x", "{lease}").replace("/members/x/", "/members/{member}/")
        for action in ("drain", "withdraw", "relist"):
            shape = shape.replace("{offer}/" + action, "{offer}/{action}")
        assert shape in described
    figures = http.get("/metrics").text
    assert "torg_journal_records" in figures
    assert "torg_balanced 1.0" in figures


def test_ray_is_said_by_the_plane_and_read_by_providers(square: Square, tmp_path: Any) -> None:
    provider, plane = square.local("provider"), square.local("plane")
    plane.announce_ray("127.0.0.1:6379", str(tmp_path / "no-such-token"))
    with Market(square.url, square.home.read_keys()["provider"], patience_s=0) as hasty:
        starting = refusal(hasty.ray)
    assert (starting.status, starting.code) == (503, "ray_starting")
    token = tmp_path / "ray.token"
    token.write_text("secret\n")
    plane.announce_ray("127.0.0.1:6379", str(token))
    assert provider.ray()["token"] == "secret"
    assert set(provider.ray()["versions"]) == {"python", "ray", "torg"}
    assert provider.status()["ray_address"] == "127.0.0.1:6379"
    assert os.stat(square.home.ray_file).st_mode & 0o777 == 0o600
    # What a head has said that is gone is said to nobody: the next one says its own.
    square.home.write_pid("head", 4_242_424)
    try:
        with Market(square.url, square.home.read_keys()["provider"], patience_s=0) as hasty:
            assert refusal(hasty.ray).code == "ray_starting"
        assert provider.status()["ray_address"] is None
        plane.announce_ray("127.0.0.1:6379", str(token))
        assert provider.ray()["address"] == "127.0.0.1:6379"
    finally:
        square.home.forget_pid("head")
