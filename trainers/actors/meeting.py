"""A worker's end of its run's mesh: the round in progress there, and how it is merged with the others'.

One thread trains and tells (`begin`, `trained`, `failed`); another one merges. What they share is changed under a
condition, on which calls that came too early wait.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trainers.codecs import BadPayload, Vector
from trainers.exchanging import LeftBehind, Way, merge
from trainers.member import Member, MemberError, Merged, RoundOrder
from trainers.mesh.mesh import Mesh
from trainers.mesh.views import MeshClosed, MeshTimeout, Peer, View, WireCount

Json = dict[str, Any]

COMPLAIN_AFTER_S = 2.0
LEAST_MOVED_BYTES = 1600
"""What counts as progress in that time: 6.5 kbit/s, as the run asks of a whole exchange."""


@dataclass(slots=True)
class Round:
    """The round in progress. `ready`: its contribution can be exchanged; `over`: merged, left behind or failed."""

    order: RoundOrder
    start: int  # which of the run's starts of a round this is: numbers of rounds are used again after a void one
    way: Way | None = None
    info: Json | None = None
    local: Vector | None = None
    merged: Merged | None = None
    sent: str = ""
    failure: str = ""
    spoiled: str = ""  # why this worker's contribution cannot be sent
    exchanging: bool = False
    left: bool = False
    answer: Json | None = None


class Meeting:
    """See the module. `host`: the address at which other workers reach this one."""

    def __init__(self, member: Member, host: str) -> None:
        self._member = member
        self._host = host
        self._changed = threading.Condition()
        self._mesh: Mesh | None = None
        self._unreachable: frozenset[int] = frozenset()
        self._newest_merge = (0, 0)
        self._counted = WireCount(0, 0, 0)
        self.run = ""
        self.round: Round | None = None

    def open(self, secret: bytes) -> Mesh:
        """Listen for the run of that secret; whatever was of a run before is over."""
        self.close()
        with self._changed:
            member = self._member
            self.run = hashlib.sha256(secret).hexdigest()[:16]
            self._mesh = mesh = Mesh(secret=secret, slot=member.slot, epoch=member.epoch, host=self._host)
            self.round, self._newest_merge = None, (0, 0)
            self._unreachable, self._counted = frozenset(), WireCount(0, 0, 0)
            self._changed.notify_all()
        return mesh

    def close(self) -> None:
        """Leave the mesh; what waits there gives up."""
        if self._mesh is not None:
            self._mesh.close()

    @property
    def mesh(self) -> Mesh:
        """The open one."""
        assert self._mesh is not None, "connect before anything else"
        return self._mesh

    @property
    def is_open(self) -> bool:
        """Whether there was a run yet."""
        return self._mesh is not None

    @property
    def unreachable(self) -> list[int]:
        """Whom the exchange in progress has waited for in vain."""
        return sorted(self._unreachable)

    @property
    def moved_bytes(self) -> int:
        """Bytes on this worker's end of the mesh so far, both ways."""
        wire = self._mesh.wire() if self._mesh is not None else WireCount(0, 0, 0)
        return wire.sent_bytes + wire.received_bytes

    def begin(self, order: RoundOrder, start: int, members: Sequence[Sequence[Any]]) -> Round:
        """A round begins here, with these members' [slot, epoch, address]."""
        with self._changed:
            self.round = now = Round(order, start)
            self._changed.notify_all()
        self.mesh.set_view(View(start, 0, peers_of(members)))
        return now

    def trained(self, now: Round, info: Json, local: Vector, way: Way | None) -> None:
        """This worker's share is done: it is exchanged `way`, or (None) has been merged step by step."""
        with self._changed:
            now.info, now.local, now.way = info, local, way
            if way is None:
                now.merged = self._member.tentative
            self._changed.notify_all()

    def failed(self, now: Round) -> None:
        """Nothing will come of this worker's share."""
        with self._changed:
            now.failure = "training failed"
            self._changed.notify_all()

    def is_done(self, order: Json) -> bool:
        """Whether this worker's share of that order is trained already."""
        now = self.round
        return now is not None and [self.run, now.start] == order["start"] and now.info is not None

    @property
    def at_rest(self) -> bool:
        """Whether the round in progress is over here: merged, gone on with without this worker, or failed."""
        now = self.round
        return now is None or self._is_over(now)

    @property
    def merged(self) -> Json | None:
        """The answer to `merge` of the round in progress, once there is one, asked for or not."""
        now, mesh = self.round, self._mesh
        if now is None or mesh is None or now.info is None or now.merged is None or now.left:
            return None
        return self._answer(now, mesh)

    def merge(self, order: Json) -> Json:
        """Exchange the round's contributions and merge them, or wait for that; {round, digest, accepted, …}.

        `order`: {round, start, attempt, members, timeout_s}. Attempt 0 does the exchange; a later one only tells it who is
        left. {"left": True} when the run goes on without this worker, or the round came to nothing here.
        """
        until = time.monotonic() + order["timeout_s"]
        with self._changed:
            run, number = order["start"]
            self._changed.wait_for(lambda: self._began(run, number), max(0.0, until - time.monotonic()))
            now, mesh, asked = self.round, self._mesh, (number, int(order["attempt"]))
            if run != self.run:  # a call of a dead run
                return {"ok": True, "left": True}
            assert mesh is not None, "connect before merge"
            if now is None or now.start != number or asked < self._newest_merge:
                return {"ok": True, "left": True}
            self._newest_merge = asked
            self._changed.notify_all()
        if order["attempt"] > 0:
            mesh.set_view(View(number, order["attempt"], peers_of(order["members"])))
        with self._changed:
            self._changed.wait_for(
                lambda: self._can_merge(now) or asked < self._newest_merge, max(0.0, until - time.monotonic())
            )
            if asked < self._newest_merge:  # nobody waits for this answer any more
                return {"ok": True, "left": True}
            mine = not now.exchanging and now.way is not None and not now.failure
            now.exchanging = now.exchanging or mine
        if mine:
            self._exchange(now, mesh, until)
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_over(now) or asked < self._newest_merge, max(0.0, until - time.monotonic())
            )
        return self._answer(now, mesh)

    def _exchange(self, now: Round, mesh: Mesh, until: float) -> None:
        assert now.way is not None
        try:
            merged = self.merge_patiently(mesh, now.way, until)
            now.sent = self._member.sent_digest()
            with self._changed:
                now.merged = merged
        except LeftBehind:
            now.left = True
        except BadPayload as error:  # its own contribution has no encoding
            now.spoiled, now.local = str(error), None
            now.failure = now.spoiled
        except (MemberError, MeshTimeout, MeshClosed) as error:
            now.failure = str(error) or type(error).__name__
        finally:
            with self._changed:
                self._changed.notify_all()

    def merge_patiently(self, mesh: Mesh, way: Way, until: float) -> Merged:
        """Merge; whoever keeps us waiting while hardly a byte moves is named in `unreachable`, and the run decides."""
        while True:
            left_s, moved = until - time.monotonic(), self.moved_bytes
            try:
                merged = merge(self._member, mesh, way, min(COMPLAIN_AFTER_S, max(0.0, left_s)))
                self._unreachable = frozenset()
                return merged
            except MeshTimeout as late:
                moves = self.moved_bytes - moved >= LEAST_MOVED_BYTES
                self._unreachable = frozenset() if moves else late.missing
                if left_s <= COMPLAIN_AFTER_S:
                    raise
            except BaseException:
                self._unreachable = frozenset()  # a complaint of a round that is over must not count in the next
                raise

    def _answer(self, now: Round, mesh: Mesh) -> Json:
        if now.merged is None or now.left:
            return {"ok": True, "left": True, "why": now.failure, "spoiled": now.spoiled}
        if now.answer is None:
            now.answer = self._told(now, now.merged, mesh)
        return now.answer

    def _told(self, now: Round, merged: Merged, mesh: Mesh) -> Json:
        """What moved since the last answer belongs to this one: what leaves after it, to the next."""
        wire = mesh.wire()
        with self._changed:
            if mesh is self._mesh:
                before, self._counted = self._counted, wire
            else:  # of a run that is over: nobody counts by it, and the next one's bytes begin at none
                before = wire
        return {
            "ok": True, "round": now.order.round, "info": now.info,
            "digest": merged.digest, "accepted": list(merged.accepted),
            "refused": {str(slot): why for slot, why in merged.refused.items()}, "contribution": now.sent,
            "sent_bytes": wire.sent_bytes - before.sent_bytes, "received_bytes": wire.received_bytes - before.received_bytes,
            "stall_ms": wire.waited_ms - before.waited_ms,
        }  # fmt: skip

    def _began(self, run: str, number: int) -> bool:
        return run != self.run or (self.round is not None and self.round.start >= number)

    def _can_merge(self, now: Round) -> bool:
        return now.way is not None or self._is_over(now)

    def _is_over(self, now: Round) -> bool:
        return now.merged is not None or now.left or bool(now.failure) or self.round is not now


def peers_of(members: Sequence[Sequence[Any]]) -> tuple[Peer, ...]:
    """Members as the mesh knows them."""
    return tuple(Peer(int(slot), int(epoch), str(address)) for slot, epoch, address in members)
