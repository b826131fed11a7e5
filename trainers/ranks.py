"""Several processes of one trainer child, each with a part of the work: started, joined by torch.distributed, watched.

Rank 0 is the process that the parent knows. It forks the others before torch has threads or a card, and all connect to
each other (gloo on the CPU, NCCL on cards, over the loopback device) before any of them filters its system calls, so the
filter is the same as with one process: no new socket, no new process. Rank 0 hands every frame of the parent on to all,
so that all do the same; when one fails or dies, rank 0 reports that as the child's failure.
"""

import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist

from trainers import sandbox
from trainers.frames import BadFrame, Frame, Unpacker
from trainers.sharding import is_sharded

BUCKET_ELEMENTS = 8 << 20
JOIN_TIMEOUT = timedelta(seconds=60)
VERDICT_S = 2.0


@dataclass(slots=True)
class Ranks:
    """This process among those of its child. `others`: rank 0's connections to the others, with their pids;
    `first`: another rank's connection to rank 0."""

    rank: int = 0
    count: int = 1
    others: Sequence[tuple[int, socket.socket]] = ()
    first: socket.socket | None = None
    meeting: str = ""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _ready: list[threading.Event] = field(default_factory=list)
    _failed: threading.Event = field(default_factory=threading.Event)

    def join(self, device: torch.device) -> None:
        """Connect to all ranks, now and for all kinds of exchange: later no new connection can be made."""
        self.device = device
        if self.count == 1:
            return
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(
            backend, init_method=f"file://{self.meeting}/ranks", rank=self.rank, world_size=self.count,
            timeout=JOIN_TIMEOUT,
        )  # fmt: skip
        number, numbers = torch.ones(1, device=device), list(torch.ones(self.count, 1, device=device))
        dist.all_reduce(number)
        dist.broadcast(number, 0)
        dist.all_gather(numbers, number)
        dist.reduce_scatter(number, numbers)

    def average(self, gradients: Sequence[torch.Tensor]) -> None:
        """The mean over all ranks in the place of each; the same bits at all of them. Sharded ones are means already."""
        if self.count == 1:
            return
        bucket: list[torch.Tensor] = []
        waiting = 0
        for gradient in gradients:
            if is_sharded(gradient):
                continue
            bucket.append(gradient)
            waiting += gradient.numel()
            if waiting >= BUCKET_ELEMENTS:
                self._average(bucket)
                bucket, waiting = [], 0
        if bucket:
            self._average(bucket)

    def totals(self, numbers: Sequence[float]) -> list[float]:
        """Sums over all ranks. No rank returns before all have called it."""
        if self.count == 1:
            return list(numbers)
        summed = torch.tensor(list(numbers), dtype=torch.float64, device=self.device)
        dist.all_reduce(summed)
        return [float(number) for number in summed.tolist()]

    def meet(self) -> None:
        """Return when all ranks are here."""
        self.totals((0.0,))

    def tell(self, frame: bytes, descriptors: Sequence[int] = ()) -> None:
        """Rank 0: hand on to all others what the parent said."""
        for _, connection in self.others:
            if descriptors:
                socket.send_fds(connection, [frame], descriptors)
            else:
                connection.sendall(frame)

    def watch(self, failed: Callable[[Frame], None]) -> None:
        """Rank 0: report what becomes of the others for as long as they live."""
        for rank, (pid, connection) in enumerate(self.others, start=1):
            ready = threading.Event()
            self._ready.append(ready)
            arguments = (rank, pid, connection, ready, failed)
            threading.Thread(target=self._watch, args=arguments, name=f"rank-{rank}", daemon=True).start()

    def wait_ready(self) -> None:
        """Rank 0: until all others are; one that never will be is reported by `watch`."""
        for ready in self._ready:
            ready.wait()

    def another_failed(self) -> bool:
        """Whether another rank's failure was reported, which may be why this one fails too: allow it a moment."""
        return self.count > 1 and self.rank == 0 and self._failed.wait(VERDICT_S)

    def _average(self, bucket: Sequence[torch.Tensor]) -> None:
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
        dist.all_reduce(flat)
        flat /= self.count
        parts = flat.split([gradient.numel() for gradient in bucket])  # type: ignore[no-untyped-call]
        for gradient, part in zip(bucket, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))

    def _watch(
        self, rank: int, pid: int, connection: socket.socket, ready: threading.Event, failed: Callable[[Frame], None]
    ) -> None:
        unpacker = Unpacker(max_header_bytes=1 << 20, max_raw_bytes=0)
        try:
            while data := _received(connection):
                unpacker.feed(data)
                while (frame := unpacker.next()) is not None:
                    if frame.type == "ready":
                        ready.set()
                    else:
                        self._failed.set()
                        failed(frame)
        except BadFrame as error:
            message = f"rank {rank} broke the protocol: {error}"
        else:
            message = f"rank {rank} {_how_it_ended(pid)}"
        self._failed.set()
        failed(Frame("failed", {"kind": "died", "message": message, "traceback": ""}))


def fork_ranks(count: int) -> Ranks:
    """Become `count` processes. To be called before torch has started a thread or touched a card."""
    if count == 1:
        return Ranks()
    first_pid, meeting = os.getpid(), tempfile.mkdtemp(prefix="ranks-")
    others: list[tuple[int, socket.socket]] = []
    for rank in range(1, count):
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            sandbox.die_with_parent(first_pid)
            for _, connection in others:
                connection.close()
            ours.close()
            return Ranks(rank, count, first=theirs, meeting=meeting)
        theirs.close()
        others.append((pid, ours))
    return Ranks(0, count, others=others, meeting=meeting)


def _received(connection: socket.socket) -> bytes:
    """What came, nothing when the other side is gone."""
    try:
        return connection.recv(1 << 16)
    except ConnectionResetError:
        return b""


def _how_it_ended(pid: int) -> str:
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return f"was killed by signal {-code} ({signal.strsignal(-code)})"
    return f"exited with status {code}"
