"""A market that answers what a test tells it to, over real HTTP, and remembers what it was asked."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Answer = tuple[int, Any]
Route = Answer | Callable[["Asked"], Answer]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. `body` is the JSON, or the bytes of something else."""

    method: str
    path: str
    query: dict[str, str]
    key: str | None
    body: Any


@dataclass(slots=True)
class FakeMarket:
    """`routes` maps "GET /v1/offers" to (status, document), or to a function of what was asked."""

    routes: dict[str, Route] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    _server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "FakeMarket":
        market = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, document = market.answer(_asked(self, content))
                text = document if isinstance(document, bytes) else json.dumps(document).encode()
                self.send_response(status)
                self.send_header(
                    "Content-Type", "text/event-stream" if isinstance(document, bytes) else "application/json"
                )
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(text)

            do_GET = do_POST = do_PUT = do_HEAD = handle_any

            def log_message(self, format: str, *args: object) -> None:
                """Tests read `asked` instead."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    def answer(self, asked: Asked) -> Answer:
        """What to say; 404 as the market says it where the test said nothing."""
        self.asked.append(asked)
        route = self.routes.get(f"{asked.method} {asked.path}")
        if route is None:
            return problem(404, "not_found", f"nothing at {asked.path}")
        return route(asked) if callable(route) else route

    def last(self, method: str, path: str) -> Asked:
        """The newest request of that kind; a test that needs one fails without it."""
        return [one for one in self.asked if (one.method, one.path) == (method, path)][-1]


def problem(status: int, code: str, message: str, field: str | None = None, remedy: str | None = None) -> Answer:
    """A problem document as the API makes it."""
    return status, {"type": "about:blank", "title": code, "status": status, "detail": message,
                    "code": code, "message": message, "field": field, "remedy": remedy}  # fmt: skip


def stream(*records: dict[str, Any]) -> Answer:
    """Server-sent events: the records with the numbers that the market would give, and the end."""
    text = ""
    for number, record in enumerate(records, 1):
        text += f"data: {json.dumps({'number': number, 'index': 0, 'at_ms': 1000 * number, 'event': record})}\n\n"
    return 200, (text + "event: end\ndata: {}\n\n").encode()


def _asked(handler: BaseHTTPRequestHandler, content: bytes) -> Asked:
    parts = urlsplit(handler.path)
    try:
        body = json.loads(content) if content else None
    except ValueError:
        body = content
    bearer = handler.headers.get("Authorization")
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    return Asked(handler.command, parts.path, query, bearer.removeprefix("Bearer ") if bearer else None, body)
