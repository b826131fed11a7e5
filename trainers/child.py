"""The trainer child: `python -m trainers.child --fd N …`, the only process in which customer code runs.

Warms up (torch, one AdamW step), limits itself, says `ready`, then serves frames: load, train, evaluate. Parameters
travel in a sealed memory file that the parent makes and passes after `loaded`. It exits when the parent is gone.
"""

import argparse
import linecache
import mmap
import os
import re
import socket
import sys
import time
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from trainers import sandbox, seccomp
from trainers.frames import Frame, Unpacker, pack
from trainers.light_torch import postpone_compiler
from trainers.loop import InnerLoop, NotFinite, ShapeChanged
from trainers.workload import Workload, built_in

MAX_TEXT = 16_000
PROGRESS_EVERY_S = 0.2
NO_MEMORY = "it asked for more memory than its limit"


class ImportFailed(Exception):
    """The customer's file does not import or holds no Workload."""


def main() -> None:
    """Serve one parent until it goes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--memory-limit-bytes", type=int, required=True)
    parser.add_argument("--isolation", choices=("sandbox", "process"), required=True)
    parser.add_argument("--parent-pid", type=int, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    arguments = parser.parse_args()
    sandboxed = arguments.isolation == "sandbox"  # bubblewrap has its own death signal, and the parent no pid in there
    sandbox.die_with_parent(None if sandboxed else arguments.parent_pid)
    device = torch.device(arguments.device)
    warm_up(arguments.threads, device)
    sandbox.limit_self(arguments.memory_limit_bytes, arguments.isolation, cuda=device.type == "cuda")
    try:
        seccomp.install()
        filtered = True
    except seccomp.SeccompUnavailable as error:
        sys.stderr.write(f"torg: {error}\n")
        filtered = False
    Server(socket.socket(fileno=arguments.fd), filtered, device).run()


def warm_up(threads: int, device: torch.device) -> None:
    """Pay for what the first step of a process costs, so that a lease starts training at once. Raises when torch cannot
    use the device.
    """
    postpone_compiler()
    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    torch.set_deterministic_debug_mode("warn")  # its other spelling imports the compiler
    # It would fill every new tensor with NaN, which costs memory bandwidth in each step and changes no result.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a property of the module
    layer = torch.nn.Linear(8, 8, device=device)
    optimizer = torch.optim.AdamW(layer.parameters())
    inputs, targets = torch.zeros(2, 8, device=device), torch.zeros(2, dtype=torch.long, device=device)
    loss = torch.nn.functional.cross_entropy(layer(inputs), targets)
    loss.backward()  # type: ignore[no-untyped-call]  # torch
    torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
    optimizer.step()


class Server:
    """The child's side of the conversation."""

    def __init__(self, connection: socket.socket, filtered: bool, device: torch.device) -> None:
        self.connection = connection
        self.filtered = filtered
        self.device = device
        self.unpacker = Unpacker(max_header_bytes=1 << 20, max_raw_bytes=16 << 20)
        self.loop: InnerLoop | None = None
        self.shared = np.empty(0, dtype=np.float32)
        self.own: np.ndarray | None = None

    def run(self) -> None:
        """Answer frames until the connection ends."""
        self.send("ready", {"seccomp": self.filtered})
        serve = {"load": self.load, "train": self.train, "evaluate": self.evaluate, "mix": self.mix}
        while (frame := self.receive()) is not None:
            try:
                serve[frame.type](frame)
            except ImportFailed as failure:
                self.fail("import", failure.__cause__ or failure)
            except NotFinite as failure:
                self.fail("nan", failure)
            except ShapeChanged as failure:
                self.fail("shape", failure)
            except MemoryError as failure:
                self.fail("memory", failure)
            except (Exception, SystemExit) as failure:  # noqa: BLE001  customer code may raise anything
                self.fail("memory" if "can't allocate memory" in str(failure) else "exception", failure)

    def load(self, frame: Frame) -> None:
        """Make the workload and the model; show the parent its tensors; put the initial parameters where it says."""
        spec, data = frame.fields["spec"], frame.fields["data"]
        workload_class = find_workload(spec["workload"], frame.raw)
        seed = int(spec["seed"])
        torch.manual_seed(seed)
        workload = workload_class(dict(spec["options"]), Path(data) if data is not None else None, seed)
        self.loop = InnerLoop(workload, seed, int(spec["steps"]), self.device)
        self.send("loaded", {"tensors": [[name, list(shape)] for name, shape in self.loop.flat.shapes]})
        _, descriptors, _, _ = socket.recv_fds(self.connection, 1, 1)
        self.shared = np.frombuffer(mmap.mmap(descriptors[0], 0), dtype=np.float32)
        os.close(descriptors[0])
        self.loop.write_parameters(self.shared)
        self.send("initial", {})

    def train(self, frame: Frame) -> None:
        """Inner steps from the shared parameters, or from the child's own; their result is shared."""
        assert self.loop is not None, "train before load"
        fields = frame.fields
        if fields["fresh"]:
            self.loop.read_parameters(self.shared)
        held_out_loss = self.loop.evaluate() if fields["evaluate"] else None
        exchange = ParentExchange(self, fields["applies"]) if fields["applies"] is not None else None
        try:
            result = self.loop.train(
                fields["first_step"], fields["steps"], fields["worker"], Progress(self.send),
                position=fields["position"], exchange=exchange,
            )  # fmt: skip
        except Abandoned:
            self.send("abandoned", {})
            return
        self.loop.write_parameters(self.shared)
        answer = {"losses": result.losses, "tokens": result.tokens, "trained_ms": result.trained_ms}
        self.send("trained", {**answer, "held_out_loss": held_out_loss})

    def mix(self, frame: Frame) -> None:
        """Draw some of the parameters towards the shared ones."""
        assert self.loop is not None, "mix before load"
        self.loop.flat.mix(self.shared, frame.fields["ranges"], frame.fields["keep"])
        self.send("mixed", {})

    def evaluate(self, frame: Frame) -> None:
        """Held-out loss of the shared parameters; the child's own are what they were afterwards."""
        assert self.loop is not None, "evaluate before load"
        if self.own is None:
            self.own = np.empty_like(self.shared)
        self.loop.write_parameters(self.own)
        self.loop.read_parameters(self.shared)
        loss = self.loop.evaluate()
        self.loop.read_parameters(self.own)
        self.send("evaluated", {"loss": loss})

    def fail(self, kind: str, failure: BaseException) -> None:
        """Tell the parent what the customer's code did."""
        text = "".join(traceback.format_exception(failure))[-MAX_TEXT:]
        message = f"{type(failure).__name__}: {failure}" if kind in ("exception", "import") else str(failure)
        self.send("failed", {"kind": kind, "message": message[:1000] or NO_MEMORY, "traceback": text})

    def send(self, type_: str, fields: dict[str, Any]) -> None:
        """One frame to the parent."""
        self.connection.sendall(pack(type_, fields))

    def receive(self) -> Frame | None:
        """The parent's next frame, or None when it is gone."""
        while (frame := self.unpacker.next()) is None:
            data = self.connection.recv(1 << 16)
            if not data:
                return None
            self.unpacker.feed(data)
        return frame


class Abandoned(Exception):
    """The parent ends a call in the middle: the step in progress changes nothing."""


class ParentExchange:
    """Hands every step's gradient to the parent and waits for what it makes of it."""

    def __init__(self, server: Server, applies: Literal["parameters", "gradient"]) -> None:
        self.server, self.applies = server, applies
        self.flat = server.shared

    def __call__(self, step: int, rate: float) -> None:
        """Raises Abandoned."""
        self.server.send("gradient", {"step": step, "rate": rate})
        frame = self.server.receive()
        if frame is None:
            raise SystemExit
        if frame.type == "abandon":
            raise Abandoned
        assert frame.type == "apply", frame.type


class Progress:
    """Tells the parent how far the inner loop is, a few times a second."""

    def __init__(self, send: Callable[[str, dict[str, Any]], None]) -> None:
        self.send = send
        self.next_at = 0.0

    def __call__(self, steps: int, loss: float, tokens: int) -> None:
        """After each step."""
        now = time.monotonic()
        if now >= self.next_at:
            self.next_at = now + PROGRESS_EVERY_S
            self.send("progress", {"steps": steps, "loss": loss, "tokens": tokens})


def find_workload(described: dict[str, Any], source: bytes) -> type[Workload]:
    """The class that the spec names, built in or from the customer's source. Raises ImportFailed."""
    if described["kind"] == "builtin":
        return built_in(described["name"])
    filename = Path(described.get("filename") or "workload.py").name
    module = types.ModuleType("job_" + re.sub(r"\W", "_", Path(filename).stem))
    module.__file__ = filename
    try:
        text = source.decode()
        linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
        sys.modules[module.__name__] = module
        exec(compile(text, filename, "exec"), module.__dict__)  # noqa: S102  what this process is for
    except (Exception, SystemExit) as failure:
        raise ImportFailed(str(failure)) from failure
    return workload_in(module, described.get("class_name"), filename)


def workload_in(module: types.ModuleType, class_name: str | None, filename: str) -> type[Workload]:
    """The named subclass of Workload, or the only one that the module defines. Raises ImportFailed."""
    own = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Workload) and value.__module__ == module.__name__
    }
    if class_name and class_name in own:
        return own[class_name]
    if class_name or len(own) != 1:
        found = ", ".join(sorted(own)) or "none"
        wanted = f"no Workload named {class_name}" if class_name else "not exactly one Workload"
        raise ImportFailed(f"{filename} defines {wanted}; it defines {found}")
    return next(iter(own.values()))


if __name__ == "__main__":
    main()
