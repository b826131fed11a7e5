"""The collectives of one member as a state machine: views and frames in, frames and results out. No input or output.

Why two members never return different results for one (round, step), whoever dies when:

- A result is kept in the same instant in which it is finished, and only while its view is still the member's view.
- In a retry (attempt > 0) a member first asks all others of the view WANT(round, step). A peer answers only once its own
  view is at least as new, so its older try has ended: either it has a result by then or it will never have that one.
- Whoever gets a RESULT takes it. Whoever gets only NONE knows that no member finished before this attempt. It sends
  its payload only then, and nobody finishes without the payloads of all (of the partner, in a pair). So within one
  attempt either somebody had a result and nobody can finish another, or nobody had.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from trainers.filled import Payload, parts_of
from trainers.mesh.views import Identity, Peer, View
from trainers.mesh.wire import BadWire, Frame, Header, Kind, Pattern, pack_result, read_result

WAITING_FRAMES = 8  # of one sender: two steps of two frames each, twice over
WANTS_KEPT = 8
SENDERS = 1024
STEPS_KEPT = 2
ROUNDS_KEPT = 2
PAYLOADS = frozenset({Kind.SHARE, Kind.SLICE, Kind.REDUCED})

Outgoing = tuple[Peer, Frame]
Step = tuple[int, int]  # (round, step)
Place = tuple[tuple[int, int], int, Kind]  # (view's order, step, kind) of a waiting payload


@dataclass(slots=True)
class Call:
    """One collective of this member in one view. `outgoing`: payload by slot (by owner in a reduce), own included."""

    view: View
    step: int
    pattern: Pattern
    outgoing: Mapping[int, Payload]
    sources: frozenset[int]
    asking: set[int]
    sent: bool = False
    combined: bytes | None = None
    result: dict[int, Payload] | None = None

    @property
    def place(self) -> Step:
        return self.view.round, self.step


@dataclass(frozen=True, slots=True)
class Done:
    """The collective is over."""

    result: dict[int, Payload]


@dataclass(frozen=True, slots=True)
class Combine:
    """Every member's slice is here: combine them, and tell `Collectives.combined`."""

    slices: dict[int, Payload]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Nothing to do before frames from these slots arrive."""

    missing: frozenset[int]


@dataclass(frozen=True, slots=True)
class Over:
    """Another view was set."""


Progress = Done | Combine | Waiting | Over


@dataclass(slots=True)
class Collectives:
    """The state machine of the member `slot` in its life `epoch`; `outbox` is what it has to send, in order."""

    slot: int
    epoch: int
    max_frame_bytes: int
    view: View | None = None
    dropped: Counter[str] = field(default_factory=Counter)
    outbox: list[Outgoing] = field(default_factory=list)
    _calls: dict[int, Call] = field(default_factory=dict)
    _waiting: dict[Identity, dict[Place, bytes]] = field(default_factory=dict)
    _wants: dict[Identity, dict[int, Frame]] = field(default_factory=dict)
    _finished: dict[Step, tuple[Pattern, dict[int, Payload]]] = field(default_factory=dict)

    def set_view(self, view: View) -> bool:
        """Go forward to `view`; False for one that is not newer. Ends the calls of older views, answers what waited."""
        if self.view is not None and view.order <= self.view.order:
            assert view.order < self.view.order or view == self.view, "two views with one number"
            return False
        self.view = view
        self._calls.clear()
        for waiting in self._waiting.values():
            for place in [place for place in waiting if place[0] < view.order]:
                del waiting[place]
        self._waiting = {sender: waiting for sender, waiting in self._waiting.items() if waiting}
        wants, self._wants = self._wants, {}
        for sender, steps in wants.items():
            for want in steps.values():
                self._want(sender, want)
        return True

    # own calls

    def begin(self, pattern: Pattern, step: int, outgoing: Mapping[int, Payload], partner: int | None = None) -> Call:
        """Start a collective in the present view, or go on with the one of this step that was begun in it."""
        view = self.view
        assert view is not None, "a view before a collective"
        assert view.has((self.slot, self.epoch)), "only members of a view take part"
        if step in self._calls:
            return self._calls[step]
        others = frozenset(view.slots) - {self.slot}
        if pattern is Pattern.PAIR:
            others &= {partner}
        assert pattern is not Pattern.REDUCE or set(outgoing) <= set(view.slots), "owners are members"
        asking = set(others) if view.attempt > 0 else set()
        call = Call(view, step, pattern, outgoing, others | {self.slot}, asking)
        if call.place in self._finished:
            call.result = self._result_of(call)
            return call
        self._calls[step] = call
        for slot in sorted(asking):
            self._send(slot, call, Kind.WANT)
        return call

    def advance(self, call: Call) -> Progress:
        """Send what is due, and say what the call needs next."""
        if call.result is not None:
            return Done(call.result)
        if self._calls.get(call.step) is not call:
            return Over()
        if call.asking:
            return Waiting(frozenset(call.asking))
        if not call.sent:
            self._send_payloads(call)
        if call.pattern is not Pattern.REDUCE:
            shares = self._arrived(call, Kind.SHARE, call.sources, call.outgoing[self.slot])
            return self._finish(call, shares) if len(shares) == len(call.sources) else _missing(call.sources, shares)
        if self.slot in call.outgoing and call.combined is None:
            slices = self._arrived(call, Kind.SLICE, call.sources, call.outgoing[self.slot])
            return Combine(slices) if len(slices) == len(call.sources) else _missing(call.sources, slices)
        reduced = self._arrived(call, Kind.REDUCED, call.outgoing, call.combined)
        return self._finish(call, reduced) if len(reduced) == len(call.outgoing) else _missing(call.outgoing, reduced)

    def combined(self, call: Call, reduced: bytes) -> None:
        """This member's own slice is reduced: send it to all."""
        if self._calls.get(call.step) is not call or call.combined is not None:
            return
        call.combined = reduced
        for slot in sorted(call.sources - {self.slot}):
            self._send(slot, call, Kind.REDUCED, (reduced,))

    def _send_payloads(self, call: Call) -> None:
        call.sent = True
        kind = Kind.SLICE if call.pattern is Pattern.REDUCE else Kind.SHARE
        for slot in sorted(call.sources & set(call.outgoing) - {self.slot}):
            self._send(slot, call, kind, parts_of(call.outgoing[slot]))

    def _arrived(self, call: Call, kind: Kind, slots: Iterable[int], own: Payload | None) -> dict[int, Payload]:
        found: dict[int, Payload] = {}
        for slot in sorted(slots):
            peer = call.view.peer(slot)
            assert peer is not None, "sources and owners are members"
            place = (call.view.order, call.step, kind)
            one = own if slot == self.slot else self._waiting.get(peer.identity, {}).get(place)
            if one is not None:
                found[slot] = one
        return found

    def _finish(self, call: Call, result: dict[int, Payload]) -> Done:
        self._keep(call.place, call.pattern, result)
        call.result = self._result_of(call)
        del self._calls[call.step]
        for waiting in self._waiting.values():
            for place in [place for place in waiting if place[:2] == (call.view.order, call.step)]:
                del waiting[place]
        return Done(result)

    def _keep(self, place: Step, pattern: Pattern, result: dict[int, Payload]) -> None:
        self._finished[place] = (pattern, result)
        rounds = sorted({round_ for round_, _ in self._finished})[-ROUNDS_KEPT:]
        kept = {
            round_: sorted(step for other, step in self._finished if other == round_)[-STEPS_KEPT:] for round_ in rounds
        }
        self._finished = {one: held for one, held in self._finished.items() if one[1] in kept.get(one[0], ())}

    def _result_of(self, call: Call) -> dict[int, Payload]:
        pattern, result = self._finished[call.place]
        assert pattern is call.pattern, "a round keeps its topology in every attempt"
        return result

    # frames of others

    def admit(self, sender: Identity, header: Header) -> str | None:
        """Why a frame's payload is not worth reading, or None. Decided from the header alone, before memory is spent."""
        if header.length > self.max_frame_bytes:
            return "large"
        if header.kind is Kind.WANT:
            return "payload" if header.length else None
        if header.kind in {Kind.RESULT, Kind.NONE}:
            return None if self._asked(sender, header) is not None else "unasked"
        if header.kind not in PAYLOADS:
            return "kind"
        order = (header.round, header.attempt)
        if self.view is not None and order < self.view.order:
            return "old"
        if self.view is not None and order == self.view.order:
            if not self.view.has(sender):
                return "stranger"
            if (header.round, header.step) in self._finished:
                return "finished"
        return self._room(sender, header)

    def receive(self, sender: Identity, frame: Frame) -> bool:
        """Take a frame; False when it was dropped (and counted)."""
        reason = self.admit(sender, frame.header)
        if reason is not None:
            self.dropped[reason] += 1
            return False
        if frame.kind is Kind.WANT:
            self._want(sender, frame)
        elif frame.kind in PAYLOADS:
            order = (frame.round, frame.attempt)
            waiting = self._waiting.setdefault(sender, {})
            for place in self._outdated(waiting, order):
                del waiting[place]
            waiting[order, frame.step, frame.kind] = frame.payload
        else:
            self._take_answer(sender, frame)
        return True

    def _room(self, sender: Identity, header: Header) -> str | None:
        waiting = self._waiting.get(sender)
        if waiting is None:
            return "senders" if len(self._waiting) >= SENDERS else None
        order = (header.round, header.attempt)
        if (order, header.step, header.kind) in waiting:
            return "twin"
        if self._future(order) and any(order < other for other, _, _ in waiting):
            return "old"
        kept = [one for place, one in waiting.items() if place not in self._outdated(waiting, order)]
        if len(kept) >= WAITING_FRAMES:
            return "many"
        if header.length + sum(map(len, kept)) > 2 * self.max_frame_bytes:
            return "memory"
        return None

    def _outdated(self, waiting: Mapping[Place, bytes], order: tuple[int, int]) -> list[Place]:
        """What waits for views to come that its sender has left behind: it is in `order` now."""
        return [place for place in waiting if self._future(place[0]) and place[0] < order]

    def _future(self, order: tuple[int, int]) -> bool:
        return self.view is None or order > self.view.order

    def _asked(self, sender: Identity, header: Header) -> Call | None:
        call = self._calls.get(header.step)
        if call is None or call.view.order != (header.round, header.attempt) or sender[0] not in call.asking:
            return None
        return call if call.view.has(sender) else None

    def _take_answer(self, sender: Identity, frame: Frame) -> None:
        call = self._asked(sender, frame.header)
        assert call is not None, "admitted"
        if frame.kind is Kind.NONE:
            call.asking.discard(sender[0])
            return
        try:
            pattern, result = read_result(frame.payload)
        except BadWire:
            pattern, result = None, {}
        if pattern is not call.pattern:
            self.dropped["result"] += 1
            return
        if pattern is Pattern.PAIR and self.slot not in result:
            result = {self.slot: call.outgoing[self.slot]}  # the partner finished without us
        self._finish(call, result)

    def _want(self, sender: Identity, frame: Frame) -> None:
        """Answer now, or once this member's view is as new; of the future, keep the sender's newest view's few."""
        order = (frame.round, frame.attempt)
        if not self._future(order):
            self._answer(sender, frame)
            return
        kept = {step: one for step, one in self._wants.get(sender, {}).items() if (one.round, one.attempt) >= order}
        if len(kept) < WANTS_KEPT and (sender in self._wants or len(self._wants) < SENDERS):
            self._wants[sender] = kept | {frame.step: frame}

    def _answer(self, sender: Identity, want: Frame) -> None:
        assert self.view is not None
        peer = self.view.peer(sender[0])
        if peer is None or peer.identity != sender:
            self.dropped["stranger"] += 1
            return
        held = self._finished.get((want.round, want.step))
        parts = () if held is None else pack_result(*held)
        kind = Kind.NONE if held is None else Kind.RESULT
        self.outbox.append((peer, Frame(kind, want.round, want.attempt, want.step, parts)))

    def _send(self, slot: int, call: Call, kind: Kind, parts: tuple[bytes | memoryview, ...] = ()) -> None:
        peer = call.view.peer(slot)
        assert peer is not None, "frames go to members"
        self.outbox.append((peer, Frame(kind, call.view.round, call.view.attempt, call.step, parts)))


def _missing(wanted: Iterable[int], found: Mapping[int, Payload]) -> Waiting:
    return Waiting(frozenset(wanted) - frozenset(found))
