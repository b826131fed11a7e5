"""Connections between members: a link for each peer that sends, readers for those who call, one listening socket.

Each pair of members has two connections, one a direction. A link has a thread of its own and `put` never blocks, so a
peer that reads nothing holds up nobody else, and two members that send each other gigabytes at once both also read.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from trainers.mesh.sockets import Counter, Wire, answer, call
from trainers.mesh.views import Identity, Peer
from trainers.mesh.wire import HEADER_BYTES, BadWire, Frame, Header, Hello, Purpose, read_header

FRAMES_QUEUED = 64
STEPS_RESENT = 2
SMALL_BYTES = 1 << 14
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 1.0
LOOK_EVERY_S = 1.0
STRANGERS = 32
CONNECTIONS = 1024


class Reader(Protocol):
    """Who gets the frames; called from the readers' threads."""

    def admit(self, sender: Identity, header: Header) -> bool:
        """Whether the payload is worth reading; counts it when not."""

    def arrived(self, sender: Identity, frame: Frame) -> None:
        """A whole frame."""

    def serve(self, line: Wire, caller: Identity) -> None:
        """A connection for state transfer, until it ends."""


class Link:
    """What this member sends to one peer, over a connection that is made again whenever it breaks.

    After a break the frames of the latest steps are sent once more: what lay in the kernel is lost with a connection,
    and the receiver drops twins.
    """

    def __init__(self, peer: Peer, connect: Callable[[Peer, list[Wire]], Wire]) -> None:
        self.peer = peer
        self.down = False
        self._connect = connect
        self._ready = threading.Condition()
        self._queue: deque[Frame] = deque()
        self._sent: list[Frame] = []
        self._line: Wire | None = None
        self._busy = False
        self._rest: list[memoryview] = []
        self._open = True
        self._lines: list[Wire] = []
        self._thread = threading.Thread(target=self._run, name=f"mesh-to-{peer.slot}", daemon=True)
        self._thread.start()

    def put(self, frame: Frame) -> None:
        """Send a frame some time; never blocks. A queue that grew too long gives up its oldest frames.

        A small frame on an idle connection goes out at once: the link's thread need not wake up for it.
        """
        with self._ready:
            if self._line is not None and not (self._busy or self._queue or self._rest) and _small(frame):
                rest = self._line.send_now(frame.buffers)
                if rest is not None:
                    self._rest = rest
                    self._remember(frame)
                    if rest:
                        self._ready.notify()
                    return
            self._queue.append(frame)
            while len(self._queue) > FRAMES_QUEUED:
                self._queue.popleft()
            self._ready.notify()

    def forget_before(self, order: tuple[int, int]) -> None:
        """Frames of older views need not be sent any more."""
        with self._ready:
            self._queue = deque(frame for frame in self._queue if (frame.round, frame.attempt) >= order)
            self._sent = [frame for frame in self._sent if (frame.round, frame.attempt) >= order]

    def close(self) -> None:
        with self._ready:
            self._open = False
            self._ready.notify()
            lines = list(self._lines)
        for line in lines:
            line.close()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while self._open:
            try:
                self._connected(self._connect(self.peer, self._lines))
                pause_s = FIRST_PAUSE_S
                self._send_on(self._lines[-1])
            except (OSError, BadWire):
                self.down = True
            with self._ready:
                lines, self._lines[:] = list(self._lines), []
            for line in lines:
                line.close()
            with self._ready:
                self._ready.wait_for(lambda: not self._open, pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _connected(self, line: Wire) -> None:
        with self._ready:
            if not self._open:
                line.close()
                raise ConnectionAbortedError("the link was closed")
            self._queue.extendleft(reversed(self._sent))
            self._sent = []
        self.down = False

    def _send_on(self, line: Wire) -> None:
        with self._ready:
            self._line = line
        try:
            while self._open:
                with self._ready:
                    self._busy = False
                    self._ready.wait_for(lambda: self._queue or self._rest or not self._open, LOOK_EVERY_S)
                    buffers: Sequence[bytes | memoryview] = self._rest
                    if not buffers and self._queue:
                        frame = self._queue.popleft()
                        self._remember(frame)
                        buffers = frame.buffers
                    self._rest = []
                    self._busy = bool(buffers)
                if line.gone():
                    raise ConnectionResetError("the peer closed the connection")
                line.send(buffers)
        finally:
            with self._ready:
                self._line, self._busy, self._rest = None, False, []

    def _remember(self, frame: Frame) -> None:
        self._sent.append(frame)
        steps = sorted({(one.round, one.attempt, one.step) for one in self._sent})[-STEPS_RESENT:]
        self._sent = [one for one in self._sent if (one.round, one.attempt, one.step) in steps]


def _small(frame: Frame) -> bool:
    return frame.header.length <= SMALL_BYTES


class Links:
    """All connections of one member. `reader` gets what arrives."""

    def __init__(
        self, *, secret: bytes, me: Identity, host: str, port: int, max_frame_bytes: int, reader: Reader
    ) -> None:
        self.counter = Counter()
        self._secret = secret
        self._me = me
        self._reader = reader
        self._max_frame_bytes = max_frame_bytes
        self._lock = threading.Lock()
        self._links: dict[Identity, Link] = {}
        self._incoming: dict[Identity, Wire] = {}
        self._ended: set[Identity] = set()
        self._strangers: dict[Wire, None] = {}
        self._guests: set[Wire] = set()
        self._open = True
        self.refused = 0
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=128)
        shown = f"[{host}]" if family == socket.AF_INET6 else host
        self.address = f"{shown}:{self._listener.getsockname()[1]}"
        self._acceptor = threading.Thread(target=self._accept, name="mesh-listen", daemon=True)
        self._acceptor.start()

    # sending

    def keep(self, peers: Iterable[Peer], order: tuple[int, int]) -> None:
        """Have links to exactly these peers, and forget what older views than `order` still wanted to send."""
        wanted = {peer.identity: peer for peer in peers}
        with self._lock:
            if not self._open:
                return
            gone = [self._links.pop(identity) for identity in list(self._links) if identity not in wanted]
            for identity, peer in wanted.items():
                if identity not in self._links:
                    self._links[identity] = Link(peer, self._connect)
                self._links[identity].forget_before(order)
            self._ended &= set(wanted)
        for link in gone:
            link.close()

    def send(self, peer: Peer, frame: Frame) -> None:
        """Never blocks."""
        link = self._links.get(peer.identity)
        if link is not None:
            link.put(frame)

    def lost(self) -> frozenset[Identity]:
        """Peers whose connection broke and has not come back, or that cannot be reached."""
        with self._lock:
            down = {identity for identity, link in self._links.items() if link.down}
            return frozenset(down | (self._ended & set(self._links)))

    def _connect(self, peer: Peer, lines: list[Wire]) -> Wire:
        return call(peer, self._me, Purpose.FRAMES, self._secret, self.counter, lines)

    # receiving

    def _accept(self) -> None:
        while self._open:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                threading.Event().wait(FIRST_PAUSE_S)  # no descriptors left, or a caller gone before we looked
                continue
            try:
                line = Wire(connection, self.counter)
            except OSError:
                connection.close()
                continue
            with self._lock:
                oldest = next(iter(self._strangers)) if len(self._strangers) >= STRANGERS else None
                self._strangers[line] = None
            if oldest is not None:
                oldest.close()
            threading.Thread(target=self._welcome, args=(line,), name="mesh-reader", daemon=True).start()

    def _welcome(self, line: Wire) -> None:
        try:
            hello = answer(line, self._me, self._secret)
        except (OSError, BadWire):
            hello = None
        with self._lock:
            self._strangers.pop(line, None)
            if hello is None:
                self.refused += 1
            taken = hello is not None and self._open and len(self._guests) < CONNECTIONS
            if taken:
                self._guests.add(line)
        try:
            if taken and hello is not None:
                self._listen_to(line, hello)
        finally:
            with self._lock:
                self._guests.discard(line)
            line.close()

    def _listen_to(self, line: Wire, hello: Hello) -> None:
        if hello.purpose is Purpose.STATE:
            with contextlib.suppress(OSError, BadWire):
                self._reader.serve(line, hello.caller)
            return
        with self._lock:
            before = self._incoming.get(hello.caller)
            self._incoming[hello.caller] = line
            self._ended.discard(hello.caller)
        if before is not None:
            before.close()
        try:
            while True:
                self._read_frame(line, hello.caller)
        except (OSError, BadWire):
            pass
        finally:
            with self._lock:
                if self._incoming.get(hello.caller) is line:
                    del self._incoming[hello.caller]
                    if hello.caller in self._links:
                        self._ended.add(hello.caller)

    def _read_frame(self, line: Wire, sender: Identity) -> None:
        header = read_header(line.receive(HEADER_BYTES))
        if not self._reader.admit(sender, header):
            if header.length > self._max_frame_bytes:
                raise BadWire("too long to be skipped")
            line.skip(header.length)
            return
        parts = (line.receive(header.length),) if header.length else ()
        self._reader.arrived(sender, Frame(header.kind, header.round, header.attempt, header.step, parts))

    def close(self) -> None:
        """End every connection and thread."""
        with self._lock:
            self._open = False
            links = list(self._links.values())
            lines = [*self._strangers, *self._guests]
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for line in lines:
            line.close()
        for link in links:
            link.close()
        for link in links:
            link.join(1.0)
        self._acceptor.join(1.0)
