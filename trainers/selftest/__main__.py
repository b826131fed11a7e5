"""`python -m trainers.selftest --torg VERSION --parent-pid N`: one run in the sandbox, politely; prints its report as JSON.

One at a time on a machine: an attempt to fill a disk is ended by being seen, and two at once are not seen in time.
"""

import argparse
import contextlib
import fcntl
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from trainers import sandbox
from trainers.selftest.battery import NotMade, run
from trainers.selftest.report import machine, report

NICE = 15
WAIT_S = 120.0
LOOK_S = 0.2


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--torg", required=True)
    parser.add_argument("--parent-pid", type=int, required=True)
    given = parser.parse_args()
    sandbox.die_with_parent(given.parent_pid)
    os.nice(NICE)
    with alone(Path(tempfile.gettempdir()) / f"torg-selftest-{os.getuid()}.lock", WAIT_S):
        try:
            made = run("sandbox")
        except NotMade as failed:
            sys.exit(str(failed))
        print(json.dumps(report(made, machine(given.torg), int(time.time() * 1000))))  # noqa: T201  its answer


@contextlib.contextmanager
def alone(file: Path, wait_s: float) -> Iterator[bool]:
    """Whether nobody else holds the file now; after so long it goes on all the same, as whoever holds it may hang."""
    with contextlib.ExitStack() as held:
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError:  # somebody else's, in a folder that all may write
            yield False
            return
        held.callback(os.close, descriptor)
        until = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    yield False
                    return
                time.sleep(LOOK_S)
            else:
                yield True
                return


if __name__ == "__main__":
    main()
