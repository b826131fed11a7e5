"""Looks at what a machine is used for beside torg: processes on cards as NVML tells, else time of its cores from /proc."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from market.idling import DESKTOP, Place, User, is_torg, of_torg
from trainers.devices import Device


@dataclass(frozen=True, slots=True)
class Process:
    """`ticks` of processor time, those of its children that it has waited for in `past_ticks`."""

    pid: int
    parent: int
    name: str
    ticks: int
    past_ticks: int
    argv: tuple[str, ...]


def read_processes(proc: Path = Path("/proc")) -> dict[int, Process]:
    """Every process that can be seen; one that ends meanwhile is left out."""
    found = {}
    for folder in proc.iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            head, _, rest = (folder / "stat").read_text(errors="replace").rpartition(")")
            argv = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        fields = rest.split()
        pid, name = int(folder.name), head.partition("(")[2]
        user, system, past_user, past_system = (int(fields[place]) for place in (11, 12, 13, 14))
        found[pid] = Process(pid, int(fields[1]), name, user + system, past_user + past_system, tuple(argv))
    return found


def torgs(processes: Mapping[int, Process], own: int) -> set[int]:
    """All of torg on this machine: `own` and what is below it, and every provider and market with what is below those."""
    roots = [own, *(pid for pid, one in processes.items() if is_torg(one.argv))]
    return of_torg({pid: one.parent for pid, one in processes.items()}, roots)


class Cores:
    """The cores of a machine without cards: how much of each is used by others, between one look and the next."""

    def __init__(self, units: int, proc: Path = Path("/proc"), clock: Callable[[], float] = time.monotonic) -> None:
        self._units, self._proc, self._clock = units, proc, clock
        self._cores, self._tick_s = os.cpu_count() or 1, 1 / os.sysconf("SC_CLK_TCK")
        self._before: tuple[float, int, dict[int, int], dict[int, int]] | None = None

    def look(self) -> list[Place]:
        """The one place that there is; idle at the first look, as there is nothing yet to compare with."""
        try:
            return [self._look()]
        except (OSError, ValueError, IndexError) as error:
            return [Place("the cores", self._units, problem=str(error))]

    def _look(self) -> Place:
        words = (self._proc / "stat").read_text().split("\n", 1)[0].split()
        all_ticks = sum(int(words[place]) for place in (1, 2, 3, 6, 7))  # user, nice, system, interrupts
        processes = read_processes(self._proc)
        ours = torgs(processes, os.getpid())
        own = {pid: one.ticks + one.past_ticks for pid, one in processes.items() if pid in ours}
        theirs = {pid: one.ticks for pid, one in processes.items() if pid not in ours}
        now, before = self._clock(), self._before
        self._before = (now, all_ticks, own, theirs)
        if before is None or now <= before[0]:
            return Place("the cores", self._units, load=0.0)
        # Who waits for a child that ended has all of its time at once: that makes others' time less, never more.
        own_grown = sum(max(0, ticks - before[2].get(pid, 0)) for pid, ticks in own.items())
        foreign = all_ticks - before[1] - own_grown
        load = max(0.0, foreign * self._tick_s / (now - before[0]) / self._cores)
        grown = {pid: ticks - before[3].get(pid, 0) for pid, ticks in theirs.items()}
        busiest = sorted(theirs, key=lambda pid: (-grown[pid], pid))
        return Place("the cores", self._units, tuple(User(pid, processes[pid].name) for pid in busiest), load)


def card_name(device: Device) -> str:
    """As people call it: by its number on this machine."""
    return f"GPU {device.minor}"


class CardsInUse:
    """The offered cards: which processes of others NVML lists on each. Raises nothing: what fails is a problem."""

    def __init__(self, cards: Sequence[Device], ignore: Collection[str] = (), proc: Path = Path("/proc")) -> None:
        self._cards, self._ignored, self._proc = list(cards), DESKTOP | set(ignore), proc
        self._nvml: Any = None

    def look(self) -> list[Place]:
        """A place for each card."""
        processes = read_processes(self._proc)
        ours = torgs(processes, os.getpid())
        return [self._look_at(card, processes, ours) for card in self._cards]

    def _look_at(self, card: Device, processes: Mapping[int, Process], ours: Collection[int]) -> Place:
        import pynvml

        name = card_name(card)
        try:
            if self._nvml is None:
                pynvml.nvmlInit()
                self._nvml = pynvml
            handle = pynvml.nvmlDeviceGetHandleByUUID(card.uuid)
            there = [
                *pynvml.nvmlDeviceGetComputeRunningProcesses(handle),
                *pynvml.nvmlDeviceGetGraphicsRunningProcesses(handle),
            ]
        except pynvml.NVMLError as error:
            return Place(name, 1, problem=str(error))
        pids = sorted({int(one.pid) for one in there} - set(ours))
        users = [User(pid, processes[pid].name if pid in processes else "?") for pid in pids]
        return Place(name, 1, tuple(user for user in users if user.name not in self._ignored))
