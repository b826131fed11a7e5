"""The trainer child: `python -m trainers.child --fd N …`, the only process in which customer code runs.

Warms up (torch, one AdamW step), limits itself, says `ready`, then serves frames: load, train, evaluate, mix, export and
import of the inner state. Parameters travel in a sealed memory file that the parent makes and passes after `loaded`, the
inner state in others that are used again. It exits when the parent is gone. With several ranks all serve the same frames (`trainers/ranks.py`); rank 0 alone answers.
"""

import argparse
import mmap
import os
import socket
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from trainers import sandbox
from trainers.determinism import DETERMINISTIC
from trainers.frames import Frame, Unpacker, pack
from trainers.inner_options import inner_options
from trainers.inner_state import InnerStateError
from trainers.job_code import ImportFailed, find_workload
from trainers.light_torch import postpone_compiler
from trainers.lockdown import lock_trainer
from trainers.loop import InnerLoop, NotFinite, ShapeChanged
from trainers.naming import export_buffers, kept_buffers, tied_names
from trainers.preparing import CannotPrepare
from trainers.ranks import Ranks, fork_ranks

MAX_TEXT = 16_000
PROGRESS_EVERY_S = 0.2
NO_MEMORY = "it asked for more memory than its limit"


class Refused(Exception):
    """What the parent asks cannot be done; the message says why, and the child serves on."""


def main() -> None:
    """Serve one parent until it goes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--memory-limit-bytes", type=int, required=True)
    parser.add_argument("--isolation", choices=("sandbox", "process"), required=True)
    parser.add_argument("--parent-pid", type=int, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    arguments = parser.parse_args()
    sandboxed = arguments.isolation == "sandbox"  # bubblewrap has its own death signal, and the parent no pid in there
    sandbox.die_with_parent(None if sandboxed else arguments.parent_pid)
    postpone_compiler()
    ranks = fork_ranks(arguments.processes)
    device = torch.device("cuda", ranks.rank) if arguments.device == "cuda" else torch.device("cpu")
    warm_up(max(1, arguments.threads // ranks.count), device)
    connection = ranks.first or socket.socket(fileno=arguments.fd)
    if ranks.first is not None:
        os.close(arguments.fd)
    server = Server(connection, device, ranks)
    ranks.watch(lambda frame: server.send(frame.type, frame.fields))
    ranks.join(device)
    server.run(lock_trainer(arguments.memory_limit_bytes, arguments.isolation, cuda=device.type == "cuda"))


def warm_up(threads: int, device: torch.device) -> None:
    """Pay for what the first step of a process costs, so that a lease starts training at once. Raises when torch cannot
    use the device.
    """
    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    torch.set_deterministic_debug_mode(DETERMINISTIC)  # its other spelling imports the compiler
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

    def __init__(self, connection: socket.socket, device: torch.device, ranks: Ranks) -> None:
        self.connection = connection
        self.device = device
        self.ranks = ranks
        self.unpacker = Unpacker(max_header_bytes=1 << 20, max_raw_bytes=16 << 20)
        self.sending = threading.Lock()
        self.loop: InnerLoop | None = None
        self.shared = np.empty(0, dtype=np.float32)
        self.areas: dict[int, mmap.mmap] = {}

    def run(self, filtered: bool) -> None:
        """Answer frames until the connection ends. `filtered`: whether system calls are."""
        self.ranks.wait_ready()
        self.send("ready", {"seccomp": filtered})
        serve: dict[str, Callable[[Frame], None]] = {
            "load": self.load,
            "train": self.train,
            "evaluate": self.evaluate,
            "mix": self.mix,
            "export_inner": self.export_inner,
            "export_buffers": self.export_buffers,
            "import_inner": self.import_inner,
        }
        while (frame := self.receive()) is not None:
            try:
                serve[frame.type](frame)
            except Refused as refusal:
                self.answer("refused", {"message": str(refusal)[:1000]})
            except ImportFailed as failure:
                self.fail("import", failure.__cause__ or failure)
            except NotFinite as failure:  # at all ranks, in the same step
                self.diverged(failure)
            except ShapeChanged as failure:
                self.fail("shape", failure)
            except MemoryError as failure:
                self.fail("memory", failure)
            except (Exception, SystemExit) as failure:  # noqa: BLE001  customer code may raise anything
                self.fail("memory" if "can't allocate memory" in str(failure) else "exception", failure)

    def load(self, frame: Frame) -> None:
        """Make the workload and the model; show the parent its tensors; put the initial parameters where it says."""
        spec, data = frame.fields["spec"], frame.fields["data"]
        options = inner_options(spec)
        if options.processes != self.ranks.count:
            raise CannotPrepare(f"train.processes is {options.processes}; this child was begun with {self.ranks.count}")
        workload_class = find_workload(spec["workload"], frame.raw)
        seed = int(spec["seed"])
        torch.manual_seed(seed)
        workload = workload_class(dict(spec["options"]), Path(data) if data is not None else None, seed)
        self.loop = InnerLoop(workload, seed, int(spec["steps"]), self.device, options, self.ranks)
        tensors, model = [[name, list(shape)] for name, shape in self.loop.flat.shapes], self.loop.model
        beside = {"tied": tied_names(model), "buffers": bool(kept_buffers(model))}
        self.answer("loaded", {"tensors": tensors, **beside})
        self.shared = np.frombuffer(self.receive_memory(), dtype=np.float32)
        self.loop.write_parameters(self.shared)
        self.answer("initial", {})

    def train(self, frame: Frame) -> None:
        """Inner steps from the shared parameters, or from the child's own; their result is shared."""
        loop, fields = self.loaded(), frame.fields
        if fields["fresh"]:
            loop.read_parameters(self.shared)
        held_out_loss = loop.evaluate() if fields["evaluate"] else None
        exchange = ParentExchange(self, fields["applies"]) if fields["applies"] is not None else None
        try:
            result = loop.train(
                fields["first_step"], fields["steps"], fields["worker"], Progress(self.send),
                position=fields["position"], uneven=fields["uneven"], exchange=exchange,
            )  # fmt: skip
        except Abandoned:
            self.answer("abandoned", {})
            return
        loop.write_parameters(self.shared)
        answer = {"losses": result.losses, "tokens": result.tokens, "trained_ms": result.trained_ms}
        self.answer("trained", {**answer, "held_out_loss": held_out_loss})

    def mix(self, frame: Frame) -> None:
        """Draw some of the parameters towards the shared ones."""
        self.loaded().flat.mix(self.shared, frame.fields["ranges"], frame.fields["keep"])
        self.answer("mixed", {})

    def evaluate(self, frame: Frame) -> None:
        """Held-out loss of the shared parameters; the child's own are what they were afterwards."""
        loop = self.loaded()
        kept = loop.flat.copy()
        loop.read_parameters(self.shared)
        loss = loop.evaluate()
        loop.flat.restore(kept)
        self.answer("evaluated", {"loss": loss, "metrics": loop.metrics})

    def export_inner(self, frame: Frame) -> None:
        """The inner optimiser's state into one of the memory files that the parent has for it, a larger one if need be."""
        try:
            file = self.loaded().inner_file()
        except InnerStateError as error:
            raise Refused(str(error)) from None
        number = frame.fields["area"]
        if file.size_bytes > frame.fields["room"]:
            self.areas.pop(number, None)  # before the new one, so that address space never holds both
            self.answer("export_size", {"bytes": file.size_bytes})
            self.areas[number] = self.receive_memory()
        file.write(self.areas[number], writes=self.ranks.rank == 0)
        self.answer("exported", {"bytes": file.size_bytes})

    def export_buffers(self, frame: Frame) -> None:
        """What the model keeps beside its parameters into a memory file of the parent's."""
        exported = export_buffers(self.loaded().model)
        self.answer("export_size", {"bytes": len(exported)})
        memory = self.receive_memory()
        if self.ranks.rank == 0:
            memory[:] = exported
        self.answer("exported", {"bytes": len(exported)})

    def import_inner(self, frame: Frame) -> None:
        """Another worker's inner state from a memory file of the parent's."""
        self.answer("import_from", {})
        memory = self.receive_memory()
        try:
            self.loaded().import_inner(memory[:])
        except InnerStateError as error:
            raise Refused(str(error)) from None
        self.answer("imported", {})

    def loaded(self) -> InnerLoop:
        """The job's loop."""
        assert self.loop is not None, "nothing is loaded"
        return self.loop

    def fail(self, kind: str, failure: BaseException) -> None:
        """Tell the parent what the customer's code did."""
        if self.ranks.another_failed():
            return
        text = "".join(traceback.format_exception(failure))[-MAX_TEXT:]
        message = f"{type(failure).__name__}: {failure}" if kind in ("exception", "import") else str(failure)
        self.send("failed", {"kind": kind, "message": message[:1000] or NO_MEMORY, "traceback": text})

    def diverged(self, failure: NotFinite) -> None:
        """Tell the parent that numbers are not finite, and serve on. All ranks come here."""
        self.ranks.meet()
        if self.ranks.rank == 0:
            self.send("failed", {"kind": "nan", "message": str(failure), "traceback": ""})

    def answer(self, type_: str, fields: dict[str, Any]) -> None:
        """The end of a call, when all ranks are there: the parent may write to the shared memory after it."""
        self.ranks.meet()
        self.send(type_, fields)

    def send(self, type_: str, fields: dict[str, Any]) -> None:
        """One frame to the parent, of rank 0; the others only tell rank 0 that they are ready or failed."""
        if self.ranks.rank == 0 or type_ in ("ready", "failed"):
            with self.sending:
                self.connection.sendall(pack(type_, fields))

    def receive(self) -> Frame | None:
        """The parent's next frame, or None when it is gone. Rank 0 hands it on."""
        while (frame := self.unpacker.next()) is None:
            data = self.connection.recv(1 << 16)
            if not data:
                return None
            self.unpacker.feed(data)
        if self.ranks.others:
            self.ranks.tell(pack(frame.type, frame.fields, frame.raw))
        return frame

    def receive_memory(self) -> mmap.mmap:
        """The memory file that the parent passes now."""
        _, descriptors, _, _ = socket.recv_fds(self.connection, 1, 1)
        self.ranks.tell(b"m", descriptors)
        memory = mmap.mmap(descriptors[0], 0)
        os.close(descriptors[0])
        return memory


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


if __name__ == "__main__":
    main()
