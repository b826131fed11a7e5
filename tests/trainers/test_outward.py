"""A command's way out: who may be reached, what the gateway makes of its clients, and that nothing else is open."""

from __future__ import annotations

import http.server
import ipaddress
import socket
import socketserver
import textwrap
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.attempts import Outcome
from trainers.command_process import CommandProcess, Place
from trainers.outward.requests import BadRequest, Request, parse
from trainers.outward.rules import BadTarget, Judge, OutwardRules, network, target
from trainers.sandbox import isolation_level

PATIENCE_S = 60


# who may be reached

NEAR = [
    ("127.0.0.1", "the provider's machine"), ("127.8.9.1", "the provider's machine"), ("::1", "the provider's machine"),
    ("0.0.0.0", "no address"), ("::", "no address"), ("10.1.2.3", "not public"), ("172.20.0.1", "not public"),
    ("192.168.1.1", "not public"), ("100.64.0.9", "not public"), ("192.0.2.1", "not public"), ("198.18.0.1", "not public"),
    ("169.254.7.7", "own link"), ("fe80::1", "own link"), ("fe80::1%eth0", "own link"), ("fc00::1", "not public"),
    ("169.254.169.254", "metadata"), ("fd00:ec2::254", "metadata"), ("100.100.100.200", "metadata"),
    ("168.63.129.16", "Azure"), ("224.0.0.1", "many"), ("ff02::1", "many"), ("255.255.255.255", "not public"),
    ("::ffff:10.0.0.1", "10.0.0.1"), ("::ffff:127.0.0.1", "the provider's machine"), ("::ffff:169.254.169.254", "metadata"), ("64:ff9b::10.0.0.1", "10.0.0.1"),
    ("64:ff9b::a9fe:a9fe", "metadata"), ("2002:7f00:1::", "the provider's machine"), ("::10.0.0.1", "10.0.0.1"),
    ("2001:0:4136:e378:8000:63bf:3fff:fdd2", ""),
]  # fmt: skip


@pytest.mark.parametrize(("address", "why"), NEAR)
def test_nobody_near_is_reached(address: str, why: str) -> None:
    refusal = Judge(OutwardRules()).refusal(address, 443)
    assert refusal is not None
    assert why in refusal


@pytest.mark.parametrize("address", ["8.8.8.8", "::ffff:8.8.8.8", "93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "64:ff9b::8.8.8.8"])
def test_the_public_internet_is(address: str) -> None:
    assert Judge(OutwardRules()).refusal(address, 443) is None
    assert Judge(OutwardRules()).refusal(address, 25) == "port 25 is for mail"


def test_an_owners_word_on_networks_counts() -> None:
    judge = Judge(OutwardRules(allowed=("10.1.2.0/24",), denied=("93.184.0.0/16",)), [network("198.51.100.0/24"), network("8.8.0.0/16")])
    assert judge.refusal("10.1.2.9", 80) is None
    assert judge.refusal("10.1.3.9", 80) == "it is not public"
    assert judge.refusal("93.184.216.34", 80) == "the provider's owner does not allow it"
    assert judge.refusal("8.8.8.8", 53) == "it is in the provider's network"
    with pytest.raises(BadTarget, match="no network"):
        OutwardRules(allowed=("10.1.2.0/40",))


@given(st.ip_addresses())
def test_what_passes_is_public_in_each_of_its_forms(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if Judge(OutwardRules()).refusal(str(address), 443) is None:
        assert address.is_global
        mapped = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
        assert mapped is None or mapped.is_global


# what clients say


@pytest.mark.parametrize(
    ("head", "request_"),
    [
        (b"CONNECT mirror.example:443 HTTP/1.1\r\nHost: mirror.example:443\r\n\r\n", Request("mirror.example", 443, True)),
        (b"CONNECT [2001:db8::1]:443 HTTP/1.0\r\n\r\n", Request("2001:db8::1", 443, True)),
        (
            b"GET http://example.org/a?b=c#d HTTP/1.1\r\nHost: elsewhere\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: x\r\nAccept: */*\r\n\r\n",
            Request("example.org", 80, False, b"GET /a?b=c HTTP/1.1\r\nHost: example.org\r\nAccept: */*\r\nConnection: close\r\n\r\n"),
        ),
        (
            b"POST http://user:word@example.org:8080?q HTTP/1.1\r\nContent-Length: 3\r\n\r\n",
            Request("example.org", 8080, False, b"POST /?q HTTP/1.1\r\nHost: example.org:8080\r\nContent-Length: 3\r\nConnection: close\r\n\r\n"),
        ),
    ],
)  # fmt: skip
def test_a_request_is_read(head: bytes, request_: Request) -> None:
    assert parse(head) == request_


@pytest.mark.parametrize(
    "head",
    [
        b"\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"CONNECT mirror.example HTTP/1.1\r\n\r\n", b"CONNECT mirror.example:0 HTTP/1.1\r\n\r\n",
        b"CONNECT mirror.example:65536 HTTP/1.1\r\n\r\n", b"GET https://mirror.example/ HTTP/1.1\r\n\r\n", b"GET http:///x HTTP/1.1\r\n\r\n",
        b"GET http://a b/ HTTP/1.1\r\n\r\n", b"GET http://a/ HTTP/1.1\r\nX: a\r\n folded\r\n\r\n", b"\x16\x03\x01\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\nX: a\nHost: b\r\n\r\n", b"CONNECT a;b:80 HTTP/1.1\r\n\r\n", b"get http://a/ HTTP/1.1\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_no_request_is_told(head: bytes) -> None:
    with pytest.raises(BadRequest):
        parse(head)


@given(st.binary(max_size=300), st.text(max_size=100))
def test_no_bytes_break_the_reader(head: bytes, where: str) -> None:
    for one in (head, b"GET http://" + head + b" HTTP/1.1\r\n\r\n", f"CONNECT {where} HTTP/1.1\r\n\r\n".encode()):
        try:
            found = parse(one)
        except BadRequest:
            continue
        assert 1 <= found.port <= 65_535
        assert target(f"[{found.host}]:1" if ":" in found.host else f"{found.host}:1") == (found.host, 1)
        assert b"\n" not in found.head.replace(b"\r\n", b"")


# the whole of it, in a sandbox

Start = Callable[..., CommandProcess]


class Echo(socketserver.StreamRequestHandler):
    """Answers with what it was sent, in capital letters."""

    def handle(self) -> None:
        while line := self.rfile.readline():
            self.wfile.write(line.upper())


class Page(http.server.BaseHTTPRequestHandler):
    """Says what was asked for; takes bodies."""

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        said = f"{self.command} {self.path} {len(body)}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    do_GET = do_POST = _answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def ports() -> Iterator[tuple[int, int]]:
    """Of a web page and of an echo, on all addresses of this machine."""
    with http.server.ThreadingHTTPServer(("0.0.0.0", 0), Page) as page, socketserver.ThreadingTCPServer(("0.0.0.0", 0), Echo) as echo:
        for one in (page, echo):
            one.daemon_threads = True
            threading.Thread(target=one.serve_forever, daemon=True).start()
        yield page.server_address[1], echo.server_address[1]
        page.shutdown()
        echo.shutdown()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    if isolation_level() != "sandbox":
        pytest.skip("bubblewrap does not run here")
    for name in ("work", "home", "tmp", "checkpoint"):
        (tmp_path / name).mkdir()
    return Place(tmp_path, "sandbox", threads=1, memory_limit_bytes=256 << 20)


def ran(place: Place, text: str) -> tuple[Outcome, list[str]]:
    command = CommandProcess(["python", "-c", textwrap.dedent(text)], {}, place, timeout_s=PATIENCE_S)
    try:
        outcome = command.wait(2 * PATIENCE_S)
        assert outcome is not None
        return outcome, command.take_lines(1 << 30)
    finally:
        command.close()


def test_a_command_reaches_whom_it_may_and_nobody_else(place: Place, ports: tuple[int, int]) -> None:
    page, echo = ports
    own = [one.address for many in psutil.net_if_addrs().values() for one in many
           if one.family == socket.AF_INET and not one.address.startswith("127.")]  # fmt: skip
    outcome, lines = ran(
        replace(place, way_out=OutwardRules(allowed=("127.0.0.1/32",))),
        f"""
        import http.client, os, socket, urllib.error, urllib.request
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = "-"
        def tried(url, data=None):
            try:
                return urllib.request.urlopen(url, data).read().decode()
            except urllib.error.HTTPError as error:
                return f"{{error.code}} {{error.read().decode().strip()}}"
        print("got", tried("http://127.0.0.1:{page}/a/b?c"), "|", tried("http://localhost:{page}/x", b"123"))
        print("metadata", tried("http://169.254.169.254/latest/meta-data/"))
        print("again", tried("http://169.254.169.254/latest/"))
        for address in {own!r}:
            print("own", tried(f"http://{{address}}:{page}/"))
        print("unknown", tried("http://no-such-name.invalid/")[:3])
        tunnel = http.client.HTTPConnection("127.0.0.1", 3128)
        tunnel.set_tunnel("127.0.0.1", {echo})
        tunnel.connect()
        tunnel.sock.sendall(b"hello\\n")
        print("tunnel", tunnel.sock.recv(100))
        tunnel.sock.close()
        tunnel = http.client.HTTPConnection("127.0.0.1", 3128)
        tunnel.set_tunnel("10.9.8.7", 22)
        try:
            tunnel.connect()
        except OSError as error:
            print("refused", error)
        for port in ({page}, {echo}):
            try:
                socket.create_connection(("127.0.0.1", port), 5)
            except OSError as error:
                print("direct", error)
        """,
    )
    assert outcome.succeeded, lines
    said = {line.partition(" ")[0]: line.partition(" ")[2] for line in lines}
    assert said["got"] == "GET /a/b?c 0 | POST /x 3"
    assert said["metadata"] == "403 torg: refused: no way to 169.254.169.254, port 80: it is the cloud's metadata"
    assert said["again"].startswith("403")
    assert all(line.startswith("own 403") for line in lines if line.startswith("own"))
    assert said["unknown"] == "502"
    assert said["tunnel"] == "b'HELLO\\n'"
    assert "10.9.8.7" in said["refused"]
    assert said["direct"] == "[Errno 111] Connection refused"
    told = [line for line in lines if line.startswith("[torg: network: ")]
    assert sum("169.254.169.254" in line for line in told) == 1, "each refusal is told once"
    assert f"{3 + len(own)} refused" in told[-1]
    assert "3 connections" in told[-1]


def test_it_ends_with_its_command_and_another_has_none(place: Place, ports: tuple[int, int]) -> None:
    before = {one.pid for one in psutil.Process().children(recursive=True)}
    command = CommandProcess(["sleep", "3600"], {}, replace(place, way_out=OutwardRules()), timeout_s=None)
    gateways = [one for one in psutil.Process().children() if one.pid not in before and "trainers.outward.gateway" in one.cmdline()]
    assert len(gateways) == 1
    assert set(gateways[0].environ()) <= {"PATH", "PYTHONPATH", "LANG"}, "it has nothing that a client could ask it for"
    command.close()
    assert not gateways[0].is_running()
    outcome, lines = ran(place, "import os, socket\nprint(os.environ.get('HTTP_PROXY'))\nsocket.create_connection(('127.0.0.1', 3128))")
    assert (outcome.code, lines[0]) == (1, "None")
    assert "Connection refused" in lines[-1]


def test_a_gateway_that_dies_takes_nothing_along(place: Place, ports: tuple[int, int]) -> None:
    before = {one.pid for one in psutil.Process().children(recursive=True)}
    command = CommandProcess(
        ["python", "-c", f"import urllib.request as r\nopen('go', 'w').close()\nimport time, os\nwhile os.path.exists('go'): time.sleep(0.02)\ntry: r.urlopen('http://127.0.0.1:{ports[0]}/')\nexcept OSError as error: print('error', error)"],
        {"no_proxy": "-", "NO_PROXY": "-"}, replace(place, way_out=OutwardRules(allowed=("127.0.0.1",))), timeout_s=PATIENCE_S,
    )  # fmt: skip
    try:
        go = place.scratch / "work" / "go"
        while not go.exists():
            assert command.outcome is None
        gateway = next(one for one in psutil.Process().children() if one.pid not in before and "trainers.outward.gateway" in one.cmdline())
        gateway.kill()
        gateway.wait(PATIENCE_S)
        go.unlink()
        outcome = command.wait(PATIENCE_S)
        assert outcome is not None
        assert outcome.succeeded
        assert "error" in "\n".join(command.take_lines(1 << 20))
    finally:
        command.close()
