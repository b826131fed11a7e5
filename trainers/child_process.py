"""The parent's side of a trainer child: spawn it, talk to it with deadlines, never believe it. Imports no torch.

Customer code may own the child entirely, so whatever arrives is limited and checked, parameters are copied before they
are looked at, times are bounded by our own clock, and any failure ends the child but two that cost only the call: an
inner state that cannot be handed over, and numbers that are not finite.
"""

import contextlib
import math
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NoReturn, TypeAlias

import numpy as np

from trainers import sandbox
from trainers.child_memory import SharedBytes, SharedVector
from trainers.child_messages import (
    ChildFailed,
    FailureKind,
    InnerStateRefused,
    JobPackage,
    Loaded,
    NotFiniteNumbers,
    Progress,
    Trained,
    broke_protocol,
    checked_count,
    checked_evaluation,
    checked_failure,
    checked_loss,
    checked_losses,
    checked_metrics,
    checked_refusal,
    checked_safetensors,
    checked_tensors,
    checked_tied,
)
from trainers.child_start import Started, start
from trainers.child_usage import private_bytes, resident_bytes
from trainers.deadline import Deadline
from trainers.devices import Device
from trainers.exports import ExportAreas, Exported
from trainers.frames import BadFrame, Frame, Unpacker, pack
from trainers.layout import TensorSpec, elements_of
from trainers.ready import wait_ready

__all__ = [
    "ChildFailed", "Exported", "InnerStateRefused", "JobPackage", "Loaded", "NotFiniteNumbers", "Progress", "TensorSpec", "Trained", "TrainerChild",
]  # fmt: skip

MAX_HEADER_BYTES = 4 << 20
CHECK_EVERY_S = 0.2
DIES_WITHIN_S = 5.0

Applies: TypeAlias = Literal["parameters", "gradient"]
Synchronise: TypeAlias = Callable[[int, float, np.ndarray], np.ndarray]


class TrainerChild:
    """One trainer child. One thread talks (load, train, evaluate); any thread may read or `kill`."""

    def __init__(
        self, started: Started, scratch: Path, shares: Mapping[str, Path], isolation: sandbox.Isolation,
        memory_limit_bytes: int,
    ) -> None:  # fmt: skip
        """A child that has just begun; see `spawn`."""
        self.pid = started.pid
        self.isolation = isolation
        self.seccomp = False
        self.progress = Progress()
        self.metrics: Mapping[str, float] = {}
        self._process, self._connection, self._log = started.process, started.connection, started.log
        self._group = started.group
        self._scratch, self._shares, self._memory_limit_bytes = scratch, dict(shares), memory_limit_bytes
        self._unpacker = Unpacker(MAX_HEADER_BYTES, max_raw_bytes=0)
        self._talking = threading.Lock()
        self._baseline_bytes = 0
        self._weighed_at = 0.0
        self._memory: SharedVector | None = None
        self.areas = ExportAreas(memory_limit_bytes)
        self._killed = False

    @classmethod
    def spawn(
        cls, *, threads: int, scratch: Path, memory_limit_bytes: int, shares: Mapping[str, Path],
        isolation: sandbox.Isolation, devices: Sequence[Device] = (), processes: int = 1,
    ) -> "TrainerChild":  # fmt: skip
        """Start a child that warms up by itself; returns in milliseconds.

        Args:
            threads: CPU threads of torch. scratch: an existing folder, the only one that the child may write.
            memory_limit_bytes: what the job may use beyond the warm child's own memory.
            shares: folders that the job may read, by name. isolation: see `sandbox.isolation_level`.
            devices: the cards that it may use; it trains on the first of them, and on the CPU without any.
            processes: ranks that share the threads and the memory limit, each with a card of its own if there are any;
                a child loads only jobs that ask for just as many.

        Raises ChildFailed("died") when it does not even start.
        """
        scratch = scratch.resolve(strict=True)
        shares = {name: folder.resolve(strict=True) for name, folder in shares.items()}
        started = start(
            threads=threads, scratch=scratch, memory_limit_bytes=memory_limit_bytes, shares=shares,
            isolation=isolation, devices=devices, processes=processes,
        )  # fmt: skip
        return cls(started, scratch, shares, isolation, memory_limit_bytes)

    def wait_ready(self, timeout_s: float) -> None:
        """Until torch is imported and the limits are on."""
        with self._conversation(timeout_s, "warming up") as deadline:
            self.seccomp = self._expect(deadline, "ready").fields.get("seccomp") is True
            self._baseline_bytes = private_bytes(self.pid)

    def load(self, package: JobPackage, timeout_s: float) -> Loaded:
        """Import the workload and make its model. Once in a child's life."""
        assert self._memory is None, "a child loads one job"
        data = None if package.data_folder is None else self._visible(package.data_folder)
        with self._conversation(timeout_s, "loading the workload") as deadline:
            self._send("load", {"spec": package.spec, "data": data}, package.source or b"", deadline)
            told = self._expect(deadline, "loaded").fields
            tensors = checked_tensors(told.get("tensors"), self._memory_limit_bytes)
            self._memory = SharedVector(elements_of(tensors))
            self._lend(self._memory.descriptor)
            self._expect(deadline, "initial")
            initial, tied = self._memory.take("the initial parameters"), checked_tied(told.get("tied"), tensors)
            return Loaded(tensors, initial, tied, told.get("buffers") is True)

    def train(
        self, parameters: np.ndarray | None, *, round: int, first_step: int, steps: int, worker: int, evaluate: bool,
        timeout_s: float, position: int = 0, uneven: bool = False, synchronise: Synchronise | None = None, applies: Applies = "parameters",
        check: bool = True,
    ) -> Trained:  # fmt: skip
        """Inner steps first_step … first_step+steps−1 from `parameters`, float32 [n]; `evaluate` them first if asked.

        Args:
            parameters: None goes on from the child's own. position: number of the first step among all
                that the whole job has batches for; its batches are drawn by it when the workload streams, or with `uneven`.
            synchronise: gets (step, rate, gradient) of every step before anything is done with the gradient, and gives
                what `applies` says: parameters that take the place of the model's, or the gradient for its optimiser.
                What it gives may lie in `room`.
            check: refuse gradients that are not finite; without it `synchronise` does so itself.
            timeout_s: of the child's own time; what `synchronise` takes is not counted.

        What `synchronise` raises passes through; its step changed nothing, and the child can go on from there.
        """
        failure: Exception | None = None
        with self._conversation(timeout_s, f"training round {round}") as deadline:
            self.progress = Progress()
            began = time.monotonic()
            if parameters is not None:
                self._shared().put(parameters)
            order = {"round": round, "first_step": first_step, "steps": steps, "worker": worker, "evaluate": evaluate,
                     "position": position, "uneven": uneven, "fresh": parameters is not None,
                     "applies": None if synchronise is None else applies}  # fmt: skip
            self._send("train", order, b"", deadline)
            if synchronise is not None:
                failure = self._synchronised(synchronise, range(first_step, first_step + steps), check, deadline)
            if failure is None:
                fields = self._expect(deadline, "trained").fields
                elapsed_ms = math.ceil((time.monotonic() - began) * 1000)
                losses = checked_losses(fields.get("losses"), steps)
                held_out_loss = checked_evaluation(fields.get("held_out_loss")) if evaluate else None
                tokens, told_ms = checked_count(fields.get("tokens")), checked_count(fields.get("trained_ms"))
                trained = self._shared().take(f"the parameters after step {first_step + steps - 1}")
                self.progress = Progress()
                ms = min(told_ms, elapsed_ms)
                return Trained(trained, math.fsum(losses) / steps, losses, tokens, ms, held_out_loss)
        raise failure

    def _synchronised(
        self, synchronise: Synchronise, steps: range, check: bool, deadline: Deadline
    ) -> Exception | None:
        """Exchange the gradient of each of `steps`. What `synchronise` raised, or NotFiniteNumbers, once the child has let
        its step go.
        """
        for step in steps:
            fields = self._expect(deadline, "gradient").fields
            rate = checked_loss(fields.get("rate"))
            if checked_count(fields.get("step")) != step:
                broke_protocol(f"the gradient of another step than {step}", self._log.tail())
            began = time.monotonic()
            try:
                gradient = self._shared().take(f"the gradients of step {step}", check=check)
                answer = synchronise(step, rate, gradient)
            except Exception as failure:  # noqa: BLE001  raised again by `train`
                deadline.ends += time.monotonic() - began
                self._send("abandon", {}, b"", deadline)
                self._expect(deadline, "abandoned")
                return failure
            deadline.ends += time.monotonic() - began
            self._shared().put(answer)
            self._send("apply", {}, b"", deadline)
        return None

    @property
    def room(self) -> np.ndarray:
        """Memory for what `synchronise` gives, float32 [n], which the child sees: to write there spares a copy."""
        return self._shared().room

    def mix(self, values: np.ndarray, ranges: Sequence[tuple[int, int]], keep: float, timeout_s: float = 60.0) -> None:
        """In the child: θ[i] ← keep · θ[i] + (1 − keep) · values[i] for every i in `ranges`, each (offset, size). `values`,
        float32 [n], is a whole vector, of which only the ranges travel."""
        with self._conversation(timeout_s, "mixing parameters") as deadline:
            self._shared().put(values, ranges)
            self._send("mix", {"ranges": [list(part) for part in ranges], "keep": keep}, b"", deadline)
            self._expect(deadline, "mixed")

    def evaluate(self, parameters: np.ndarray, timeout_s: float = 600.0) -> float | None:
        """Held-out loss of `parameters`, float32 [n], None when it is not finite, and `metrics`; the child's own parameters
        stay what they are.
        """
        with self._conversation(timeout_s, "evaluating") as deadline:
            self._shared().put(parameters)
            self._send("evaluate", {}, b"", deadline)
            fields = self._expect(deadline, "evaluated").fields
            self.metrics = checked_metrics(fields.get("metrics"))
            return checked_evaluation(fields.get("loss"))

    def export_inner(self, timeout_s: float = 120.0) -> Exported:
        """The inner optimiser's state, whose bytes are for `import_inner` of another child. Raises InnerStateRefused.

        The child copies it into memory that is used again, and that is all that it takes before it trains on.
        """
        with self._conversation(timeout_s, "exporting a state") as deadline:
            number = self.areas.free()
            self._send("export_inner", {"area": number, "room": self.areas.size_of(number)}, b"", deadline)
            answer = self._expect(deadline, "exported", "export_size")
            if answer.type == "export_size":
                self._lend(self.areas.renew(number, checked_count(answer.fields.get("bytes"))))
                answer = self._expect(deadline, "exported")
            return self.areas.exported(number, checked_count(answer.fields.get("bytes")))

    def export_buffers(self, timeout_s: float = 120.0) -> bytes:
        """What the model keeps beside its parameters as safetensors, for a result: believe nothing."""
        with self._conversation(timeout_s, "exporting a state") as deadline:
            self._send("export_buffers", {}, b"", deadline)
            size = checked_count(self._expect(deadline, "export_size").fields.get("bytes"), self._memory_limit_bytes)
            with SharedBytes(size) as memory:
                self._lend(memory.descriptor)
                self._expect(deadline, "exported")
                return checked_safetensors(memory.read())

    def import_inner(self, exported: bytes, timeout_s: float = 120.0) -> None:
        """Put another worker's inner state in the place of the child's own.

        Raises InnerStateRefused when it is not one, or another optimiser's or model's; nothing is changed then.
        """
        with (
            self._conversation(timeout_s, "importing an inner state") as deadline,
            SharedBytes(len(exported)) as memory,
        ):
            memory.write(exported)
            self._send("import_inner", {}, b"", deadline)
            self._expect(deadline, "import_from")  # a descriptor must not arrive together with a frame
            self._lend(memory.descriptor)
            self._expect(deadline, "imported")

    def read_log(self) -> list[str]:
        """What the child wrote to stdout and stderr since the last call, as lines."""
        return self._log.take()

    def rss_bytes(self) -> int:
        """Resident memory now; 0 when the child is gone."""
        return resident_bytes(self.pid)

    def kill(self) -> None:
        """End the child; harmless when it is gone. A call in progress raises ChildFailed("died")."""
        with contextlib.suppress(OSError):  # closed already
            self._connection.shutdown(socket.SHUT_RDWR)
        self._process.kill()
        self._process.wait(timeout=10)
        self._group.close()
        self._log.close()
        self._killed = True
        if self._talking.acquire(blocking=False):  # else the call in progress closes it when it ends
            self._connection.close()
            self._talking.release()

    def __enter__(self) -> "TrainerChild":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _conversation(self, timeout_s: float, doing: str) -> "_Conversation":
        return _Conversation(self, time.monotonic() + timeout_s, doing)

    def _expect(self, deadline: Deadline, *types: str) -> Frame:
        """The next frame that is no progress. Raises ChildFailed for any other than these, and for silence."""
        while True:
            self._check(deadline)
            try:
                frame = self._unpacker.next()
            except BadFrame as error:
                broke_protocol(str(error), self._log.tail())
            if frame is None:
                self._read(deadline)
            elif frame.type == "progress":
                self._progressed(frame.fields, deadline)
            elif frame.type == "failed":
                raise checked_failure(frame.fields, self._log.tail())
            elif frame.type == "refused":
                raise checked_refusal(frame.fields)
            elif frame.type in types:
                return frame
            else:
                broke_protocol(f"{frame.type[:40]!r} instead of {' or '.join(types)!r}", self._log.tail())

    def _lend(self, descriptor: int) -> None:
        """Hand a memory file to the child; it is closed here in any case."""
        try:
            socket.send_fds(self._connection, [b"m"], [descriptor])
        finally:
            os.close(descriptor)

    def _read(self, deadline: Deadline) -> None:
        readable, _ = wait_ready([self._connection], min(CHECK_EVERY_S, deadline.left_s()))
        if readable:
            data = self._connection.recv(1 << 16)
            if not data:
                self._died(deadline.doing)
            self._unpacker.feed(data)

    def _send(self, type_: str, fields: dict[str, Any], raw: bytes, deadline: Deadline) -> None:
        waiting = memoryview(pack(type_, fields, raw))
        while waiting:
            self._check(deadline)
            _, writable = wait_ready([], min(CHECK_EVERY_S, deadline.left_s()), [self._connection])
            if writable:
                sent = self._connection.send(waiting[: 1 << 16], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                waiting = waiting[sent:]

    def _check(self, deadline: Deadline) -> None:
        if deadline.left_s() <= 0:
            raise ChildFailed("hang", f"no end of {deadline.doing} in time", self._log.tail())
        now = time.monotonic()
        if now < self._weighed_at + CHECK_EVERY_S:  # the kernel takes its time to tell
            return
        self._weighed_at = now
        used = private_bytes(self.pid) - self._baseline_bytes
        if self._baseline_bytes and used > self._memory_limit_bytes:
            limit = self._memory_limit_bytes >> 20
            message = f"it took more memory than its limit: {used >> 20} of {limit} MiB while {deadline.doing}"
            raise ChildFailed("memory", message, self._log.tail())

    def _died(self, doing: str) -> NoReturn:
        """The connection ended: say how the process did."""
        try:
            status = self._process.wait(timeout=DIES_WITHIN_S)
        except subprocess.TimeoutExpired:
            raise ChildFailed("died", f"closed its connection while {doing}", self._log.tail()) from None
        if status > 128 and self.isolation == "sandbox":
            status = 128 - status  # bubblewrap exits with 128 + the signal of its child
        if status < 0:
            how = f"killed by signal {-status} ({signal.strsignal(-status)})"
        else:
            how = f"exited with status {status}"
        tail = self._log.tail()
        kind: FailureKind = "memory" if "bad_alloc" in tail else "died"
        raise ChildFailed(kind, f"{how} while {doing}", tail)

    def _progressed(self, fields: dict[str, Any], deadline: Deadline) -> None:
        steps, tokens = checked_count(fields.get("steps")), checked_count(fields.get("tokens"))
        self.progress = Progress(steps, checked_loss(fields.get("loss")), tokens, deadline.elapsed_ms())

    def _shared(self) -> SharedVector:
        assert self._memory is not None, "train before load"
        return self._memory

    def _visible(self, folder: str) -> str:
        """Where the child sees a folder that we name."""
        sandboxed = self.isolation == "sandbox"
        if folder.startswith("share:"):
            name = folder.removeprefix("share:")
            return f"{sandbox.SHARES}/{name}" if sandboxed else str(self._shares[name])
        relative = Path(folder).resolve().relative_to(self._scratch)
        return str(Path(sandbox.SCRATCH) / relative) if sandboxed else str(self._scratch / relative)


class _Conversation:
    """Holds the connection for one call; what goes wrong in it ends the child, but for what costs only the call."""

    def __init__(self, child: TrainerChild, ends: float, doing: str) -> None:
        self.child, self.deadline = child, Deadline(time.monotonic(), ends, doing)

    def __enter__(self) -> Deadline:
        self.child._talking.acquire()
        if self.child._killed:
            self.child._talking.release()
            raise ChildFailed("died", f"was ended before {self.deadline.doing}")
        return self.deadline

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if isinstance(error, OSError):
                self.child._died(self.deadline.doing)
        finally:
            self.child._talking.release()
            if self.child._killed or not isinstance(error, InnerStateRefused | NotFiniteNumbers | None):
                self.child.kill()
