"""One `torg provide` of a name at a time: a lock in the provider's folder, which ends with its process."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cli.errors import refused

FILE = "provide.lock"


@contextmanager
def alone(home: Path) -> Iterator[None]:
    """Two hosts of one name would serve one offer, and the first to end would drain it. Raises CliError where one runs."""
    with (home / FILE).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise refused(
                "provides_already", f"{home.name} is offered by another `torg provide` on this machine", field="--name",
                remedy="end that one first, or give another --name",
            ) from None  # fmt: skip
        yield


def is_provided(home: Path) -> bool:
    """Whether a `torg provide` of this folder runs, though its host may only wait for a market."""
    if not (home / FILE).exists():
        return False
    with (home / FILE).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
