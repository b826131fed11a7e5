"""What there is to steal, set up: files, a process, sockets and a shared segment that greet with BOOTY."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import selectors
import socket
import subprocess
import sysconfig
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from trainers.scratch import wiped
from trainers.selftest.scene import BOOTY, Scene, call

HOLD_S = 4.0
_CREATE, _REMOVE = 0o1000, 0
_SEGMENT_BYTES = 64


@contextlib.contextmanager
def decoys() -> Iterator[tuple[Scene, Path]]:
    """The scene for as long as it lasts, and the folder that it is in."""
    folder = Path(tempfile.mkdtemp(prefix="torg-selftest-"))
    key = secrets.token_hex(16)
    try:
        for name in ("market", "neighbour"):
            (folder / name).mkdir(mode=0o700)
            (folder / name / "secret").write_text(BOOTY, encoding="ascii")
            (folder / name / "secret").chmod(0o600)
        address = str(folder / "market" / "socket")
        abstract = f"torg-selftest-{key[:8]}"
        with _victim(folder / "market") as victim, _segment() as segment, _Greeter(address, abstract, key) as greeter:
            yield Scene(
                secret=str(folder / "market" / "secret"), neighbour=str(folder / "neighbour" / "secret"),
                home=str(Path.home()), packages=sysconfig.get_path("purelib"), own="", victim=victim,
                parent=os.getpid(), address=address, abstract=abstract, tcp=greeter.tcp, udp=greeter.udp, api=greeter.api,
                key=key, segment=segment, hold_s=HOLD_S,
            ), folder  # fmt: skip
    finally:
        wiped(folder)


@contextlib.contextmanager
def _victim(folder: Path) -> Iterator[int]:
    """A process of the provider, with a key in its environment."""
    with subprocess.Popen(
        ["/bin/sleep", "600"], env={"TORG_KEY": BOOTY}, cwd=folder, stdin=subprocess.DEVNULL
    ) as process:
        try:
            yield process.pid
        finally:
            process.kill()


@contextlib.contextmanager
def _segment() -> Iterator[int]:
    """A shared memory segment; its key, 0 where there are none."""
    key = secrets.randbelow(1 << 30) + 1
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    try:
        number = call("shmget", key, _SEGMENT_BYTES, _CREATE | 0o600)
    except OSError:
        yield 0
        return
    try:
        place = libc.shmat(number, None, 0)
        ctypes.memmove(place, BOOTY.encode(), len(BOOTY))
        libc.shmdt(ctypes.c_void_p(place))
        yield key
    finally:
        libc.shmctl(number, _REMOVE, None)


class _Greeter:
    """Listens as Ray, the market and others of the machine do."""

    def __init__(self, address: str, abstract: str, key: str) -> None:
        self._key = key
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = os.pipe()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self.tcp, self.api = self._listen(b""), self._listen(b"market")
        self._listen_locally(address)
        self._listen_locally("\0" + abstract)
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind(("127.0.0.1", 0))
        self._selector.register(datagrams, selectors.EVENT_READ, b"datagrams")
        self.udp = int(datagrams.getsockname()[1])
        self._thread = threading.Thread(target=self._greet, name="greeter", daemon=True)

    def __enter__(self) -> _Greeter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.write(self._wake, b"x")
        self._thread.join()
        for one in list(self._selector.get_map().values()):
            if isinstance(one.fileobj, socket.socket):
                one.fileobj.close()
        os.close(self._woken)
        os.close(self._wake)
        self._selector.close()

    def _listen(self, kind: bytes) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        self._selector.register(listener, selectors.EVENT_READ, kind)
        return int(listener.getsockname()[1])

    def _listen_locally(self, address: str) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(address)
        listener.listen()
        self._selector.register(listener, selectors.EVENT_READ, b"")

    def _greet(self) -> None:
        while True:
            for one, _ in self._selector.select():
                if one.fileobj == self._woken:
                    return
                assert isinstance(one.fileobj, socket.socket)
                with contextlib.suppress(OSError):
                    self._answer(one.fileobj, one.data)

    def _answer(self, asked: socket.socket, kind: bytes) -> None:
        if kind == b"datagrams":
            _, whom = asked.recvfrom(64)
            asked.sendto(BOOTY.encode(), whom)
            return
        connection, _ = asked.accept()
        with connection:
            connection.settimeout(1.0)
            if kind == b"market":
                right = self._key.encode() in connection.recv(4096)
                connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n" if right else b"HTTP/1.0 401 Unauthorized\r\n\r\n")
            else:
                connection.sendall(BOOTY.encode())
