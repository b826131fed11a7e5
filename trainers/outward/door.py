"""The two ends that make a way out: the listener that a sandboxed process leaves behind, and its gateway's process.

A socket belongs to the network in which it was made. So the first code in a sandbox (`trainers.inside`) listens on the
loopback of its own, empty network, hands the listener out and closes it; whoever accepts from it outside dials in the
network of the machine. Nothing of the machine's network is in the sandbox: no interface, no address, no names.
"""

from __future__ import annotations

import array
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque

from trainers.outward.rules import OutwardRules
from trainers.ready import wait_ready

PORT = 3128
ADDRESS = f"http://127.0.0.1:{PORT}"
BACKLOG = 128
MOST_LINES = 256
PATIENCE_S = 10.0


class NoWayOut(Exception):
    """The gateway did not start; the text says why."""


def environment() -> dict[str, str]:
    """What programs read to find a proxy, in the two spellings that are about."""
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), ADDRESS)
    near = "localhost,127.0.0.1,::1"
    return proxies | {"no_proxy": near, "NO_PROXY": near}


def leave_listener(descriptor: int) -> None:
    """In the sandbox: listen, hand the listener over the socket `descriptor`, and keep neither. Raises OSError."""
    with socket.socket(fileno=descriptor) as towards, socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", PORT))
        listener.listen(BACKLOG)
        rights = array.array("i", [listener.fileno()])
        towards.sendmsg([b"L"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])


def take_listener(connection: socket.socket) -> socket.socket:
    """The parent's side of it. Raises NoWayOut when none comes."""
    connection.settimeout(PATIENCE_S)
    try:
        _, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
    except OSError as error:
        raise NoWayOut(f"the sandbox left no listener: {error}") from None
    if not descriptors:
        raise NoWayOut("the sandbox left no listener")
    return socket.socket(fileno=descriptors[0])


class GatewayProcess:
    """A gateway that runs beside one command. `close` may be called from any thread, and again."""

    def __init__(self, listener: socket.socket, rules: OutwardRules) -> None:
        """Starts it; the listener is its own from here on. Raises NoWayOut when it does not get ready."""
        command = [sys.executable, "-s", "-P", "-u", "-m", "trainers.outward.gateway", "--fd", str(listener.fileno())]
        command += [word for one in rules.allowed for word in ("--allow", one)]
        command += [word for one in rules.denied for word in ("--deny", one)]
        code = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        try:
            with listener:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
                    pass_fds=[listener.fileno()], env={"PATH": os.defpath, "PYTHONPATH": code, "LANG": "C.UTF-8"}, bufsize=0,
                )  # fmt: skip
        except OSError as error:
            raise NoWayOut(f"its gateway did not start: {error}") from None
        self._lines: deque[str] = deque(maxlen=MOST_LINES)
        assert self._process.stdout is not None
        said = self._process.stdout.readline(4096) if wait_ready([self._process.stdout], PATIENCE_S)[0] else b""
        if said.strip() != b"ready":
            self._kill()
            raise NoWayOut(f"its gateway did not start: {said.decode('utf-8', 'replace').strip() or 'no word of it'}")
        self._reading = threading.Thread(target=self._read, name="gateway", daemon=True)
        self._reading.start()

    def take_lines(self) -> list[str]:
        """What it has to say since the last call: whom it refused; after its end, what it carried."""
        taken = []
        with contextlib.suppress(IndexError):
            while True:
                taken.append(self._lines.popleft())
        return taken

    @property
    def said_all(self) -> bool:
        """Whether nothing of what it said waits."""
        return not self._lines

    def close(self) -> None:
        """Cut all connections, and wait for its last word."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._kill()
        self._reading.join(PATIENCE_S)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as said:
            for line in iter(lambda: said.readline(4096), b""):
                self._lines.append(f"[torg: network: {line.decode('utf-8', 'replace').strip()}]")

    def _kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
