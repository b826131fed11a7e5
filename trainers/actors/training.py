"""One job on one worker: its trainer child, its member of the outer state and its end of the mesh, round after round.

`train` does a share of a round and contributes; `merge` exchanges with the others, in another thread; the next `train`,
or whatever else builds on the merged state, adopts it. So nobody waits for the run between a round and the next.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainers.actors.ahead import Ahead
from trainers.actors.donors import JOIN_TIMEOUT_S, NoDonor, fetch, offer
from trainers.actors.staging import INNER_TIMEOUT_S, Staging
from trainers.child_process import InnerStateRefused, Loaded, TrainerChild
from trainers.codecs import BadPayload, Vector
from trainers.codecs.kernels import warm_up, worth_loading
from trainers.exchanging import LeftBehind, Way, merge, way_of
from trainers.member import Member, MemberError, Merged, RoundOrder, staged
from trainers.mesh.mesh import Mesh
from trainers.mesh.views import MeshClosed, MeshTimeout, Peer, View, WireCount

log = logging.getLogger(__name__)

Json = dict[str, Any]

COMPLAIN_AFTER_S = 2.0


class Stale(Exception):
    """This worker does not hold the state that it is asked to build on."""


@dataclass(slots=True)
class _Round:
    """The round in progress. `ready`: its contribution can be exchanged; `over`: merged, left behind or failed."""

    order: RoundOrder
    start: int  # which of the run's starts of a round this is: numbers of rounds are used again after a void one
    way: Way | None = None
    info: Json | None = None
    local: Vector | None = None
    merged: Merged | None = None
    sent: str = ""
    failure: str = ""
    exchanging: bool = False
    left: bool = False
    answer: Json | None = None


class Training:
    """See the module. Calls that build on the state take turns under `turn`; `merge` and `unreachable` do not wait for it."""

    def __init__(
        self, spec: Mapping[str, Any], loaded: Loaded, child: TrainerChild, *, slot: int, epoch: int, host: str
    ) -> None:
        self._spec = dict(spec)
        self._child = child
        self._host = host
        self.member = Member(spec, loaded.tensors, loaded.initial, slot=slot, epoch=epoch)
        self._loading: threading.Thread | None = None
        self._changed = threading.Condition()
        self._mesh: Mesh | None = None
        self._round: _Round | None = None
        self._inner_at_load: bytes | None = None
        self._local = False  # the child's own parameters are where this worker's training stands
        self._ahead = Ahead(child)
        self._mix_at: RoundOrder | None = None
        self._unreachable: frozenset[int] = frozenset()
        self._undo: tuple[Member, bytes] | None = None  # what a round of steps began with, until its end is adopted
        self._inner_offered = b""
        self._newest_merge = (0, 0)
        self._run = ""
        self.staging = Staging(child, buffers=loaded.buffers)
        self._counted = WireCount(0, 0, 0)

    # the mesh

    def connect(self, secret: bytes) -> str:
        """Open this worker's end of the run's mesh; its address. A new secret (a new run) closes the old one.

        What is adopted here is offered on it: the new run's joiners may need it. Raises ChildFailed.
        """
        self.close()
        with self._changed:
            member = self.member
            self._run = hashlib.sha256(secret).hexdigest()[:16]
            self._mesh = mesh = Mesh(secret=secret, slot=member.slot, epoch=member.epoch, host=self._host)
            self._round, self._newest_merge = None, (0, 0)
            self._unreachable, self._counted = frozenset(), WireCount(0, 0, 0)
            self._changed.notify_all()
        if member.round > 0 and self._undo is None:
            self._offer(mesh)
        return mesh.address

    def close(self) -> None:
        """Leave the mesh; what waits there gives up."""
        if self._mesh is not None:
            self._mesh.close()

    @property
    def unreachable(self) -> list[int]:
        """Whom the exchange in progress has waited for in vain."""
        return sorted(self._unreachable)

    @property
    def moved_bytes(self) -> int:
        """Bytes on this worker's end of the mesh so far, both ways."""
        wire = self._mesh.wire() if self._mesh is not None else WireCount(0, 0, 0)
        return wire.sent_bytes + wire.received_bytes

    # a round

    def train(self, order: Json) -> Json:
        """This worker's share of a round; what is worth saying of it. See `Worker.train` for the order.

        Raises Stale, NoDonor, ChildFailed, BadPayload.
        """
        now = self._round
        if self.done(order):
            assert now is not None
            assert now.info is not None
            return now.info
        if order["start"][0] != self._run:
            raise Stale("the run that asks is not the one that connected last")
        self._ahead.finish()
        if self._loading is None and worth_loading():
            self._loading = threading.Thread(target=warm_up, name="compile", daemon=True)
            self._loading.start()
        took_over = self._take_place(order)
        member, mesh = self.member, self._mesh
        assert mesh is not None, "connect before train"
        if took_over:
            self._local, self._mix_at = False, None
        if dict(order["strategy"]) != member.spec["strategy"]:
            member.switch(order["strategy"])
            self._local, self._mix_at = False, None
            self._offer(mesh, switched=True)
        here = RoundOrder(
            order["round"], order["step_before"], order["step_after"], order["position_after"], tuple(order["slots"])
        )
        with self._changed:
            self._round = now = _Round(here, order["start"][1])
            self._changed.notify_all()
        mesh.set_view(View(now.start, 0, _peers(order["members"])))
        self._undo = (staged(member), self._inner_offered) if member.strategy.cadence == "step" else None
        try:
            return self._train(now, order)
        except BaseException as error:
            with self._changed:
                now.failure = "training failed"
                self._changed.notify_all()
            if isinstance(error, LeftBehind | MeshTimeout | MeshClosed | MemberError):
                raise Stale(f"round {here.round} ended here: {error}") from None
            raise

    def merge(self, order: Json) -> Json:
        """Exchange the round's contributions and merge them, or wait for that; {round, digest, accepted, …}.

        `order`: {round, start, attempt, members, timeout_s}. Attempt 0 does the exchange; a later one only tells it who is
        left. {"left": True} when the run goes on without this worker, or the round came to nothing here.
        """
        until = time.monotonic() + order["timeout_s"]
        with self._changed:
            run, number = order["start"]
            self._changed.wait_for(lambda: self._began(run, number), max(0.0, until - time.monotonic()))
            now, mesh, asked = self._round, self._mesh, (number, int(order["attempt"]))
            if run != self._run:  # a call of a dead run
                return {"ok": True, "left": True}
            assert mesh is not None, "connect before merge"
            if now is None or now.start != number or asked < self._newest_merge:
                return {"ok": True, "left": True}
            self._newest_merge = asked
            self._changed.notify_all()
        if order["attempt"] > 0:
            mesh.set_view(View(number, order["attempt"], _peers(order["members"])))
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
        return self._merge_answer(now, mesh)

    def settle(self, base: Mapping[str, Any]) -> None:
        """Adopt the merged state when `base` ({round, digest or None}) is that one. Raises Stale when neither is here."""
        member = self.member
        if member.round == base["round"] and base["digest"] in (None, member.digest()):
            return
        now, digest = member.tentative, base["digest"]
        if now is None or now.order.round != base["round"] or digest not in (None, now.digest):
            raise Stale(f"this worker stands at round {member.round}, not at {base['round']}")
        member.commit(digest)
        self._undo = None
        if self._mesh is not None:
            self._offer(self._mesh)

    # where it stands

    def done(self, order: Json) -> bool:
        """Whether this worker's share of that order is trained already."""
        now = self._round
        return now is not None and [self._run, now.start] == order["start"] and now.info is not None

    @property
    def info(self) -> Json | None:
        """What was said of this worker's share of the round in progress."""
        return self._round.info if self._round is not None else None

    @property
    def merged(self) -> Json | None:
        """The answer to `merge` of the round in progress, once there is one, asked for or not."""
        now, mesh = self._round, self._mesh
        if now is None or mesh is None or now.info is None or now.merged is None or now.left:
            return None
        return self._merge_answer(now, mesh)

    def standing(self) -> Json:
        """{round, step, position, digest} of the newest state here, merged and not adopted yet included."""
        member = self.member
        if member.tentative is not None:
            order = member.tentative.order
            return {"round": order.round, "step": order.step_after, "position": order.position_after,
                    "digest": member.tentative.digest}  # fmt: skip
        if self._undo is not None:
            member = self._undo[0]
        return {"round": member.round, "step": member.step, "position": member.position, "digest": member.digest()}

    def restore(self, state: bytes, inner: bytes | None) -> None:
        """Take over a checkpoint's state, and the inner optimiser's. Raises MemberError, ChildFailed."""
        self._ahead.finish()
        self.member.take_over(state)
        self._local, self._mix_at, self._undo = False, None, None
        if inner or self.member.strategy.applies == "gradient":
            self._child.import_inner(inner or self._fresh_inner())

    def recall(self, round: int, digest: str) -> bool:
        """Go back to a state that was set aside here, out of this worker's own RAM; False when it is not there."""
        state = self.staging.recall(round, digest)
        if state is not None:
            self.restore(state, None)
        return state is not None

    def snapshot(self, wanted: str, *, inner: bool) -> Json:
        """Set the adopted state aside; see `Staging.snapshot`."""
        if inner or self.staging.has_buffers:
            self._ahead.finish()
        return self.staging.snapshot(self.member, wanted, inner=inner)

    def settled_loss(self, base: Mapping[str, Any], timeout_s: float) -> float:
        """Held-out loss of the parameters after round `base`. Raises Stale, ChildFailed."""
        self._ahead.finish()
        self.settle(base)
        return self._child.evaluate(self.member.parameters, timeout_s)

    # inside

    def _take_place(self, order: Json) -> bool:
        """Stand where the round begins: as an heir of living donors, when the order names any; True then."""
        member, mesh = self.member, self._mesh
        assert mesh is not None
        before = self._round
        merged = member.tentative
        if order["fresh"] and (merged is None or merged.order.round != order["base"]["round"]):
            member.abandon()
        if order["base"]["round"] == member.round:
            self._go_back()
        if order["donors"] is None:
            self.settle(order["base"])
            return False
        # It may have merged by itself what the others had sent before they went on without it.
        late = before is not None and (
            before.order.round < order["base"]["round"] or member.slot not in order["accepted"]
        )
        mine = late and not order["fresh"] and before is not None and before.order.round == member.round + 1
        if mine and before is not None and before.local is not None:
            member.defer(before.local, before.order)  # the others went on without it
        if order["donors"]:
            donors = [peer for peer in _peers(order["members"]) if peer.slot in order["donors"]]
            state, inner = fetch(mesh, order["base"]["round"], donors, switched=order["switched"])
            try:
                member.take_over(state, order["base"]["round"], order["base"]["digest"])
                self._undo = None
            except MemberError as error:
                raise NoDonor(str(error)) from None
            if inner:
                self._child.import_inner(inner)
            self._offer(mesh)
        return True

    def _go_back(self) -> None:
        """Undo the steps of a round that nobody builds on."""
        if self._undo is None:
            return
        (before, inner), self._undo = self._undo, None
        self.member.go_back(before)
        self._local, self._mix_at = False, None
        if before.strategy.applies == "gradient":
            self._child.import_inner(inner or self._fresh_inner())

    def _fresh_inner(self) -> bytes:
        """The inner optimiser's state before its first step, for members that all go back to a checkpoint without one."""
        if self._inner_at_load is None:
            try:
                self._inner_at_load = self._child.export_inner(INNER_TIMEOUT_S)
            except InnerStateRefused as refused:  # matters only to a job that needs it, which then fails by this
                log.info("the inner optimiser cannot be handed over: %s", refused)
                self._inner_at_load = b""
        return self._inner_at_load

    def _offer(self, mesh: Mesh, *, switched: bool = False) -> None:
        """Let newcomers have the state that is here now; with the inner optimiser's where all members' are equal."""
        kept = staged(self.member)
        inner = self._child.export_inner(INNER_TIMEOUT_S) if kept.strategy.applies == "gradient" else b""
        self._inner_offered = inner
        offer(mesh, kept.round, kept.export, inner, switched=switched)

    def _train(self, now: _Round, order: Json) -> Json:
        member, strategy = self.member, self.member.strategy
        share: Json = {
            "round": order["round"], "first_step": order["first_step"], "steps": order["steps"],
            "position": order["position"], "worker": member.slot, "evaluate": False, "timeout_s": order["timeout_s"],
        }  # fmt: skip
        self._fresh_inner()
        start = self._start_parameters()
        if strategy.cadence == "step":
            trained = self._child.train(
                start, **share, synchronise=lambda *step: self._synchronise(now, *step), applies=strategy.applies
            )
        else:
            trained = self._child.train(start, **share)
        self._local = True
        tokens = trained.tokens + self._ahead.take_tokens()
        norm = 0.0
        if strategy.cadence == "step":
            merged = member.finish(trained.parameters, now.order)
            now.sent = merged.digest
        else:
            norm = member.contribute(trained.parameters, now.order, weight=float(max(1, tokens)))
        info = {
            "ok": True, "round": order["round"], "loss": trained.loss, "steps": order["steps"], "tokens": tokens,
            "trained_ms": trained.trained_ms, "norm": norm,
            "contribution": hashlib.sha256(trained.parameters.data).hexdigest(),
        }  # fmt: skip
        with self._changed:
            now.info, now.local = info, trained.parameters
            if strategy.cadence == "step":
                now.merged = member.tentative
            else:
                now.way = self._way(len(now.order.slots))
            self._changed.notify_all()
        self._mix_at = now.order
        if order["ahead"] > 0:
            self._ahead.start(share, int(order["ahead"]))
        return info

    def _start_parameters(self) -> Vector | None:
        """What the child trains on from; None: from its own, after what other members made of them was mixed in."""
        member, strategy = self.member, self.member.strategy
        if not self._local:
            return member.parameters
        if strategy.cadence == "step":
            return None
        if strategy.keep <= 0.0 and strategy.overlap_steps == 0:
            return member.parameters
        if self._mix_at is not None:
            self._child.mix(member.parameters, member.mixed(self._mix_at), strategy.keep)
        return None

    def _way(self, members: int) -> Way:
        size, dense = self.member.sizes
        return way_of(self.member.strategy, self.member.spec["strategy"].get("topology", "auto"), members, size, dense)

    def _synchronise(self, now: _Round, step: int, rate: float, gradient: Vector) -> Vector:
        """One step's exchange, in the middle of the child's step."""
        mesh = self._mesh
        assert mesh is not None
        self.member.contribute(gradient, now.order, step=step, rate=rate)
        way = self._way(len(now.order.slots))
        self._merge_patiently(mesh, way, time.monotonic() + JOIN_TIMEOUT_S * 10)
        return self.member.step_result()

    def _exchange(self, now: _Round, mesh: Mesh, until: float) -> None:
        assert now.way is not None
        try:
            merged = self._merge_patiently(mesh, now.way, until)
            now.sent = self.member.sent_digest()
            with self._changed:
                now.merged = merged
        except LeftBehind:
            now.left = True
        except (MemberError, BadPayload, MeshTimeout, MeshClosed) as error:
            now.failure = str(error) or type(error).__name__
        finally:
            with self._changed:
                self._changed.notify_all()

    def _merge_patiently(self, mesh: Mesh, way: Way, until: float) -> Merged:
        """Merge; whoever keeps us waiting while no byte moves is named in `unreachable`, and the run decides."""
        while True:
            left_s, moved = until - time.monotonic(), self.moved_bytes
            try:
                merged = merge(self.member, mesh, way, min(COMPLAIN_AFTER_S, max(0.0, left_s)))
                self._unreachable = frozenset()
                return merged
            except MeshTimeout as late:
                self._unreachable = late.missing if self.moved_bytes == moved else frozenset()
                if left_s <= COMPLAIN_AFTER_S:
                    raise
            except BaseException:
                self._unreachable = frozenset()  # a complaint of a round that is over must not count in the next
                raise

    def _merge_answer(self, now: _Round, mesh: Mesh) -> Json:
        if now.merged is None or now.left:
            return {"ok": True, "left": True, "why": now.failure}
        if now.answer is None:
            now.answer = self._told(now, now.merged, mesh.wire())
        return now.answer

    def _told(self, now: _Round, merged: Merged, wire: WireCount) -> Json:
        """What moved since the last answer belongs to this one: what leaves after it, to the next."""
        before, self._counted = self._counted, wire
        return {
            "ok": True, "round": now.order.round, "info": now.info,
            "digest": merged.digest, "accepted": list(merged.accepted),
            "refused": {str(slot): why for slot, why in merged.refused.items()}, "contribution": now.sent,
            "sent_bytes": wire.sent_bytes - before.sent_bytes, "received_bytes": wire.received_bytes - before.received_bytes,
            "stall_ms": wire.waited_ms - before.waited_ms,
        }  # fmt: skip

    def _began(self, run: str, number: int) -> bool:
        return run != self._run or (self._round is not None and self._round.start >= number)

    def _can_merge(self, now: _Round) -> bool:
        return now.way is not None or self._is_over(now)

    def _is_over(self, now: _Round) -> bool:
        return now.merged is not None or now.left or bool(now.failure) or self._round is not now


def _peers(members: Sequence[Sequence[Any]]) -> tuple[Peer, ...]:
    return tuple(Peer(int(slot), int(epoch), str(address)) for slot, epoch, address in members)
