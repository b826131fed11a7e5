"""How a run reaches its workers: calls with deadlines, and parcels (code, data, states) that go to and from them.

`Transport` is the seam: `RayTransport` uses Ray's actors and object store. Contributions do not come this way: workers
exchange them directly (`trainers.mesh`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pickle import PickleBuffer
from typing import Any, Protocol, TypeVar

from trainers.actors.wiring import NAMESPACE

Key = TypeVar("Key")

Call = Any
"""A call in progress."""
Parcel = Any
"""Bytes, wherever they are."""


@dataclass(frozen=True, slots=True)
class Gone:
    """A call has no answer and will have none. `reason` is one of the market's reasons for a lost worker."""

    reason: str
    detail: str


class CallFailed(Exception):
    """The worker's own code raised: a bug of ours, or an object that its node has lost."""


class Transport(Protocol):
    """Everything that a run does with its workers."""

    def find(self, name: str) -> Any | None:
        """The worker of that name, or None while (or because) there is none."""

    def has_met(self, node: str) -> bool:
        """Whether a node of that id is or was part of this cluster."""

    def ask(self, worker: Any, method: str, *arguments: Any) -> Call:
        """Start a call."""

    def answers(self, calls: Mapping[Key, Call], timeout_s: float) -> dict[Key, Any]:
        """The answers that are there after at most `timeout_s`: a value, Gone, or a CallFailed."""

    def parcel(self, content: bytes) -> Parcel:
        """Put bytes where every worker can get them, as a buffer; once, however many get them."""

    def made(self, parcel: Parcel, timeout_s: float) -> bool:
        """Whether a parcel that a call gives is there to be opened, after at most `timeout_s`; its bytes do not travel yet."""

    def open(self, parcel: Parcel, timeout_s: float) -> bytes | Gone:
        """The bytes of a parcel."""


class RayTransport:
    """A `Transport` within one Ray cluster."""

    def find(self, name: str) -> Any | None:
        """See Transport."""
        import ray

        try:
            return ray.get_actor(name, namespace=NAMESPACE)
        except ValueError:
            return None

    def has_met(self, node: str) -> bool:
        """See Transport."""
        import ray

        return any(found["NodeID"] == node for found in ray.nodes())

    def ask(self, worker: Any, method: str, *arguments: Any) -> Call:
        """See Transport. A parcel among the arguments arrives as a buffer of its bytes that cannot be written."""
        return getattr(worker, method).remote(*arguments)

    def answers(self, calls: Mapping[Key, Call], timeout_s: float) -> dict[Key, Any]:
        """See Transport."""
        import ray

        if not calls:
            return {}
        keys = {call: key for key, call in calls.items()}
        done, _ = ray.wait(list(keys), num_returns=1, timeout=max(0.0, timeout_s))
        if done and len(keys) > 1:
            done, _ = ray.wait(list(keys), num_returns=len(keys), timeout=0)
        return {keys[call]: _answer(call) for call in done}

    def parcel(self, content: bytes) -> Parcel:
        """See Transport."""
        import ray

        # Out of band, so that a worker reads it where it lies. `bytes` would be copied before the call begins, and the worker
        # answers nobody while it copies: with some hundred megabytes on a busy machine long enough to be taken for frozen.
        return ray.put(PickleBuffer(content))

    def made(self, parcel: Parcel, timeout_s: float) -> bool:
        """See Transport. To wait for the bytes themselves in pieces of time would begin their way anew each time."""
        import ray

        done, _ = ray.wait([parcel], timeout=timeout_s, fetch_local=False)
        return bool(done)

    def open(self, parcel: Parcel, timeout_s: float) -> bytes | Gone:
        """See Transport."""
        import ray

        try:
            found = ray.get(parcel, timeout=timeout_s)
        except ray.exceptions.GetTimeoutError:
            return Gone("network_cut", f"its bytes did not come within {timeout_s:.0f} s")
        except ray.exceptions.RayError as error:
            return _gone(error)
        assert isinstance(found, bytes)
        return found


def _answer(call: Call) -> Any:
    import ray

    try:
        return ray.get(call, timeout=5)
    except ray.exceptions.RayTaskError as error:
        return CallFailed(str(error))
    except ray.exceptions.RayError as error:
        return _gone(error)


def _gone(error: Exception) -> Gone:
    import ray

    text = str(error).strip().splitlines()
    detail = text[0][:300] if text else type(error).__name__
    if isinstance(error, ray.exceptions.ActorUnavailableError):
        return Gone("network_cut", detail)
    if isinstance(error, ray.exceptions.ActorDiedError):
        whole = str(error).lower()
        return Gone(
            "node_died" if "node" in whole and "died" in whole and "worker process" not in whole else "worker_killed",
            detail,
        )
    return Gone("worker_lost", detail)
