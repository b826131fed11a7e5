"""Questions to the books process: a loopback HTTP call, and a clear answer while it starts again."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import httpx2

from market.api.problems import Problem
from market.homes import Home, read_json

if TYPE_CHECKING:
    from market.api.services import Caller

ANSWER_S = 600.0
CONNECT_S = 2.0
AWAY_S = 5.0
PAUSE_S = 0.1


class BooksLink:
    """Asks the books that run/books.json names. One connection pool, made on first use.

    A question that finds the books away is asked again for `away_s`: questions change nothing, and making the books
    anew may be done twice.
    """

    def __init__(self, home: Home, *, away_s: float = AWAY_S) -> None:
        self._home = home
        self._away_s = away_s
        self._pool: httpx2.AsyncClient | None = None

    async def ask(self, name: str, caller: "Caller", min_records: int, params: Mapping[str, Any]) -> dict[str, Any]:
        """The answer from a projection that holds at least `min_records` records, as `caller` may see it.

        Raises the Problem that the books answered, or 503 books_restarting.
        """
        tenant = {"member": caller.name, "role": caller.role}
        given = {name: value for name, value in params.items() if value is not None}
        body = {"name": name, "params": given, "tenant": tenant, "min_records": min_records}
        clock = asyncio.get_running_loop().time
        until = clock() + self._away_s
        while True:
            try:
                answer = await self._send(body)
                return self._read(answer)
            except (httpx2.TransportError, OSError, KeyError, ValueError) as error:
                # no port file yet, half a start, nobody at the port, or killed while answering
                if clock() > until:
                    raise _away() from error
            await asyncio.sleep(PAUSE_S)

    async def close(self) -> None:
        """Close the connections."""
        if self._pool is not None:
            await self._pool.aclose()
            self._pool = None

    async def _send(self, body: dict[str, Any]) -> httpx2.Response:
        if self._pool is None:
            timeout = httpx2.Timeout(ANSWER_S, connect=CONNECT_S)
            self._pool = httpx2.AsyncClient(timeout=timeout, trust_env=False)
        port = int(read_json(self._home.books_file)["port"])
        token = (self._home.run / "books.token").read_text(encoding="ascii").strip()
        headers = {"Authorization": f"Bearer {token}"}
        return await self._pool.post(f"http://127.0.0.1:{port}/query", json=body, headers=headers)

    def _read(self, answer: httpx2.Response) -> dict[str, Any]:
        found = answer.json()
        if not isinstance(found, dict):
            raise ValueError("the books answered with something that is not an object")
        if answer.is_success:
            return found
        raise Problem(
            answer.status_code,
            str(found["code"]),
            str(found["message"]),
            field=found.get("field"),
            remedy=found.get("remedy"),
            headers={"Retry-After": "1"} if answer.status_code == 503 else None,
        )


def _away() -> Problem:
    return Problem(
        503,
        "books_restarting",
        "the books are starting again; money and jobs go on meanwhile",
        remedy="ask again in a few seconds",
        headers={"Retry-After": "1"},
    )
