"""The compiled engine made ready beside the exchange's loop, which clears without it until then.

Compiling takes up to a minute and holds Python's lock, so another process does it, into numba's cache on disk; loading from
there is done in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from typing import Final

from market.clearing import engine_installed

log = logging.getLogger("torg.warming")

LARGE_LISTING: Final = 2_000
"""A market that lists so many offers is made ready when it starts; others once a book was large."""


class Warming:
    """Whether the engine is ready, and how it gets so. `program` compiles, and ends with 0."""

    def __init__(self, program: tuple[str, ...] = (sys.executable, "-m", "market.engine.warm")) -> None:
        self.ready = False
        self._program = program
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Begin, once; where the engine is not installed, nothing happens. In a running loop."""
        if self._task is None and engine_installed():
            self._task = asyncio.create_task(self._warm())

    async def done(self) -> None:
        """Returns when what has begun is over."""
        if self._task is not None:
            await self._task

    async def _warm(self) -> None:
        made = await asyncio.create_subprocess_exec(
            *self._program, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE, preexec_fn=_meek,
        )  # fmt: skip
        _, said = await made.communicate()
        if made.returncode:
            log.warning(
                "the compiled engine cannot be had, clearing goes on without it: %s",
                said.decode(errors="replace")[-500:],
            )
            return
        await asyncio.to_thread(_load)
        self.ready = True
        log.info("the compiled engine is ready")


def _meek() -> None:
    """Others go first."""
    os.nice(10)


def _load() -> None:
    from market.engine.solve import warm_up

    warm_up()
