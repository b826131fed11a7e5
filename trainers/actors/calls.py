"""The calls that a run has in progress, and their repetition when a network was cut for a moment."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from typing import Any

from trainers.actors.answers import BadAnswer, checked_answer
from trainers.actors.roster import Roster, Worker
from trainers.actors.transport import Call, CallFailed, Gone, Transport

log = logging.getLogger(__name__)

Json = dict[str, Any]
Key = tuple[str, int]
"""A call in progress: which method, of which slot."""

AGAIN_AFTER_S = 0.2
NEWCOMERS = frozenset({"load", "connect", "prepare"})
"""What is asked of a worker before it is a member."""


def _usable(key: Key, answer: Any) -> Json | Gone:
    method, slot = key
    if isinstance(answer, Gone):
        return answer
    if isinstance(answer, CallFailed):
        log.error("%s of slot %s failed: %s", method, slot, answer)
        return Gone("worker_lost", str(answer)[-300:])
    try:
        return checked_answer(method, answer)
    except BadAnswer as bad:
        return Gone("bad_contribution", str(bad))


class Calls:
    """At most one call per method and slot; a new one takes the place of the last. `clock`: monotonic seconds."""

    def __init__(self, transport: Transport, clock: Callable[[], float]) -> None:
        self._transport = transport
        self._clock = clock
        self._calls: dict[Key, Call] = {}
        self._again: dict[Key, Callable[[], None]] = {}
        self._later: list[tuple[float, Key]] = []

    def __bool__(self) -> bool:
        """Whether an answer is awaited."""
        return bool(self._calls)

    def ask(self, method: str, worker: Worker, *arguments: Any) -> None:
        """Start a call of one answer."""
        key = (method, worker.slot)
        self._calls[key] = self._transport.ask(worker.handle, method, *arguments)
        self._again[key] = lambda: self.ask(method, worker, *arguments)

    def take(self, timeout_s: float) -> Iterator[tuple[str, int, Json | Gone]]:
        """(method, slot, answer) of what is answered within that time: fields that may be built on, or Gone. What becomes
        void while the others are dealt with is left out, and a call that a network swallowed is repeated in a moment.
        """
        asked = dict(self._calls)
        for key, answer in self._transport.answers(asked, timeout_s).items():
            if self._calls.get(key) is not asked[key]:
                continue
            del self._calls[key]
            if isinstance(answer, Gone) and answer.reason == "network_cut":
                # Perhaps the call arrived and perhaps not; calls may be repeated. The roster says when to give up.
                self._later.append((self._clock() + AGAIN_AFTER_S, key))
            else:
                yield *key, _usable(key, answer)

    def heard(self, roster: Roster, timeout_s: float) -> Iterator[tuple[str, Worker, Json | Gone]]:
        """As `take`, of workers that are in the roster still; what is due to be repeated is begun first. While nothing is
        awaited, wait for a change of the roster instead.
        """
        self.start_repeats()
        if not self:
            roster.changed.wait(timeout_s)
            return
        for kind, slot, answer in self.take(timeout_s):
            worker = roster.get(slot)
            if worker is not None:
                yield kind, worker, answer

    def start_repeats(self) -> None:
        """Start the repetitions that are due."""
        while self._later and self._later[0][0] <= self._clock():
            _, key = self._later.pop(0)
            if key in self._again and key not in self._calls:
                self._again[key]()

    def forget(self, slot: int) -> None:
        """A worker is gone: nothing of it is awaited or repeated."""
        self._keep(lambda key: key[1] != slot)

    def forget_round(self, late: Collection[int] = ()) -> None:
        """A round is void: only newcomers that load are still awaited, and those who are `late` with an older one."""
        self._keep(lambda key: key[0] in NEWCOMERS or key[1] in late)

    def _keep(self, wanted: Callable[[Key], bool]) -> None:
        self._calls = {key: call for key, call in self._calls.items() if wanted(key)}
        self._again = {key: again for key, again in self._again.items() if wanted(key)}
