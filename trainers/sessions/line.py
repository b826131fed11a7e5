"""One end's wire to the market for one session: a GET that streams frames down, POSTs that carry frames up.

Both ends of a session are clients of the market, so neither needs to be reachable. Only the standard library's HTTP.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from trainers.sessions.frames import Frame, Reader

if TYPE_CHECKING:
    import ssl

SILENT_S = 30.0
"""The market pings far more often."""
PATIENCE_S = 10.0
PAUSE_S = 0.1
POST_BYTES = 256 << 10
READ_BYTES = 64 << 10

Json = dict[str, Any]


class LineLost(Exception):
    """The market cannot be reached, or does not know the session any more."""


class Refusal(Exception):
    """The market said no: its problem document's status, code and message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.status, self.code = status, code


class Line:
    """`path`: of the session's frames. `sends`, the market believes; `hears`: the types that come down. One thread reads
    frames, another one sends.
    """

    def __init__(
        self, url: str, key: str, path: str, hears: frozenset[int], query: Mapping[str, object] | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:  # fmt: skip
        self._caller = Caller(url, key, context)
        self._down = Caller(url, key, context)
        self._path, self._query, self._hears = path, dict(query or {}), hears
        self._offset = 0

    def open(self) -> http.client.HTTPResponse:
        """Take our end of the session; frames come by `frames(answer)`. Raises LineLost."""
        try:
            return self._down.begin("GET", self._path, self._query, SILENT_S)
        except (Refusal, OSError, http.client.HTTPException) as error:
            raise LineLost(str(error) or type(error).__name__) from error

    def frames(self, answer: http.client.HTTPResponse) -> Iterator[Frame]:
        """What comes down until the market ends it. Raises LineLost when the stream breaks, BadFrame."""
        reader = Reader(self._hears)
        try:
            while data := answer.read1(READ_BYTES):
                yield from reader.read(data)
        except (OSError, ValueError, AttributeError, http.client.HTTPException) as error:  # closed under us, too
            raise LineLost(str(error) or type(error).__name__) from error

    def send(self, data: bytes) -> None:
        """Whole frames, at most POST_BYTES of them; returns when the market has taken all. Raises LineLost."""
        assert len(data) <= POST_BYTES
        give_up_at: float | None = None
        while data:
            try:
                answer = self._caller.json("POST", self._path, {**self._query, "offset": self._offset}, data, SILENT_S)
            except Refusal as refusal:
                if refusal.status not in (429, 502, 503):
                    raise LineLost(str(refusal)) from refusal
                why = str(refusal)
            except (OSError, http.client.HTTPException) as error:
                why = str(error) or type(error).__name__
            else:
                taken = int(answer["next"]) - self._offset
                data, self._offset, give_up_at = data[taken:], self._offset + taken, None
                continue
            give_up_at = give_up_at or time.monotonic() + PATIENCE_S
            if time.monotonic() > give_up_at:
                raise LineLost(why)
            time.sleep(PAUSE_S)

    def close(self) -> None:
        """Leave: the market ends a session that one end has left."""
        self._caller.close()
        self._down.close()


class Caller:
    """Calls over one connection that is kept."""

    def __init__(self, url: str, key: str, context: ssl.SSLContext | None) -> None:
        self._parts, self._key, self._context = urlsplit(url.rstrip("/")), key, context
        self._connection: http.client.HTTPConnection | None = None

    def json(
        self, method: str, path: str, query: Mapping[str, object], content: bytes | None = None, timeout_s: float = 60.0
    ) -> Json:
        """One call's answer. Raises Refusal, OSError, HTTPException."""
        answer = self.begin(method, path, query, timeout_s, content)
        found = json.loads(answer.read())
        assert isinstance(found, dict)
        return found

    def begin(
        self, method: str, path: str, query: Mapping[str, object], timeout_s: float, content: bytes | None = None
    ) -> http.client.HTTPResponse:
        """The head of a good answer."""
        headers = {"Authorization": f"Bearer {self._key}"}
        if content is not None:
            headers["Content-Type"] = "application/octet-stream"
        connection = self._connected(timeout_s)
        try:
            connection.request(method, f"{self._parts.path}{path}?{urlencode(query)}", content, headers)
            answer = connection.getresponse()
            if answer.status >= 300:
                raise _refusal(answer.status, answer.read())
        except (OSError, http.client.HTTPException):
            self.close()
            raise
        return answer

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            _shut(connection)

    def _connected(self, timeout_s: float) -> http.client.HTTPConnection:
        if self._connection is None:
            made: http.client.HTTPConnection
            if self._parts.scheme == "https":
                made = http.client.HTTPSConnection(self._parts.netloc, timeout=timeout_s, context=self._context)
            else:
                made = http.client.HTTPConnection(self._parts.netloc, timeout=timeout_s)
            self._connection = made
        return self._connection


def _shut(connection: http.client.HTTPConnection) -> None:
    """Also for a thread that reads from it."""
    import contextlib
    import socket

    if connection.sock is not None:
        with contextlib.suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()


def _refusal(status: int, content: bytes) -> Refusal:
    try:
        problem = json.loads(content)
        return Refusal(status, str(problem["code"]), str(problem["message"]))
    except (ValueError, KeyError, TypeError):
        return Refusal(status, "http_error", f"the market answered {status}")
