"""The short way of calls that come many times a second: what their route does, without what FastAPI does for any route.

Only a call that is plainly right is answered here. Whatever is unusual about one, its key, its body or its headers, goes the
long way over the route, so that every refusal of form is worded in one place.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.types import Message, Receive, Scope

from market.api.gate import address_of
from market.api.limits import JSON_S, too_slow
from market.api.money_bodies import DepositBody, PayoutBody
from market.api.problems import Problem
from market.api.services import Services, check_role, member_with_key, settle
from market.commands import Deposit, Payout
from storage.canonical import NotCanonical, parse_json

_LONGEST_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Quick:
    """A route of operators that makes one command of a body of `id`, `account` and `amount_nanos`."""

    path: str
    body: type[DepositBody | PayoutBody]
    command: type[Deposit | Payout]

    async def answer(self, services: Services, scope: Scope, data: bytes) -> JSONResponse | None:
        """The answer; None for a call that must go the long way."""
        headers: Mapping[bytes, bytes] = dict(scope["headers"])
        if headers.get(b"content-type") != b"application/json" or b"idempotency-key" in headers:
            return None
        try:
            body = self.body.model_validate(parse_json(data))
        except (NotCanonical, ValidationError, RecursionError):
            return None
        if body.id is None:
            return None
        try:
            caller = member_with_key(services, headers.get(b"authorization", b"").decode("latin-1"), address_of(scope))
            check_role(caller, ("operator",), scope["method"])
            return settle(*await services.ask(self.command(body.id, body.account, body.amount_nanos, caller.name)))
        except Problem as problem:
            return problem.answer()


QUICK: Final = {
    ("POST", quick.path): quick
    for quick in (Quick("/v1/deposits", DepositBody, Deposit), Quick("/v1/payouts", PayoutBody, Payout))
}


async def first_part(receive: Receive) -> tuple[bytes | None, Receive]:
    """The body of a call, if it came whole and is short, else None; and a `receive` that gives it all again."""
    try:
        async with asyncio.timeout(JSON_S):
            message = await receive()
    except TimeoutError as error:
        raise too_slow(JSON_S) from error
    whole = message["type"] == "http.request" and not message.get("more_body", False)
    data = message.get("body", b"") if whole else b""
    waiting: list[Message] = [message]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return data if 0 < len(data) <= _LONGEST_BYTES else None, again
