"""The parent's side of a trainer child: spawn it, talk to it with deadlines, never believe it. Imports no torch.

Customer code may own the child entirely, so whatever arrives is limited and checked, parameters are copied before they
are looked at, times are bounded by our own clock, and any failure ends the child.
"""

import contextlib
import fcntl
import json
import math
import mmap
import os
import resource
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import numpy as np

from trainers import sandbox
from trainers.child_log import ChildLog
from trainers.child_messages import (
    ChildFailed,
    FailureKind,
    JobPackage,
    Loaded,
    Progress,
    TensorSpec,
    Trained,
    broke_protocol,
    checked_count,
    checked_failure,
    checked_loss,
    checked_losses,
    checked_tensors,
)
from trainers.devices import Device, bubblewrap_arguments
from trainers.frames import BadFrame, Frame, Unpacker, pack

__all__ = ["ChildFailed", "JobPackage", "Loaded", "Progress", "TensorSpec", "Trained", "TrainerChild"]

MAX_HEADER_BYTES = 4 << 20
CHECK_EVERY_S = 0.2

# the kernel's death signal fires when the *thread* that forked ends, so one thread that never ends does all spawning
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawn-trainer-child")


class TrainerChild:
    """One trainer child. One thread talks (load, train, evaluate); any thread may read or `kill`."""

    def __init__(
        self, *, process: "subprocess.Popen[bytes]", connection: socket.socket, pid: int, log: ChildLog, scratch: Path,
        shares: Mapping[str, Path], isolation: sandbox.Isolation, memory_limit_bytes: int,
    ) -> None:  # fmt: skip
        self.pid = pid
        self.isolation = isolation
        self.seccomp = False
        self.progress = Progress()
        self._process, self._connection, self._log = process, connection, log
        self._scratch, self._shares, self._memory_limit_bytes = scratch, dict(shares), memory_limit_bytes
        self._unpacker = Unpacker(MAX_HEADER_BYTES, max_raw_bytes=0)
        self._talking = threading.Lock()
        self._baseline_bytes = 0
        self._memory: mmap.mmap | None = None
        self._elements = 0
        self._killed = False

    @classmethod
    def spawn(
        cls, *, threads: int, scratch: Path, memory_limit_bytes: int, shares: Mapping[str, Path],
        isolation: sandbox.Isolation, devices: Sequence[Device] = (),
    ) -> "TrainerChild":  # fmt: skip
        """Start a child that warms up by itself; returns in milliseconds.

        Args:
            threads: CPU threads of torch. scratch: an existing folder, the only one that the child may write.
            memory_limit_bytes: what the job may use beyond the warm child's own memory.
            shares: folders that the job may read, by name. isolation: see `sandbox.isolation_level`.
            devices: the cards that it may use; it trains on the first of them, and on the CPU without any.

        Raises ChildFailed("died") when it does not even start.
        """
        scratch = scratch.resolve(strict=True)
        shares = {name: folder.resolve(strict=True) for name, folder in shares.items()}
        arguments = (threads, scratch, memory_limit_bytes, shares, isolation, devices)
        process, connection, info_fd = _spawner.submit(_start, *arguments).result()
        assert process.stdout is not None
        log = ChildLog(process.stdout)
        try:
            pid = process.pid if info_fd is None else _sandboxed_pid(info_fd)
        except OSError as error:
            process.kill()
            process.wait()
            connection.close()
            raise ChildFailed("died", f"bubblewrap did not start: {error}", log.tail()) from None
        return cls(
            process=process, connection=connection, pid=pid, log=log, scratch=scratch, shares=shares,
            isolation=isolation, memory_limit_bytes=memory_limit_bytes,
        )  # fmt: skip

    def wait_ready(self, timeout_s: float) -> None:
        """Until torch is imported and the limits are on."""
        with self._conversation(timeout_s, "warming up") as deadline:
            self.seccomp = self._expect("ready", deadline).fields.get("seccomp") is True
            self._baseline_bytes = self._private_bytes()

    def load(self, package: JobPackage, timeout_s: float) -> Loaded:
        """Import the workload and make its model. Once in a child's life."""
        assert self._memory is None, "a child loads one job"
        data = None if package.data_folder is None else self._visible(package.data_folder)
        with self._conversation(timeout_s, "loading the workload") as deadline:
            self._send("load", {"spec": package.spec, "data": data}, package.source or b"", deadline)
            tensors = checked_tensors(self._expect("loaded", deadline).fields.get("tensors"), self._memory_limit_bytes)
            self._elements = sum(tensor.size for tensor in tensors)
            descriptor = sealed_memory(4 * self._elements)
            try:
                socket.send_fds(self._connection, [b"m"], [descriptor])
                self._memory = mmap.mmap(descriptor, 4 * self._elements)
            finally:
                os.close(descriptor)
            self._expect("initial", deadline)
            return Loaded(tensors, self._parameters("the initial parameters"))

    def train(
        self, parameters: np.ndarray, *, round: int, first_step: int, steps: int, worker: int, evaluate: bool,
        timeout_s: float,
    ) -> Trained:  # fmt: skip
        """Inner steps first_step … first_step+steps−1 from `parameters`, float32 [n]; `evaluate` them first if asked."""
        with self._conversation(timeout_s, f"training round {round}") as deadline:
            self.progress = Progress()
            began = time.monotonic()
            self._put(parameters)
            order = {"round": round, "first_step": first_step, "steps": steps, "worker": worker, "evaluate": evaluate}
            self._send("train", order, b"", deadline)
            fields = self._expect("trained", deadline).fields
            elapsed_ms = math.ceil((time.monotonic() - began) * 1000)
            losses = checked_losses(fields.get("losses"), steps)
            held_out_loss = checked_loss(fields.get("held_out_loss")) if evaluate else None
            tokens, told_ms = checked_count(fields.get("tokens")), checked_count(fields.get("trained_ms"))
            trained = self._parameters(f"the parameters after step {first_step + steps - 1}")
            self.progress = Progress()
            return Trained(trained, math.fsum(losses) / steps, losses, tokens, min(told_ms, elapsed_ms), held_out_loss)

    def evaluate(self, parameters: np.ndarray, timeout_s: float = 600.0) -> float:
        """Held-out loss of `parameters`, float32 [n]."""
        with self._conversation(timeout_s, "evaluating") as deadline:
            self._put(parameters)
            self._send("evaluate", {}, b"", deadline)
            return checked_loss(self._expect("evaluated", deadline).fields.get("loss"))

    def read_log(self) -> list[str]:
        """What the child wrote to stdout and stderr since the last call, as lines."""
        return self._log.take()

    def rss_bytes(self) -> int:
        """Resident memory now; 0 when the child is gone."""
        return self._resident_and_shared()[0]

    def kill(self) -> None:
        """End the child; harmless when it is gone. A call in progress raises ChildFailed("died")."""
        with contextlib.suppress(OSError):  # closed already
            self._connection.shutdown(socket.SHUT_RDWR)
        self._process.kill()
        self._process.wait(timeout=10)
        self._log.close()
        self._killed = True
        with self._talking:
            self._connection.close()

    def __enter__(self) -> "TrainerChild":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _conversation(self, timeout_s: float, doing: str) -> "_Conversation":
        return _Conversation(self, time.monotonic() + timeout_s, doing)

    def _expect(self, type_: str, deadline: "Deadline") -> Frame:
        """The next frame that is no progress. Raises ChildFailed for any other, and for silence."""
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
                raise checked_failure(frame.fields)
            elif frame.type == type_:
                return frame
            else:
                broke_protocol(f"{frame.type[:40]!r} instead of {type_!r}", self._log.tail())

    def _read(self, deadline: "Deadline") -> None:
        readable, _, _ = select.select([self._connection], [], [], min(CHECK_EVERY_S, deadline.left_s()))
        if readable:
            data = self._connection.recv(1 << 16)
            if not data:
                self._died(deadline.doing)
            self._unpacker.feed(data)

    def _send(self, type_: str, fields: dict[str, Any], raw: bytes, deadline: "Deadline") -> None:
        waiting = memoryview(pack(type_, fields, raw))
        while waiting:
            self._check(deadline)
            _, writable, _ = select.select([], [self._connection], [], min(CHECK_EVERY_S, deadline.left_s()))
            if writable:
                sent = self._connection.send(waiting[: 1 << 16], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                waiting = waiting[sent:]

    def _check(self, deadline: "Deadline") -> None:
        if deadline.left_s() <= 0:
            raise ChildFailed("hang", f"no end of {deadline.doing} in time", self._log.tail())
        used = self._private_bytes() - self._baseline_bytes
        if self._baseline_bytes and used > self._memory_limit_bytes:
            message = f"{used >> 20} MiB used while {deadline.doing}; {self._memory_limit_bytes >> 20} MiB are allowed"
            raise ChildFailed("memory", message, self._log.tail())

    def _died(self, doing: str) -> NoReturn:
        """The connection ended: say how the process did."""
        try:
            status = self._process.wait(timeout=5)
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

    def _progressed(self, fields: dict[str, Any], deadline: "Deadline") -> None:
        steps, tokens = checked_count(fields.get("steps")), checked_count(fields.get("tokens"))
        self.progress = Progress(steps, checked_loss(fields.get("loss")), tokens, deadline.elapsed_ms())

    def _put(self, parameters: np.ndarray) -> None:
        assert self._memory is not None, "train before load"
        assert parameters.dtype == np.float32, "parameters travel as float32"
        assert parameters.shape == (self._elements,), "not this model's parameters"
        self._memory[:] = np.ascontiguousarray(parameters).data.cast("B")

    def _parameters(self, what: str) -> np.ndarray:
        assert self._memory is not None
        copied = np.frombuffer(bytes(self._memory), dtype=np.float32)  # the child can still write to the original
        if not np.isfinite(copied).all():
            raise ChildFailed("nan", f"{what} are not all finite")
        return copied

    def _visible(self, folder: str) -> str:
        """Where the child sees a folder that we name."""
        sandboxed = self.isolation == "sandbox"
        if folder.startswith("share:"):
            name = folder.removeprefix("share:")
            return f"{sandbox.SHARES}/{name}" if sandboxed else str(self._shares[name])
        relative = Path(folder).resolve().relative_to(self._scratch)
        return str(Path(sandbox.SCRATCH) / relative) if sandboxed else str(self._scratch / relative)

    def _private_bytes(self) -> int:
        resident, shared = self._resident_and_shared()
        return resident - shared

    def _resident_and_shared(self) -> tuple[int, int]:
        try:
            fields = Path(f"/proc/{self.pid}/statm").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            return 0, 0
        return int(fields[1]) * resource.getpagesize(), int(fields[2]) * resource.getpagesize()


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a call must be over, on the monotonic clock, and what it is doing."""

    began: float
    ends: float
    doing: str

    def left_s(self) -> float:
        """Seconds left, 0 when it is over."""
        return max(0.0, self.ends - time.monotonic())

    def elapsed_ms(self) -> int:
        """Since the call began."""
        return int((time.monotonic() - self.began) * 1000)


class _Conversation:
    """Holds the connection for one call; whatever goes wrong in it ends the child."""

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
            if error is not None:
                self.child.kill()


def sealed_memory(size_bytes: int) -> int:
    """A memory file of that size whose size nobody can change, so that no reader of a mapping can be hurt (SIGBUS)."""
    descriptor = os.memfd_create("parameters", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _start(
    threads: int,
    scratch: Path,
    memory_limit_bytes: int,
    shares: Mapping[str, Path],
    isolation: sandbox.Isolation,
    devices: Sequence[Device],
) -> "tuple[subprocess.Popen[bytes], socket.socket, int | None]":
    """Runs on the spawning thread. Returns the process, our end, and bubblewrap's info pipe (None without)."""
    ours, theirs = socket.socketpair()
    info_read: int | None = None
    inherited = [theirs.fileno()]
    if isolation == "sandbox":
        environment = sandbox.child_environment(threads, sandbox.SCRATCH, sandbox.CODE, devices)
        info_read, info_write = os.pipe()
        inherited.append(info_write)
        command = sandbox.bubblewrap_command(scratch, shares, environment, info_write, bubblewrap_arguments(devices))
    else:
        code = str(sandbox.package_folder().parent)
        environment = sandbox.child_environment(threads, str(scratch), code, devices)
        command = []
    command += [*sandbox.python_command(), "-m", "trainers.child", "--fd", str(theirs.fileno())]
    command += ["--threads", str(threads), "--memory-limit-bytes", str(memory_limit_bytes)]
    command += ["--isolation", isolation, "--parent-pid", str(os.getpid()), "--device", "cuda" if devices else "cpu"]
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment,
            cwd=scratch, pass_fds=inherited, start_new_session=True, bufsize=0,
        )  # fmt: skip
    except BaseException:
        ours.close()
        if info_read is not None:
            os.close(info_read)
        raise
    finally:
        theirs.close()
        if isolation == "sandbox":
            os.close(inherited[1])
    return process, ours, info_read


def _sandboxed_pid(info_fd: int) -> int:
    """The pid, in our namespace, of the program in the sandbox. Raises OSError when bubblewrap does not tell."""
    told = b""
    with open(info_fd, "rb", buffering=0) as info:
        while select.select([info], [], [], 20.0)[0] and (part := info.read(4096)):
            told += part
            with contextlib.suppress(ValueError):
                return int(json.loads(told)["child-pid"])
    raise OSError("it reported no process")
