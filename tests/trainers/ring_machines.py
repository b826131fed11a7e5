"""The machines of `tests.trainers.ring`: seats with a real worker and member, a child without torch, a mesh with hooks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.trainers.ring_jobs import ELEMENTS, LAYOUT, RATE, TARGET
from trainers.actors import worker as workers
from trainers.child_process import ChildFailed, Exported, Loaded, NotFiniteNumbers, Trained
from trainers.codecs import Vector
from trainers.filled import Payload, whole
from trainers.mesh import mesh as meshes

if TYPE_CHECKING:
    from tests.trainers.ring import Ring

Json = dict[str, Any]
Place = tuple[int, int, str]
"""(slot, round, moment): "loading", "training", "exchange" (before), "exchanged" (after its result, not yet told),
"fetching" (a state), "answering" (a merge)."""
Hook = Callable[["Seat"], None]

CALL_S = 20.0


class Killed(BaseException):
    """This thread's machine is no more."""


class Child:
    """Takes the place of a `TrainerChild`: what it trains depends on its parameters and the batch, and with `ddp` on its
    inner optimiser's state, a momentum of a few elements.
    """

    pid = 0

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self.theta = np.zeros(ELEMENTS, dtype=np.float32)
        self.moments = np.zeros(8, dtype=np.float32)
        self.room = np.zeros(ELEMENTS, dtype=np.float32)
        self.metrics: dict[str, float] = {}

    def load(self, package: object, timeout_s: float) -> Loaded:
        self._seat.come("loading", 0)
        return Loaded(LAYOUT, np.zeros(ELEMENTS, dtype=np.float32))

    def train(
        self, parameters: Vector | None, *, round: int, first_step: int, steps: int, position: int = 0, worker: int,
        evaluate: bool, timeout_s: float, uneven: bool = False, synchronise: Any = None, applies: str = "parameters",
        check: bool = True,
    ) -> Trained:  # fmt: skip
        seat, began = self._seat, time.monotonic()
        seat.trained.append((round, first_step, position, steps, parameters is None))
        if parameters is not None:
            self.theta = parameters.copy()
        for index in range(steps):
            self._come(round)
            seat.drawn.append((position if uneven else first_step) + index)
            if seat.step_s:
                time.sleep(seat.step_s)
            pull = np.float32(((position + index) * 7919 % 101) / 101 - 0.5)
            gradient = (self.theta - TARGET * (1 + pull)).astype(np.float32)
            if seat.diverges.get(round) == index:
                raise NotFiniteNumbers(f"the loss is nan at step {first_step + index}")
            if seat.spoilt_gradient.get(round) == index:
                gradient[3] = np.nan
            if synchronise is None:
                self._descend(gradient, np.float32(0))
                continue
            answer = synchronise(first_step + index, RATE, gradient)
            if applies == "gradient":
                self._descend(answer, np.float32(0.5))
            else:
                self.theta = answer.copy()
        loss = float(np.square(self.theta - TARGET).mean())
        ms = int(1000 * (time.monotonic() - began))
        return Trained(self.theta.copy(), loss, (loss,) * steps, 64 * steps, ms, None)

    def _descend(self, gradient: Vector, momentum: np.float32) -> None:
        self.moments = np.float32(0.9) * self.moments + gradient[: self.moments.size]
        self.theta = self.theta - np.float32(RATE) * gradient
        self.theta[: self.moments.size] -= np.float32(RATE) * momentum * self.moments

    def _come(self, round: int) -> None:
        try:
            self._seat.come("training", round)
        except Killed:
            if threading.current_thread().name == "ahead":  # it ends with the process, and tells nobody
                raise ChildFailed("died", "killed") from None
            raise

    def mix(self, values: Vector, ranges: Sequence[tuple[int, int]], keep: float, timeout_s: float = 60.0) -> None:
        theta = self.theta.copy()
        for offset, size in ranges:
            part = slice(offset, offset + size)
            theta[part] = np.float32(keep) * theta[part] + np.float32(1 - keep) * values[part]
        self.theta = theta

    def evaluate(self, parameters: Vector, timeout_s: float = 600.0) -> float:
        self._seat.evaluated += 1
        return float(np.square(parameters - TARGET).mean())

    def export_inner(self, timeout_s: float = 120.0) -> Exported:
        moments = self.moments.tobytes()
        return Exported(moments, len(moments))

    def import_inner(self, exported: bytes, timeout_s: float = 120.0) -> None:
        self.moments = np.frombuffer(exported, dtype=np.float32).copy()

    def read_log(self) -> list[str]:
        return []

    def kill(self) -> None:
        pass


class WarmChild:
    """Takes the place of a `WarmChild`: it is warm."""

    error = ""

    def __init__(self, **_: Any) -> None:
        self.now: Any = None

    def wait(self) -> Any:
        return self.now

    def ready_for(self, spec: Json) -> Any:
        return self.now

    def kill(self) -> None:
        pass


class SteadyWorker(workers.Worker):
    def _watch_orphan(self) -> None:
        """A test ends before that."""


class _Links:
    """Links of which some are cut: what is sent there goes nowhere."""

    def __init__(self, real: Any, seat: Seat) -> None:
        self._real, self._seat = real, seat

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def send(self, peer: Any, frame: Any) -> None:
        if peer.slot not in self._seat.cut_from:
            self._real.send(peer, frame)


class HookedMesh(meshes.Mesh):
    """A mesh that comes by the hooks, and sends and takes what `forge`, `forge_mean` and `spoil` make of payloads."""

    def __init__(self, *, slot: int, **arguments: Any) -> None:
        super().__init__(slot=slot, **arguments)
        self.seat = CURRENT[0].seats[slot]
        self._links = _Links(self._links, self.seat)

    def _run(self, pattern: Any, step: int, outgoing: Any, combine: Any, *rest: Any) -> dict[int, Payload]:
        assert self.view is not None
        number, seat = self.seat.member.tentative_round, self.seat
        seat.come("exchange", number)

        def forged(view: Any) -> Mapping[int, Payload]:
            payloads = outgoing(view)
            forge = seat.forge.get(number)
            return payloads if forge is None else {slot: forge(whole(payload)) for slot, payload in payloads.items()}

        def combined(received: dict[int, Payload]) -> bytes:
            mean: bytes = combine(received)
            return seat.forge_mean.get(number, lambda same: same)(mean)

        found: dict[int, Payload] = super()._run(pattern, step, forged, combined, *rest)
        seat.come("exchanged", number)
        spoil = seat.spoil.pop(number, None)
        return found if spoil is None else spoil(dict(found))

    def fetch_state(self, round: int, donors: Sequence[Any], patience_s: float) -> bytes:
        number = round // 2  # see donors._place
        self.seat.come("fetching", number + 1)
        found = super().fetch_state(round, donors, patience_s)
        self.seat.fetched.append(("state", number))
        return found

    def fetch_round(self, round: int, donors: Sequence[Any], patience_s: float) -> bytes:
        found = super().fetch_round(round, donors, patience_s)
        self.seat.fetched.append(("round", round))
        return found


@dataclass
class Seat:
    """One lease and its worker."""

    ring: Ring
    slot: int
    epoch: int
    worker: Any = None
    child: Any = None
    dead: str | None = None
    thawed: threading.Event = field(default_factory=threading.Event)
    step_s: float = 0.0
    trained: list[tuple[int, int, int, int, bool]] = field(default_factory=list)
    drawn: list[int] = field(default_factory=list)
    """By which numbers it drew its batches, when these are drawn by (seed, step, worker)."""
    evaluated: int = 0
    fetched: list[tuple[str, int]] = field(default_factory=list)
    """What it got of the others: the state after a round, or what a round merged."""
    cut_from: set[int] = field(default_factory=set)
    forge: dict[int, Callable[[bytes], bytes]] = field(default_factory=dict)
    forge_mean: dict[int, Callable[[bytes], bytes]] = field(default_factory=dict)
    """What it makes of the slice that it owns."""
    spoil: dict[int, Callable[[dict[int, bytes]], dict[int, bytes]]] = field(default_factory=dict)
    diverges: dict[int, int] = field(default_factory=dict)
    spoilt_gradient: dict[int, int] = field(default_factory=dict)
    """In which step of a round its numbers are not finite."""

    @property
    def name(self) -> str:
        return f"worker-{self.slot}"

    @property
    def member(self) -> Any:
        return _Standing(self.worker._training.member)

    @property
    def training(self) -> Any:
        return self.worker._training

    def come(self, moment: str, round: int) -> None:
        """This worker's thread is there now."""
        if self.dead is not None:
            raise Killed
        self.thawed.wait(CALL_S)
        hooks = self.ring.hooks.pop((self.slot, round, moment), [])
        for hook in hooks:
            self.ring.fired.append((self.slot, round, moment))
            hook(self)
        if self.dead is not None:
            raise Killed


class _Standing:
    def __init__(self, member: Any) -> None:
        self.tentative_round: int = member.round + 1


# what hooks do


def die(seat: Seat) -> None:
    """The process is gone, as by SIGKILL."""
    seat.ring.kill(seat.slot)


def hold(event: threading.Event) -> Hook:
    """Work on once that has happened."""

    def wait_for(seat: Seat) -> None:
        event.wait(CALL_S)

    return wait_for


def freeze(seat: Seat) -> None:
    """As by SIGSTOP: this thread, and no call is answered."""
    seat.thawed.clear()
    seat.thawed.wait(CALL_S)


CURRENT: list[Ring] = []
