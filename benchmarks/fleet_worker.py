"""One worker of a fleet as a process: a `Worker` that answers calls, as many at a time as Ray would.

Started by `benchmarks.fleet`, which writes {address, key, number, worker} as one JSON line on our stdin. Two connections
go to it: long messages have one of their own, so that a short answer never waits behind a state.
"""

from __future__ import annotations

import json
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

from benchmarks.fleet_messages import LONG, SHORT, Stored, lane
from trainers.actors.worker import Worker

CALLS_AT_A_TIME = 8


class Answers:
    """The worker behind its two connections."""

    def __init__(self, worker: Worker, connections: list[Connection]) -> None:
        self._worker = worker
        self._connections = connections
        self._sending = (threading.Lock(), threading.Lock())
        self._pool = ThreadPoolExecutor(CALLS_AT_A_TIME)

    def serve(self, which: int) -> None:
        """Answer what comes over one connection until it ends."""
        while True:
            try:
                call, method, arguments = self._connections[which].recv()
            except (EOFError, OSError):
                return
            self._pool.submit(self._answer, call, method, arguments)

    def _answer(self, call: int, method: str, arguments: tuple[Any, ...]) -> None:
        try:
            opened = [Path(one.path).read_bytes() if isinstance(one, Stored) else one for one in arguments]
            said = (call, True, getattr(self._worker, method)(*opened))
        except Exception:  # noqa: BLE001 - told to the caller, as Ray does
            said = (call, False, traceback.format_exc())
        which = lane(said[2] if isinstance(said[2], tuple) else (said[2],))
        with self._sending[which]:
            self._connections[which].send(said)


def main() -> None:
    told = json.loads(sys.stdin.readline())
    host, port = told["address"]
    connections = []
    for which in (SHORT, LONG):
        connection = Client((host, port), authkey=bytes.fromhex(told["key"]))
        connection.send((told["number"], which))
        connections.append(connection)
    answers = Answers(Worker(**told["worker"]), connections)
    threading.Thread(target=answers.serve, args=(LONG,), daemon=True).start()
    answers.serve(SHORT)


if __name__ == "__main__":
    main()
