"""What the routes stand on: one object, made at start and kept in `app.state.services`."""

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Annotated, Any

from fastapi import Depends, Header, Request
from fastapi.responses import JSONResponse

from market.api.books_link import BooksLink
from market.api.cosigned import CosignedHeads
from market.api.desk import Desk
from market.api.feed import Feed
from market.api.gate import Gate, address_of
from market.api.job_logs import JobLogs
from market.api.metrics import RequestCounts
from market.api.problems import Problem, not_found
from market.api.shelf import Shelf
from market.api.vault import Vault
from market.archive_standing import ArchiveStanding, archive_standing
from market.clocks import SteadyClock
from market.commands import Command
from market.exchange import Exchange
from market.homes import Home
from market.mirroring import Mirroring, Standing
from market.outcomes import Refusal
from market.sessions import Sessions

log = logging.getLogger("torg.api")

Json = dict[str, Any]
LEASE_WAIT_S = 5.0
LONGEST_WAIT_S = 30.0


@dataclass(slots=True)
class Services:
    """Everything that outlives a request. `started_ms` is when this process began to answer."""

    home: Home
    url: str
    version: str
    desk: Desk
    feed: Feed
    shelf: Shelf
    job_logs: JobLogs
    vault: Vault
    books: BooksLink
    cosigned: CosignedHeads
    signing_key: bytes
    public_key: str
    started_ms: int
    clock: SteadyClock
    ray: Json = field(default_factory=dict)
    requests: RequestCounts = field(default_factory=RequestCounts)
    gate: Gate = field(default_factory=Gate)
    sessions: Sessions = field(default_factory=Sessions)
    sealing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Whoever changes which secrets there are, or by which key they are sealed."""
    mirroring: Mirroring | None = None

    @property
    def exchange(self) -> Exchange:
        """The state of now; ask again after every await, a full disk replaces it."""
        return self.desk.exchange

    def mirrors(self) -> list[Standing]:
        """How each mirror of the journal stands."""
        return self.mirroring.standings() if self.mirroring is not None else []

    def archive(self) -> ArchiveStanding | None:
        """How the archive of the journal stands."""
        return archive_standing(self.home)

    async def ask(self, command: Command) -> tuple[Json, bool]:
        """The durable answer to a command and whether it was new; raises Problem for a refusal."""
        outcome = await self.desk.ask(command)
        if isinstance(outcome.answer, Refusal):
            raise problem_of(outcome.answer)
        return outcome.answer, outcome.created


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as the bearer key proved it."""

    name: str
    role: str
    suspended: bool = False

    @property
    def sees_all(self) -> bool:
        return self.role in ("operator", "plane")


async def services_of(request: Request) -> Services:
    """A coroutine, so that FastAPI calls it here: a plain function takes a thread of its pool for every request."""
    found = request.app.state.services
    assert isinstance(found, Services)
    return found


Has = Annotated[Services, Depends(services_of)]


async def caller_of(
    request: Request, services: Has, authorization: Annotated[str | None, Header(include_in_schema=False)] = None
) -> Caller:
    """The member of this request."""
    return member_with_key(services, authorization or "", address_of(request.scope))


def member_with_key(services: Services, authorization: str, address: str) -> Caller:
    """Whose key it is; Problem 401 for no key, a wrong one, or a revoked one, 429 for too many calls."""
    scheme, _, key = authorization.partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise _unauthorised("key_missing", "this needs a key: Authorization: Bearer KEY")
    hashed = sha256(key.strip().encode("utf-8", "surrogateescape")).hexdigest()
    found = services.exchange.member_by_key(hashed)
    if found is None or not hmac.compare_digest(found["key_sha256"], hashed):
        services.gate.pass_wrong_key(address)
        raise _unauthorised("key_wrong", "this key belongs to nobody here")
    if found["revoked"]:
        services.gate.pass_wrong_key(address)
        raise _unauthorised("key_revoked", f"the key of {found['member']} was revoked")
    services.gate.pass_member(found["member"], found["role"])
    return Caller(found["member"], found["role"], found["suspended"])


Someone = Annotated[Caller, Depends(caller_of)]


def allow(*roles: str) -> Callable[[Request, Caller], Awaitable[Caller]]:
    """A dependency: the caller, if its role is one of `roles`; Problem 403 otherwise."""

    async def check(request: Request, caller: Someone) -> Caller:
        check_role(caller, roles, request.method)
        return caller

    return check


def check_role(caller: Caller, roles: Sequence[str], method: str) -> None:
    """Problem 403 for a caller whose role is none of `roles`, and for a suspended operator who would change something."""
    if caller.role not in roles:
        message = f"{caller.name} is a {caller.role}; this is for {' and '.join(roles)}"
        raise Problem(403, "wrong_role", message, remedy=f"{roles[0]} keys open it")
    if caller.suspended and caller.role == "operator" and method not in ("GET", "HEAD"):
        message = f"{caller.name} is suspended and operates nothing meanwhile"
        raise Problem(403, "member_suspended", message, remedy="ask another operator")


Operator = Annotated[Caller, Depends(allow("operator"))]
Customer = Annotated[Caller, Depends(allow("customer", "operator"))]
Provider = Annotated[Caller, Depends(allow("provider", "operator"))]
Lessor = Annotated[Caller, Depends(allow("provider"))]
Plane = Annotated[Caller, Depends(allow("plane"))]


def problem_of(refusal: Refusal) -> Problem:
    """A refusal of the core as an HTTP problem."""
    return Problem(refusal.status, refusal.code, refusal.message, field=refusal.field, remedy=refusal.remedy)


def settle(answer: Json, created: bool) -> JSONResponse:
    """201 for something new, 200 for the same again."""
    return JSONResponse(answer, status_code=201 if created else 200)


IdempotencyKey = Annotated[str | None, Header(alias="Idempotency-Key", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


def id_of(body_id: str | None, key: str | None) -> str:
    """The id of a write: from the body or the Idempotency-Key header, which must not disagree."""
    if body_id is not None and key is not None and body_id != key:
        raise Problem(422, "id_mismatch", f"the body says id {body_id}, Idempotency-Key says {key}", field="id")
    found = body_id or key
    if found is None:
        raise Problem(
            422, "invalid_field", "id is missing", field="id", remedy="make an id and use it again on a retry"
        )
    return found


def job_for(services: Services, caller: Caller, job: str) -> Json:
    """The job as the API shows it; Problem 404 if it is unknown or another customer's."""
    found = services.exchange.job(job)
    if found is None or not (caller.sees_all or found["customer"] == caller.name):
        raise not_found("job", job)
    return found


async def changed(services: Services, topic: str, wait_s: float, seen: str | None, read: Callable[[], Json]) -> Json:
    """A long-poll: what `read` gives as soon as its `version` differs from `seen`, or when the wait is over."""
    loop_time = asyncio.get_running_loop().time
    until = loop_time() + wait_s
    while True:
        view = read()
        left = until - loop_time()
        if seen is None or str(view["version"]) != seen or left <= 0 or services.feed.closed:
            return view
        await services.feed.touched(topic, left)


def _unauthorised(code: str, message: str) -> Problem:
    headers = {"WWW-Authenticate": "Bearer"}
    return Problem(401, code, message, field="Authorization", remedy="ask the operator for a key", headers=headers)
