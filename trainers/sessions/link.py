"""The worker's side of sessions in a command: opens them through the process around it, and hears how they end.

Believes nothing of what is said in there: a session that is not ours is passed over, a descriptor is only read and written.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SEND_WITHIN_S = 10.0
READY_WITHIN_S = 10.0

Json = dict[str, Any]


@dataclass(slots=True)
class Opened:
    """One session. `wake` (an eventfd) is readable when anything of this changes. `ended`: {exit}, {signal}, {failed,
    detail}, or {gone} when the command ended first.
    """

    id: str
    wake: int = field(default_factory=lambda: os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
    ended: Json | None = None
    terminal: int | None = None

    def changed(self) -> None:
        os.eventfd_write(self.wake, 1)


class SessionLink:
    """All sessions of one command, over the connection to the process around it. Any thread may call anything."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending, self._changing = threading.Lock(), threading.Lock()
        self._ready, self._over = threading.Event(), False
        self._opened: dict[str, Opened] = {}

    def send(self, message: bytes, descriptors: Sequence[int] = ()) -> None:
        """One line. Raises OSError when it is gone or does not listen."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        with self._sending:
            sent = self._connection.sendmsg([message], rights, socket.MSG_NOSIGNAL)
            self._connection.sendall(message[sent:], socket.MSG_NOSIGNAL)

    def open(self, id: str, message: Json, descriptors: Sequence[int]) -> Opened | None:
        """Start a process there: `message` as in `inside`. None where the command does not run (any more)."""
        if not self._ready.wait(READY_WITHIN_S):
            return None
        made = Opened(id)
        with self._changing:
            if self._over:
                os.close(made.wake)
                return None
            self._opened[id] = made
        try:
            self.send(json.dumps({"open": id, **message}).encode() + b"\n", descriptors)
        except OSError:
            self.forget(made)
            return None
        return made

    def signal(self, id: str, number: int) -> None:
        with contextlib.suppress(OSError):
            self.send(json.dumps({"signal": [id, number]}).encode() + b"\n")

    def close(self, id: str, *, hard: bool) -> None:
        """End its processes: by SIGTERM (on a terminal SIGHUP), or by SIGKILL."""
        with contextlib.suppress(OSError):
            self.send(json.dumps({"close": id, "hard": hard}).encode() + b"\n")

    def forget(self, opened: Opened) -> None:
        """Nobody looks at it any more."""
        with self._changing:
            self._opened.pop(opened.id, None)
            for descriptor in (opened.wake, opened.terminal):
                if descriptor is not None:
                    os.close(descriptor)

    def heard(self, said: Mapping[str, Any], descriptors: list[int]) -> None:
        """A line from in there that is not the command's end, and the descriptors that have come so far."""
        if said.get("ready") is True:
            self._ready.set()
            return
        with self._changing:
            opened = self._opened.get(str(said.get("session")))
            if "started" in said and descriptors:
                if opened is None or opened.terminal is not None:
                    os.close(descriptors.pop(0))
                else:
                    opened.terminal = descriptors.pop(0)
                    os.set_blocking(opened.terminal, False)
            if opened is not None:
                if "started" not in said:
                    opened.ended = dict(said)
                opened.changed()

    def end(self) -> None:
        """The command is over, and all that was beside it."""
        with self._changing:
            self._over = True
            for opened in self._opened.values():
                opened.ended = opened.ended or {"gone": True}
                opened.changed()
        self._ready.set()
