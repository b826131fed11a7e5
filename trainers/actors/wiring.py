"""Names of the actors, how they are started, and what a run needs from the market: the seams of this folder.

The bodies in `worker.py` and `run.py` are plain classes; only this module and `transport.py` know ray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

NAMESPACE = "torg"
STEWARD = "steward"

Json = dict[str, Any]


def worker_name(offer: str, number: int) -> str:
    """The actor name of the `number`-th worker that a provider has made for its offer."""
    return f"worker-{offer}-{number}"


def run_name(job: str, attempt: int) -> str:
    """The name of one attempt at running a job."""
    return f"run-{job}-{attempt}"


def is_seat(name: str) -> bool:
    """Whether an actor of our namespace is there for a run (see `seats.py`)."""
    return name.startswith("seat-")


class DoorAway(Exception):
    """The market does not answer now; the call may be repeated."""


class DoorRefused(Exception):
    """The market declined the call; repeating it would not help."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(f"{code}: {message}")


class Door(Protocol):
    """The market as a run sees it. Every method raises DoorAway or DoorRefused; all writes may be repeated.

    A door is handed to an actor's constructor, so it pickles by its class and plain settings, and opens its
    connections when it is first used.
    """

    def runs(self, *, wait_s: float, seen: str | int | None) -> Json: ...

    def directive(self, job: str, *, wait_s: float, seen: str | int | None) -> Json: ...

    def read_blob(self, digest: str) -> bytes: ...

    def missing(self, digests: Sequence[str]) -> list[str]: ...

    def upload(self, content: bytes | Path) -> str: ...

    def upload_all(self, blobs: Sequence[tuple[str, bytes | memoryview]]) -> list[str]: ...

    def report_round(self, report: Mapping[str, Any]) -> Json: ...

    def report_readings(
        self,
        job: str,
        *,
        run_pid: int,
        readings: Sequence[Mapping[str, Any]],
        evaluated: Sequence[Mapping[str, Any]],
        lost: Sequence[Mapping[str, Any]],
        logs: Sequence[Mapping[str, Any]],
    ) -> Json: ...

    def report_checkpoint(self, report: Mapping[str, Any]) -> Json: ...

    def report_save(self, report: Mapping[str, Any]) -> Json: ...

    def report_attempt(self, report: Mapping[str, Any]) -> Json: ...

    def report_halted(
        self, job: str, *, state: str, reason: str, detail: str, round: int, manifest: str | None, run: int
    ) -> Json: ...


def start_worker(*, name: str, node_id: str, settings: Mapping[str, Any]) -> Any:
    """Start a WorkerActor on a node and answer its handle at once. It ends with the driver that made it.

    `settings` are the keyword arguments of `worker.Worker`.
    """
    import ray

    from trainers.actors.worker import Worker

    return (
        ray.remote(Worker)
        .options(name=name, namespace=NAMESPACE, max_concurrency=8, **pinned(node_id))
        .remote(**settings)
    )


def living_actors() -> set[str]:
    """Names of the actors of our namespace that live or are being restarted."""
    import ray.util

    return set(ray.util.list_named_actors())


def end_actor(name: str) -> None:
    """End a named actor for good; one that is gone already is fine."""
    import ray

    try:
        ray.kill(ray.get_actor(name, namespace=NAMESPACE), no_restart=True)
    except ValueError:
        return


def pinned(node_id: str) -> Json:
    """Options of an actor that belongs on a node."""
    # No CPUs are asked for: the exchange has decided who runs where, and an actor that waits for a busy CPU of the
    # node it is pinned to waits for ever.
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False)}
