"""Blocking TCP sockets that count every byte, and the handshake over them."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Sequence

import numpy as np

from trainers.filled import filled
from trainers.mesh import wire
from trainers.mesh.views import Identity, Peer
from trainers.mesh.wire import BadWire, Hello, Purpose

HANDSHAKE_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 5.0
UNACKNOWLEDGED_MS = 20_000  # a path that took nothing for so long is dead
SCRATCH_BYTES = 1 << 16
PIECE_BYTES = 1 << 16  # a quarter of a second at 2 Mbit/s
LONGEST_PIECE_BYTES, SOON_S = 1 << 18, 0.05  # longer ones where they come fast: each costs a call of the kernel
BUFFERS_AT_ONCE = 512


class Counter:
    """Bytes sent and received by all sockets of one mesh."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.sent = 0
        self.received = 0

    def add(self, sent: int = 0, received: int = 0) -> None:
        with self._lock:
            self.sent += sent
            self.received += received


class Wire:
    """One connected socket. Sends and receives wholes; a side that goes away raises ConnectionError."""

    def __init__(self, connection: socket.socket, counter: Counter) -> None:
        self._socket = connection
        self._counter = counter
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (
            ("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 3), ("TCP_KEEPCNT", 4), ("TCP_USER_TIMEOUT", UNACKNOWLEDGED_MS)
        ):  # fmt: skip
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def send(self, parts: Sequence[bytes | memoryview]) -> None:
        """All bytes of all parts, in order, without joining them."""
        buffers = [memoryview(part).cast("B") for part in parts if len(part)]
        while buffers:
            sent = self._socket.sendmsg(buffers[:BUFFERS_AT_ONCE])
            self._counter.add(sent=sent)
            buffers = _after(buffers, sent)

    def send_now(self, parts: Sequence[bytes | memoryview]) -> list[memoryview] | None:
        """What is left after sending as much as fits without waiting; None when nothing was sent."""
        if self.gone():
            return None
        buffers = [memoryview(part).cast("B") for part in parts if len(part)]
        try:
            sent = self._socket.sendmsg(buffers, [], socket.MSG_DONTWAIT)
        except OSError:
            return None
        self._counter.add(sent=sent)
        return _after(buffers, sent)

    def receive(self, size: int) -> bytes:
        """Exactly `size` bytes. The kernel fills one object of this size, without a copy; what has come is counted piece by
        piece, for a line on which nothing is seen to move is given up.
        """
        return filled(size, self._fill)

    def _fill(self, room: np.ndarray) -> None:
        view, piece = room.data, PIECE_BYTES
        while view:
            began = time.monotonic()
            got = self._socket.recv_into(view, min(len(view), piece), socket.MSG_WAITALL)
            if not got:
                raise ConnectionResetError("the other side closed the connection")
            self._counter.add(received=got)
            view = view[got:]
            fast = time.monotonic() - began < SOON_S
            piece = min(2 * piece, LONGEST_PIECE_BYTES) if fast else PIECE_BYTES

    def receive_before(self, size: int, deadline: float) -> bytes:
        """Exactly `size` bytes (few), before `deadline` (time.monotonic) however slowly they drip. TimeoutError."""
        got = b""
        try:
            while len(got) < size:
                self.limit(deadline)
                piece = self._socket.recv(size - len(got))
                if not piece:
                    raise ConnectionResetError("the other side closed the connection")
                self._counter.add(received=len(piece))
                got += piece
        finally:
            self._socket.settimeout(None)
        return got

    def limit(self, deadline: float | None) -> None:
        """Let each following call end at `deadline` (time.monotonic) with TimeoutError; None: let them block."""
        if deadline is None:
            self._socket.settimeout(None)
            return
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("too slow")
        self._socket.settimeout(left)

    def skip(self, size: int) -> None:
        """Read `size` bytes and forget them."""
        scratch = memoryview(bytearray(min(size, SCRATCH_BYTES)))
        while size:
            got = self._socket.recv_into(scratch[: min(size, SCRATCH_BYTES)])
            if not got:
                raise ConnectionResetError("the other side closed the connection")
            self._counter.add(received=got)
            size -= got

    def gone(self) -> bool:
        """The other side, which never speaks here, closed the connection."""
        try:
            self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def close(self) -> None:
        """End the connection and wake whoever blocks on it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _after(buffers: list[memoryview], sent: int) -> list[memoryview]:
    """What is left of the buffers after the first `sent` bytes."""
    for at, buffer in enumerate(buffers):
        if sent < len(buffer):
            return [buffer[sent:], *buffers[at + 1 :]]
        sent -= len(buffer)
    return []


def split(address: str) -> tuple[str, int]:
    """Host and port of "host:port"."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def call(
    peer: Peer, caller: Identity, purpose: Purpose, secret: bytes, counter: Counter, connected: list[Wire] | None = None
) -> Wire:
    """Connect to a peer and prove the secret both ways. Raises OSError or BadWire.

    Args:
        connected: the wire is put here before the handshake, so that another thread can close it meanwhile.
    """
    line = Wire(socket.create_connection(split(peer.address), timeout=CONNECT_TIMEOUT_S), counter)
    if connected is not None:
        connected.append(line)
    try:
        deadline = time.monotonic() + HANDSHAKE_TIMEOUT_S
        line.limit(None)
        hello = Hello(purpose, caller, peer.identity, os.urandom(wire.NONCE_BYTES))
        line.send([hello.pack(secret)])
        reply = line.receive_before(wire.REPLY_BYTES, deadline)
        line.send([wire.proof_for(hello, reply, secret)])
    except BaseException:
        line.close()
        raise
    return line


def answer(line: Wire, called: Identity, secret: bytes) -> Hello:
    """The called side of the handshake. Raises OSError or BadWire; the caller then closes the wire."""
    deadline = time.monotonic() + HANDSHAKE_TIMEOUT_S
    hello = wire.read_hello(line.receive_before(wire.HELLO_BYTES, deadline), secret)
    if hello.called != called:
        raise BadWire("a call for somebody else")
    nonce = os.urandom(wire.NONCE_BYTES)
    line.send([wire.reply_to(hello, nonce, secret)])
    wire.check_proof(hello, nonce, line.receive_before(wire.MAC_BYTES, deadline), secret)
    return hello
