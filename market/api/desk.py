"""The one writer: commands queue here, are decided in order, become durable together, and are answered then.

Group commit: everything that waits is decided, all records are appended with one sync, then everybody is answered. The
decision and the sync happen in one go on the event loop, so no reader ever sees a state that is not on disk.
"""

import asyncio
import logging
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from market.api.feed import Feed
from market.api.problems import Problem, disk_full, mirror_away
from market.api.warming import LARGE_LISTING, Warming
from market.clearing import ENGINE, SMALL_BOOK, Clearing, algorithm_for, cleared, of_arrivals
from market.commands import ApplyClearing, Command, Heard, Tick
from market.exchange import Exchange, Outcome, Refusal
from market.orders import BookSnapshot
from market.recollection import Recollection, body_of
from storage.journal import Journal, JournalBroken, JournalFull, Walk
from storage.records import encode_record

log = logging.getLogger("torg.desk")

TICK_S = 0.5
QUEUE_LIMIT = 10_000
BATCH_LIMIT = 1_000
PROBE_BYTES = 1024 * 1024
PROBE_EVERY_S = 1.0


_UNNOTED = Outcome((), {}, False)


class Mirrors(Protocol):
    """Where the journal must be, too, before anybody is answered (market/mirroring.py)."""

    def confirm(self, records: int, wait_s: float = ...) -> bool:
        """Whether they have so many records, waiting that long at most."""

    def why(self) -> str:
        """What keeps them."""


@dataclass(slots=True)
class _Waiting:
    command: Command
    answer: asyncio.Future[Outcome]


@dataclass(slots=True)
class Numbers:
    """What /metrics says about the writer."""

    batches: int = 0
    commands: int = 0
    refused: int = 0
    clearings: int = 0
    sync_ns: int = 0
    full: int = 0
    bugs: int = 0
    clearing_ns: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)
    by_refusal: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class _Staged:
    """Decided and not yet durable."""

    payloads: list[bytes] = field(default_factory=list)
    events: list[tuple[int, tuple[dict[str, Any], ...]]] = field(default_factory=list)
    answers: list[tuple[_Waiting, Outcome]] = field(default_factory=list)


class Desk:
    """Owns the exchange's state and the journal. Reads go to `exchange` directly, writes through `ask`.

    `observe` is shown every event that is in the journal already.
    `now_ms` is the market's clock (`market/clocks.py`), `make` an empty exchange, `broken` what to do when the journal cannot be trusted any
    more (the process must end), `room` whether the disk takes writes again after it was full, `engine` what makes the compiled
    engine ready for large books; `recall` gives the market from which a replay goes on, of a snapshot that this journal
    confirms (default: an empty one). `mirrors` must have a batch's records before it is answered; while they do not, no new work is
    taken (`held`), as on a full disk, but what was decided stays: it counts when they have it.
    """

    def __init__(
        self,
        journal: Journal,
        make: Callable[[], Exchange],
        feed: Feed,
        *,
        now_ms: Callable[[], int],
        broken: Callable[[Exception], None],
        observe: Callable[[Sequence[dict[str, Any]]], None] = lambda _: None,
        room: Callable[[Path], bool] | None = None,
        engine: Warming | None = None,
        recall: Callable[[], Recollection] | None = None,
        mirrors: Mirrors | None = None,
    ) -> None:
        self.feed = feed
        self.numbers = Numbers()
        self.full = False
        self.held = False
        self._mirrors = mirrors
        self._journal = journal
        self._clock_ms = now_ms
        self._broken = broken
        self._room = room or has_room
        self._engine = Warming() if engine is None else engine
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue(QUEUE_LIMIT)
        self._clearing: asyncio.Task[None] | None = None
        self._large: BookSnapshot | None = None
        self._last_ms = 0
        self._recall = recall or (lambda: Recollection(make()))
        recalled = self._recall()
        if recalled.place is not None:
            leases = {name: (lease.job, lease.offer) for name, lease in recalled.exchange.state.leases.items()}
            feed.recall(recalled.place.number, recalled.past.first_record, leases)
            observe(recalled.shelf_events())
        self.replayed = 0
        for number, at_ms, events in self._replay(recalled):
            self.replayed += 1
            feed.remember(number, at_ms, events)
            observe(events)

    @property
    def records(self) -> int:
        """Number of the last durable record."""
        return self._journal.records

    @property
    def waiting(self) -> int:
        """Commands that are not decided yet."""
        return self._queue.qsize()

    @property
    def term(self) -> int:
        """Which open of the journal this is; a restored market's is of a later generation."""
        return self._journal.term

    @property
    def head(self) -> str:
        """Chain hash of the last durable record."""
        return self._journal.head

    @property
    def folder(self) -> Path:
        return self._journal.folder

    def now_ms(self) -> int:
        """The market's time: its clock's, and never before what was decided, so that a replay decides at the same times."""
        return max(self._last_ms, self.exchange.now_ms, self._clock_ms())

    async def ask(self, command: Command) -> Outcome:
        """Have a command decided; returns when its record is durable. Raises Problem 507 while the disk is full, 503 while a
        synchronous mirror is away."""
        if self.full or self.held:
            if isinstance(command, Heard):
                return _UNNOTED
            raise self._closed()
        waiting = _Waiting(command, asyncio.get_running_loop().create_future())
        await self._queue.put(waiting)
        return await waiting.answer

    def decide_now(self, command: Command) -> Outcome:
        """Decide and make durable one command before the loop runs (opening the market)."""
        staged = _Staged()
        now_ms = self.now_ms()
        outcome = self.exchange.step(command, now_ms)
        self._stage(staged, outcome, now_ms)
        self._append(staged)
        return outcome

    def hold(self, wait_s: float) -> None:
        """At the start: take no work until the mirrors have what was decided before; waits that long first."""
        self.held = self._mirrors is not None and not self._mirrors.confirm(self.records, wait_s)

    def _closed(self) -> Problem:
        """Why no new work is taken."""
        return disk_full() if self.full or self._mirrors is None else mirror_away(self._mirrors.why())

    async def write(self) -> None:
        """The writer's loop; ends only by cancellation."""
        if len(self.exchange.book()) >= LARGE_LISTING:
            self._engine.begin()
        while True:
            self._handle(await self._take())
            self._clear_large()

    async def tick(self, every_s: float = TICK_S, draw: Callable[[int], int] = secrets.randbits) -> None:
        """Let time pass for the exchange; while the disk is full, see whether it takes writes again. `draw`: so many random bits."""
        loop = asyncio.get_running_loop()
        probe_at = 0.0
        while True:
            await asyncio.sleep(every_s)
            if self.held:
                self._see_mirrors()
            elif not self.full:
                await self._queue.put(_Waiting(Tick(random=draw(64)), loop.create_future()))
            elif loop.time() >= probe_at:
                probe_at = loop.time() + PROBE_EVERY_S
                if self._room(self._journal.folder):
                    log.warning("the disk takes writes again: new work is taken")
                    self._rebuild()
                    self.full = False

    def _see_mirrors(self) -> None:
        assert self._mirrors is not None, "only mirrors hold work up"
        if self._mirrors.confirm(self.records, 0):
            log.warning("the mirrors have everything: new work is taken")
            self.held = False

    async def _take(self) -> list[_Waiting]:
        """Whoever waits now, and whoever comes while the loop has nothing else to do."""
        batch = [await self._queue.get()]
        while len(batch) < BATCH_LIMIT:
            had = len(batch)
            await asyncio.sleep(0)
            while not self._queue.empty() and len(batch) < BATCH_LIMIT:
                batch.append(self._queue.get_nowait())
            if len(batch) == had:
                break
        return [waiting for waiting in batch if not waiting.answer.done()]

    def _handle(self, batch: Sequence[_Waiting]) -> None:
        staged = _Staged()
        now_ms = self.now_ms()
        for waiting in batch:
            try:
                outcome = self.exchange.step(waiting.command, now_ms)
                self._stage(staged, outcome, now_ms)
            except Exception as error:
                log.exception("bug while deciding %s", type(waiting.command).__name__)
                self.numbers.bugs += 1
                self._settle(staged)
                staged = _Staged()
                self._rebuild()
                _fail(waiting, error)
                continue
            staged.answers.append((waiting, outcome))
            self.numbers.by_kind[type(waiting.command).__name__] += 1
            if isinstance(outcome.answer, Refusal):
                self.numbers.by_refusal[outcome.answer.code] += 1
        self._clear_small(staged, now_ms)
        self._settle(staged)
        self.numbers.batches += 1
        self.numbers.commands += len(batch)

    def _stage(self, staged: _Staged, outcome: Outcome, now_ms: int) -> None:
        self.numbers.refused += not isinstance(outcome.answer, dict)
        if not outcome.events:
            return
        staged.payloads.append(encode_record(now_ms, outcome.events))
        staged.events.append((now_ms, outcome.events))
        self._last_ms = now_ms

    def _settle(self, staged: _Staged) -> None:
        """Make durable, then answer; on a full disk nobody of this batch is confirmed."""
        try:
            self._append(staged)
        except JournalFull:
            log.exception("disk full: new work is refused")
            self.numbers.full += 1
            self.full = True
            self._rebuild()
            self._turn_away(staged)
            return
        if self._mirrors is not None and not self._mirrors.confirm(self.records):
            log.error("nothing is confirmed, and no new work is taken: %s", self._mirrors.why())
            self.held = True
            self._turn_away(staged)
            return
        for waiting, outcome in staged.answers:
            if not waiting.answer.done():
                waiting.answer.set_result(outcome)

    def _turn_away(self, staged: _Staged) -> None:
        """Nobody of this batch is confirmed, and nobody who waits."""
        closed = self._closed()
        for waiting, _ in staged.answers:
            _refuse(waiting, closed)
        while not self._queue.empty():
            _refuse(self._queue.get_nowait(), closed)

    def _append(self, staged: _Staged) -> None:
        if not staged.payloads:
            return
        number = self._journal.records
        began_ns = time.perf_counter_ns()
        try:
            self._journal.append(staged.payloads)
        except JournalBroken as error:
            self._broken(error)
            raise
        self.numbers.sync_ns += time.perf_counter_ns() - began_ns
        for at_ms, events in staged.events:
            number += 1
            self.feed.publish(number, at_ms, events)

    def _rebuild(self) -> None:
        """Forget what is not durable: the state again, from the journal."""
        recalled = self._recall()
        for _ in self._replay(recalled):
            pass

    def _replay(self, recalled: Recollection) -> Iterator[tuple[int, int, list[dict[str, Any]]]]:
        self.exchange, self._last_ms = recalled.exchange, recalled.at_ms
        walk = Walk(self._journal.folder, place=recalled.place)
        for record in walk:
            body = body_of(record.number, record.payload)
            self.exchange.replay(body["at_ms"], body["events"])
            self._last_ms = body["at_ms"]
            yield record.number, body["at_ms"], body["events"]
        walk.check()

    def _clear_small(self, staged: _Staged, now_ms: int) -> None:
        """A small book, or new bids alone, are cleared at once and share the batch's sync."""
        if self._clearing is not None or not self.exchange.dirty:
            return
        came = self.exchange.arrivals()
        if came is not None:
            self._stage(staged, self.exchange.step(ApplyClearing(self._timed(came, of_arrivals)), now_ms), now_ms)
        self._clear_everybody(staged, now_ms)

    def _clear_everybody(self, staged: _Staged, now_ms: int) -> None:
        if not self.exchange.dirty:
            return
        snapshot = self.exchange.snapshot()
        if len(snapshot.bids) * len(snapshot.offers) > SMALL_BOOK:
            self._large = snapshot
            return
        outcome = self.exchange.step(ApplyClearing(self._timed(snapshot)), now_ms)
        self._stage(staged, outcome, now_ms)

    def _timed(self, snapshot: BookSnapshot, make: Callable[[BookSnapshot], Clearing] | None = None) -> Clearing:
        began_ns = time.perf_counter_ns()
        clearing = cleared(snapshot, self._engine.ready) if make is None else make(snapshot)
        self.numbers.clearings += 1
        self.numbers.clearing_ns += time.perf_counter_ns() - began_ns
        return clearing

    def _clear_large(self) -> None:
        """A large book is cleared on a frozen snapshot in a thread; its result is validated again as a command."""
        snapshot, self._large = self._large, None
        if snapshot is None or self.full or self.held:
            return
        if algorithm_for(snapshot) == ENGINE:
            self._engine.begin()

        async def clear_aside() -> None:
            try:
                clearing = await asyncio.to_thread(self._timed, snapshot)
                waiting = _Waiting(ApplyClearing(clearing), asyncio.get_running_loop().create_future())
                await self._queue.put(waiting)
                await asyncio.wait((waiting.answer,))
            finally:
                self._clearing = None

        self._clearing = asyncio.create_task(clear_aside())


def has_room(folder: Path) -> bool:
    """Whether a file of some size can be written and synced beside the journal."""
    probe = folder / "probe.tmp"
    try:
        with probe.open("wb") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        return False
    finally:
        probe.unlink(missing_ok=True)
    return True


def _refuse(waiting: _Waiting, closed: Problem) -> None:
    """No work is taken. A sign of life is no new work, and its timer starts anew when there is."""
    if isinstance(waiting.command, Heard) and not waiting.answer.done():
        waiting.answer.set_result(_UNNOTED)
    else:
        _fail(waiting, closed)


def _fail(waiting: _Waiting, error: Exception) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)
        waiting.answer.exception()  # a tick has nobody who would fetch it
