"""Where runs sit: actors that have imported all that a run needs and wait for a job, so that it begins at once.

A RunActor's start costs a second of processor time, most of it imports. One seat is always there unassigned. Giving it a
job is written down in the cluster's store first; then it is told. So a seat that is killed and restarted by Ray finds its
job by itself, and a Steward that was replaced finds who sits where.

`Seat` is the actor's body, a plain class; `Seats` is what the Steward has.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Mapping
from typing import Any, Protocol

from trainers.actors.run import Run
from trainers.actors.wiring import NAMESPACE, Door, end_actor, is_seat, living_actors, pinned, run_name

SPARE_AFTER_S = 3.0
"""A run that begins has the processor to itself first."""


class Store(Protocol):
    """Which job each seat was given, for as long as the cluster lives."""

    def get(self, seat: str) -> tuple[str, int] | None: ...

    def put(self, seat: str, job: str, attempt: int) -> None: ...

    def remove(self, seat: str) -> None: ...


class ClusterStore:
    """In the store of the cluster's head, under our own namespace."""

    def get(self, seat: str) -> tuple[str, int] | None:
        from ray.experimental.internal_kv import _internal_kv_get

        found = _internal_kv_get(seat, namespace=NAMESPACE.encode())
        return None if found is None else tuple(json.loads(found))

    def put(self, seat: str, job: str, attempt: int) -> None:
        from ray.experimental.internal_kv import _internal_kv_put

        _internal_kv_put(seat, json.dumps([job, attempt]), overwrite=True, namespace=NAMESPACE.encode())

    def remove(self, seat: str) -> None:
        from ray.experimental.internal_kv import _internal_kv_del

        _internal_kv_del(seat, namespace=NAMESPACE.encode())


class Seat:
    """See the module. `settings`: the keyword arguments of `Run` beside job, attempt and door."""

    def __init__(self, *, name: str, door: Door, settings: Mapping[str, Any], store: Store) -> None:
        self._door, self._settings = door, settings
        self._beginning = threading.Lock()
        self._run: Run | None = None
        given = store.get(name)
        if given is not None:
            self.begin(*given)

    def begin(self, job: str, attempt: int) -> int:
        """Start the run, unless it was; this process's id."""
        with self._beginning:
            if self._run is None:
                self._run = Run(job=job, attempt=attempt, door=self._door, **self._settings)
        return os.getpid()


class Seats:
    """Starts and ends runs; `market.actors.steward.Launcher`."""

    def __init__(self, node_id: str, door: Door, settings: Mapping[str, Any], store: Store | None = None) -> None:
        self._node_id, self._door, self._settings = node_id, door, dict(settings)
        self._store = store or ClusterStore()
        self._changing = threading.Lock()
        self._given: dict[str, tuple[str, int]] = {}
        for seat, (job, attempt) in self._taken(living_actors()).items():
            self._tell(seat, job, attempt)  # its Steward may have been killed before it could
        self._see_to_a_spare()

    def living(self) -> set[str]:
        """Names of the runs that live or are being restarted, as `run_name` makes them."""
        with self._changing:
            return {run_name(*given) for given in self._taken(living_actors()).values()}

    def start(self, job: str, attempt: int) -> None:
        """Give a seat to this attempt; returns at once."""
        with self._changing:
            there = living_actors()
            taken = self._taken(there)
            seat = next((name for name in sorted(there) if self._is_own(name) and name not in taken), None) or self._make()
            self._store.put(seat, job, attempt)
            self._given[seat] = (job, attempt)
            self._tell(seat, job, attempt)
        spare = threading.Timer(SPARE_AFTER_S, self._see_to_a_spare)
        spare.daemon = True
        spare.start()

    def end(self, name: str) -> None:
        """End a run for good; one that is gone already is fine."""
        with self._changing:
            for seat, given in self._taken(living_actors()).items():
                if run_name(*given) == name:
                    end_actor(seat)
                    self._store.remove(seat)
                    self._given.pop(seat, None)

    def _taken(self, there: set[str]) -> dict[str, tuple[str, int]]:
        for name in there:
            if is_seat(name) and name not in self._given and (given := self._store.get(name)) is not None:
                self._given[name] = given
        self._given = {name: given for name, given in self._given.items() if name in there}
        return self._given

    def _see_to_a_spare(self) -> None:
        with self._changing:
            there = living_actors()
            taken = self._taken(there)
            if not any(self._is_own(name) and name not in taken for name in there):
                self._make()

    def _is_own(self, name: str) -> bool:
        """One on a node that is gone would never answer."""
        return is_seat(name) and name.startswith(self._prefix)

    @property
    def _prefix(self) -> str:
        return f"seat-{self._node_id[:16]}-"

    def _make(self) -> str:
        import ray

        name = self._prefix + secrets.token_hex(4)
        ray.remote(Seat).options(
            name=name, namespace=NAMESPACE, lifetime="detached", max_restarts=-1, max_concurrency=4, **pinned(self._node_id)
        ).remote(name=name, door=self._door, settings=self._settings, store=self._store)  # fmt: skip
        return name

    def _tell(self, seat: str, job: str, attempt: int) -> None:
        import ray

        ray.get_actor(seat, namespace=NAMESPACE).begin.remote(job, attempt)
