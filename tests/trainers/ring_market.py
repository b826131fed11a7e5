"""What is between the machines of `tests.trainers.ring` and its run: calls as Ray makes them, the market of one job."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TYPE_CHECKING, Any

from tests.trainers.ring_machines import CALL_S, Killed, Seat
from trainers.actors.transport import CallFailed, Gone

if TYPE_CHECKING:
    from tests.trainers.ring import Ring

Json = dict[str, Any]


class Closed(Exception):
    """This thread's run is over."""


class Transport:
    """Ray: calls run in threads; a dead worker's end as Gone, those of a frozen one not at all."""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self._waiting: dict[int, list[Future[Any]]] = {}
        self.closed = False
        self.lost_calls: dict[str, int] = {}

    def find(self, name: str) -> Seat | None:
        return next((seat for seat in self._ring.seats.values() if seat.name == name and seat.dead is None), None)

    def has_met(self, node: str) -> bool:
        return True

    def ask(self, seat: Seat, method: str, *arguments: Any) -> Future[Any]:
        call: Future[Any] = Future()
        if seat.dead is not None:
            call.set_result(Gone("worker_killed", seat.dead))
            return call
        self._waiting.setdefault(seat.slot, []).append(call)
        opened = [one.result(CALL_S) if isinstance(one, Future) else one for one in arguments]
        threading.Thread(target=self._run, args=(call, seat, method, opened), daemon=True).start()
        return call

    def answers(self, calls: Mapping[Any, Future[Any]], timeout_s: float) -> dict[Any, Any]:
        if self.closed:
            raise Closed
        wait(calls.values(), timeout_s, FIRST_COMPLETED)
        return {key: call.result() for key, call in calls.items() if call.done()}

    def parcel(self, content: bytes) -> memoryview:
        return memoryview(content)

    def made(self, parcel: Any, timeout_s: float) -> bool:
        return not isinstance(parcel, Future) or bool(wait([parcel], timeout_s).done)

    def open(self, parcel: Any, timeout_s: float) -> Any:
        return parcel.result(timeout_s) if isinstance(parcel, Future) else parcel

    def died(self, seat: Seat) -> None:
        for call in self._waiting.pop(seat.slot, []):
            _answer(call, Gone("worker_killed", "killed"))

    def _run(self, call: Future[Any], seat: Seat, method: str, arguments: list[Any]) -> None:
        if method == "merge":
            arguments = [{**arguments[0], "timeout_s": min(CALL_S, arguments[0]["timeout_s"])}]
        try:
            seat.thawed.wait(CALL_S)
            answer = getattr(seat.worker, method)(*arguments)
            if method == "merge":
                seat.come("answering", arguments[0]["round"])
            seat.thawed.wait(CALL_S)
            if seat.dead is not None:
                return
        except Killed:
            return
        except Exception as error:  # noqa: BLE001 - as Ray answers it
            if seat.dead is not None:
                return
            self._ring.bugs.append((seat.slot, method, error))
            answer = CallFailed(f"{type(error).__name__}: {error}")
        change = self._ring.lies.get((seat.slot, method))
        _answer(call, change(answer) if change is not None and isinstance(answer, dict) else answer)


def _answer(call: Future[Any], answer: Any) -> None:
    with contextlib.suppress(Exception):  # it has one
        call.set_result(answer)


class Door:
    """The market of one job."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.rounds: list[Json] = []
        self.lost: list[Json] = []
        self.logs: list[str] = []
        self.checkpoints: list[Json] = []
        self.changed = threading.Condition()

    def upload(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        self.blobs[digest] = content
        return digest

    def read_blob(self, digest: str) -> bytes:
        return self.blobs[digest]

    def report_round(self, report: Mapping[str, Any]) -> Json:
        with self.changed:
            self.rounds.append(dict(report))
            self.changed.notify_all()
        return {}

    def report_checkpoint(self, report: Mapping[str, Any]) -> Json:
        self.checkpoints.append(dict(report))
        return {}

    def report_readings(self, job: str, *, lost: Any, logs: Any, **_: Any) -> Json:
        self.lost += lost
        self.logs += [one["line"] for one in logs]
        return {}


class Line:
    """A run's way to the market, until its process is gone."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._open = True

    def cut(self) -> None:
        with self._door.changed:
            self._open = False

    def upload(self, content: bytes) -> str:
        return self._door.upload(content)

    def read_blob(self, digest: str) -> bytes:
        return self._door.read_blob(digest)

    def __getattr__(self, name: str) -> Any:
        report = getattr(self._door, name)

        def tell(*arguments: Any, **named: Any) -> Json:
            with self._door.changed:
                told: Json = report(*arguments, **named) if self._open else {}
                return told

        return tell
