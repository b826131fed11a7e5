"""Sessions inside running commands: who is paired with whom, and what waits between them. Pure: the time is an argument.

A session has two ends, the customer's and the machine's. Each takes its end once (`take`), pushes whole frames for the other
and pulls what the other pushed. Between them wait at most QUEUE_BYTES in each direction; what has no room is not taken, and
is pushed again. A push says where in its end's stream it begins, so it may be repeated. Nothing of it is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from market.outcomes import Refusal
from trainers.sessions.frames import EXIT, FROM_CUSTOMER, FROM_MACHINE, HEAD, BadFrame, frame, whole_frames

Json = dict[str, Any]
End = Literal["customer", "machine"]

QUEUE_BYTES: Final = 256 << 10
MOST_OF_A_JOB: Final = 8
MOST: Final = 256
TAKE_WITHIN_S: Final = 15.0
_SENDS: Final = {"customer": FROM_CUSTOMER, "machine": FROM_MACHINE}


@dataclass(slots=True)
class Waiting:
    """Frames on their way to one end. `offset`: bytes taken so far, of those that have gone, too."""

    frames: deque[bytes] = field(default_factory=deque)
    size: int = 0
    offset: int = 0


@dataclass(slots=True)
class Session:
    """One of them. `over`: (reason, detail) once no end may send any more; `exited`: the machine has said how it ended."""

    id: str
    job: str
    customer: str
    lease: str
    epoch: int
    order: Mapping[str, Any]
    opened_s: float
    taken: set[End] = field(default_factory=set)
    left: set[End] = field(default_factory=set)
    over: tuple[str, str] | None = None
    exited: bool = False
    waits_for: dict[End, Waiting] = field(default_factory=lambda: {"customer": Waiting(), "machine": Waiting()})


class Sessions:
    """All that are open."""

    def __init__(self) -> None:
        self._all: dict[str, Session] = {}
        self._opened: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._all)

    def open(
        self, id: str, *, job: str, customer: str, lease: str, epoch: int, order: Mapping[str, Any], now_s: float
    ) -> Session | Refusal:
        """A new one, which waits for its two ends."""
        assert id not in self._all, id
        self.expire(now_s)
        remedy = "end one of them, or wait until one has ended"
        if sum(one.job == job for one in self._all.values()) >= MOST_OF_A_JOB:
            return Refusal("too_many_sessions", f"{job} has {MOST_OF_A_JOB} open sessions", "job", remedy, 429)
        if len(self._all) >= MOST:
            return Refusal("too_many_sessions", f"the market has {MOST} open sessions", None, "try again later", 429)
        made = Session(id, job, customer, lease, epoch, dict(order), now_s)
        self._all[id] = made
        self._opened[lease] = self._opened.get(lease, 0) + 1
        return made

    def get(self, id: str) -> Session | None:
        return self._all.get(id)

    def of_lease(self, lease: str, epoch: int) -> Json:
        """{version, sessions: [{id, order}]}: those that the lease's machine has not taken; version changes with each."""
        found = [one for one in self._all.values() if (one.lease, one.epoch) == (lease, epoch)]
        new = [{"id": one.id, "order": dict(one.order)} for one in found if "machine" not in one.taken and not one.over]
        return {"version": self._opened.get(lease, 0), "sessions": new}

    def all(self) -> list[Session]:
        return list(self._all.values())

    def take(self, session: Session, end: End) -> Refusal | None:
        """Begin to read at this end; once, because what was pulled is gone."""
        if end in session.taken:
            return Refusal("session_taken", f"{session.id} is read by somebody already", "session", status=409)
        session.taken.add(end)
        return None

    def leave(self, session: Session, end: End) -> None:
        """This end reads no more, which ends the session."""
        session.left.add(end)
        if end == "customer":
            self.end(session, "customer_gone", "the customer's connection ended")
        elif not session.exited:
            self.end(session, "machine_lost", "the machine's connection ended")
        if "customer" in session.left and session.left == session.taken:  # a customer may come after it is all over
            self._all.pop(session.id, None)

    def end(self, session: Session, reason: str, detail: str) -> None:
        """Nothing more is taken from either end; what waits may still be read."""
        if session.over is None:
            session.over = reason, detail

    def push(self, session: Session, end: End, offset: int, data: bytes) -> int | Refusal:
        """Whole frames from this end for the other one, `offset` bytes after its first: where to go on. What was taken before
        is passed over; what has no room is left to be pushed again.
        """
        other: End = "machine" if end == "customer" else "customer"
        queue = session.waits_for[other]
        try:
            found = whole_frames(data, _SENDS[end])
        except BadFrame as error:
            return Refusal("bad_frames", f"the body is not frames: {error}", "body", "see docs/FORMATS.md", 422)
        if offset > queue.offset:
            message = f"the stream goes on at byte {queue.offset}, not at {offset}"
            return Refusal("frames_missing", message, "offset", status=409)
        for kind, payload in found:
            size = HEAD.size + len(payload)
            if offset < queue.offset:
                offset += size
                if offset > queue.offset:
                    return Refusal("bad_frames", "offset is inside a frame", "offset", "see docs/FORMATS.md", 422)
                continue
            if session.over is not None or session.exited:
                message = session.over[1] if session.over is not None else "the machine has said how it ended"
                return Refusal("session_over", message, "session", status=409)
            if queue.size and queue.size + size > QUEUE_BYTES:
                break
            queue.frames.append(frame(kind, payload))
            queue.size += size
            queue.offset = offset = offset + size
            session.exited = session.exited or kind == EXIT
        return queue.offset

    def pull(self, session: Session, end: End) -> bytes:
        """All that waits for this end."""
        queue = session.waits_for[end]
        data = b"".join(queue.frames)
        queue.frames.clear()
        queue.size = 0
        return data

    def finished(self, session: Session, end: End) -> bool:
        """Whether nothing more can come for this end."""
        ended = session.over is not None or (end == "customer" and session.exited)
        return ended and not session.waits_for[end].frames

    def expire(self, now_s: float) -> list[Session]:
        """End those whose ends were not both taken in time; they are answered."""
        found = []
        for one in self.all():
            missing = {"customer", "machine"} - one.taken
            if missing and now_s - one.opened_s >= TAKE_WITHIN_S:
                if one.over is None:
                    found.append(one)
                self.end(one, "no_answer", "the machine did not answer; its provider may run an older torg")
                if "customer" in missing:
                    self._all.pop(one.id, None)
        return found

    def forget_lease(self, lease: str) -> None:
        """It is over; its machine asks no more."""
        self._opened.pop(lease, None)
