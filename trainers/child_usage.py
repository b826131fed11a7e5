"""What memory a trainer child and its further ranks use, as the kernel tells it. No torch."""

import resource
from pathlib import Path

PAGE_BYTES = resource.getpagesize()


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and its children; 0 when it is gone."""
    return sum(resident for resident, _ in _of_all(pid))


def private_bytes(pid: int) -> int:
    """The same without what is shared with others (files, memory that the parent lent)."""
    return sum(resident - shared for resident, shared in _of_all(pid))


def _of_all(pid: int) -> list[tuple[int, int]]:
    """Customer code starts no processes, so a child's children are its ranks."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):  # gone, or a kernel that does not list them
        children = []
    return [_of_one(each) for each in (pid, *map(int, children))]


def _of_one(pid: int) -> tuple[int, int]:
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0
    return int(fields[1]) * PAGE_BYTES, int(fields[2]) * PAGE_BYTES
