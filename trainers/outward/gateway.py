"""The process that dials for a command: `python -m trainers.outward.gateway --fd N [--allow NET]… [--deny NET]…`.

It runs outside of the sandbox, as the provider's account, and holds no key. Descriptor N is a listener in the sandbox's own
network (see `trainers.inside`); whoever connects there speaks as to an HTTP proxy. What may be dialled is `rules.Judge`'s.
It says on its standard output, a line each, whom it refused (each once), and when its standard input ends, what it carried.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import resource
import socket
import sys
from collections.abc import Iterable

from trainers.outward.requests import MAX_HEAD_BYTES, BadRequest, Request, parse
from trainers.outward.rules import Judge, Network, OutwardRules

MOST_CONNECTIONS = 256
MOST_LINES = 100
PIECE_BYTES = 64 << 10
HEAD_S = 30.0
DIAL_S = 20.0
MEMORY_BYTES = 2 << 30


class _Refused(Exception):
    """Nobody is to be dialled there."""


class _NotReached(Exception):
    """Nobody answers there."""


class Gateway:
    """Takes connections from the sandbox and carries them out."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._open = 0
        self._told: set[str] = set()
        self.connections = self.sent_bytes = self.received_bytes = self.refused = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end."""
        self._open += 1
        try:
            if self._open > MOST_CONNECTIONS:
                await _answer(writer, 503, f"more than {MOST_CONNECTIONS} connections at once")
                return
            await self._carry(reader, writer)
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            pass  # either side is gone or sends nonsense: the connection ends, as the client sees
        finally:
            self._open -= 1
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(HEAD_S):
                head = await reader.readuntil(b"\r\n\r\n")
            request = parse(head)
        except asyncio.LimitOverrunError:
            await _answer(writer, 400, f"its head has more than {MAX_HEAD_BYTES} bytes")
            return
        except BadRequest as bad:
            await _answer(writer, 400, str(bad))
            return
        try:
            theirs, there = await self._dial(request)
        except _Refused as refused:
            self._tell(str(refused))
            await _answer(writer, 403, f"refused: {refused}")
            return
        except _NotReached as error:
            await _answer(writer, 502, str(error))
            return
        self.connections += 1
        if request.tunnel:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            self.sent_bytes += len(request.head)
            there.write(request.head)
        try:
            await asyncio.gather(self._pipe(reader, there, outward=True), self._pipe(theirs, writer, outward=False))
        finally:
            there.close()

    async def _dial(self, request: Request) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the first address of the host that may be dialled and answers. Raises _Refused, _NotReached."""
        loop, host, port = asyncio.get_running_loop(), request.host, request.port
        try:
            async with asyncio.timeout(DIAL_S):
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError, TimeoutError) as error:
            raise _NotReached(f"{host} is not known: {error or 'no answer in time'}") from None
        why: Exception = _NotReached(f"{host} has no address")
        for address in dict.fromkeys(str(one[4][0]) for one in found):
            refusal = self._judge.refusal(address, port)
            if refusal is not None:
                shown = host if host == address else f"{host} ({address})"
                why = _Refused(f"no way to {shown}, port {port}: {refusal}")
                continue
            try:
                async with asyncio.timeout(DIAL_S):
                    return await asyncio.open_connection(address, port, limit=PIECE_BYTES)
            except (OSError, TimeoutError) as error:
                why = _NotReached(f"{host} ({address}), port {port}: {error or 'no answer in time'}")
        raise why

    async def _pipe(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, outward: bool) -> None:
        try:
            while piece := await source.read(PIECE_BYTES):
                if outward:
                    self.sent_bytes += len(piece)
                else:
                    self.received_bytes += len(piece)
                sink.write(piece)
                await sink.drain()
            if sink.can_write_eof():
                sink.write_eof()
        except OSError:
            sink.close()  # so that the other direction ends, too

    def _tell(self, line: str) -> None:
        self.refused += 1
        if line not in self._told and len(self._told) < MOST_LINES:
            self._told.add(line)
            print(f"refused: {line}", flush=True)  # noqa: T201 - what its parent reads

    def summary(self) -> str:
        """What it carried."""
        carried = f"{self.connections} connections, {self.sent_bytes} bytes out, {self.received_bytes} bytes in"
        return f"{carried}, {self.refused} refused" if self.refused else carried


async def _answer(writer: asyncio.StreamWriter, status: int, why: str) -> None:
    reason = {400: "Bad Request", 403: "Forbidden", 502: "Bad Gateway", 503: "Service Unavailable"}[status]
    body = f"torg: {why}\n".encode()
    # Many clients show of a proxy that refuses a tunnel only the line with the status.
    short = why.encode("ascii", "replace")[:200].replace(b"\r", b" ").replace(b"\n", b" ")
    writer.write(b"HTTP/1.1 %d %s (torg: %s)\r\n" % (status, reason.encode(), short))
    writer.write(b"Content-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
    await writer.drain()


def interface_networks() -> Iterable[Network]:
    """The networks that this machine's interfaces are in, and its own addresses."""
    import psutil

    for addresses in psutil.net_if_addrs().values():
        for one in addresses:
            if one.family in (socket.AF_INET, socket.AF_INET6):
                address = one.address.partition("%")[0]
                prefix = _prefix(one.netmask)
                yield ipaddress.ip_network(f"{address}/{prefix}" if prefix is not None else address, strict=False)


def _prefix(netmask: str | None) -> int | None:
    return None if not netmask else int(ipaddress.ip_address(netmask)).bit_count()


async def _run(listener: socket.socket, judge: Judge) -> None:
    gateway = Gateway(judge)
    server = await asyncio.start_server(gateway.serve, sock=listener, limit=MAX_HEAD_BYTES)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended.set)  # nothing is sent there: it becomes readable at its end
    async with server:
        print("ready", flush=True)  # noqa: T201 - what its parent reads
        await ended.wait()
    print(gateway.summary(), flush=True)  # noqa: T201 - what its parent reads


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--allow", action="append", default=[])
    parser.add_argument("--deny", action="append", default=[])
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    judge = Judge(OutwardRules(tuple(given.allow), tuple(given.deny)), interface_networks())
    asyncio.run(_run(socket.socket(fileno=given.fd), judge))


if __name__ == "__main__":
    main()
