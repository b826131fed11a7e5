"""The host's end of `market.provider_control`: requests become happenings, answers go back line by line."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from market.provider_control import LONGEST_LINE, SOCKET, address_in

log = logging.getLogger(__name__)

Json = dict[str, Any]


class Asked:
    """One request, and the way back to who asked; who has hung up is told nothing."""

    def __init__(self, request: Json, connection: socket.socket) -> None:
        self.request = request
        self._connection: socket.socket | None = connection

    def tell(self, event: str, **fields: Any) -> None:
        """One line of progress."""
        if self._connection is None:
            return
        try:
            self._connection.sendall(json.dumps({"event": event, **fields}).encode() + b"\n")
        except OSError:
            self._connection = None

    def end(self, event: str, **fields: Any) -> None:
        """The last line."""
        self.tell(event, **fields, last=True)
        self.hang_up()

    def hang_up(self) -> None:
        """Answer nothing more."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Control:
    """Listens in `home` until it is closed. `take` gets each request, from a thread of its own."""

    def __init__(self, home: Path, take: Callable[[Asked], None]) -> None:
        self._home, self._take = home, take
        (home / SOCKET).unlink(missing_ok=True)
        self._listening = socket.socket(socket.AF_UNIX)
        # not by the umask: that is the whole process's, and children begun by other threads meanwhile would keep it
        os.fchmod(self._listening.fileno(), 0o600)
        with address_in(home) as address:
            self._listening.bind(address)
        self._listening.listen()
        self._accepting = threading.Thread(target=self._accept, name="control", daemon=True)
        self._accepting.start()

    def close(self) -> None:
        """Answer nobody any more; the thread that listens has ended."""
        self._listening.shutdown(socket.SHUT_RDWR)  # to close it alone would leave the thread in accept(), with the socket
        self._accepting.join()
        self._listening.close()
        (self._home / SOCKET).unlink(missing_ok=True)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = self._listening.accept()
                threading.Thread(target=self._read, args=(connection,), name="asked", daemon=True).start()

    def _read(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as lines:
            try:
                request = json.loads(lines.readline(LONGEST_LINE))
            except (OSError, ValueError):
                request = None
        if isinstance(request, dict):
            self._take(Asked(request, connection))
        else:
            log.warning("a request that is no JSON object was left unanswered")
            connection.close()
