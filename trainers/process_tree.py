"""The processes below one, and what memory they use together, as the kernel tells it. Linux; imports nothing heavy."""

from __future__ import annotations

import os
import resource
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

PAGE_BYTES = resource.getpagesize()


def descendants(pid: int) -> list[int]:
    """Everybody whom `pid`, or somebody below it, has started and who lives; its own children first."""
    children: dict[int, list[int]] = defaultdict(list)
    for name in os.listdir("/proc"):
        if name.isdecimal():
            parent = _living_parent(int(name))
            if parent is not None:
                children[parent].append(int(name))
    found = list(children[pid])
    for one in found:  # grows while it is walked
        found += children[one]
    return found


def memory_bytes(pids: Sequence[int], enough: int) -> int:
    """Memory of these processes together. What they share counts once where the sum is above `enough`, for which the
    kernel is asked more, and else as often as it is shared.
    """
    quick = sum(_resident_bytes(pid) for pid in pids)
    return quick if quick <= enough else sum(_proportional_bytes(pid) for pid in pids)


def _living_parent(pid: int) -> int | None:
    """The parent of a process; None when it is gone, or dead and only not buried yet."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[1])


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    except (OSError, IndexError):
        return 0


def _proportional_bytes(pid: int) -> int:
    """Without files that are only mapped: these cost nothing."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return _resident_bytes(pid)
    parts = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines[1:])}
    return 1024 * (parts["Pss_Anon"] + parts["Pss_Shmem"] if "Pss_Anon" in parts else parts.get("Pss", 0))
