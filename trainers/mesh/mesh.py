"""A member's end of the mesh: authenticated TCP straight to the other members, collectives and state transfer on it.

The decisions are `Collectives`' (pure), the bytes `Links`'; this file has the lock, the clock and the waiting.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from trainers.filled import Payload
from trainers.mesh.collectives import Call, Collectives, Combine, Done, Over, Waiting
from trainers.mesh.links import Links, Reader
from trainers.mesh.sockets import Counter, Wire, call
from trainers.mesh.state_transfer import Fetch, Offers
from trainers.mesh.views import Identity, MeshClosed, MeshTimeout, Peer, Superseded, View, WireCount
from trainers.mesh.wire import SECRET_BYTES, Frame, Header, Pattern, Purpose, What

MAX_FRAME_BYTES = 1 << 30
MAX_STATE_BYTES = 16 << 30

log = logging.getLogger(__name__)


class Transport(Protocol):
    """What carries frames between members; `Links`, or a stand-in without sockets."""

    address: str
    counter: Counter

    def keep(self, peers: Sequence[Peer], order: tuple[int, int]) -> None: ...
    def send(self, peer: Peer, frame: Frame) -> None: ...
    def lost(self) -> frozenset[Identity]: ...
    def close(self) -> None: ...


class Mesh:
    """Collectives with the members of the present view. Thread-safe; a collective may run while another one does.

    Args:
        secret: 32 bytes that only the members of this run know.
        slot, epoch: this member, and which life of it.
        host, port: where to listen; port 0 lets the system choose. `address` is what peers are told.
        max_frame_bytes: the largest payload; a frame that claims more is not read.
        max_state_bytes: the largest state that `fetch_state` believes in.
        transport: for tests without sockets.
    """

    def __init__(
        self, *, secret: bytes, slot: int, epoch: int, host: str = "127.0.0.1", port: int = 0,
        max_frame_bytes: int = MAX_FRAME_BYTES, max_state_bytes: int = MAX_STATE_BYTES,
        transport: Callable[[Reader], Transport] | None = None,
    ) -> None:  # fmt: skip
        assert len(secret) == SECRET_BYTES, "a secret of 32 bytes"
        self.slot, self.epoch = slot, epoch
        self._secret = secret
        self._max_state_bytes = max_state_bytes
        self._changed = threading.Condition()
        self._core = Collectives(slot, epoch, max_frame_bytes)
        self._offers = Offers()
        self._waited_s = 0.0
        self._open = True
        reader = _Reader(self)
        self._links: Transport = (
            transport(reader)
            if transport is not None
            else Links(
                secret=secret, me=(slot, epoch), host=host, port=port, max_frame_bytes=max_frame_bytes, reader=reader
            )
        )
        self.address = self._links.address

    @property
    def peer(self) -> Peer:
        """This member, as the others should know it."""
        return Peer(self.slot, self.epoch, self.address)

    def close(self) -> None:
        """End all connections; waiting calls raise MeshClosed. May be repeated."""
        with self._changed:
            first, self._open = self._open, False
            self._changed.notify_all()
        self._offers.close()
        self._links.close()
        dropped = self.dropped()
        if first and dropped:
            log.info("slot %d dropped frames: %s", self.slot, ", ".join(f"{n} {why}" for why, n in dropped.items()))

    def set_view(self, view: View) -> None:
        """Go forward to `view`: every wait in an older one raises Superseded. An older or equal view changes nothing."""
        with self._changed:
            if not self._open or not self._core.set_view(view):
                return
            self._links.keep([peer for peer in view.members if peer.slot != self.slot], view.order)
            self._send()
            self._changed.notify_all()

    @property
    def view(self) -> View | None:
        """The present view."""
        return self._core.view

    # collectives

    def gather(
        self, step: int, payload: Payload, timeout_s: float, *, round: int | None = None
    ) -> dict[int, Payload]:
        """Every member's payload by slot, own included, and that as it was given.

        Args:
            step: names the collective within the round; ascending.
            round: when given, a view of another round raises Superseded.

        Raises:
            Superseded, MeshTimeout, MeshClosed. All collectives do; after each the call may be repeated. Within one
            view the payload of the first try counts.
        """
        return self._run(Pattern.GATHER, step, lambda view: dict.fromkeys(view.slots, payload), None, timeout_s, round)

    def reduce(
        self,
        step: int,
        slices: Mapping[int, bytes],
        combine: Callable[[dict[int, Payload]], bytes],
        timeout_s: float,
        *,
        round: int | None = None,
    ) -> dict[int, Payload]:
        """Each owner's combination of what all members sent it, by owner.

        Args:
            slices: what goes to each owner; the owners (members of the view) are the same at every member. One owner
                makes it a star, all members a butterfly.
            combine: own slices of all members by slot → the reduced slice; called at owners only, in this thread.

        The result may be one that others finished in an earlier attempt: its keys say among which owners. An owner
        that the view has lost meanwhile raises Superseded.
        """
        return self._run(Pattern.REDUCE, step, lambda _: dict(slices), combine, timeout_s, round)

    def pair(
        self, step: int, payload: Payload, partner: int | None, timeout_s: float, *, round: int | None = None
    ) -> dict[int, Payload]:
        """Own and the partner's payload; own alone without a partner, or when the view has lost it."""

        def outgoing(view: View) -> dict[int, Payload]:
            return {slot: payload for slot in view.slots if slot in (self.slot, partner)}

        return self._run(Pattern.PAIR, step, outgoing, None, timeout_s, round, partner)

    def _run(
        self, pattern: Pattern, step: int, outgoing: Callable[[View], Mapping[int, Payload]],
        combine: Callable[[dict[int, Payload]], bytes] | None, timeout_s: float, round_: int | None,
        partner: int | None = None,
    ) -> dict[int, Payload]:  # fmt: skip
        deadline = time.monotonic() + timeout_s
        with self._changed:
            view = self._core.view
            if view is None or (round_ is not None and view.round != round_):
                raise Superseded(f"the view is of {'no round' if view is None else f'round {view.round}'}")
            payloads = outgoing(view)
            if not view.has((self.slot, self.epoch)) or not set(payloads) <= set(view.slots):
                raise Superseded(f"round {view.round} attempt {view.attempt} has other members")
            begun = self._core.begin(pattern, step, payloads, partner)
            while True:
                progress = self._core.advance(begun)
                self._send()
                match progress:
                    case Done(result):
                        return result
                    case Over():
                        raise Superseded(f"round {view.round} attempt {view.attempt}")
                    case Waiting(missing):
                        self._wait(begun, missing, deadline)
                    case Combine(slices):
                        assert combine is not None
                        self._combine(begun, slices, combine)

    def _combine(
        self, begun: Call, slices: dict[int, Payload], combine: Callable[[dict[int, Payload]], bytes]
    ) -> None:
        self._changed.release()
        try:
            reduced = combine(slices)
        finally:
            self._changed.acquire()
        self._core.combined(begun, reduced)

    def _wait(self, begun: Call, missing: frozenset[int], deadline: float) -> None:
        if not self._open:
            raise MeshClosed
        now = time.monotonic()
        if now >= deadline:
            raise MeshTimeout(f"round {begun.view.round} step {begun.step}", missing)
        self._changed.wait(deadline - now)
        self._waited_s += time.monotonic() - now

    def _send(self) -> None:
        for peer, frame in self._core.outbox:
            self._links.send(peer, frame)
        self._core.outbox.clear()

    # what is to be seen

    def wire(self) -> WireCount:
        """Cumulative; every byte on the sockets counts, handshakes and state transfer too."""
        count = self._links.counter
        return WireCount(count.sent, count.received, int(1000 * self._waited_s))

    def lost(self) -> frozenset[int]:
        """Slots of the present view whose connection broke or cannot be made. No wait ends by this."""
        view = self._core.view
        lost = self._links.lost()
        return frozenset() if view is None else frozenset(one.slot for one in view.members if one.identity in lost)

    def dropped(self) -> dict[str, int]:
        """How many frames were dropped, by reason."""
        with self._changed:
            return dict(self._core.dropped)

    # state

    def offer_state(self, round: int, content: Callable[[], bytes]) -> None:
        """Let joiners fetch the state after `round`. `content` is called once, in another thread, when one asks; the
        bytes are kept until two later rounds are offered."""
        self._offers.put_state(round, content)

    def make_room(self) -> None:
        """Let go of the oldest state that is offered now, where another one would take its place: what a new state is
        copied into may be what the oldest lies in."""
        self._offers.make_room()

    def offer_round(self, round: int, content: Callable[[], bytes], size_bytes: int, limit_bytes: int) -> None:
        """Let those who hold the state before `round` have what it merged, `size_bytes` in all, so that they can make it
        again. The latest rounds are kept that weigh `limit_bytes` together at most."""
        self._offers.put_round(round, content, size_bytes, limit_bytes)

    def forget_rounds(self) -> None:
        """Offer no more what rounds merged: what follows does not follow from them."""
        self._offers.forget_rounds()

    def fetch_state(self, round: int, donors: Sequence[Peer], patience_s: float) -> bytes:
        """The state after `round` from all donors at once. Raises TransferFailed, and MeshTimeout when no chunk of 1 MiB
        came within `patience_s`."""
        return self._fetch(What.STATE, round, donors, patience_s)

    def fetch_round(self, round: int, donors: Sequence[Peer], patience_s: float) -> bytes:
        """What `round` merged, as `fetch_state`."""
        return self._fetch(What.ROUND, round, donors, patience_s)

    def _fetch(self, what: What, round_: int, donors: Sequence[Peer], patience_s: float) -> bytes:
        def connect(peer: Peer, lines: list[Wire]) -> Wire:
            return call(peer, (self.slot, self.epoch), Purpose.STATE, self._secret, self._links.counter, lines)

        return Fetch(what, round_, donors, patience_s, self._max_state_bytes, connect).run()


class _Reader:
    """What arrives for a mesh, from the threads of its transport."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    def admit(self, sender: Identity, header: Header) -> bool:
        mesh = self._mesh
        with mesh._changed:
            reason = mesh._core.admit(sender, header)
            if reason is not None:
                mesh._core.dropped[reason] += 1
            return reason is None

    def arrived(self, sender: Identity, frame: Frame) -> None:
        mesh = self._mesh
        with mesh._changed:
            mesh._core.receive(sender, frame)
            mesh._send()
            mesh._changed.notify_all()

    def serve(self, line: Wire, caller: Identity) -> None:
        self._mesh._offers.serve(line)
