"""The exchange process: `python -m market.api.process --home HOME --host H --port P`.

The only writer of the journal and the only door of the market. Exit codes: 1 the journal cannot be trusted (start again
to read it anew), 2 bad arguments, 3 another exchange has the journal, 4 the address cannot be had, 5 the home is damaged, 6 a newer torg wrote it.
With `--fd N` it answers on a listening socket that its parent holds, so that callers wait through a restart.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from market.api.app import make_app
from market.api.desk import Desk
from market.api.feed import Feed
from market.api.guarded import GuardedProtocol
from market.api.opening import open_services, steady_ms, wall_ms
from market.api.settling import settle_memory
from market.api.shelf import Shelf
from market.clocks import SteadyClock
from market.daemon import EXIT_NEWER, listen, url_of
from market.homes import Home
from market.mirroring import Mirroring
from market.recollection import Memory, new_exchange
from market.tls import TlsFiles
from storage.blobs import BlobError
from storage.bucket_blobs import open_blobs
from storage.formats import HOME_FORMAT, FormatDamaged, FormatNewer, check_home, upgrade_home
from storage.journal import Journal, JournalCorrupt, JournalFull, JournalLocked, JournalNewer
from storage.mirror_places import read_mirrors

log = logging.getLogger("torg.exchange")

LAST_ANSWERS_S = 2
FIRST_COPY_S = 20
"""How long a start waits for synchronous mirrors; after that it answers, and takes no work before they have everything."""
EXIT_BROKEN, EXIT_LOCKED, EXIT_ADDRESS, EXIT_DAMAGED = 1, 3, 4, 5


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT."""
    given = _arguments(arguments)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO, stream=sys.stderr)
    home = Home(given.home)
    try:
        check_home(home.root)
        home.make_folders()
        memory = Memory(home.snapshots, home.journal)
        journal = Journal.open(home.journal, since=memory.place)
    except JournalLocked as error:
        log.error("%s", error)
        return EXIT_LOCKED
    except (FormatNewer, JournalNewer) as error:
        log.error("%s", error)
        return EXIT_NEWER
    except (FormatDamaged, JournalCorrupt, JournalFull, OSError) as error:
        log.error("the journal cannot be opened: %s", error)
        return EXIT_DAMAGED
    with journal:
        tls = TlsFiles(given.tls_cert, given.tls_key) if given.tls_cert else None
        return _serve(home, journal, memory, given, tls)


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m market.api.process")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--fd", type=int, help="a listening socket inherited from the parent")
    parser.add_argument("--url", help="where clients find it; default: where it listens")
    parser.add_argument("--tls-cert", type=Path, help="certificate, PEM: speak https")
    parser.add_argument("--tls-key", type=Path, help="its key")
    return parser.parse_args(arguments)


def _serve(
    home: Home, journal: Journal, memory: Memory, given: argparse.Namespace, tls: TlsFiles | None
) -> int:
    host, port, fd = given.host, given.port, given.fd
    try:
        listening = listen(host, port) if fd is None else socket.socket(fileno=fd)
    except OSError as error:
        log.error("cannot listen on %s port %s: %s", host, port, error)
        return EXIT_ADDRESS
    feed = Feed()
    try:
        upgraded = upgrade_home(home.root)
        if upgraded is not None:
            log.info("the home was of format %s and is of format %s now", upgraded, HOME_FORMAT)
        shelf = Shelf(open_blobs(home.root), home.uploads_file)
        clock = SteadyClock(wall_ms, steady_ms)
        mirroring = Mirroring(home, read_mirrors(home.root), lambda: desk.exchange.market_id, lambda: journal.durable, wall_ms)
        desk = Desk(
            journal, new_exchange, feed, now_ms=clock, broken=_broken, observe=shelf.observe, recall=memory.recall,
            mirrors=mirroring if mirroring.synchronous else None,
        )  # fmt: skip
        url = given.url or url_of(host, listening.getsockname()[1], secure=tls is not None)
        clock.not_before(desk.now_ms())
        settle_memory()
        services = open_services(home, url, desk, shelf, clock)
        services.mirroring = mirroring
    except JournalNewer as error:
        log.error("%s", error)
        return EXIT_NEWER
    except BlobError as error:
        log.error("the market's blobs cannot be used: %s", error)
        return EXIT_DAMAGED
    except (OSError, ValueError, JournalCorrupt, JournalFull) as error:
        log.exception("the market cannot be opened: %s", error)
        return EXIT_DAMAGED
    app = make_app(services)
    app.router.lifespan_context = _lifespan
    config = uvicorn.Config(
        app,
        http=GuardedProtocol,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=LAST_ANSWERS_S,
        ssl_certfile=tls.certificate if tls else None,
        ssl_keyfile=tls.key if tls else None,
        ssl_keyfile_password="" if tls else None,  # ask nobody
    )
    server = _Server(config, feed)
    log.info(
        "%s answers with %s records, of which it replayed %s, pid %s",
        services.url, journal.records, desk.replayed, os.getpid(),
    )  # fmt: skip
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises the signal again when it is down; we end by ourselves
    mirroring.start()
    desk.hold(FIRST_COPY_S)
    server.run(sockets=[listening])
    mirroring.close()
    log.info("the exchange is down after %s records", journal.records)
    return 0


class _Server(uvicorn.Server):
    """Answers every long-poll before it closes."""

    def __init__(self, config: uvicorn.Config, feed: Feed) -> None:
        super().__init__(config)
        self._feed = feed

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._feed.close()
        await super().shutdown(sockets)


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    desk: Desk = app.state.services.desk
    tasks = (asyncio.create_task(desk.write()), asyncio.create_task(desk.tick()))
    for task in tasks:
        task.add_done_callback(_must_not_end)
    try:
        yield
    finally:
        for task in tasks:
            task.remove_done_callback(_must_not_end)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await app.state.services.books.close()


def _broken(error: Exception) -> None:
    """What is on disk is unknown: no answer may leave this process any more."""
    log.critical("the journal is broken, the exchange ends: %s", error)
    logging.shutdown()
    os._exit(EXIT_BROKEN)


def _must_not_end(task: "asyncio.Task[None]") -> None:
    if task.cancelled():
        return
    log.critical("the writer ended, the exchange ends with it", exc_info=task.exception())
    logging.shutdown()
    os._exit(EXIT_BROKEN)


if __name__ == "__main__":
    sys.exit(main())
