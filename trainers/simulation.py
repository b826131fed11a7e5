"""A whole job in one process, to study protocols: real inner loops, codecs and members, in lock step, without a network.

Members run the production code (`trainers.loop.InnerLoop`, `trainers.member.Member`); only what carries payloads from one
to the other is simulated. The same arguments give the same bits, so two protocols can be compared on paired seeds.
"""

import math
import statistics
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trainers.codecs import Vector
from trainers.filled import Payload, size_of
from trainers.layout import Layout, elements_of, layout_of
from trainers.loop import InnerLoop
from trainers.member import Member, RoundOrder
from trainers.options import strategy_options
from trainers.round_lengths import round_lengths
from trainers.strategies import Moment
from trainers.workload import Workload


@dataclass(frozen=True, slots=True)
class Script:
    """What happens to a job, by round (from 1), before that round begins.

    Args:
        slots: the members from that round on; round 1 must say. A newcomer starts from a living member's export.
        strategies: the strategy from that round on; round 1 must say.
        late: members whose work of that round is not merged in it, but kept for later (`Member.defer`).
    """

    slots: Mapping[int, Sequence[int]]
    strategies: Mapping[int, Mapping[str, Any]]
    late: Mapping[int, Collection[int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SimulatedRound:
    """What a round came to.

    Args:
        step: global inner step after it. loss: mean training loss over members and steps.
        held_out: held-out loss of the parameters after it, mean over members where they differ; None when not asked for.
        sent_bytes, tokens: by slot, this round. digests: by slot, of the parameters after it.
    """

    round: int
    step: int
    slots: tuple[int, ...]
    loss: float
    held_out: float | None
    sent_bytes: Mapping[int, int]
    tokens: Mapping[int, int]
    digests: Mapping[int, str]


@dataclass(slots=True)
class _Peer:
    """One simulated worker. `overlapping`: the exchange whose outcome is still to be mixed in, `flat`: scratch."""

    member: Member
    loop: InnerLoop
    flat: Vector
    overlapping: Moment | None = None
    sent_bytes: int = 0
    losses: list[float] = field(default_factory=list)
    tokens: int = 0

    def local(self) -> Vector:
        """A copy of the parameters in the loop's model."""
        flat = np.empty_like(self.flat)
        self.loop.write_parameters(flat)
        return flat

    def train(self, first_step: int, steps: int, position: int, exchange: "_StepExchange | None" = None) -> None:
        """Inner steps on this member's data."""
        if steps:
            made = self.loop.train(first_step, steps, self.member.slot, position=position, exchange=exchange)
            self.losses += made.losses
            self.tokens += made.tokens


class Simulation:
    """The job between two rounds."""

    def __init__(self, workload: Callable[[], Workload], script: Script, *, steps: int, seed: int) -> None:
        """`steps`: of each member over the whole job. `workload` is called once a member, and once for evaluating."""
        self.script, self.steps, self.seed, self.workload = script, steps, seed, workload
        self.judge = InnerLoop(workload(), seed, steps)
        named = [(name, tuple(parameter.shape)) for name, parameter in self.judge.model.named_parameters()]
        self.layout: Layout = layout_of(named)
        self.options = strategy_options(script.strategies[1])
        self.peers: dict[int, _Peer] = {}
        self.round = self.step = self.position = 0

    def advance(self, evaluate: bool = True) -> SimulatedRound:
        """One round: what the script says, training, the merge, commits."""
        self._begin()
        slots = tuple(sorted(self.peers))
        after = round_lengths(self.options, self.steps).end_of(self.step)
        order = RoundOrder(self.round, self.step, after, self.position + len(slots) * (after - self.step), slots)
        for peer in self.peers.values():
            peer.sent_bytes, peer.losses, peer.tokens = 0, [], 0
        if self._any().strategy.cadence == "step":
            _each_step(self.peers, order, self.position)
        else:
            self._each_round(order, frozenset(self.script.late.get(self.round, ())))
        self.step, self.position = order.step_after, order.position_after
        if self.step >= self.steps:
            self._settle()
        return self._told(slots, self._held_out() if evaluate else None)

    def _any(self) -> Member:
        return self.peers[min(self.peers)].member

    def _begin(self) -> None:
        """Take up the round's part of the script."""
        self.round += 1
        if self.round in self.script.strategies and self.round > 1:
            self._switch(strategy_options(self.script.strategies[self.round]))
        slots = self.script.slots.get(self.round)
        if slots is not None:
            for gone in set(self.peers) - set(slots):
                if not set(self.peers) & set(slots):
                    raise ValueError(f"round {self.round}: somebody must stay")
                del self.peers[gone]
            joined = {slot: self._joined(slot) for slot in sorted(set(slots) - set(self.peers))}
            self.peers = dict(sorted((self.peers | joined).items()))

    def _joined(self, slot: int) -> _Peer:
        """A newcomer: from the first parameters, or from what a living member exports."""
        loop, flat = InnerLoop(self.workload(), self.seed, self.steps), np.empty(elements_of(self.layout), np.float32)
        loop.write_parameters(flat)
        if not self.peers:
            spec = {"strategy": self.options, "steps": self.steps, "seed": self.seed}
            return _Peer(Member(spec, self.layout, flat, slot=slot), loop, flat)
        donor = self.peers[min(self.peers)]
        member = Member.restore(donor.member.export(), slot=slot)
        if member.strategy.applies == "gradient":
            loop.import_inner(donor.loop.export_inner())
        loop.read_parameters(member.strategy.start(member.state))
        return _Peer(member, loop, flat)

    def _switch(self, options: dict[str, Any]) -> None:
        """All go on by another strategy, from one member's parameters where they were not of one mind."""
        self._settle()
        self.options = options
        first = self.peers[min(self.peers)]
        inner = first.loop.export_inner()
        for peer in self.peers.values():
            if "parameters" not in peer.member.strategy.shared and peer is not first:
                peer.member.take_over(first.member.export())
            peer.member.switch(options)
            if peer.member.strategy.applies == "gradient":  # one gradient keeps members equal only from equal moments
                peer.loop.import_inner(inner)
            peer.loop.read_parameters(peer.member.strategy.start(peer.member.state))

    def _settle(self) -> None:
        """Take in what was still under way."""
        for peer in self.peers.values():
            self._resume(peer)

    def _resume(self, peer: _Peer) -> None:
        if peer.overlapping is not None:
            local = peer.member.strategy.resume(peer.member.state, peer.local(), peer.overlapping)
            peer.loop.read_parameters(local)
            peer.overlapping = None

    def _each_round(self, order: RoundOrder, late: frozenset[int]) -> None:
        """Everybody trains; then one merge. An exchange that overlaps is mixed in τ steps into the next round."""
        steps = order.step_after - order.step_before
        for place, peer in enumerate(self.peers.values()):
            overlap = min(peer.member.strategy.overlap_steps, steps) if peer.overlapping is not None else 0
            position = self.position + place * steps
            peer.train(order.step_before, overlap, position)
            self._resume(peer)
            peer.train(order.step_before + overlap, steps - overlap, position + overlap)
        _merge(self.peers, order, late, self.options["topology"])
        for slot, peer in self.peers.items():
            peer.overlapping = Moment(order.round, order.step_before, slot, order.slots, 0.0, self.seed)
            if not peer.member.strategy.overlap_steps:
                self._resume(peer)

    def _held_out(self) -> float:
        """Of each member's parameters where they differ."""
        distinct = {peer.member.digest(): peer.member.parameters for peer in self.peers.values()}
        losses = []
        for digest in sorted(distinct):
            self.judge.read_parameters(distinct[digest])
            found = self.judge.evaluate()
            losses.append(math.nan if found is None else found)
        return statistics.fmean(losses)

    def _told(self, slots: tuple[int, ...], held_out: float | None) -> SimulatedRound:
        peers = self.peers
        return SimulatedRound(
            self.round,
            self.step,
            slots,
            statistics.fmean([loss for peer in peers.values() for loss in peer.losses]),
            held_out,
            {slot: peers[slot].sent_bytes for slot in slots},
            {slot: peers[slot].tokens for slot in slots},
            {slot: peers[slot].member.digest() for slot in slots},
        )


def simulate(
    workload: Callable[[], Workload],
    strategy: Mapping[str, Any],
    *,
    steps: int,
    seed: int,
    workers: int = 4,
    script: Script | None = None,
    evaluate: bool = False,
) -> tuple[SimulatedRound, ...]:
    """All rounds of a job of so many workers, or of a script. The last is always evaluated, with `evaluate` each."""
    job = Simulation(workload, script or Script({1: range(workers)}, {1: strategy}), steps=steps, seed=seed)
    told: list[SimulatedRound] = []
    while job.step < steps:
        last = round_lengths(job.options, steps).end_of(job.step) >= steps
        told.append(job.advance(evaluate or last))
    return tuple(told)


def _merge(peers: Mapping[int, _Peer], order: RoundOrder, late: frozenset[int], topology: str) -> None:
    """One merge of whole rounds: by gathering, pairs, or slices (butterfly: everybody merges one; star: one merges all)."""
    present = {slot: peer for slot, peer in peers.items() if slot not in late}
    if not present:
        raise ValueError(f"round {order.round}: not all can be late")
    locals_ = {slot: peer.local() for slot, peer in peers.items()}
    for slot, peer in present.items():
        peer.member.contribute(locals_[slot], order, weight=float(peer.tokens))
    if topology in ("butterfly", "star"):
        owners = tuple(present) if topology == "butterfly" else tuple(present)[:1]
        reduced = _reduced(present, owners)
        results: dict[int, Mapping[int, Payload]] = dict.fromkeys(present, reduced)
    else:
        results = dict(_gathered(present))
    for slot, peer in present.items():
        peer.member.merge(results[slot], tuple(present))
        peer.member.commit()
    for slot in late:
        member, bundle = peers[slot].member, present[min(present)].member.bundle
        if bundle is None:
            raise ValueError(f"{member.strategy.name} keeps nothing that a late member could catch up with")
        member.defer(locals_[slot], order)
        member.apply(bundle)


def _gathered(peers: Mapping[int, _Peer]) -> dict[int, dict[int, Payload]]:
    """Whole contributions by slot, for each of who merges them; each is counted once for every other who gets it."""
    payloads = {slot: peer.member.payload() for slot, peer in peers.items()}
    results = {}
    for slot, peer in peers.items():
        results[slot] = {other: payloads[other] for other in peer.member.partners if other in payloads}
        for other in set(results[slot]) - {slot}:
            peers[other].sent_bytes += size_of(payloads[other])
    return results


def _reduced(peers: Mapping[int, _Peer], owners: tuple[int, ...]) -> dict[int, bytes]:
    """Reduced slices by owner; slices to their owners and results to all are counted."""
    cuts = {slot: peer.member.cut(owners) for slot, peer in peers.items()}
    reduced = {}
    for owner in owners:
        reduced[owner] = peers[owner].member.combine({slot: cuts[slot][owner] for slot in peers}, owners)
        peers[owner].sent_bytes += len(reduced[owner]) * (len(peers) - 1)
        for slot in set(peers) - {owner}:
            peers[slot].sent_bytes += len(cuts[slot][owner])
    return reduced


class _StepExchange:
    """One member's end of the merge in every step: all meet, one merges for each, all go on."""

    def __init__(self, peer: _Peer, meeting: threading.Barrier) -> None:
        self.flat, self.applies = peer.flat, peer.member.strategy.applies
        self.meeting, self.at = meeting, (0, 0.0)

    def __call__(self, step: int, rate: float) -> None:
        """See `trainers.loop.Exchange`."""
        self.at = (step, rate)
        self.meeting.wait()


def _each_step(peers: Mapping[int, _Peer], order: RoundOrder, position: int) -> None:
    """A round of a strategy that merges in every step: a thread a member, which meet at each."""
    ends: dict[int, _StepExchange] = {}
    failures: list[BaseException] = []

    def merge() -> None:
        for slot, peer in peers.items():
            (step, rate), flat = ends[slot].at, ends[slot].flat
            peer.member.contribute(flat.copy(), order, step=step, rate=rate)
        results = _gathered(peers)
        for slot, peer in peers.items():
            peer.member.merge(results[slot])
            np.copyto(ends[slot].flat, peer.member.step_result())

    meeting = threading.Barrier(len(peers), action=merge)
    ends.update({slot: _StepExchange(peer, meeting) for slot, peer in peers.items()})
    steps = order.step_after - order.step_before

    def run(place: int, slot: int) -> None:
        try:
            peers[slot].train(order.step_before, steps, position + place * steps, ends[slot])
        except BaseException as error:  # noqa: BLE001  # told to the caller's thread; the others must not wait for this one
            failures.append(error)
            meeting.abort()

    threads = [threading.Thread(target=run, args=each, daemon=True) for each in enumerate(peers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise next((error for error in failures if not isinstance(error, threading.BrokenBarrierError)), failures[0])
    for peer in peers.values():
        peer.member.finish(peer.local(), order)
        peer.member.commit()
