"""The loop of a trace: jobs come in their order, everything else happens when it was planned. One for the market and the baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from market.simulation.clock import Clock
from market.simulation.trace import TraceJob

Progress = Callable[[int, int], None]
"""Told (jobs that came so far, virtual time)."""
Handler = Callable[[Any, int], None]
"""Called with what a planned event is about, and its version."""
TOLD_EVERY = 256


class Player(Protocol):
    """A way of clearing, as the loop sees it."""

    def submit(self, job: TraceJob, order: int) -> None:
        """A job has come, the `order`th."""

    @property
    def idle(self) -> bool:
        """Whether no job is open."""


def drive(
    player: Player, clock: Clock, handlers: Mapping[str, Handler], jobs: Iterable[TraceJob], horizon_ms: int, progress: Progress
) -> None:  # fmt: skip
    """Play until every job has come and none is open, or nothing is planned any more, or the horizon is reached."""
    coming, came = iter(jobs), 0
    job = next(coming, None)
    if job is not None:
        clock.at(job.submitted_ms, "job", job)
    while len(clock):
        kind, about, version = clock.next()
        if clock.now_ms > horizon_ms:
            return
        if kind == "job":
            came += 1
            player.submit(about, came)
            job = next(coming, None)
            if job is not None:
                clock.at(job.submitted_ms, "job", job)
            if came % TOLD_EVERY == 0:
                progress(came, clock.now_ms)
        else:
            handlers[kind](about, version)
        if job is None and player.idle:
            return
