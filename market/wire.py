"""How the SDK talks: one HTTP call with its retries, and what its failures are called.

Imports httpx2 only when the first call is made, so that importing the SDK costs nothing.
"""

import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import ssl

    import httpx2

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0
BUSY = (502, 503, 504)
TOO_MANY = 429


class MarketUnreachable(Exception):
    """No market answers at `url`: nothing listens, the network is cut, it did not answer in time, or its certificate is
    not to be trusted (then `remedy` says what would do)."""

    def __init__(self, url: str, reason: str, remedy: str | None = None) -> None:
        self.url = url
        self.reason = reason
        self.remedy = remedy
        super().__init__(f"the market at {url} cannot be reached: {reason}")


class Refused(Exception):
    """The market understood the request and declined it; the same four fields as its problem documents."""

    def __init__(
        self, code: str, message: str, field: str | None = None, remedy: str | None = None, *, status: int = 422
    ) -> None:
        self.code = code
        self.message = message
        self.field = field
        self.remedy = remedy
        self.status = status
        super().__init__(message if remedy is None else f"{message} ({remedy})")


class Wire:
    """One connection pool to one market. Safe to use from several threads.

    `patience_s` is how long a call that may be repeated goes on trying while the market is away or busy. `ca`: a file of
    certificates to trust beside the machine's, for an https:// `url`.
    """

    def __init__(
        self, url: str, key: str | None, *, timeout_s: float, patience_s: float, ca: Path | None = None
    ) -> None:
        self.url = url.rstrip("/")
        self._ca = ca
        self.patience_s = patience_s
        self._key = key
        self._timeout_s = timeout_s
        self._pool: httpx2.Client | None = None

    def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, object] | None = None,
        body: object = None,
        content: bytes | Sequence[bytes | memoryview] | None = None,
        headers: Mapping[str, str] | None = None,
        wait_s: float = 0,
        repeatable: bool = True,
        accept: tuple[int, ...] = (),
    ) -> "httpx2.Response":
        """One request and its good answer (2xx or in `accept`); a `repeatable` one is tried again with growing pauses.

        Raises Refused for every other answer, MarketUnreachable when patience is over.
        """
        give_up_at = time.monotonic() + (self.patience_s if repeatable else 0)
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                answer = self._send(method, path, params, body, content, headers, wait_s)
            except MarketUnreachable:
                if time.monotonic() + pause_s > give_up_at:
                    raise
            else:
                if answer.is_success or answer.status_code in accept:
                    return answer
                if not _passes(answer) or time.monotonic() + pause_s > give_up_at:
                    raise refusal(answer)
            time.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads retries, guards nothing
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    def json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """`call`, and the answer's JSON object."""
        found = self.call(method, path, **options).json()
        assert isinstance(found, dict), f"{method} {path} answered with something that is not an object"
        return found

    @contextmanager
    def stream(
        self, path: str, *, params: Mapping[str, object] | None = None, headers: Mapping[str, str] | None = None
    ) -> Iterator["httpx2.Response"]:
        """A GET whose body is read piece by piece; no retries here. Raises like `call`."""
        import httpx2

        try:
            with self._client().stream("GET", path, params=_clean(params), headers=dict(headers or {})) as answer:
                if not answer.is_success:
                    answer.read()
                    raise refusal(answer)
                yield answer
        except httpx2.TransportError as error:
            raise self._unreachable(error) from error

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _send(
        self,
        method: str,
        path: str,
        params: Mapping[str, object] | None,
        body: object,
        content: bytes | Sequence[bytes | memoryview] | None,
        headers: Mapping[str, str] | None,
        wait_s: float,
    ) -> "httpx2.Response":
        import httpx2

        extra, sent = dict(headers or {}), cast("bytes | Sequence[bytes] | None", content)
        if body is not None:
            sent = json.dumps(body, separators=(",", ":"), allow_nan=False).encode("utf-8")
            extra["Content-Type"] = "application/json"
        timeout = httpx2.Timeout(self._timeout_s + wait_s, connect=min(self._timeout_s, 10.0))
        try:
            return self._client().request(
                method, path, params=_clean(params), content=sent, headers=extra, timeout=timeout
            )
        except httpx2.TransportError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> MarketUnreachable:
        from market.tls import reason_of

        found = reason_of(error) if self.url.startswith("https:") else None
        return MarketUnreachable(self.url, *(found or (_reason(error),)))

    def _trust(self) -> "ssl.SSLContext | None":
        """What an https:// market must be signed by; None for http://. Raises MarketUnreachable for a bad file."""
        if not self.url.startswith("https:"):
            return None
        from market.tls import client_context

        try:
            return client_context(self._ca)
        except OSError as error:  # SSLError is one
            what = error.strerror or "it holds no certificate in PEM"
            raise MarketUnreachable(self.url, f"{self._ca} cannot be read: {what}", "name another --ca") from error

    def _client(self) -> "httpx2.Client":
        import httpx2

        if self._pool is None:
            headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
            limits = httpx2.Limits(max_connections=64, max_keepalive_connections=16)
            # trust_env off: a proxy named in the environment must not see keys meant for a market on loopback
            self._pool = httpx2.Client(
                base_url=self.url, headers=headers, timeout=self._timeout_s, limits=limits, trust_env=False,
                verify=self._trust() or True,
            )  # fmt: skip
        return self._pool


def _passes(answer: "httpx2.Response") -> bool:
    """Whether the same call may be answered in a moment: a market that is busy, or that says when to ask again."""
    if answer.status_code == TOO_MANY:
        return "retry-after" in {name.lower() for name in answer.headers}
    return answer.status_code in BUSY


def refusal(answer: "httpx2.Response") -> Refused:
    """The exception for an answer that is not 2xx, whether or not its body is a problem document."""
    try:
        problem = answer.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict) or "code" not in problem:
        return Refused("http_error", f"the market answered {answer.status_code}", status=answer.status_code)
    return Refused(
        str(problem["code"]),
        str(problem.get("message") or problem.get("detail") or problem["code"]),
        problem.get("field"),
        problem.get("remedy"),
        status=answer.status_code,
    )


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _clean(params: Mapping[str, object] | None) -> dict[str, Any]:
    return {name: value for name, value in (params or {}).items() if value is not None}
