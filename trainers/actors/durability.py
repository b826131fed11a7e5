"""The durable side of a course: which worker sets a round aside, what can be restored, whether the end is in the store."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from trainers.actors.answers import BadAnswer, checked_snapshot
from trainers.actors.checkpoint_maker import HandedOut
from trainers.actors.keeper import Keeper
from trainers.actors.roster import Roster, Worker
from trainers.actors.succession import Succession
from trainers.actors.transport import CallFailed, Gone, Parcel, Transport
from trainers.member import read_description
from trainers.options import keeps_inner_state
from trainers.rounds import RoundCommitted, Rounds, Standing

Json = dict[str, Any]

LOOK_S = 0.2
BOUNDARY_S = 30.0
EVALUATE_S = 300.0
LEAVE_S = 10.0


@dataclass(slots=True)
class FromCheckpoint:
    """A state out of the store, and where it stands. `inner`: the inner optimiser's, where it is kept and can be read, and
    `inner_digest` its SHA-256.
    """

    at: Standing
    digest: str
    state: bytes
    inner: bytes | None
    inner_digest: str | None
    _parcels: tuple[Parcel, Parcel] | None = field(default=None)

    def parcels(self, transport: Transport) -> tuple[Parcel, Parcel]:
        """(state, inner or None), put where workers get them; once, however many do."""
        if self._parcels is None:
            inner = None if self.inner is None else transport.parcel(self.inner)
            self._parcels = transport.parcel(self.state), inner
        return self._parcels


def restored_from(keeper: Keeper) -> FromCheckpoint:
    """The newest state that can be restored. Raises NothingRestorable."""
    found = keeper.restore()
    described = read_description(found.state)
    at = Standing(int(described["round"]), int(described["step"]), int(described.get("position", 0)))
    named = found.plan.inner
    inner = keeper.inner(named) if named is not None else None
    return FromCheckpoint(at, found.plan.parameters, found.state, inner, named if inner is not None else None)


class Durability:
    """See the module."""

    def __init__(self, spec: Json, transport: Transport, roster: Roster, keeper: Keeper) -> None:
        self.follow(spec)
        self._transport = transport
        self._roster = roster
        self._keeper = keeper
        self._standings: dict[int, Standing] = {}
        self._restored: FromCheckpoint | None = None
        self._succession = Succession()

    def follow(self, spec: Json) -> None:
        """The job's sections as they are in force now: another strategy may want another checkpoint."""
        self._inner = keeps_inner_state(spec["checkpoint"], spec["strategy"])

    def tell(self, rounds: Rounds) -> None:
        """Let the machine know what is durable."""
        at = self._standings.get(self._keeper.durable_round)
        if at is not None:
            rounds.durable(at)

    def committed(self, done: RoundCommitted, base: Json, *, last: bool) -> None:
        """A round is committed: set it aside at a holder when it is due."""
        self._succession.committed(done)
        self._standings[done.round] = Standing(done.round, done.step, done.position)
        for old in [number for number in self._standings if number < self._keeper.durable_round]:
            del self._standings[old]
        if last and self._keeper.busy:
            return  # `make_durable` asks again when what is on its way is done: the last round is to be a base
        wanted = self._keeper.wants(done.round, last=last)
        if wanted is not None:
            self._snapshot(done.holders, base, wanted)

    @property
    def round(self) -> int:
        """The newest durable one."""
        return self._keeper.durable_round

    def undo(self) -> None:
        """Rounds were undone: what was set aside of them is of no use, and `round` changes only with what is made from now."""
        self._keeper.undo()

    def restore(self) -> FromCheckpoint | None:
        """The newest state that can be restored; None before the first checkpoint. Raises NothingRestorable."""
        if self._restored is None or self._restored.at.round != self._keeper.durable_round:
            self._restored = restored_from(self._keeper) if self._keeper.durable_round > 0 else None
        return self._restored

    def restoration(self, slot: int, beginning: Iterable[int]) -> tuple[Parcel, Parcel, bool]:
        """What `Worker.restore` of that slot is given, one of those that all begin at what `restore` found last."""
        restored = self._restored
        assert restored is not None, "a round that begins at a checkpoint"
        heir = self._succession.heir(self._roster.all(), beginning)
        return *restored.parcels(self._transport), slot == heir

    def evaluate(self, base: Json) -> None:
        """The held-out loss of the final parameters; whoever answers first in slot order."""
        for worker in self._roster.all():
            if worker.phase != "ready":
                continue
            found = self._answer(worker, EVALUATE_S, "evaluate", base, EVALUATE_S)
            if isinstance(found, dict) and found.get("ok") is True:
                return

    def make_durable(
        self, base: Json, holders: Iterable[int], halted: bool, patience_s: float = EVALUATE_S
    ) -> bool | None:
        """Whether the last round is durable, or (`halted`) as far as it can be; False to try again, None when everybody
        who held it is gone. Waits for at most `patience_s`, twice.
        """
        self._keeper.wait(patience_s)
        if self._keeper.durable_round >= base["round"]:
            return True
        slots = [slot for slot in holders if self._roster.get(slot) is not None]
        if not slots:
            return True if halted else None
        wanted = self._keeper.wants(base["round"], last=True)
        if wanted is not None and self._snapshot(slots, base, wanted):
            self._keeper.wait(patience_s)
        if self._keeper.durable_round >= base["round"]:
            return True
        time.sleep(LOOK_S)
        return False

    def see_off(self, worker: Worker, base: Json, *, alone: bool) -> None:
        """A worker's provider takes the machine back: what nobody else holds is made durable first."""
        if alone:
            self.make_durable(base, [worker.slot], True, LEAVE_S)
        self._transport.ask(worker.handle, "goodbye")

    def _snapshot(self, holders: Iterable[int], base: Json, wanted: str) -> bool:
        """Set the state aside at the first holder that answers, and begin to make it durable."""
        for slot in holders:
            worker = self._roster.get(slot)
            if worker is None:
                continue
            found = self._set_aside(worker, base, wanted)
            if found is not None:
                hand_out = partial(self._hand_out, worker, found)
                alive, accuse = partial(self._is_there, worker), partial(self._accuse, worker)
                self._keeper.keep(found, hand_out, alive=alive, accuse=accuse)
                return True
        return False

    def _hand_out(self, worker: Worker, found: Json) -> HandedOut:
        def ask(method: str, *more: Any) -> Parcel:
            return self._transport.ask(worker.handle, method, found["round"], *more)

        content = ask("staged", found["kind"])
        return content, ask("staged_inner") if found["inner"] else None, ask("staged_buffers") if found["buffers"] else None

    def _set_aside(self, worker: Worker, base: Json, wanted: str) -> Json | None:
        """What it says that it has set aside; None when it has not, or says what cannot be, which costs it its place."""
        answer = self._answer(worker, BOUNDARY_S, "snapshot", base, wanted, self._inner)
        if answer is None:
            return None
        try:
            found = checked_snapshot(answer, base["round"], base["digest"], wanted)
        except BadAnswer as bad:
            self._accuse(worker, str(bad))
            return None
        return found if found["ok"] else None

    def _accuse(self, worker: Worker, why: str) -> None:
        self._roster.lose(worker, Gone("bad_contribution", why))

    def _answer(self, worker: Worker, limit_s: float, method: str, *arguments: Any) -> Any:
        """A worker's answer, unchecked; None when it fails, takes longer than that, or is found gone meanwhile (by the
        roster's watch).
        """
        call, until = self._transport.ask(worker.handle, method, *arguments), time.monotonic() + limit_s
        while self._is_there(worker) and (left_s := until - time.monotonic()) > 0:
            found = self._transport.answers({0: call}, min(LOOK_S, left_s)).get(0)
            if found is not None:
                return None if isinstance(found, Gone | CallFailed) else found
        return None

    def _is_there(self, worker: Worker) -> bool:
        return self._roster.get(worker.slot) is worker
