"""The SDK over the standard library's HTTP: one connection a call, and a third of the import time of a pool.

`torg offers` must answer in the time that typer and rich need anyway; importing an HTTP library doubles it.
Streams and blobs stay with the SDK's own wire.
"""

import http.client
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from market.client import Market
from market.wire import Wire


class QuickAnswer:
    """As much of a response as `Wire` looks at."""

    def __init__(self, status_code: int, headers: Mapping[str, str], content: bytes) -> None:
        self.status_code, self.headers, self.content = status_code, headers, content

    @property
    def is_success(self) -> bool:
        return 200 <= self.status_code < 300

    def json(self) -> Any:
        """The body as JSON; raises ValueError where it is something else."""
        return json.loads(self.content)


class QuickWire(Wire):
    """The SDK's wire (its retries, its refusals) with another way to send one request."""

    def _send(  # type: ignore[override]
        self,
        method: str,
        path: str,
        params: Mapping[str, object] | None,
        body: object,
        content: bytes | None,
        headers: Mapping[str, str] | None,
        wait_s: float,
    ) -> QuickAnswer:
        sent = dict(headers or {})
        if self._key:
            sent["Authorization"] = f"Bearer {self._key}"
        if body is not None:
            content = json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
            sent["Content-Type"] = "application/json"
        query = urlencode({name: value for name, value in (params or {}).items() if value is not None})
        parts = urlsplit(self.url)
        try:
            connection = self._connection(parts.scheme, parts.netloc, self._timeout_s + wait_s)
            try:
                connection.request(method, parts.path + path + (f"?{query}" if query else ""), content, sent)
                answer = connection.getresponse()
                return QuickAnswer(answer.status, dict(answer.headers), answer.read())
            finally:
                connection.close()
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error

    def _connection(self, scheme: str, netloc: str, timeout_s: float) -> http.client.HTTPConnection:
        if scheme not in ("http", "https") or not netloc:
            raise ValueError("the URL must begin with http:// or https://")
        if scheme == "https":
            return http.client.HTTPSConnection(netloc, timeout=timeout_s, context=self._trust())
        return http.client.HTTPConnection(netloc, timeout=timeout_s)


class QuickMarket(Market):
    """`Market` for one short question."""

    def __init__(
        self, url: str, key: str | None = None, *, timeout_s: float = 30.0, patience_s: float = 2.0,
        ca: Path | None = None,
    ) -> None:  # fmt: skip
        super().__init__(url, key, timeout_s=timeout_s, patience_s=patience_s, ca=ca)
        self._wire = QuickWire(url, key, timeout_s=timeout_s, patience_s=patience_s, ca=ca)
