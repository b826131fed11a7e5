"""What the process around a command says, line by line: of sessions while it runs, and once how the command ended."""

from __future__ import annotations

import array
import json
import os
import socket

from trainers.sessions.link import SessionLink

MAX_TOLD_BYTES = 64 << 10
MOST_DESCRIPTORS = 16


class Hearing:
    """`told` is the line that says how the command ended, once there is one: the first that is not of a session."""

    def __init__(self, connection: socket.socket, sessions: SessionLink) -> None:
        self._connection, self._sessions = connection, sessions
        self._rest = b""
        self._descriptors: list[int] = []
        self.told: bytes | None = None

    def hear(self) -> bool:
        """Read what there is; False when nothing more comes, or it cannot be believed. Raises OSError."""
        size = socket.CMSG_SPACE(MOST_DESCRIPTORS * array.array("i").itemsize)
        data, extra, _, _ = self._connection.recvmsg(1 << 16, size, socket.MSG_CMSG_CLOEXEC)
        for level, kind, content in extra:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                found = array.array("i")
                found.frombytes(content[: len(content) - len(content) % found.itemsize])
                self._descriptors += found
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if not self._is_of_a_session(line):
                self.told = line + b"\n"
                break
        while self._descriptors:  # one comes with its own line
            os.close(self._descriptors.pop())
        return bool(data) and len(self._rest) < MAX_TOLD_BYTES

    def _is_of_a_session(self, line: bytes) -> bool:
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            return False
        if not isinstance(said, dict) or not ("session" in said or "ready" in said):
            return False
        self._sessions.heard(said, self._descriptors)
        return True
