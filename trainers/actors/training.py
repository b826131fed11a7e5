"""One job on one worker: its trainer child and its member of the outer state, round after round.

`train` does a share of a round and contributes; `merge` exchanges with the others (`meeting.py`), in another thread; the
next `train`, or whatever else builds on the merged state, adopts it. So nobody waits for the run between a round and the next.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from trainers.actors.ahead import Ahead
from trainers.actors.donors import NoDonor, catch_up, fetch, offer, offer_round
from trainers.actors.meeting import Meeting, Round, peers_of
from trainers.actors.staging import INNER_TIMEOUT_S, Staging
from trainers.child_process import Exported, InnerStateRefused, Loaded, NotFiniteNumbers, TrainerChild
from trainers.codecs import BadPayload, Vector
from trainers.codecs.kernels import warm_up, worth_loading
from trainers.exchanging import LeftBehind, Way, way_of
from trainers.member import Member, MemberError, RoundOrder, staged
from trainers.mesh.mesh import Mesh
from trainers.mesh.views import MeshClosed, MeshTimeout, Peer
from trainers.options import wanted_topology

log = logging.getLogger(__name__)

Json = dict[str, Any]


STEP_PATIENCE_S = 600.0


class NotFinite(Exception):
    """This worker's numbers of the round are not finite, so that it has nothing to contribute; the message says which."""


class Stale(Exception):
    """This worker does not hold the state that it is asked to build on."""


class Training:
    """See the module. Calls that build on the state take turns under `turn`; `merge` and `unreachable` do not wait for it."""

    def __init__(
        self, spec: Mapping[str, Any], loaded: Loaded, child: TrainerChild, *, slot: int, epoch: int, host: str
    ) -> None:
        self._spec = dict(spec)
        self._child = child
        self.member = Member(spec, loaded.tensors, loaded.initial, slot=slot, epoch=epoch)
        self.meeting = Meeting(self.member, host)
        self._loading: threading.Thread | None = None
        self._inner_at_load: bytes | None = None
        self._local = False  # the child's own parameters are where this worker's training stands
        self._uneven = False  # shares were or are unequal
        self._ahead = Ahead(child)
        self._mix_at: RoundOrder | None = None
        # what a round of steps began with, until its end is adopted
        self._undo: tuple[Member, Exported | None] | None = None
        self._inner_offered: Exported | None = None
        self._inner_now: Exported | None = None  # what the child's optimiser holds, since its last step
        self.staging = Staging(child, buffers=loaded.buffers)

    # the mesh

    def connect(self, secret: bytes) -> str:
        """Open this worker's end of the run's mesh; its address. A new secret (a new run) closes the old one.

        What is adopted here is offered on it: the new run's joiners may need it. Raises ChildFailed.
        """
        mesh = self.meeting.open(secret)
        if self.member.round > 0 and self._undo is None:
            self._offer(mesh)
        return mesh.address

    def close(self) -> None:
        """Leave the mesh; what waits there gives up."""
        self.meeting.close()

    @property
    def unreachable(self) -> list[int]:
        """Whom the exchange in progress has waited for in vain."""
        return self.meeting.unreachable

    @property
    def moved_bytes(self) -> int:
        """Bytes on this worker's end of the mesh so far, both ways."""
        return self.meeting.moved_bytes

    @property
    def merged(self) -> Json | None:
        """The answer to `merge` of the round in progress, once there is one, asked for or not."""
        return self.meeting.merged

    # a round

    def train(self, order: Json) -> Json:
        """This worker's share of a round; what is worth saying of it. See `Worker.train` for the order.

        Raises Stale, NoDonor, ChildFailed, NotFinite.
        """
        if self.done(order):
            assert self.info is not None
            return self.info
        if order["start"][0] != self.meeting.run:
            raise Stale("the run that asks is not the one that connected last")
        self._ahead.wait()
        if self._loading is None and worth_loading():
            self._loading = threading.Thread(target=warm_up, name="compile", daemon=True)
            self._loading.start()
        took_over = self._take_place(order)
        member = self.member
        if took_over:
            self._local, self._mix_at = False, None
        if dict(order["strategy"]) != member.spec["strategy"]:
            member.switch(order["strategy"])
            self._local, self._mix_at = False, None
            self.meeting.mesh.forget_rounds()
            self._offer(self.meeting.mesh, switched=True)
        here = RoundOrder(
            order["round"], order["step_before"], order["step_after"], order["position_after"], tuple(order["slots"])
        )
        now = self.meeting.begin(here, order["start"][1], order["members"])
        self._undo = (staged(member), self._inner_offered) if member.strategy.cadence == "step" else None
        try:
            if took_over:
                self._ahead.forget()
            self._ahead.finish()
            return self._train(now, order)
        except BaseException as error:
            self.meeting.failed(now)
            if isinstance(error, NotFiniteNumbers | BadPayload):
                self._begin_anew()
                raise NotFinite(str(error.message if isinstance(error, NotFiniteNumbers) else error)) from None
            if isinstance(error, LeftBehind | MeshTimeout | MeshClosed | MemberError):
                raise Stale(f"round {here.round} ended here: {error}") from None
            raise

    def merge(self, order: Json) -> Json:
        """See `Meeting.merge`."""
        return self.meeting.merge(order)

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
        if self.meeting.is_open:
            self._offer(self.meeting.mesh)
            offer_round(self.meeting.mesh, member)

    # where it stands

    def done(self, order: Json) -> bool:
        """Whether this worker's share of that order is trained already."""
        return self.meeting.is_done(order)

    @property
    def at_rest(self) -> bool:
        """Whether the round in progress is over here: merged, gone on with without this worker, or failed."""
        return self.meeting.at_rest

    @property
    def info(self) -> Json | None:
        """What was said of this worker's share of the round in progress."""
        now = self.meeting.round
        return now.info if now is not None else None

    def standing(self) -> Json:
        """{round, step, position, digest} of the newest state here, merged and not adopted yet included."""
        member = self.member
        tentative = member.tentative  # training goes on meanwhile
        if tentative is not None and tentative.digest:  # without one it is of a step, in the middle of its round
            order = tentative.order
            return {"round": order.round, "step": order.step_after, "position": order.position_after,
                    "digest": tentative.digest}  # fmt: skip
        if self._undo is not None:
            member = self._undo[0]
        return {"round": member.round, "step": member.step, "position": member.position, "digest": member.digest()}

    def restore(self, state: bytes, inner: bytes | None, own: bool) -> None:
        """Take over a checkpoint's state, and the inner optimiser's; with `own` what was its maker's own, too. Raises
        MemberError, ChildFailed.
        """
        self._ahead.forget()
        self.member.take_over(state, own=own)
        self._local, self._mix_at, self._undo = False, None, None
        self._inner_offered = Exported(inner, len(inner)) if inner else None
        if inner or self.member.strategy.applies == "gradient":
            try:
                self._give_inner(inner)
            except InnerStateRefused as refused:  # nobody could check it when it was stored
                log.warning("going on without the inner optimiser's state of the checkpoint: %s", refused)
                self._give_inner(None)
        if self.meeting.is_open:
            self._offer(self.meeting.mesh)

    def prepare(self, base: Mapping[str, Any], members: Sequence[Sequence[Any]]) -> None:
        """Take over what living members hold after round `base`, before any round here. Raises NoDonor."""
        self._take_over(base, peers_of(members), switched=False)
        self._local, self._mix_at = False, None

    def recall(self, round: int, digest: str, inner: str | None) -> bool:
        """`restore` out of this worker's own RAM, with its own vectors of that time when a base of that round is there; False
        when what the others restore is not there. `inner`: the digest of the checkpoint's inner optimiser's state, where it
        has one. Raises MemberError, ChildFailed.
        """
        found = self.staging.recall(round, digest, inner)
        if found is not None:
            self.restore(*found)
        return found is not None

    def snapshot(self, wanted: str, *, inner: bool) -> Json:
        """Set the adopted state aside; see `Staging.snapshot`."""
        if inner or self.staging.has_buffers:
            self._ahead.wait()
        return self.staging.snapshot(self.member, wanted, inner=self._export_inner if inner else None)

    def settled_loss(self, base: Mapping[str, Any], timeout_s: float) -> float | None:
        """Held-out loss of the parameters after round `base`, None when it is not finite. Raises Stale, ChildFailed."""
        self._ahead.wait()
        self.settle(base)
        return self._child.evaluate(self.member.parameters, timeout_s)

    # inside

    def _take_place(self, order: Json) -> bool:
        """Stand where the round begins: as an heir of living donors, when the order names any; True then."""
        member, before = self.member, self.meeting.round
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
            donors = [peer for peer in peers_of(order["members"]) if peer.slot in order["donors"]]
            if not self._catch_up(order, donors):
                self._take_over(order["base"], donors, switched=order["switched"])
        return True

    def _catch_up(self, order: Json, donors: Sequence[Peer]) -> bool:
        """Whether the rounds that were missed here could be made again."""
        member, base, mesh = self.member, order["base"], self.meeting.mesh
        if order["switched"] or not base["digest"] or dict(order["strategy"]) != member.spec["strategy"]:
            return False
        if not catch_up(mesh, member, base["round"], base["digest"], donors):
            return False
        self._offer(mesh)
        return True

    def _take_over(self, base: Mapping[str, Any], donors: Sequence[Peer], *, switched: bool) -> None:
        """Raises NoDonor."""
        mesh = self.meeting.mesh
        state, inner = fetch(mesh, base["round"], donors, switched=switched)
        try:
            self.member.take_over(state, base["round"], base["digest"])
            self._undo = None
        except MemberError as error:
            raise NoDonor(str(error)) from None
        if inner:
            try:
                self._give_inner(inner)
            except InnerStateRefused as refused:
                raise NoDonor(f"the inner optimiser's state of another member is none: {refused}") from None
        self._offer(mesh)

    def _go_back(self) -> None:
        """Undo the steps of a round that nobody builds on."""
        if self._undo is None:
            return
        (before, inner), self._undo = self._undo, None
        self.member.become(before)
        self._local, self._mix_at = False, None
        if before.strategy.applies == "gradient":
            self._give_inner(inner.content() if inner is not None else None)
            self._inner_now = inner
        self._offer(self.meeting.mesh)  # a run that came in the middle of the round has not been offered it

    def _begin_anew(self) -> None:
        """After numbers that were not finite: nothing of the child's own is gone on with, its optimiser's state neither."""
        self._local, self._mix_at = False, None
        if self._fresh_inner():  # else the optimiser's state cannot be put back, and what it does next decides
            self._give_inner(None)

    def _give_inner(self, inner: bytes | None) -> None:
        """Put this inner optimiser's state in the place of the child's; without one, that of before the first step."""
        fresh = self._fresh_inner()
        self._inner_now = None
        self._child.import_inner(inner or fresh)

    def _fresh_inner(self) -> bytes:
        """The inner optimiser's state before its first step; to be asked for before the child trains or is given another."""
        if self._inner_at_load is None:
            try:
                self._inner_at_load = self._child.export_inner(INNER_TIMEOUT_S).content()
            except InnerStateRefused as refused:  # matters only to a job that needs it, which then fails by this
                log.info("the inner optimiser cannot be handed over: %s", refused)
                self._inner_at_load = b""
        return self._inner_at_load

    def _export_inner(self) -> Exported:
        """The inner optimiser's state as it is now; the child copies it once, however often it is asked for before the next
        step.
        """
        if self._inner_now is None:
            self._inner_now = self._child.export_inner(INNER_TIMEOUT_S)
        return self._inner_now

    def _offer(self, mesh: Mesh, *, switched: bool = False) -> None:
        """Let newcomers have the state that is here now; with the inner optimiser's where all members' are equal."""
        kept = staged(self.member)
        self._inner_offered = None
        if kept.strategy.applies == "gradient":
            mesh.make_room()
            self._inner_offered = self._export_inner()
        inner = self._inner_offered.content if self._inner_offered is not None else None
        offer(mesh, kept.round, kept.export, inner, switched=switched)

    def _train(self, now: Round, order: Json) -> Json:
        member, strategy = self.member, self.member.strategy
        # For good: the numbers of later steps may be those of positions that this worker drew by.
        self._uneven = self._uneven or order["strategy"].get("adapt") == "steps"
        share: Json = {
            "round": order["round"], "first_step": order["first_step"], "steps": order["steps"],
            "position": order["position"], "worker": member.slot, "evaluate": False, "timeout_s": order["timeout_s"],
            "uneven": self._uneven,
        }  # fmt: skip
        self._fresh_inner()
        self._inner_now = None
        start = self._start_parameters()
        if strategy.cadence == "step":
            trained = self._child.train(
                start, **share, synchronise=lambda *step: self._synchronise(now, *step), applies=strategy.applies,
                check=False,
            )  # fmt: skip
        else:
            trained = self._child.train(start, **share)
        self._local = True
        tokens = trained.tokens + self._ahead.take_tokens()
        norm = 0.0
        if strategy.cadence == "step":
            merged = member.finish(trained.parameters, now.order)
            now.sent = contribution = merged.digest  # what all end at is what each brought
        else:
            norm = member.contribute(trained.parameters, now.order, weight=float(max(1, tokens)))
            contribution = hashlib.sha256(trained.parameters.data).hexdigest()
        info = {
            "ok": True, "round": order["round"], "loss": trained.loss, "steps": order["steps"], "tokens": tokens,
            "trained_ms": trained.trained_ms, "norm": norm,
            "contribution": contribution,
        }  # fmt: skip
        way = None if strategy.cadence == "step" else self._way(len(now.order.slots))
        self.meeting.trained(now, info, trained.parameters, way)
        self._mix_at = now.order
        if order["ahead"] > 0:
            self._ahead.start(share, int(order["ahead"]))
        return info

    def _start_parameters(self) -> Vector | None:
        """What the child trains on from; None: from its own, after what other members made of them was mixed in."""
        member, strategy = self.member, self.member.strategy
        if not self._local:
            return strategy.start(member.state)
        if strategy.cadence == "step":
            return None
        if strategy.keep <= 0.0 and strategy.overlap_steps == 0:
            return strategy.start(member.state)
        if self._mix_at is not None:
            self._child.mix(member.parameters, member.mixed(self._mix_at), strategy.keep)
        return None

    def _way(self, members: int) -> Way:
        size, dense = self.member.sizes
        return way_of(self.member.strategy, wanted_topology(self.member.spec["strategy"]), members, size, dense)

    def _synchronise(self, now: Round, step: int, rate: float, gradient: Vector) -> Vector:
        """One step's exchange, in the middle of the child's step. Raises NotFiniteNumbers for what the member refuses."""
        try:
            self.member.contribute(gradient, now.order, step=step, rate=rate, room=self._child.room)
            way = self._way(len(now.order.slots))
            self.meeting.merge_patiently(self.meeting.mesh, way, time.monotonic() + STEP_PATIENCE_S)
        except BadPayload as error:
            raise NotFiniteNumbers(f"the gradients of step {step}: {error}") from None
        return self.member.step_result()
