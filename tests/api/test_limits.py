"""What the door takes from whom: calls, heads and bodies, and how long it waits for them."""

import asyncio
import json
import socket
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
import uvicorn
from fastapi import FastAPI

from market.api import limits, problems
from market.api.app import make_app
from market.api.gate import Gate
from market.api.guarded import HEAD_BYTES, GuardedProtocol
from market.api.limits import StrictRoute
from market.api.routes.members import hash_of
from market.api.services import services_of
from market.rates import Buckets, Rate

FEW = Rate(per_s=0.5, burst=3)


def answers(gate: Gate, key: str | None, times: int, path: str = "/v1/members") -> list[httpx2.Response]:
    """So many calls in a row to an application whose only member is `right`, an operator."""
    member = {"member": "right", "role": "operator", "revoked": False, "suspended": False, "key_sha256": hash_of("right")}
    found = {hash_of("right"): member, hash_of("revoked"): member | {"revoked": True, "key_sha256": hash_of("revoked")}}
    found[hash_of("plane")] = member | {"role": "plane", "key_sha256": hash_of("plane")}
    exchange = SimpleNamespace(member_by_key=found.get, members=list)
    app = make_app(SimpleNamespace(version="x", requests=SimpleNamespace(note=lambda *_: None), exchange=exchange, gate=gate))  # type: ignore[arg-type]  # fmt: skip
    app.dependency_overrides[services_of] = lambda: app.state.services

    async def ask() -> list[httpx2.Response]:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://market") as client:
            return [await client.get(path, headers=headers) for _ in range(times)]

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("key", "before", "kind"),
    [("right", 200, "member"), ("wrong", 401, "wrong_key"), ("revoked", 401, "wrong_key"), (None, 401, "address")],
)
def test_too_many_calls_are_told_when_to_ask_again(key: str | None, before: int, kind: str) -> None:
    gate = Gate(Buckets(FEW), Buckets(FEW), Buckets(FEW), clock_s=lambda: 7.0)
    found = answers(gate, key, 4)
    assert [one.status_code for one in found] == [before, before, before, 429]
    assert found[3].headers["content-type"] == "application/problem+json"
    assert (found[3].json()["code"], found[3].headers["retry-after"]) == ("too_many_requests", "2")
    assert gate.refused == {"member": 0, "address": 0, "wrong_key": 0, "wrong_code": 0} | {kind: 1}
    if key != "right":
        assert answers(gate, "right", 1)[0].status_code == 200, "a right key does not pay for its neighbours"


def test_the_plane_reports_as_often_as_it_must() -> None:
    gate = Gate(Buckets(FEW), Buckets(FEW), Buckets(FEW), clock_s=lambda: 7.0)
    assert {one.status_code for one in answers(gate, "plane", 10)} == {403}


async def _serve(talk: Any, head_s: float = 0.3) -> bytes:
    """What a guarded server sends to a client that `talk`s over a raw socket, until it closes."""
    app = FastAPI()
    app.router.route_class = StrictRoute
    problems.install(app)

    @app.post("/echo")
    async def echo(body: dict[str, Any]) -> dict[str, Any]:
        return body

    protocol = type("Quick", (GuardedProtocol,), {"head_s": head_s})
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, http=protocol, log_config=None, lifespan="off"))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    running = asyncio.create_task(server.serve(sockets=[listening]))
    reader, writer = await asyncio.open_connection(*listening.getsockname())
    try:
        await talk(writer)
        return await reader.read()
    finally:
        writer.close()
        server.should_exit = True
        await running


def _say(*pieces: bytes) -> Any:
    async def talk(writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return talk


@pytest.mark.parametrize("said", [b"", b"POST /echo HTTP/1.1\r\nhost: x\r\nx-slow: "])
def test_a_head_that_does_not_come_is_not_waited_for(said: bytes) -> None:
    assert b"408 Request Timeout" in asyncio.run(_serve(_say(said)))


def test_a_head_without_end_is_cut_off() -> None:
    """By its last byte, so that nothing is left unread and the answer arrives."""
    long = b"POST /echo HTTP/1.1\r\nhost: x\r\nx-long: ".ljust(HEAD_BYTES, b"a")
    assert b"431 Request Header Fields Too Large" in asyncio.run(_serve(_say(long, b"a"), head_s=60))


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "JSON_S", 0.2)
    said = b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{"
    found = asyncio.run(_serve(_say(said)))
    head, _, body = found.partition(b"\r\n\r\n")
    assert b" 408 " in head
    assert json.loads(body)["code"] == "body_too_slow"


def test_who_is_in_time_is_answered_and_may_go_on() -> None:
    one = b'POST /echo HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 7\r\n%s\r\n{"a":1}'
    found = asyncio.run(_serve(_say(one % b"", one % b"connection: close\r\n")))
    assert found.count(b'{"a":1}') == 2
