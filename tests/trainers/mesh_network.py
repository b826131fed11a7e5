"""Meshes for tests: over real sockets, or over a network in memory that delivers in order, link by link."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from trainers.mesh import Mesh, Peer, View
from trainers.mesh.links import Reader
from trainers.mesh.sockets import Counter
from trainers.mesh.views import Identity
from trainers.mesh.wire import Frame

SECRET = bytes(range(32))
SOON_S = 20.0


class MemoryTransport:
    """A member's end of a network in memory."""

    def __init__(self, network: "MemoryNetwork", me: Identity, reader: Reader) -> None:
        self.address = f"memory:{me[0]}"
        self.counter = Counter()
        self._network, self._me = network, me
        self._queue: queue.SimpleQueue[tuple[Identity, Frame] | None] = queue.SimpleQueue()
        self._reader = reader
        self._peers: set[Identity] = set()
        network.ends[me] = self
        self._thread = threading.Thread(target=self._pump, daemon=True)
        self._thread.start()

    def keep(self, peers: Sequence[Peer], order: tuple[int, int]) -> None:
        self._peers = {peer.identity for peer in peers}

    def send(self, peer: Peer, frame: Frame) -> None:
        end = self._network.ends.get(peer.identity)
        if end is not None and self._me in self._network.ends:
            self.counter.add(sent=sum(map(len, frame.buffers)))
            end._queue.put((self._me, frame))

    def _pump(self) -> None:
        while (item := self._queue.get()) is not None:
            sender, frame = item
            self.counter.add(received=sum(map(len, frame.buffers)))
            if self._reader.admit(sender, frame.header):
                self._reader.arrived(sender, frame)

    def lost(self) -> frozenset[Identity]:
        return frozenset(self._peers - set(self._network.ends))

    def close(self) -> None:
        self._network.ends.pop(self._me, None)
        self._queue.put(None)
        self._thread.join(SOON_S)


class MemoryNetwork:
    def __init__(self) -> None:
        self.ends: dict[Identity, MemoryTransport] = {}

    def transport(self, me: Identity) -> Callable[[Reader], MemoryTransport]:
        return lambda reader: MemoryTransport(self, me, reader)


class Crew:
    """Members 0 … in one process, and threads to call them from."""

    def __init__(self, real: bool, **options: Any) -> None:
        self._network = None if real else MemoryNetwork()
        self._options = options
        self._threads = ThreadPoolExecutor(32)
        self.members: dict[int, Mesh] = {}

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for mesh in self.members.values():
            mesh.close()
        self._threads.shutdown(wait=error is None)

    def add(self, slot: int, epoch: int = 1) -> Mesh:
        transport = None if self._network is None else self._network.transport((slot, epoch))
        mesh = Mesh(secret=SECRET, slot=slot, epoch=epoch, transport=transport, **self._options)
        self.members[slot] = mesh
        return mesh

    def view(self, round_: int, attempt: int, slots: Iterable[int]) -> View:
        return View(round_, attempt, tuple(self.members[slot].peer for slot in sorted(slots)))

    def set_view(self, round_: int, attempt: int, slots: Sequence[int]) -> View:
        view = self.view(round_, attempt, slots)
        for slot in slots:
            self.members[slot].set_view(view)
        return view

    def start(self, call: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        return self._threads.submit(call, *arguments)

    def gather(self, slots: Sequence[int], step: int, payload: Callable[[int], bytes]) -> dict[int, "Future[Any]"]:
        return {slot: self.start(self.members[slot].gather, step, payload(slot), SOON_S) for slot in slots}


def crew_of(count: int, real: bool, **options: Any) -> Crew:
    """Members 0 … count − 1 without a view."""
    crew = Crew(real, **options)
    for slot in range(count):
        crew.add(slot)
    return crew


def results(futures: dict[int, "Future[Any]"]) -> dict[int, Any]:
    return {slot: future.result(SOON_S) for slot, future in futures.items()}


def eventually(check: Callable[[], Any]) -> None:
    """Wait until something holds that no event tells of."""
    deadline, pause = time.monotonic() + SOON_S, threading.Event()
    while not check():
        assert time.monotonic() < deadline, "it did not come to hold"
        pause.wait(0.002)
