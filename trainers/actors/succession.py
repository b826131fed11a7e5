"""Who takes over what belonged to the maker of a checkpoint alone: what its codec lost, and it owes the others still. Pure.

A base has its maker's own vectors beside what all share. The maker keeps them as long as it lives, and so does whoever took
them over: a second one would add work that was done once. When nobody is left who may have them, one newcomer takes them.
"""

from __future__ import annotations

from collections.abc import Iterable

from trainers.actors.roster import Worker
from trainers.rounds import RoundCommitted


class Succession:
    """See the module; what one run knows of it."""

    def __init__(self) -> None:
        self._veterans: set[int] = set()
        self._heir: int | None = None

    def committed(self, done: RoundCommitted) -> None:
        """Whoever was there may have made a checkpoint since, or owes work of its own."""
        self._veterans |= {*done.holders, *done.contributors, *done.late, *(warned.slot for warned in done.warned)}

    def heir(self, living: Iterable[Worker], beginning: Iterable[int]) -> int | None:
        """The slot that takes the maker's own vectors over, when those `beginning` (slots) all begin at its checkpoint; None
        when somebody lives who was there before. The lowest of them; nobody else while it lives.
        """
        there = {worker.slot: worker for worker in living}
        if any(slot in self._veterans or worker.at.round > 0 for slot, worker in there.items()):
            return None
        if self._heir not in there:
            self._heir = min(there.keys() & set(beginning), default=None)
        return self._heir
