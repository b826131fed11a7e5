"""The exchange's own machine: the real Desk, Exchange and Journal on a disk that loses power, and their deaths."""

import asyncio
import contextlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from market.api.desk import Desk
from market.api.feed import Feed
from market.clocks import SteadyClock
from market.commands import AddMember, Command, OpenMarket
from market.exchange import Exchange, Outcome, Settings
from storage.journal import Journal, JournalBroken, JournalError, JournalFull, read_journal
from tests.storage.crash_disk import Stopped
from tests.storms.auditor import Absence
from tests.storms.disk import StoryDisk
from tests.storms.faults import Weather

START_MS = 1_795_000_000_000
TICK_S = 3.0
SEGMENT_BYTES = 24 * 1024
SETTINGS = replace(Settings(), start_timeout_ms=30_000, pause_timeout_ms=20_000, dispute_patience_ms=25_000)


class Ruined(Exception):
    """The market can never come back from what lies on its disk; the text says why."""


class Away(Exception):
    """Nobody answers: the exchange is dead, or dies before it has answered."""


class House:
    """`ask` and `look` are what comes in by the network. `members` are (name, role), made at the first start."""

    def __init__(self, folder: Path, weather: Weather, random: Random, members: list[tuple[str, str]]) -> None:
        self.lost: list[str] = []
        self.deaths = 0
        self.bugs = 0
        self._weather = weather
        self._random = random
        self._members = members
        self._root = folder
        self._home = folder / "life-0"
        (self._home / "journal").mkdir(parents=True)
        self._disk = StoryDisk()
        self._disk.adopt(self._home)
        self._desk: Desk | None = None
        self._journal: Journal | None = None
        self._tasks: list[asyncio.Task[Any]] = []
        self._handlers: set[asyncio.Task[Any]] = set()
        self._jumped_ms = 0
        self._promised = (0, "0" * 64)
        self._ticks: list[tuple[int, int]] = []
        """Of each tick that was asked for: how many records there were, and the loop's time in milliseconds."""

    @property
    def folder(self) -> Path:
        """The journal as it lies there now."""
        return self._home / "journal"

    @property
    def exchange(self) -> Exchange | None:
        return None if self._desk is None else self._desk.exchange

    @property
    def records(self) -> int:
        return 0 if self._desk is None else self._desk.records

    def absences(self) -> list[Absence]:
        """When no time passed for the market: it was dead, or its disk full."""
        tick_ms = int(TICK_S * 1000)
        ticks = [*self._ticks, (self.records, self._loop_ms())]
        return [
            # one tick more than was seen: the last before a death may be lost with it
            Absence(*sorted((before, after)), next_ms - at_ms + tick_ms)
            for (before, at_ms), (after, next_ms) in pairwise(ticks)
            if next_ms - at_ms > tick_ms
        ]

    # what comes in

    def serve(self, command: Command, reply: Callable[[Outcome], None]) -> None:
        """A command arrives; `reply` is called once its answer may leave the machine, or never."""
        if self._desk is None:
            return
        task = asyncio.get_running_loop().create_task(self._answer(self._desk, command, reply))
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)

    async def _answer(self, desk: Desk, command: Command, reply: Callable[[Outcome], None]) -> None:
        try:
            outcome = await desk.ask(command)
        except Exception:  # noqa: BLE001 - a full disk, or a bug, which is counted
            self._weather.count["refused by a full disk"] += desk.full
            return
        self._promised = (desk.records, desk.head)
        reply(outcome)

    def look(self, question: Callable[[Exchange], Any]) -> Any:
        """Raises Away."""
        if self._desk is None:
            raise Away
        return question(self._desk.exchange)

    # life and death

    def wall_ms(self) -> int:
        return START_MS + self._loop_ms() + self._jumped_ms

    def _loop_ms(self) -> int:
        return int(asyncio.get_running_loop().time() * 1000)

    def _draw(self, bits: int) -> int:
        self._ticks.append((self.records, self._loop_ms()))
        return self._random.getrandbits(bits)

    def jump(self, ms: int) -> None:
        """Somebody sets the clock."""
        self._jumped_ms += ms

    def start(self) -> bool:
        """Come up, or die trying (False). What was promised before must be there."""
        loop = asyncio.get_running_loop()
        try:
            self._journal = Journal.open(self.folder, disk=self._disk, segment_bytes=SEGMENT_BYTES)
            self._weather.count["torn tail cut"] += self._journal.cut_bytes > 0
            self._check_promised()
            clock = SteadyClock(self.wall_ms, lambda: int(loop.time() * 1000))
            desk = Desk(
                self._journal, lambda: Exchange(SETTINGS), Feed(kept=10), now_ms=clock, broken=lambda _: None,
                room=lambda _: self._disk.has_room(),
            )  # fmt: skip
            clock.not_before(desk.now_ms())
            self._open_market(desk)
        except Stopped:
            self._die()
            return False
        except (JournalFull, JournalBroken):
            self._disk.full_for = 0
            self._die()
            return False
        except (JournalError, AssertionError, KeyError) as error:
            raise Ruined(f"what was acknowledged cannot be read or replayed: {type(error).__name__} {error}") from error
        self._desk = desk
        self._promised = (desk.records, desk.head)
        write = loop.create_task(desk.write())
        write.add_done_callback(self._writer_ended)
        tick = loop.create_task(desk.tick(every_s=TICK_S, draw=self._draw))
        self._tasks = [write, tick]
        return True

    def _open_market(self, desk: Desk) -> None:
        desk.decide_now(OpenMarket("square", "1"))
        known = {member["member"] for member in desk.exchange.members()}
        for name, role in self._members:
            if name not in known:
                desk.decide_now(AddMember(name, role, f"{len(name):x}{name.encode().hex()}".ljust(64, "0")[:64], "market"))

    def _check_promised(self) -> None:
        number, head = self._promised
        if not number:
            return
        found = next((record for record in read_journal(self.folder, number - 1)), None)
        if found is None or found.hash != head:
            self.lost.append(f"record {number} was acknowledged, and {'is another one' if found else 'is not there'} after a recovery")

    def _writer_ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._weather.count[f"died: {type(error).__name__} {error if isinstance(error, Stopped) else ''}".strip()] += 1
            self.crash()

    def crash(self) -> None:
        """The process ends now: nothing that it has not synced is sure, and nobody whom it has not answered hears of it."""
        if self._desk is None:
            return
        self.bugs += self._desk.numbers.bugs
        self._desk = None
        for task in (*self._tasks, *self._handlers):
            task.cancel()
        self._die()

    def let_go(self) -> None:
        """Let go of the journal's files: the story is over, or this life is."""
        if self._journal is not None:
            self._disk.gone = True  # who is dead tidies nothing up
            self._journal.close()
            self._disk.gone = False
            self._journal = None

    def _die(self) -> None:
        self.deaths += 1
        self.let_go()
        if self._weather.strikes("power", 0.6):
            into = self._root / f"life-{self.deaths}"
            self._disk, harmed = self._disk.lose_power(self._home, into, self._random)
            shutil.rmtree(self._home)
            self._home = into
            self.folder.mkdir(exist_ok=True)
            self._weather.count["power cut"] += 1
            self._weather.count["unsynced bytes lost or torn"] += harmed
        self._disk.stop_at = None
        self._disk.fails_in = None

    def doom(self, kind: str, operations: int) -> None:
        """Something will happen to the disk: `kill`, `full` or `io`."""
        if kind == "kill":
            self._disk.die_in(operations)
        elif kind == "full":
            self._disk.full_for = operations
        else:
            self._disk.fails_in = operations

    def note_disk(self) -> None:
        """Count what the disk did."""
        self._weather.count["write refused"] += self._disk.refused
        self._weather.count["sync failed"] += self._disk.failed
        self._disk.refused = self._disk.failed = 0

    def heal(self) -> None:
        """From now on the disk is a good one."""
        self._disk.full_for, self._disk.fails_in, self._disk.stop_at = 0, None, None

    def close(self) -> None:
        """The story is over."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._root)
