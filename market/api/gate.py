"""Rate limits at the door: by address for who shows no key or a wrong one, by member for everybody else.

A right key is never refused for what others at its address did. The plane is the market's own and has no limit.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.types import Scope

from market.api.problems import Problem
from market.rates import ADDRESS, MEMBER, WRONG_CODES, WRONG_KEYS, Buckets


@dataclass(slots=True)
class Gate:
    """The market's buckets, and how often they were empty (by kind), for /metrics."""

    members: Buckets = field(default_factory=lambda: Buckets(MEMBER))
    addresses: Buckets = field(default_factory=lambda: Buckets(ADDRESS))
    wrong_keys: Buckets = field(default_factory=lambda: Buckets(WRONG_KEYS))
    wrong_codes: Buckets = field(default_factory=lambda: Buckets(WRONG_CODES))
    clock_s: Callable[[], float] = time.monotonic
    refused: dict[str, int] = field(default_factory=lambda: {"member": 0, "address": 0, "wrong_key": 0, "wrong_code": 0})

    def pass_member(self, member: str, role: str) -> None:
        """A call with a right key; Problem 429."""
        if role != "plane":
            self._take("member", self.members, member)

    def pass_address(self, address: str) -> None:
        """A call without a key; Problem 429."""
        self._take("address", self.addresses, address)

    def pass_wrong_key(self, address: str) -> None:
        """A key that opens nothing; Problem 429 instead of its 401."""
        self._take("wrong_key", self.wrong_keys, address)

    def pass_wrong_code(self, address: str) -> None:
        """An invitation's code that is none; Problem 429 instead of its refusal."""
        self._take("wrong_code", self.wrong_codes, address)

    def _take(self, kind: str, buckets: Buckets, name: str) -> None:
        wait_s = buckets.take(name, self.clock_s())
        if wait_s > 0:
            self.refused[kind] += 1
            raise too_many(wait_s, buckets.rate.per_s)


def too_many(wait_s: float, per_s: float) -> Problem:
    """429 with Retry-After in whole seconds."""
    seconds = math.ceil(wait_s)
    message = f"too many calls: {per_s:g} a second are answered in the long run"
    remedy = f"ask again in {seconds} s; wait with wait_s instead of asking often"
    return Problem(429, "too_many_requests", message, remedy=remedy, headers={"Retry-After": str(seconds)})


def address_of(scope: Scope) -> str:
    """Where a call comes from; a proxy on the market's machine is believed about it (uvicorn's rule)."""
    client = scope.get("client")
    return str(client[0]) if client else "unknown"
