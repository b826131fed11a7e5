"""The customer's end of a session: what is typed goes up, what is printed comes down, and how it ended is the exit code."""

import contextlib
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from cli.errors import CliError, Exit
from cli.output import log
from cli.session import connect
from cli.settings import Settings
from trainers.sessions import frames
from trainers.sessions.frames import BadFrame, Frame, frame
from trainers.sessions.line import POST_BYTES, Line, LineLost

LOST = 255
INTERRUPTED = 130
PIECE_BYTES = 32 << 10
_REMEDIES = {
    "market_lost": "begin it again when `torg status` finds the market",
    "market_closing": "begin it again when the market is back",
    "machine_lost": "if the machine is gone, the command begins again elsewhere: `torg logs` says when, then begin it again",
}
IMPATIENT = 3
"""Interrupts until we leave without waiting for the remote end."""


class Remote:
    """One session. `order` as `Market.open_session` takes it. Raises Refused, MarketUnreachable."""

    def __init__(self, settings: Settings, job: str, order: dict[str, Any]) -> None:
        from storage.trust import client_context

        url, key, ca = settings.market_url(), settings.key_for("customer"), settings.trusted()
        opened = connect(settings, "customer").open_session(job, order)
        context = client_context(None if ca is None else Path(ca)) if url.startswith("https:") else None
        path = f"/v1/jobs/{job}/sessions/{opened['session']}/frames"
        self._line = Line(url, key or "", path, frames.FROM_MACHINE | frames.FROM_MARKET, context=context)
        self._answer = self._lost_is_an_error(self._line.open)
        self._up: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(0)
        self._credit, self._changed = frames.WINDOW_BYTES, threading.Condition()
        self._over = False
        self._interrupts = 0
        self.exit: dict[str, Any] | None = None
        threading.Thread(target=self._send, name="send", daemon=True).start()

    def feed(self, read: Callable[[int], bytes]) -> None:
        """Send all that `read` gives, in a thread of its own, and then its end."""
        threading.Thread(target=self._feed, args=(read,), name="stdin", daemon=True).start()

    def put(self, kind: int, payload: bytes = b"") -> None:
        """A frame other than input."""
        self._up.put(frame(kind, payload))

    def interrupt(self, number: int, _: FrameType | None) -> None:
        """A signal of ours is one of the remote process."""
        self._interrupts += 1
        if self._interrupts >= IMPATIENT:
            raise KeyboardInterrupt
        self.put(frames.SIGNAL, bytes([number]))

    def events(self) -> Iterator[Frame]:
        """What is printed, (STDOUT or STDERR, bytes), until the session is over; then `exit` says how. Raises CliError when
        it was lost.
        """
        over = {"reason": "", "detail": "the market is gone"}
        try:
            for kind, payload in self._line.frames(self._answer):
                if kind in (frames.STDOUT, frames.STDERR):
                    yield kind, payload
                elif kind == frames.CREDIT:
                    with self._changed:
                        self._credit += int.from_bytes(payload, "big")
                        self._changed.notify_all()
                elif kind == frames.EXIT:
                    self.exit = _document(payload)
                elif kind == frames.OVER:
                    over = _document(payload)
                    break
        except (LineLost, BadFrame) as lost:
            over = {"reason": "market_lost", "detail": f"the connection to the market broke ({lost})"}
        finally:
            self.close()
        if self.exit is None:
            code = str(over.get("reason") or "session_lost")
            raise lost_session(code, str(over.get("detail")))

    def close(self) -> None:
        """Leave; the market ends what has not ended."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
        self._up.put(None)
        self._line.close()

    def result(self) -> int:
        """The exit code; a line says why where the process did not end by itself."""
        assert self.exit is not None
        code, reason = int(self.exit.get("code") or 0), self.exit.get("reason")
        if reason not in ("exit", "signal"):
            log(f"torg: {self.exit.get('detail') or reason}")
        return code

    def _feed(self, read: Callable[[int], bytes]) -> None:
        with contextlib.suppress(OSError, ValueError):
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._credit > 0 or self._over)
                    if self._over:
                        return
                    most = min(self._credit, PIECE_BYTES)
                data = read(most)
                if not data:
                    break
                with self._changed:
                    self._credit -= len(data)
                self._up.put(frame(frames.STDIN, data))
        self.put(frames.STDIN_END)

    def _send(self) -> None:
        waiting: bytes | None = b""
        while True:
            data = waiting or self._up.get()
            waiting = b""
            if data is None:
                return
            with contextlib.suppress(queue.Empty):
                while len(data) < POST_BYTES:
                    waiting = self._up.get_nowait()
                    if waiting is None or len(data) + len(waiting) > POST_BYTES:
                        break
                    data, waiting = data + waiting, b""
            try:
                self._line.send(data)
            except LineLost:
                return  # the reading end is told why
            if waiting is None:
                return

    def _lost_is_an_error(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except LineLost as lost:
            raise lost_session("session_lost", str(lost)) from None


def lost_session(code: str, detail: str) -> CliError:
    """The session ended without its process: that is ended on the machine, as `SessionHost` does when its line breaks."""
    ended = "what ran in it is ended" if code == "machine_lost" else "what ran in it is ended, the job's own command is not touched"
    made = CliError(code, f"the session is lost: {detail}; {ended}", None, _REMEDIES.get(code), Exit.FAILED)
    made.exit_code = LOST  # type: ignore[assignment]
    return made


def run(remote: Remote) -> int:
    """Copy what is printed to our own outputs until the end; the exit code."""
    outputs = {frames.STDOUT: sys.stdout.fileno(), frames.STDERR: sys.stderr.fileno()}
    sys.stdout.flush()
    with signals(remote):
        try:
            for kind, data in remote.events():
                write_all(outputs[kind], data)
        except KeyboardInterrupt:
            remote.close()
            return INTERRUPTED
    return remote.result()


@contextlib.contextmanager
def signals(remote: Remote) -> Iterator[None]:
    """SIGINT goes to the remote process for as long as this lasts."""
    before = signal.signal(signal.SIGINT, remote.interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _document(payload: bytes) -> dict[str, Any]:
    try:
        found = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
