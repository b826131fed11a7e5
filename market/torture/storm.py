"""The parent: one life after another, each with a fault, a death, perhaps a power cut, and a comparison of everything."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Self

from market.torture.account import Account, audit
from market.torture.deadly_disk import OPERATIONS
from market.torture.power_cut import Unsynced
from trainers.ready import wait_ready

Line = dict[str, Any]
LIVES_OF_A_HOME = 25
MOST_WISHES = 150
SILENCE_S = 60.0
AFTER_HEALING = 10
POWER_CUTS = 0.8
STARVED: Line = {"fault": None, "opening": False, "room": True, "kill_after": 1000}
ANY_MOMENT: Line = {"fault": None, "opening": False, "room": None, "kill_after": None}
QUIET: Line = {"fault": None, "opening": False, "room": None, "kill_after": 0}
DANGEROUS = (
    ("journal.write", "half"), ("journal.write", "after"), ("journal.sync", "before"), ("segment.rename", "after"),
    ("segment.sync_folder", "before"), ("sealing.rename", "after"), ("sealing.unlink", "after"), ("blob.write", "after"), ("blob.rename", "after"), ("blob.sync_folder", "before"),
)  # fmt: skip
OPENING = ("journal.sync", "segment.open", "segment.write", "segment.sync", "segment.rename", "segment.sync_folder")


@dataclass(slots=True)
class Report:
    """What came of it. `recovery_us` holds one time for each recovery, from the open of the journal to a market."""

    seed: int
    lives: int = 0
    kills: int = 0
    acknowledged: int = 0
    compared: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    power_cuts: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    healed: int = 0
    lost: list[str] = field(default_factory=list)
    double_booked: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    recovery_us: list[int] = field(default_factory=list)
    kept: Path | None = None

    @property
    def held(self) -> bool:
        """Whether every promise was kept."""
        return not (self.lost or self.double_booked or self.wrong)

    def recovery_ms(self, share: float) -> float | None:
        """The time under which this share of the recoveries stayed; None without one."""
        times = sorted(self.recovery_us)
        return times[min(len(times) - 1, int(share * len(times)))] / 1000 if times else None


class Nursery:
    """The process that forks the writers, and the pipe to whichever of them lives."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "market.torture.writer"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def say(self, line: str) -> None:
        """To the nursery between lives, to the writer in one."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    def lines(self) -> Iterator[Line]:
        """What is said until now and on; raises TimeoutError after a long silence."""
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        while True:
            *whole, self._rest = self._rest.split(b"\n")
            for place, line in enumerate(whole):
                # Whoever stops listening goes on behind this line.
                after = b"\n".join([*whole[place + 1 :], self._rest])
                rest, self._rest = self._rest, after
                yield json.loads(line)
                assert self._rest == after, "one listener at a time"
                self._rest = rest
            if not wait_ready([pipe], SILENCE_S)[0]:
                raise TimeoutError
            got = os.read(pipe, 1 << 16)
            if not got:
                raise EOFError("the process that starts the writers has ended")
            self._rest += got


class Storm:
    """Lives in homes under `folder`, until a promise is broken. `hook` (module:function) is called in each writer first:
    tests break it so, to see that it is found. `seen` is told the report after every life."""

    def __init__(
        self, folder: Path, seed: int, *, kinds: Sequence[Line] | None = None, hook: str | None = None,
        seen: Callable[[Report], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self.report = Report(seed)
        self._kinds = list(all_kinds() if kinds is None else kinds)
        self._folder = folder
        self._random = Random(seed)  # noqa: S311 - a run is repeated by its seed
        self._hook = hook
        self._seen = seen
        self._deck: list[Line] = []
        self._begin_home()

    def run(self, goes_on: Callable[[Report], bool]) -> Report:
        """One life after another while `goes_on` says so, then a last quiet one to compare what the last death left."""
        with Nursery() as nursery:
            while self.report.held and goes_on(self.report):
                if self._lives_here == LIVES_OF_A_HOME:
                    self._live(nursery, QUIET)
                    self._end_home()
                    self._begin_home()
                self._live(nursery, self._draw())
                self._seen(self.report)
            if self.report.held:
                self._live(nursery, QUIET)
        if self.report.held:
            self._end_home()
        else:
            self.report.kept = self._home
        return self.report

    def _begin_home(self) -> None:
        self._home = self._folder / f"torture-{self.report.seed}-{self.report.lives}"
        self._home.mkdir(parents=True)
        self._account, self._unsynced = Account(), Unsynced()
        self._lives_here = 0

    def _end_home(self) -> None:
        shutil.rmtree(self._home)

    def _draw(self) -> Line:
        """The next fault: each kind once before any comes again, in an order of the seed."""
        if not self._deck:
            self._deck = list(self._kinds)
            self._random.shuffle(self._deck)
        plan = self._deck.pop()
        fault = plan["fault"]
        if fault is not None:
            most = 1 if plan["opening"] else 3
            plan = {**plan, "fault": {**fault, "nth": self._random.randint(1, most)}}
        return plan

    def _live(self, nursery: Nursery, plan: Line) -> None:
        """One life, from a recovery to a death, and what the death leaves."""
        random, account = self._random, self._account
        room_bytes = random.randint(200, 1500) if plan["room"] else None
        known = [account.asked[key] for key in sorted(account.acknowledged)]
        again = [*account.unsure()[-30:], *random.sample(known, min(5, len(known)))]
        life = {
            "home": str(self._home), "seed": random.getrandbits(32), "hook": self._hook, "fault": plan["fault"],
            "fault_from": "opening" if plan["opening"] else "work", "room_bytes": room_bytes, "again": again,
            "first_id": self.report.lives * MOST_WISHES, "most": MOST_WISHES,
        }  # fmt: skip
        kill_after = random.randint(1, 60) if plan["kill_after"] is None else plan["kill_after"]
        pause_s = random.random() / 200
        cut = random.random() < POWER_CUTS
        nursery.say(json.dumps(life))
        self._listen(nursery, kill_after, pause_s)
        self.report.lives += 1
        self._lives_here += 1
        if cut:
            self.report.power_cuts.update(self._unsynced.cut_power(self._home, random))

    def _listen(self, nursery: Nursery, kill_after: int, pause_s: float) -> None:
        report, pid, answered, faulty, failed, killed = self.report, 0, 0, False, "", False
        try:
            for line in nursery.lines():
                self._account.hear(line)
                self._unsynced.hear(line)
                if "pid" in line:
                    pid = line["pid"]
                elif "ready" in line:
                    self._compare(line)
                    if kill_after:
                        nursery.say("go")
                    else:
                        killed = self._kill(pid)
                elif "fault" in line:
                    report.faults[line["fault"]] += 1
                    faulty = True
                elif "refused" in line:
                    report.refused[line["why"]] += 1
                elif "healed" in line:
                    report.healed += 1
                    kill_after = min(kill_after, answered + AFTER_HEALING)
                elif "failed" in line:
                    failed = line["failed"]
                elif "answered" in line:
                    answered += 1
                    report.acknowledged += 1
                    if answered == kill_after and not killed:
                        time.sleep(pause_s)
                        killed = self._kill(pid)
                        report.faults["at any moment"] += 1
                elif "ended" in line:
                    report.kills += line["ended"] == -signal.SIGKILL
                    if failed and not faulty:
                        report.wrong.append(f"the market did not come back: {failed}")
                    return
        except TimeoutError:
            report.wrong.append(f"a writer said nothing for {SILENCE_S:.0f} s")
            os.kill(pid, signal.SIGKILL)

    def _compare(self, ready: Line) -> None:
        """While the writer waits: what it remembers, what lies on the disk, what was acknowledged."""
        report, found = self.report, audit(self._home, self._account)
        report.recovery_us.append(ready["ready"])
        report.compared += len(self._account.acknowledged)
        report.lost += found.lost
        report.double_booked += found.double
        report.wrong += found.wrong
        if not found.broken and (ready["wallet"], ready["escrow"]) != (found.wallet, found.escrow):
            report.wrong.append(
                f"the exchange says wallet {ready['wallet']}, escrow {ready['escrow']}; its journal {found.wallet}, {found.escrow}"
            )

    def _kill(self, pid: int) -> bool:
        os.kill(pid, signal.SIGKILL)
        return True


def all_kinds() -> Iterator[Line]:
    """Every fault; those that leave unsynced bytes or names several times."""
    for operation in OPERATIONS:
        moments = ("before", "half", "after") if operation.endswith(".write") else ("before", "after")
        for when in moments:
            yield kind(operation, "kill", when)
    for operation, when in DANGEROUS:
        yield from (kind(operation, "kill", when) for _ in range(3))
    for operation in OPENING:
        for when in ("before", "after"):
            yield kind(operation, "kill", when, opening=True)
    for operation in ("journal.write", "segment.write", "segment.rename", "sealing.write", "blob.write"):
        yield kind(operation, "full")
    for operation in ("journal.sync", "segment.sync", "sealing.sync", "blob.sync"):
        yield kind(operation, "io_error")
    yield from (STARVED, STARVED)
    yield from (ANY_MOMENT for _ in range(12))


def kind(operation: str, how: str, when: str = "before", *, opening: bool = False) -> Line:
    """A fault at an operation of `deadly_disk.OPERATIONS`; with `opening` while the market comes back."""
    fault = {"operation": operation, "nth": 1, "how": how, "when": when}
    return {"fault": fault, "opening": opening, "room": None, "kill_after": 1000}
