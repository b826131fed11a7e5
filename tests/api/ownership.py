"""Who owns what each route names: one entry a route, read by test_ownership.py. A new route needs an entry here.

The key is `METHOD path` as OpenAPI writes it. Names in braces (in the path, the query or the body) are filled from the
scene: objects of `ann` (a customer), whose job runs on a machine of `host` (a provider). `eve` and `thief` are a customer
and a provider who own nothing. What is tried on a route:

- without a key and with a wrong one: 401 (but where `who` is «anybody»);
- every role that `who` does not name: 403;
- a stranger of a role that `who` names: the answer for ann's or host's ids is the one for ids that never were, and names
  nothing of theirs;
- the owner: neither 401, 403 nor 404, so that the ids of the entry are known to be right. Where the owner's call would
  end or change something, name a spare: `{spare_job}`, `{spare_offer}`, `{spare_lease}`.
"""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from market.api.app import make_app
from market.api.openapi import api_routes

Json = dict[str, Any]
ROLES = ("customer", "provider", "operator", "plane")
ZERO = "0" * 64
PAGES = {"GET /openapi.json", "GET /docs", "GET /docs/oauth2-redirect", "GET /redoc"}


@dataclass(frozen=True, slots=True)
class Door:
    """`who` as docs/API.md writes it: «anybody», «member», or roles. `owner`: ann, host, or None for a route that names no
    object. `trusted`: roles that see everybody's. `status`: what a stranger gets for somebody else's id and for one that
    never was. `shows`: names of the scene that everybody may see here; `because` says why, and why a status is not 404. `opens`: what
    anybody is answered where `who` is «anybody».
    """

    who: str
    owner: str | None = None
    query: str = ""
    body: Json | None = None
    content: bytes | None = None
    headers: Json | None = None
    trusted: tuple[str, ...] = ("operator", "plane")
    status: int = 404
    shows: tuple[str, ...] = ()
    because: str = ""
    opens: int = 200

    @property
    def roles(self) -> tuple[str, ...]:
        """Who may call it."""
        return ROLES if self.who in ("anybody", "member") else tuple(self.who.split(", "))


NEW_OFFER = {
    "id": "{spare_offer}", "name": "n", "gpu": "cpu", "gpus": 1, "vram_gib": 1.0, "region": "nowhere",
    "price_nanos_per_gpu_hour": 10**9, "isolation": "process", "measured": {}, "shares": [], "node": "n", "versions": {},
}  # fmt: skip
LOST = {"lease": "{lease}", "epoch": 1}
MEMBER = {**LOST, "slot": 0, "steps": 1, "tokens": 1, "leased_ms": 1, "trained_ms": 1, "bytes": 1, "contribution": ZERO}
SIGNED = {"public_key": ZERO, "signature": 2 * ZERO}
HEAD = {"market": "another", "size": 1, "root": ZERO, "at_ms": 1, **SIGNED}
ROUND = {"job": "{job}", "round": 99, "step": 99, "digest": ZERO, "reason": "r", "duration_ms": 1, "members": [MEMBER]}
CHECKPOINT = {"job": "{job}", "round": 1, "step": 1, "manifest": "{manifest}", "bytes": 1, "stall_ms": 1}
ATTEMPT = {"job": "{job}", "number": 1, **LOST, "kind": "exit", "code": 0, "duration_ms": 1}
STARTED = {"epoch": 1, "worker": "w", "pid": 1, "node": "n"}
MINE = {"sql": "SELECT * FROM jobs"}
DIGESTS = "who knows a digest may read its bytes: 256 bits are not guessed, and only a job's owner is shown them"

DOORS: dict[str, Door] = {
    "GET /healthz": Door("anybody"),
    "GET /metrics": Door("anybody"),
    "GET /v1/status": Door("member"),
    "POST /v1/market/stop": Door("operator", body={}),
    "POST /v1/market/reopen": Door("operator", body={}),
    "PUT /v1/market/price-rule": Door("operator", body={"rule": "ask"}),
    "PUT /v1/market/due-rule": Door("operator", body={"patience": 4, "most_ms": 86_400_000}),
    "POST /v1/market/ray": Door("plane", body={"address": "a", "token_path": "t"}),
    "GET /v1/ray": Door("provider, plane"),
    "GET /v1/members": Door("operator"),
    "POST /v1/members": Door("operator", body={"member": "{customer}", "role": "customer"}),
    "POST /v1/members/{member}/revoke": Door("operator", body={}),
    "POST /v1/members/{member}/rotate": Door("operator", body={"grace_ms": 0}),
    "POST /v1/members/{member}/role": Door("operator", body={"role": "provider"}),
    "POST /v1/members/{member}/suspend": Door("operator", body={}),
    "POST /v1/members/{member}/resume": Door("operator", body={}),
    "GET /v1/invites": Door("operator"),
    "POST /v1/invites": Door("operator", body={"role": "customer"}),
    "POST /v1/invites/{invite}/revoke": Door("operator", body={}),
    "POST /v1/join": Door("anybody", body={"code": "join_i1_x", "key_sha256": ZERO}, opens=404, because="a wrong code"),
    "GET /v1/teams": Door("operator"),
    "PUT /v1/teams/{team}": Door("operator", body={"weight": 1}),
    "POST /v1/teams/{team}/remove": Door("operator", body={}),
    "POST /v1/members/{member}/team": Door("operator", body={"team": None}),
    "POST /v1/deposits": Door("operator", body={"id": "d", "account": "{customer}", "amount_nanos": 1}),
    "POST /v1/payouts": Door("operator", body={"id": "p", "account": "{provider}", "amount_nanos": 1}),
    "POST /v1/transfers/batch": Door(
        "operator", body={"transfers": [{"id": "b", "account": "{customer}", "amount_nanos": 1}]}
    ),
    "POST /v1/corrections": Door("operator", body={"id": "c", "transfer": "d", "reason": "a slip"}),
    "GET /v1/periods": Door("operator"),
    "POST /v1/periods": Door("operator", body={}),
    "GET /v1/periods/{number}": Door("operator"),
    "PUT /v1/teams/{team}/limits": Door("operator", body={"per_day_nanos": 1}),
    "PUT /v1/members/{member}/limits": Door("operator", body={"per_day_nanos": None}),
    "GET /v1/grants": Door("operator"),
    "POST /v1/grants": Door("operator", body={"id": "g", "member": "{customer}", "amount_nanos": 1, "reason": "r"}),
    "GET /v1/balance": Door("member", "ann", query="account={customer}", trusted=("operator",)),
    "GET /v1/transfers": Door("member", "ann", query="account=escrow:{job}", trusted=("operator",)),
    "GET /v1/offers": Door("member", shows=("offer", "spare_offer", "provider"), because="what is for rent is public"),
    "POST /v1/offers": Door(
        "provider", "host", body=NEW_OFFER, status=409, because="ids are the market's: one that is taken is a conflict"
    ),
    "POST /v1/offers/{offer}/price": Door("provider, operator", "host", body={"price_nanos_per_gpu_hour": 10**9}),
    "POST /v1/offers/{offer}/lease-times": Door("provider, operator", "host", body={"max_lease_ms": 8 * 3_600_000}),
    "POST /v1/offers/{offer}/hold": Door("provider, operator", "host", body={"gpus": 0, "leases": ["{lease}"]}),
    "POST /v1/offers/{offer}/measured": Door("provider", "host", body={"seed": 1, "measured": {"cores": 1}}),
    "GET /v1/probe": Door("provider", query="size=1"),
    "POST /v1/probe": Door("provider", content=b"x"),
    "POST /v1/offers/{spare_offer}/{action}": Door("provider, operator", "host", body={}),
    "GET /v1/leases": Door("provider", "host", query="offer={offer}"),
    "POST /v1/leases/{lease}/started": Door("provider", "host", body={**STARTED, "epoch": 10**6}),
    "POST /v1/leases/{lease}/ended": Door("provider", "host", body={"epoch": 10**6, "reason": "r"}),
    "GET /v1/leases/{lease}/secrets": Door("provider", "host", query="epoch={epoch}"),
    "POST /v1/market/secrets/rekey": Door("operator", body={}),
    "GET /v1/secrets": Door("customer, operator"),
    "PUT /v1/secrets/{spare_secret}": Door("customer, operator", body={"value": "v"}),
    "DELETE /v1/secrets/{secret}": Door("customer, operator", "ann"),
    "POST /v1/quotes": Door("customer, operator", body={"spec": {}}),
    "POST /v1/jobs": Door(
        "customer, operator",
        "ann",
        body={"id": "{job}", "spec": "{spec}"},
        status=409,
        because="ids are the market's: one that is taken is a conflict",
    ),
    "GET /v1/jobs": Door("member"),
    "GET /v1/jobs/{job}": Door("member", "ann"),
    "POST /v1/jobs/{spare_job}/cancel": Door("customer, operator", "ann", body={}),
    "POST /v1/jobs/{job}/budget": Door("customer, operator", "ann", body={"id": "b", "add_nanos": 1}),
    "POST /v1/jobs/{job}/retune": Door("customer, operator", "ann", body={"id": "t", "options": {"outer_lr": 0.5}}),
    "GET /v1/jobs/{job}/explain": Door("member", "ann"),
    "GET /v1/jobs/{job}/rounds": Door("member", "ann"),
    "GET /v1/jobs/{job}/events": Door("member", "ann"),
    "GET /v1/jobs/{job}/logs": Door("member", "ann"),
    "POST /v1/jobs/{job}/sessions": Door("customer, operator", "ann", body={"kind": "exec", "argv": ["true"]}),
    "GET /v1/jobs/{job}/sessions/{session}/frames": Door("customer, operator"),  # of real ones: test_sessions.py
    "POST /v1/jobs/{job}/sessions/{session}/frames": Door("customer, operator", content=b""),
    "GET /v1/leases/{lease}/sessions": Door("provider", "host", query="epoch={epoch}"),
    "GET /v1/leases/{lease}/sessions/{session}/frames": Door("provider", query="epoch={epoch}"),
    "POST /v1/leases/{lease}/sessions/{session}/frames": Door("provider", query="epoch={epoch}", content=b""),
    "GET /v1/jobs/{job}/result": Door("member", "ann", query="round=1"),
    "GET /v1/jobs/{job}/checkpoints": Door("member", "ann"),
    "GET /v1/jobs/{job}/provenance": Door("member", "ann"),
    "GET /v1/runs": Door("plane"),
    "GET /v1/jobs/{job}/run": Door("plane"),
    "POST /v1/rounds": Door("plane", body=ROUND),
    "POST /v1/readings": Door("plane", body={"job": "{job}"}),
    "POST /v1/checkpoints": Door("plane", body=CHECKPOINT),
    "POST /v1/saves": Door("plane", body={"job": "{job}", "number": 1, **LOST, "manifest": ZERO, "bytes": 1}),
    "POST /v1/attempts": Door("plane", body=ATTEMPT),
    "POST /v1/jobs/{job}/halted": Door("plane", body={"state": "paused", "reason": "r", "round": 1}),
    "HEAD /v1/blobs/{digest}": Door("member", because=DIGESTS),
    "GET /v1/blobs/{digest}": Door("member", shows=("job",), because=DIGESTS),
    "POST /v1/blobs": Door("member", content=b"", because=DIGESTS),
    "POST /v1/blobs/missing": Door("member", body={"digests": ["{digest}"]}, because=DIGESTS),
    "POST /v1/blobs/collect": Door("operator", body={"dry_run": True}),
    "PUT /v1/blobs/{digest}": Door("member", content=b"", because=DIGESTS),
    "GET /v1/disputes": Door("member", query="job={job}"),
    "GET /v1/disputes/{dispute}": Door("member", "ann"),
    "POST /v1/jobs/{job}/disputes": Door(
        "customer, operator", "ann", body={"id": "{dispute}", "lease": "{lease}", "amount_nanos": 1, "reason": "r"}
    ),
    "POST /v1/disputes/{dispute}/decide": Door("operator", body={"verdict": "rejected", "reason": "r"}),
    "GET /v1/billing": Door("member", query="job={job}"),
    "GET /v1/prices": Door("member", query="points=4"),
    "GET /v1/invoices/{job}": Door("member", "ann", trusted=("operator",)),
    "GET /v1/invoices/{job}/bundle": Door("member", "ann", trusted=("operator",)),
    "GET /v1/log": Door("member", query="old=1"),
    "POST /v1/log/cosignatures": Door("member", body={"head": HEAD, **SIGNED, "at_s": 1}),
    "POST /v1/sql": Door("member", body=MINE),
    "GET /v1/books/verify": Door("operator"),
    "POST /v1/books/rebuild": Door("operator", body={}),
}


def operations() -> set[str]:
    """`METHOD path` of everything that the application answers, whether or not its OpenAPI page shows it."""
    found: set[str] = set()
    for route in api_routes(make_app(SimpleNamespace(version="x")).routes):  # type: ignore[arg-type]
        methods = getattr(route, "methods", None) or {"WEBSOCKET"}
        shown = methods - {"HEAD"} if "GET" in methods else methods
        found |= {f"{method} {route.path}" for method in shown}  # type: ignore[attr-defined]
    return found - PAGES


def route_of(key: str) -> str:
    """An entry's key as OpenAPI writes it: a spare object has the place of its kind."""
    return key.replace("{spare_", "{")
