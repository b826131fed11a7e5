"""Stands in for Ray's two agents of a node (dashboard, runtime environments), of which we use neither.

A raylet insists on both processes, waits for the files in which they write their ports (and aborts after 15 s), and ends
when one of them ends. The real ones cost a second of CPU and 85 MB each, on every node. This one writes the files, says
port 9 (discard, where nothing listens) and sleeps; it dies with its raylet.

Run as a plain file by `python -S -E`: SESSION_FOLDER NODE_ID PORT_NAME…
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
DISCARD_PORT = "9"


def main(folder: str, node_id: str, *names: str) -> None:
    """Write the port files as a whole (rename), then wait for the end."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return
    for name in names:
        beside = f"{folder}/.{name}_{node_id}"
        with open(beside, "w", encoding="ascii") as file:
            file.write(DISCARD_PORT)
        os.replace(beside, f"{folder}/{name}_{node_id}")
    while True:
        signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
