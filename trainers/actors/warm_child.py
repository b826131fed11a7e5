"""The trainer child of one worker: warmed in a thread of its own, replaced when a lease needs another one."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from trainers.devices import Device

WARM_TIMEOUT_S = 90.0


class WarmChild:
    """Begins to warm a child with these threads and devices and no share at once; `scratch` is made."""

    def __init__(
        self,
        *,
        scratch: Path,
        memory_limit_bytes: int,
        isolation: Literal["sandbox", "process"],
        threads: int,
        devices: Sequence[Device],
    ) -> None:
        self._scratch = scratch
        self._memory_limit_bytes = memory_limit_bytes
        self._isolation = isolation
        self._child: Any = None
        self._error = "the child did not start"
        self._processes = 1
        self._made: tuple[int, Sequence[Device], Mapping[str, Path]] = (threads, devices, {})
        self._warmed = threading.Event()
        threading.Thread(target=self._warm, args=(threads, devices), name="warm", daemon=True).start()

    @property
    def now(self) -> Any:
        """The `TrainerChild`, or None while (or because) there is none."""
        return self._child

    def wait(self) -> Any:
        """The warm `TrainerChild`, or None when it did not become one; `error` says why."""
        self._warmed.wait(WARM_TIMEOUT_S)
        return self._child

    @property
    def error(self) -> str:
        """Why there is no child."""
        return self._error

    def replace(self, *, threads: int, devices: Sequence[Device], shares: Mapping[str, Path]) -> None:
        """End the child and warm another one. Raises ChildFailed."""
        self._warmed.wait(WARM_TIMEOUT_S)
        self.kill()
        self._child = None
        self._spawn(threads, devices, shares)

    def ready_for(self, spec: Mapping[str, Any]) -> Any:
        """The warm `TrainerChild` with as many processes as the job asks for, another one if need be; None as `wait`.

        Raises ChildFailed when another one does not become warm.
        """
        self._warmed.wait(WARM_TIMEOUT_S)
        processes = int((spec.get("train") or {}).get("processes", 1))
        if self._child is not None and processes != self._processes:
            self.kill()
            self._child = None
            self._processes = processes
            self._spawn(*self._made)
        return self._child

    def kill(self) -> None:
        """End the child if there is one."""
        if self._child is not None:
            self._child.kill()

    def _warm(self, threads: int, devices: Sequence[Device]) -> None:
        try:
            self._spawn(threads, devices, {})
        except Exception as error:  # noqa: BLE001 - told by `error`; a thread has nobody to raise to
            self._error = f"{type(error).__name__}: {error}"
        finally:
            self._warmed.set()

    def _spawn(self, threads: int, devices: Sequence[Device], shares: Mapping[str, Path]) -> None:
        from trainers.child_process import TrainerChild

        self._made = (threads, devices, shares)
        self._scratch.mkdir(parents=True, exist_ok=True)
        child = TrainerChild.spawn(
            threads=threads,
            scratch=self._scratch,
            memory_limit_bytes=self._memory_limit_bytes,
            shares=shares,
            devices=devices,
            isolation=self._isolation,
            processes=self._processes,
        )
        child.wait_ready(WARM_TIMEOUT_S)
        self._child = child
