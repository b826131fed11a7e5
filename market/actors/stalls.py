"""One worker of a provider and what it serves, and what is asked of its process."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from market.actors.cards import Card
from market.lease_lists import Lease

if TYPE_CHECKING:
    import psutil


class WorkerEnded(Exception):
    """A worker could not be made or has died; the text says what is known."""


class HeadGone(Exception):
    """Ray does not take a new actor: its head is gone."""


@dataclass(slots=True)
class Stall:
    """One worker and what it serves."""

    name: str
    actor: Any
    scratch: Path
    ready: Any
    cards: tuple[Card, ...] = ()
    pid: int = 0
    pidfd: int | None = None
    lease: Lease | None = None
    meter_key: str = ""
    told: bool = False
    ending: bool = False


@dataclass(frozen=True, slots=True)
class Died:
    """A lease whose worker process has ended by itself."""

    lease: str
    epoch: int
    reason: str
    detail: str


def lives(process: psutil.Process) -> bool:
    """Whether it holds anything of the machine: one that has ended and was not waited for by its parent does not."""
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_true(ref: Any) -> bool:
    """What an answered call says; False where its worker has died."""
    import ray

    try:
        return bool(ray.get(ref))
    except ray.exceptions.RayError:
        return False


def kill_unborn(actor: Any) -> None:
    """End an actor whose process id is not known yet."""
    import ray

    with contextlib.suppress(ray.exceptions.RayError):
        ray.kill(actor, no_restart=True)


def last_words(scratch: Path) -> dict[str, str]:
    from trainers.actors.worker import LAST_WORDS

    try:
        found = json.loads((scratch / LAST_WORDS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
