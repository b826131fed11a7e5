"""The books: a plain process that tails the journal, owns the DuckDB file, and answers the API's questions.

    python -m market.api.books_process --home HOME [--port-file FILE] [--token-file FILE]

It listens on 127.0.0.1 only, writes `{"port", "pid"}` to the port file (default HOME/run/books.json) when it is
ready, and takes `POST /query` with the secret of the token file (default HOME/run/books.token, made if missing,
0600) as bearer token. The body is `{name, params, tenant {member, role}, min_records}`; the answer is what the
HTTP API hands on, or a problem document. Queries wait up to 5 s for the books to reach `min_records`.
It may be killed at any time, and its file deleted or garbled: the books are made again from the journal.
"""

import argparse
import contextlib
import hmac
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import duckdb
import uvicorn
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from market.api import problems
from market.api.books_answers import questions
from market.api.problems import Problem
from market.homes import Home, write_json
from storage.journal_format import JournalAway, JournalCorrupt
from storage.projection import Projection, ProjectionBusy, ProjectionNewer, is_damage
from storage.tenants import QueryRefused, Tenant
from storage.transparency import LogIndex

log = logging.getLogger("torg.books")

BEHIND_S = 5.0
POLL_S = 1.0  # who asks wakes the books up; until then nobody misses what they lack
OWN_S, OWN_AGAIN_S = 15.0, 0.1
RETRY_S = 2.0
# what DuckDB says when the file is damaged under it, as opposed to a statement that is wrong
EXIT_BUSY, EXIT_NEWER = 1, 6
Json = dict[str, Any]


class TenantBody(BaseModel):
    """Who asks."""

    model_config = ConfigDict(extra="forbid")
    member: str
    role: str


class Query(BaseModel):
    """One question to the books."""

    model_config = ConfigDict(extra="forbid")
    name: str
    params: dict[str, Any] = Field(default_factory=dict)
    tenant: TenantBody
    min_records: int = Field(default=0, ge=0)


class Books:
    """The projection, a thread that keeps it up with the journal, and the questions it answers."""

    def __init__(self, projection: Projection, log_index: LogIndex) -> None:
        self.projection = projection
        self.log_index = log_index
        self.failure: str | None = None
        self._moved = threading.Condition()
        self._poke = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tail, name="tail", daemon=True)
        self._answers = questions(projection, log_index, lambda: self.failure)

    def start(self) -> None:
        """Begin to follow the journal."""
        self._thread.start()

    def close(self) -> None:
        """Stop following and close the file."""
        self._over.set()
        self._poke.set()
        self._thread.join(timeout=5)
        if not self._thread.is_alive():
            self.projection.close()
            self.log_index.close()

    def answer(self, query: Query) -> Json:
        """The answer to a question; raises Problem."""
        ask = self._answers.get(query.name)
        if ask is None:
            known = ", ".join(self._answers)
            raise Problem(422, "query_unknown", f"the books know no question {query.name!r}", remedy=f"ask {known}")
        if query.name != "status":
            self._wait_for(query.min_records)
        tenant = Tenant(query.tenant.member, query.tenant.role)
        try:
            found = ask(query.params, tenant)
        except duckdb.Error as error:
            if not is_damage(error):
                raise
            log.warning("the books cannot be read (%s): making them again", error)
            self.projection.rebuild()
            found = ask(query.params, tenant)
        except JournalCorrupt as error:
            raise Problem(500, "journal_corrupt", str(error), remedy="torg books verify") from error
        except JournalAway as error:
            raise Problem(503, "archive_away", str(error), remedy="the operator sees to the archive; ask again") from error
        if isinstance(found, QueryRefused):
            status = {"job_unknown": 404, "sql_busy": 429, "operators_only": 403, "not_the_customer": 403}.get(found.code, 422)
            raise Problem(status, found.code, found.message, field=found.field, remedy=found.remedy)
        return found

    def _wait_for(self, records: int) -> None:
        self._poke.set()
        with self._moved:
            reached = self._moved.wait_for(lambda: self.projection.records >= records, timeout=BEHIND_S)
        if not reached:
            why = self.failure or f"they have {self.projection.records} of {records} records"
            message = f"the books have not reached the last decision: {why}"
            raise Problem(503, "books_behind", message, remedy="ask again", headers={"Retry-After": "1"})

    def _tail(self) -> None:
        while not self._over.is_set():
            try:
                moved = self.projection.catch_up()
                self.log_index.catch_up()
                self.failure = None
            except (JournalCorrupt, duckdb.Error, OSError) as error:
                if self.failure != str(error):
                    log.error("the books cannot follow the journal: %s", error)
                self.failure, moved = str(error), 0
            except Exception:
                log.exception("bug while following the journal: the process ends, to be started again")
                os._exit(1)
            if moved or self.failure:
                with self._moved:
                    self._moved.notify_all()
            if self.failure:
                self._over.wait(timeout=RETRY_S)
            self._poke.wait(timeout=POLL_S)
            self._poke.clear()


def make_app(books: Books, token: str) -> Starlette:
    """The HTTP face of the books, for the exchange process only; without FastAPI, whose import is a third of their start."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        books.start()
        try:
            yield
        finally:
            books.close()

    async def query(request: Request) -> Response:
        authorization = request.headers.get("Authorization", "")
        if not hmac.compare_digest(authorization.encode(), f"Bearer {token}".encode()):
            raise Problem(401, "wrong_token", "the books answer the exchange only")
        try:
            asked = Query.model_validate_json(await request.body())
        except ValidationError as error:
            first = error.errors()[0]
            raise problems.invalid_field({**first, "loc": ("body", *first["loc"])}) from error
        # in a thread, so that a slow statement holds up nobody else
        answer = await run_in_threadpool(books.answer, asked)
        return Response(await run_in_threadpool(to_json, answer), media_type="application/json")

    app = Starlette(lifespan=lifespan, routes=[Route("/query", query, methods=["POST"])])
    problems.install(app)
    return app


class _Server(uvicorn.Server):
    """Says where it listens as soon as it does."""

    def __init__(self, config: uvicorn.Config, port_file: Path) -> None:
        super().__init__(config)
        self._port_file = port_file

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        assert sockets
        if self.started:
            write_json(self._port_file, {"port": sockets[0].getsockname()[1], "pid": os.getpid()})


def read_token(path: Path) -> str:
    """The shared secret; made, readable by this account only, if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(handle, secrets.token_hex(32).encode("ascii"))
        finally:
            os.close(handle)
        try:
            os.link(fresh, path)  # appears whole, and only if nobody else made one meanwhile
        finally:
            fresh.unlink()
    token = path.read_text(encoding="ascii").strip()
    if not token:
        raise ValueError(f"{path} is empty")
    return token


def open_projection(home: Home) -> Projection:
    """Own the books; waits for a predecessor that is still ending. Raises ProjectionBusy."""
    until = time.monotonic() + OWN_S
    while True:
        try:
            return Projection.open(home.journal, home.books_database)
        except ProjectionBusy:
            if time.monotonic() > until:
                raise
            time.sleep(OWN_AGAIN_S)


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM; 1 when another process owns the books, 6 when a newer torg made them."""
    parser = argparse.ArgumentParser(prog="books_process", description="Answers questions about the past.")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--port-file", type=Path)
    parser.add_argument("--token-file", type=Path)
    given = parser.parse_args(arguments)
    # uvicorn raises the signal again when it has shut down; without this the exit would look like a death.
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, _end)
    home = Home(given.home)
    port_file = given.port_file or home.books_file
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    token = read_token(given.token_file or home.run / "books.token")
    try:
        projection = open_projection(home)
    except ProjectionBusy as error:
        log.error("%s", error)
        return EXIT_BUSY
    except ProjectionNewer as error:
        log.error("%s", error)
        return EXIT_NEWER
    log_index = LogIndex(home.journal, home.log_index, bytes.fromhex(read_token(home.log_key_file)))
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        make_app(Books(projection, log_index), token), log_config=None, access_log=False, timeout_graceful_shutdown=2
    )
    log.info("the books stand at record %s, pid %s", projection.records, os.getpid())
    try:
        _Server(config, port_file).run(sockets=[listening])
    finally:
        log.info("the books are down at record %s", projection.records)
    return 0


def _end(number: int, _: object) -> None:
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
