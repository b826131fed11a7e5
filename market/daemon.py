"""The market's daemon at work: brings the exchange up, starts again what dies, ends all in order (see supervisor.py)."""

import errno
import json
import logging
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from market.children import Child, cut_log, descendants, end_processes, reap_orphans
from market.client import Market, MarketUnreachable, Refused
from market.homes import Home, write_json
from market.tls import TlsFiles
from trainers.ready import wait_ready

log = logging.getLogger("torg.supervisor")

START_S = 60.0
PAUSE_JOBS_S = 30.0
GRACE_S = {"head": 20.0, "books": 5.0, "archive": 5.0, "exchange": 8.0}
LOOK_S = 0.5
WILDCARDS = ("0.0.0.0", "::", "")  # noqa: S104 - compared with, not bound to
RAY_PORTS = range(10002, 20000)
BACKLOG = 2048
EXIT_NEWER = 6
"""Of the exchange (market/api/process.py): a newer torg wrote what it found."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a market is to be started. `port` None: the one of before if it is free, else any; `ray` None: embedded; `name`:
    the host in its URL, where a certificate is for another one than it listens at."""

    host: str = "127.0.0.1"
    port: int | None = None
    ray: str | None = None
    ray_token: Path | None = None
    no_ray: bool = False
    tls: TlsFiles | None = None
    name: str | None = None


class StartFailed(Exception):
    """The market did not come up; the text ends with the tail of the log that says why."""

    def __init__(self, code: str, message: str, *, field: str | None = None, remedy: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
        self.remedy = remedy


class Supervisor:
    """The daemon's own work; `run` returns its exit code when everything is down."""

    def __init__(self, home: Home, wanted: Wanted, listening: socket.socket) -> None:
        self._home = home
        self._wanted = wanted
        self._listening = listening
        host, port = wanted.host, int(listening.getsockname()[1])
        shown = shown_host(host)
        url = url_of(wanted.name or shown, port, secure=wanted.tls is not None)
        self.facts: dict[str, Any] = {"url": url, "host": host, "port": port, "supervisor_pid": os.getpid()}
        if wanted.tls is not None:
            self.facts["ca"] = str(wanted.tls.certificate)
        self._children = {child.name: child for child in self._plan(shown)}
        self._stopping = False
        self._ears, self._mouth = os.pipe()

    def run(self, ready: "int | None") -> int:
        """Start, watch, stop. `ready` is a descriptor to which one line of JSON says how the start went."""
        self._hear_signals()
        # What the head of before has said stays: a new head that says another address tells the market what was lost.
        self._home.books_file.unlink(missing_ok=True)
        self._home.write_pid("supervisor", os.getpid())
        try:
            failure = self._open()
            if failure is not None:
                say(ready, failure)
                return 1
            say(ready, self.facts)
            while not self._stopping:
                self._look()
            self._pause_jobs()
            return 0
        finally:
            self._end_all()

    def _plan(self, host: str) -> list[Child]:
        home, folder = self._home, str(self._home.root)
        python = [sys.executable, "-m"]
        fd = self._listening.fileno()
        exchange = [*python, "market.api.process", "--home", folder, "--host", host, "--fd", str(fd)]
        exchange += ["--url", self.facts["url"]]
        if (tls := self._wanted.tls) is not None:
            exchange += ["--tls-cert", str(tls.certificate), "--tls-key", str(tls.key)]
        plan = [Child("exchange", exchange, home, passed=(fd,))]
        plan.append(Child("books", [*python, "market.api.books_process", "--home", folder], home))
        plan.append(Child("archive", [*python, "market.archiving", "--home", folder], home))
        if not self._wanted.no_ray:
            head = [*python, "market.actors.head", "--home", folder, "--url", self.facts["url"], "--host", host]
            head += ["--ray", self._wanted.ray] if self._wanted.ray else []
            head += ["--ray-token", str(self._wanted.ray_token)] if self._wanted.ray_token else []
            plan.append(Child("head", head, home))
        return plan

    def _open(self) -> dict[str, Any] | None:
        """Bring the exchange up and reopen the market; what went wrong, or None."""
        exchange = self._children["exchange"]
        exchange.start()
        until_s, why = time.monotonic() + START_S, "not yet"
        while True:
            assert exchange.process is not None
            if (code := exchange.process.poll()) == EXIT_NEWER:
                last = tail_of(self._home.log_file("exchange"), lines=1).partition("ERROR torg.exchange: ")[2]
                message, _, remedy = last.rpartition(": ")
                return {"code": "home_newer", "message": message, "field": "--home", "remedy": remedy}
            if code is not None:
                message = f"the exchange ended with code {code}:\n{tail_of(self._home.log_file('exchange'))}"
                return {
                    "code": "exchange_failed",
                    "message": message,
                    "remedy": f"see {self._home.log_file('exchange')}",
                }
            if self._stopping or time.monotonic() > until_s:
                return {"code": "start_failed", "message": f"the exchange did not answer at {self.facts['url']}: {why}"}
            try:
                with self._market(timeout_s=1.0) as market:
                    market.healthz()
                    break
            except MarketUnreachable as away:
                if away.remedy is not None:  # TLS: waiting does not help
                    return {"code": "tls_failed", "message": str(away), "field": "--tls-cert", "remedy": away.remedy}
                why = away.reason
                self._hear(0.05)
        write_json(self._home.market_file, self.facts)
        with self._market(timeout_s=START_S) as market:
            try:
                market.reopen_market()
            except Refused as refused:  # a full disk, a mirror that is away
                return {"code": refused.code, "message": refused.message, "remedy": refused.remedy}
            write_json(self._home.market_file, {**self.facts, "public_key": market.status()["public_key"]})
        for name, child in self._children.items():
            if name != "exchange":
                child.start()
        return None

    def _market(self, *, timeout_s: float) -> Market:
        key, ca = self._home.read_keys().get("operator"), self.facts.get("ca")
        return Market(self.facts["url"], key, timeout_s=timeout_s, patience_s=0, ca=Path(ca) if ca else None)

    def _look(self) -> None:
        """Wait for a signal (a child's death is one), then see to every child."""
        self._hear(LOOK_S)
        for child in self._children.values():
            child.watch()
            cut_log(self._home.log_file(child.name))
        reap_orphans([child.pid for child in self._children.values() if child.pid is not None])

    def _pause_jobs(self) -> None:
        until_s = time.monotonic() + PAUSE_JOBS_S
        while time.monotonic() < until_s:
            try:
                with self._market(timeout_s=2.0) as market:
                    running = market.stop_market()["jobs_running"]
            except MarketUnreachable as away:
                log.warning("the exchange does not hear the stop yet: %s", away)
            except Refused as refused:
                log.error("the market refuses to stop (%s): its jobs pause at their last durable round", refused)
                return
            else:
                if running == 0:
                    return
            self._look()
        log.warning("jobs still run after %.0f s: they go on from their last durable round", PAUSE_JOBS_S)

    def _end_all(self) -> None:
        for name in ("head", "books", "archive", "exchange"):
            if name in self._children:
                self._children[name].end(GRACE_S[name])
        left = descendants()
        if left:
            log.warning("ending what was left behind: %s", left)
            end_processes(left, 2.0)
            reap_orphans([])
        self._home.forget_pid("supervisor")
        self._listening.close()

    def _hear_signals(self) -> None:
        for end in (self._ears, self._mouth):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._mouth, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._told_to_stop)

    def _told_to_stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    def _hear(self, timeout_s: float) -> None:
        readable, _ = wait_ready([self._ears], timeout_s)
        if readable:
            os.read(self._ears, 4096)


def shown_host(host: str) -> str:
    """Where the market is found that listens at `host`: a wildcard is no address to go to."""
    return "127.0.0.1" if host in WILDCARDS else host


def url_of(name: str, port: int, *, secure: bool) -> str:
    """The market's URL for its clients."""
    return f"{'https' if secure else 'http'}://{f'[{name}]' if ':' in name else name}:{port}"


def choose_socket(home: Home, wanted: Wanted) -> socket.socket:
    """The port asked for, or the one of before, or any free one that Ray does not use. Raises StartFailed."""
    if wanted.port is not None:
        try:
            return listen(wanted.host, wanted.port)
        except OSError as error:
            raise _address_failure(wanted.host, wanted.port, error) from error
    kept = home.read_market().get("port")
    if isinstance(kept, int):
        try:
            return listen(wanted.host, kept)
        except OSError as error:
            log.warning("port %s of before cannot be had (%s): taking another", kept, error)
    while True:
        try:
            made = listen(wanted.host, 0)
        except OSError as error:
            raise _address_failure(wanted.host, 0, error) from error
        if made.getsockname()[1] not in RAY_PORTS:
            return made
        made.close()


def say(ready: int | None, told: dict[str, Any]) -> None:
    """One line to whoever started us; that one may have gone."""
    if ready is None:
        return
    try:
        os.write(ready, json.dumps(told).encode() + b"\n")
        os.close(ready)
    except OSError as error:
        log.warning("nobody hears how the start went: %s", error)


def tail_of(*paths: Path, lines: int = 12) -> str:
    """The last lines of logs that exist."""
    found: list[str] = []
    for path in paths:
        if path.exists():
            found += path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
    return "\n".join(found)


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket; raises OSError."""
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    return made


def _address_failure(host: str, port: int, error: OSError) -> StartFailed:
    if error.errno == errno.EADDRINUSE:
        message = f"port {port} on {host} is in use by another program"
        return StartFailed("port_in_use", message, field="--port", remedy="name another --port, or none")
    return StartFailed("address_unusable", f"cannot listen on {host} port {port}: {error.strerror}", field="--host")
