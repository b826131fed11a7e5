"""An owner comes back to its machine while somebody's command runs there: what it costs the renter, and how long it takes.

    python -m benchmarks.taken_back [--by load|hours] [--idle-load SHARE] [--json]

A market, two machines of a core that `torg provide` offers, and a `torg run` whose command saves a number every four seconds on
the cheaper one. Its owner comes back, and goes again later: by `load`, four processes of nobody's job on each core of a
machine that is offered `--when idle`; by `hours`, a minute of the clock that is its owner's (`--not-between`).

- `seen_s`: from the start of those processes, or of that minute, until the offer is paused for that very reason;
- `free_s`: from there until the lease is over, with every process of the renter's gone (the promised notice is 5 s);
- `goes_on_s`: from there until the command runs on the other machine;
- `lost_saves`: how many of the numbers that the command said it had saved were not there: at most the one of the last second
  before it was ended, of which nobody can tell whether it was the whole of a save;
- `for_rent_s`: from the end of those processes until the offer is open, with `--idle-for 10s`, or from that of the minute.

All on one machine, so by `load` other work on it counts as its owner's: `--idle-load` must be above that.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.report import Target, finish, parser, say
from benchmarks.square import Json, Square, open_square, until

IDLE_FOR_S, NOTICE_S, LOOK_S = 10, 5, 3
SETTING_UP_S = 75
SAVER = """
import os, pathlib, time
folder = pathlib.Path(os.environ["TORG_CHECKPOINT_DIR"])
kept = folder / "number"
number = int(kept.read_text()) if kept.exists() else 0
print("begins at", number, flush=True)
while True:
    number += 1
    (folder / "new").write_text(str(number))
    (folder / "new").rename(kept)
    print("saved", number, flush=True)
    time.sleep(4)
"""


def main() -> int:
    """See the module."""
    arguments = parser(__doc__)
    arguments.add_argument("--by", choices=["load", "hours"], default="load")
    arguments.add_argument("--idle-load", type=float, default=0.7)
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder, open_square(0) as square:
        owner: Load | Hours = Load(chosen.idle_load) if chosen.by == "load" else Hours()
        with provided(square, "ada", "0.10", owner.rules) as ada, provided(square, "ben", "0.20", []):
            figures = measure(square, Path(folder), ada, owner, chosen.json)
    targets = {
        "lost_saves": Target(figures["lost_saves"], 1),
        "seen_s": Target(figures["seen_s"], 2 * LOOK_S + 1),  # the first look may see little of what has just begun
        "free_s": Target(figures["free_s"], NOTICE_S + 1),
    }
    return finish(figures, targets, chosen.json)


class Load:
    """An owner who computes on every core, also beside others."""

    def __init__(self, idle_load: float) -> None:
        self.rules = ["--when", "idle", "--idle-for", f"{IDLE_FOR_S}s", "--idle-load", str(idle_load)]
        self._names: list[str] = []

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """While it computes."""
        cores = len(os.sched_getaffinity(0))
        loads = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4 * cores)]
        self._names = [f"user process {one.pid} " for one in loads]
        try:
            yield
        finally:
            for one in loads:
                one.kill()
                one.wait()

    def caused(self, why: str) -> bool:
        """Whether a machine that is held is so for this owner."""
        return any(name in why for name in self._names)


class Hours:
    """An owner who has the machine for himself for a minute, the first one that begins in `SETTING_UP_S` or later."""

    def __init__(self) -> None:
        self._begins_s = 60 * math.ceil((time.time() + SETTING_UP_S) / 60)
        begin, end = (time.strftime("%H:%M", time.localtime(self._begins_s + more)) for more in (0, 60))
        self.rules = ["--not-between", f"{begin}-{end}"]
        self._why = f"its owner's hours, {begin}-{end}"

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """From the begin of the minute to its end."""
        assert time.time() < self._begins_s, "the machine was too slow to begin before the minute"
        time.sleep(self._begins_s - time.time())
        yield
        time.sleep(max(0.0, self._begins_s + 60 - time.time()))

    def caused(self, why: str) -> bool:
        """Whether a machine that is held is so for this owner."""
        return why.startswith(self._why)


def measure(square: Square, files: Path, ada: str, owner: Load | Hours, quiet: bool) -> dict[str, float]:
    """The figures of one coming and going of the owner."""
    until(lambda: offer(square, ada)["state"] == "open", timeout_s=300)
    with renting(square, files) as said:
        until(lambda: counted(said, "saved") >= 3, timeout_s=120)
        [job] = square.customer.jobs()
        [first] = [one for one in job["workers"] if one["state"] == "active"]
        assert first["name"] == ada, f"the command runs on {first['name']}, not on the cheaper {ada}"
        with owner.at_work():
            began = time.monotonic()
            held = until(lambda: (found := offer(square, ada))["state"] == "paused" and found["held"])
            seen = time.monotonic()
            assert owner.caused(held["why"]), f"taken back for another reason: {held}"
            say(quiet, held["why"])
            lease = until(lambda: next((one for one in square.customer.job(job["id"])["leases"] if one["ended_ms"]), None))
            free = time.monotonic()
            assert (lease["id"], lease["reason"]) == (first["id"], "preempted"), lease
            found = until(lambda: next((line for line in said[1:] if line.startswith("begins at")), None), timeout_s=120)
            goes_on = time.monotonic()
        ended = time.monotonic()
        until(lambda: offer(square, ada)["state"] == "open", timeout_s=120)
        for_rent = time.monotonic()
        second = square.customer.job(job["id"])["leases"][1]
        assert second["name"] == "ben", second
        square.customer.cancel_job(job["id"])
    place = said.index(found)
    told = max(int(line.split()[1]) for line in said[:place] if line.startswith("saved"))
    say(quiet, f"it had said {told} were saved; on the other machine: {found}")
    return {
        "seen_s": seen - began,
        "free_s": free - seen,
        "goes_on_s": goes_on - free,
        "lost_saves": max(0, told - int(found.split()[2])),
        "for_rent_s": for_rent - ended,
    }


def offer(square: Square, name: str) -> Json:
    """The offer of that name, as an operator sees it."""
    return next((one for one in square.operator.offers() if one["name"] == name), {"state": ""})


def counted(said: list[str], word: str) -> int:
    """How many lines begin with that word."""
    return sum(line.startswith(word) for line in said)


@contextlib.contextmanager
def provided(square: Square, name: str, price: str, rules: list[str]) -> Iterator[str]:
    """A provider of that name as its owner starts it; it drains at the end."""
    command = [sys.executable, "-m", "cli", "provide", "--price", price, "--gpus", "cpu:1", "--name", name]
    more = ["--notice", f"{NOTICE_S}s", "--no-selftest", *rules]
    with (square.home.parent / f"{name}.out").open("wb") as output:
        process = subprocess.Popen([*command, *more], stdout=output, stderr=subprocess.STDOUT, env=square.environment())
    try:
        until(lambda: offer(square, name)["state"], timeout_s=120)
        yield name
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


@contextlib.contextmanager
def renting(square: Square, files: Path) -> Iterator[list[str]]:
    """The lines of a `torg run` as they come."""
    (files / "work.py").write_text(SAVER)
    command = [sys.executable, "-m", "cli", "run", "-y", "--max-price", "0.5", "--", "python", "work.py"]
    process = subprocess.Popen(
        command, cwd=files, env=square.environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    said: list[str] = []

    def hear() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if re.match(r"(begins at|saved) \d+$", line.strip()):
                said.append(line.strip())

    hearing = threading.Thread(target=hear, daemon=True)
    hearing.start()
    try:
        yield said
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
        hearing.join(10)


if __name__ == "__main__":
    sys.exit(main())
