"""The workers of one provider: one warm and waiting while units are free, one tied to each lease.

The host decides, this module makes, watches and ends the actors. A worker process that dies is noticed by its pidfd, at
once and without Ray.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from market.actors.cards import Card, CardPool
from market.actors.host_config import Hardware, HostConfig
from market.actors.ray_node import RayNode
from market.actors.stalls import Died, HeadGone, Stall, WorkerEnded, is_true, kill_unborn, last_words, lives
from market.lease_lists import Lease
from storage.meter_readings import new_meter_key
from trainers.actors.lifeline import watch
from trainers.actors.wiring import start_worker, worker_name
from trainers.scratch import wiped
from trainers.secrecy import DOOR_FILE, METER_FILE, leave

if TYPE_CHECKING:
    import psutil

Json = dict[str, Any]

READY_TIMEOUT_S = 120.0
KILL_TIMEOUT_S = 2.0
GONE_TIMEOUT_S = 5.0
GONE_LOOK_S = 0.01
MAX_FAILURES_IN_A_ROW = 5


@dataclass(slots=True)
class Stable:
    """Makes workers on `node`. `on_death` gets the name of a worker whose process has ended, from some thread."""

    config: HostConfig
    hardware: Hardware
    node: RayNode
    on_death: Callable[[str], None]
    isolation: str = "process"
    _stalls: dict[str, Stall] = field(default_factory=dict)
    _made: int = 0
    _failures: int = 0
    _held: int = 0
    _held_cards: tuple[Card, ...] = ()
    _killing: list[threading.Thread] = field(default_factory=list)
    _pool: CardPool = field(init=False)
    _unwiped: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._pool = CardPool([claim.card for claim in self.hardware.claims])

    def fill(self) -> None:
        """Have one warm worker while a unit is free; returns at once, it warms up by itself. Raises HeadGone."""
        waiting = any(stall.lease is None for stall in self._stalls.values())
        self._unwiped = [folder for folder in self._unwiped if not wiped(folder)]
        # A unit that is free is a card that is free: every lease has its own, and nobody waits with one.
        if not waiting and self.taken + self._held < self.hardware.units and self._failures < MAX_FAILURES_IN_A_ROW:
            self._make()

    def wait_warm(self) -> str:
        """Wait until the waiting worker is warm and answer its isolation level. Raises WorkerEnded."""
        stall = next(stall for stall in self._stalls.values() if stall.lease is None)
        self._await_ready(stall)
        return self.isolation

    @property
    def taken(self) -> int:
        """Units that are leased."""
        return sum(lease["gpus"] for lease in self.leases())

    def leases(self) -> list[Lease]:
        """The lease of every worker that is tied to one."""
        return [stall.lease for stall in self._stalls.values() if stall.lease is not None]

    def hold(self, units: int, uuids: Collection[str] = ()) -> None:
        """Keep that many units free of workers, those that wait for a lease, too; as far as no lease sits there. Of cards,
        those with these uuids first.
        """
        full = self.taken + units >= self.hardware.units
        for stall in [one for one in self._stalls.values() if one.lease is None]:
            if full or any(card.device.uuid in uuids for card in stall.cards):
                self._end([stall])
        self._pool.give_back(self._held_cards)
        self._held = units
        self._pool.free.sort(key=lambda card: card.device.uuid not in uuids)
        self._held_cards = self._pool.take(min(units, len(self._pool.free)))

    def on_cards(self, uuids: Collection[str]) -> set[int]:
        """The leases that have one of these cards."""
        return {
            stall.lease["epoch"]
            for stall in self._stalls.values()
            if stall.lease is not None and any(card.device.uuid in uuids for card in stall.cards)
        }

    def serves(self, epoch: int) -> bool:
        """Whether a worker is tied to that lease and the market has been told."""
        return any(s.lease is not None and s.lease["epoch"] == epoch and s.told for s in self._stalls.values())

    def assign(self, lease: Lease, secrets: Mapping[str, str] = MappingProxyType({})) -> tuple[str, int]:
        """Tie the waiting worker to a lease; (actor name, process id). Raises WorkerEnded.

        `secrets` go by a file that the worker removes as it reads them: what Ray carries, others of its cluster may see.
        """
        import ray

        share = lease.get("share")
        if share is not None and not (share in self.config.shares and self.config.shares[share].is_dir()):
            raise WorkerEnded(f"the folder shared as {share} is not there")
        stall = self._serving(lease["epoch"])
        if stall is None:
            stall = next((stall for stall in self._stalls.values() if stall.lease is None), None) or self._make()
            stall.lease = lease
        self._await_ready(stall)
        self._add_cards(stall, lease["gpus"])
        try:
            if secrets:
                leave(stall.scratch, secrets)
            if not stall.meter_key:
                private, stall.meter_key = new_meter_key()
                leave(stall.scratch, {"key": private}, METER_FILE)
            if lease.get("sessions"):
                leave(stall.scratch, _door(self.config, lease["sessions"]), DOOR_FILE)
            told = {name: value for name, value in lease.items() if name != "sessions"}
            ref = stall.actor.assign.remote({**told, "devices": _devices(stall.cards)})
            ray.get(ref, timeout=READY_TIMEOUT_S)
        except (ray.exceptions.RayError, OSError) as error:
            self._discard(stall)
            raise WorkerEnded(f"the worker did not take the lease: {error}") from error
        stall.told = True
        return stall.name, stall.pid

    def meter_key(self, epoch: int) -> str:
        """The public key by which this lease's worker signs its meter."""
        stall = self._serving(epoch)
        return "" if stall is None else stall.meter_key

    def forget_started(self, epoch: int) -> None:
        """The market has not heard that this lease is started; it will be told again."""
        stall = self._serving(epoch)
        if stall is not None:
            stall.told = False

    def release(self, epoch: int) -> None:
        """End the worker that is tied to this lease."""
        stall = self._serving(epoch)
        if stall is not None:
            self._discard(stall)

    def end_all_but(self, epochs: set[int]) -> list[str]:
        """End the workers whose lease is not among `epochs`; the ids of their leases."""
        over = [s for s in self._stalls.values() if s.lease is not None and s.lease["epoch"] not in epochs]
        ended = [str(stall.lease["id"]) for stall in over if stall.lease is not None]
        for stall in over:
            self._discard(stall)
        return ended

    def bury(self, name: str) -> Died | None:
        """Clean up after a worker process that ended; the lease that it served, if it did."""
        stall = self._stalls.pop(name, None)
        if stall is None or stall.ending:
            return None
        self._pool.give_back(stall.cards)
        words = last_words(stall.scratch)
        self._wipe(stall.scratch)
        self._kill(stall)
        if stall.lease is None:
            self._failures += 1
            return None
        reason, detail = words.get("reason", "worker_killed"), words.get("detail", "the worker process ended")
        return Died(stall.lease["id"], stall.lease["epoch"], reason, detail)

    def serving(self) -> list[tuple[str, int]]:
        """(lease, epoch) of every worker that is tied to one."""
        return [(lease["id"], lease["epoch"]) for lease in self.leases()]

    def drain(self, timeout_s: float) -> None:
        """Let every worker come to its round boundary, at most that long. Raises HeadGone when Ray cannot ask them."""
        self._ask_to_leave([lease["epoch"] for lease in self.leases()], timeout_s, "drained")

    def leave(self, epochs: Collection[int], timeout_s: float) -> list[str]:
        """Let the workers of these leases go at their boundary, at most that long; the leases of those that were ready to
        be ended. Where Ray cannot ask them, nobody was.
        """
        try:
            return self._ask_to_leave(epochs, timeout_s, "preempted")
        except HeadGone:
            return []

    def ask_to_leave(self, epoch: int, timeout_s: float, why: str) -> Callable[[], None] | None:
        """Ask the worker of this lease to go at its boundary; what is answered returns, in any thread, once it may be ended,
        or after that time. None where nobody serves the lease, or Ray cannot ask.
        """
        import ray

        stall = self._serving(epoch)
        if stall is None:
            return None
        try:
            asked = stall.actor.drain.remote(timeout_s, why)
        except (ray.exceptions.RayError, OSError):
            return None

        def wait() -> None:
            with contextlib.suppress(ray.exceptions.RayError, OSError):
                ray.wait([asked], timeout=timeout_s + 1)

        return wait

    def end(self, epochs: Collection[int]) -> None:
        """End the workers of these leases; returns when every process of them is gone."""
        self._end(
            [stall for stall in self._stalls.values() if stall.lease is not None and stall.lease["epoch"] in epochs]
        )

    def _end(self, stalls: Sequence[Stall]) -> None:
        import psutil

        family: list[psutil.Process] = []
        for stall in stalls:
            with contextlib.suppress(psutil.NoSuchProcess):
                if stall.pid:
                    worker = psutil.Process(stall.pid)
                    family += [worker, *worker.children(recursive=True)]
        for stall in stalls:
            self._discard(stall)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):  # it went with its parent
                process.kill()
        until = time.monotonic() + GONE_TIMEOUT_S
        while any(lives(process) for process in family) and time.monotonic() < until:
            time.sleep(GONE_LOOK_S)

    def _ask_to_leave(self, epochs: Collection[int], timeout_s: float, why: str) -> list[str]:
        import ray

        stalls = [
            stall for stall in self._stalls.values() if stall.lease is not None and stall.lease["epoch"] in epochs
        ]
        try:
            asked = {stall.actor.drain.remote(timeout_s, why): stall for stall in stalls}
            done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=timeout_s + 1) if asked else ([], [])
            ready = [asked[ref] for ref in done if is_true(ref)]
        except (ray.exceptions.RayError, OSError) as error:
            raise HeadGone(str(error)) from error
        return [str(stall.lease["id"]) for stall in ready if stall.lease is not None]

    def close(self) -> bool:
        """End every worker that is born; the others end with the node. Answers whether nothing here uses Ray any more:
        a thread that does while Ray is shut down would end the process.
        """
        for stall in list(self._stalls.values()):
            if stall.pidfd is None:
                del self._stalls[stall.name]
                self._wipe(stall.scratch)
            else:
                self._discard(stall)
        for thread in self._killing:
            thread.join(KILL_TIMEOUT_S)
        return not any(thread.is_alive() for thread in self._killing)

    def _make(self) -> Stall:
        import ray

        from trainers.sandbox import isolation_level

        self.isolation = isolation_level() if self.config.isolation == "auto" else self.config.isolation
        self._made += 1
        # The node's id makes the name new after a restart of the host: Ray remembers the names of dead actors for a while.
        name = worker_name(self.config.offer, self._made) + f"-{self.node.node_id[:6]}"
        cards = self._pool.take(1) if self.hardware.cuda else ()
        if self.hardware.cuda and not cards:
            raise WorkerEnded("no card is free")
        scratch = Path(tempfile.mkdtemp(prefix="worker-", dir=self.node.temp_dir))
        settings: Json = {
            "name": name,
            "host_pid": os.getpid(),
            "scratch": str(scratch),
            "threads_per_unit": self.hardware.threads_per_unit,
            "devices": _devices(cards),
            "memory_limit_bytes": self.config.memory_limit_bytes,
            "way_out": self.config.way_out(),
            "environments": self.config.environment_store(),
            "shares": {share: str(folder) for share, folder in self.config.shares.items()},
            "isolation": self.isolation,
            "orphan_after_s": self.config.orphan_after_s,
            "host": self.node.node_ip,
        }
        try:
            actor = start_worker(name=name, node_id=self.node.node_id, settings=settings)
        except ray.exceptions.RayError as error:
            self._pool.give_back(cards)
            raise HeadGone(str(error)) from error
        stall = Stall(name, actor, scratch, actor.ready.remote(), cards)
        self._stalls[name] = stall
        return stall

    def _add_cards(self, stall: Stall, units: int) -> None:
        """As many cards as units: the warm worker has the first."""
        missing = units - len(stall.cards) if self.hardware.cuda else 0
        more = self._pool.take(missing)
        if len(more) < missing:
            self._discard(stall)
            raise WorkerEnded(f"{missing} more cards are wanted, {len(self._pool.free)} are free")
        stall.cards += more

    def _await_ready(self, stall: Stall) -> None:
        import ray

        if stall.pid:
            return
        try:
            found = ray.get(stall.ready, timeout=READY_TIMEOUT_S)
        except ray.exceptions.RayError as error:
            self._failures += 1
            self._discard(stall)
            raise WorkerEnded(f"the worker did not start: {error}") from error
        if found["error"] is not None:
            self._failures += 1
            self._discard(stall)
            raise WorkerEnded(f"the trainer child did not start: {found['error']}")
        try:
            pidfd = os.pidfd_open(found["pid"])
        except ProcessLookupError as error:
            self._failures += 1
            self._discard(stall)
            raise WorkerEnded("the worker process ended while it waited for a lease") from error
        self._failures = 0
        stall.pid, stall.pidfd = found["pid"], pidfd
        # Only the name: a watcher that dropped the last handle of an actor would call Ray, which may be shut down by then,
        # and Ray ends a process for that.
        name, on_death = stall.name, self.on_death
        watch(stall.pid, lambda: on_death(name))

    def _wipe(self, scratch: Path) -> None:
        """Nothing of a lease stays on this machine; a process that is dying yet may write until the next call."""
        self._unwiped = [folder for folder in (*self._unwiped, scratch) if not wiped(folder)]

    def _serving(self, epoch: int) -> Stall | None:
        return next((s for s in self._stalls.values() if s.lease is not None and s.lease["epoch"] == epoch), None)

    def _discard(self, stall: Stall) -> None:
        """End a worker; its child goes with it, because the child dies with its parent."""
        stall.ending = True
        if self._stalls.pop(stall.name, None) is not None:
            self._pool.give_back(stall.cards)
        self._kill(stall)
        self._wipe(stall.scratch)

    def _kill(self, stall: Stall) -> None:
        """By signal, not by Ray: Ray asks the process to end, which a frozen one does not hear, and waits for a head
        that is gone.
        """
        if stall.pidfd is None:
            thread = threading.Thread(target=kill_unborn, args=(stall.actor,), daemon=True)
            self._killing = [one for one in self._killing if one.is_alive()] + [thread]
            thread.start()
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(stall.pidfd, signal.SIGKILL)
        os.close(stall.pidfd)
        stall.pidfd = None


def _door(config: HostConfig, token: str) -> dict[str, str]:
    """What the worker needs to take sessions of its lease; the token goes by a file, as secrets do."""
    return {"url": config.url, "token": token, "ca": str(config.ca or "")}


def _devices(cards: tuple[Card, ...]) -> list[Json]:
    return [asdict(card.device) for card in cards]


