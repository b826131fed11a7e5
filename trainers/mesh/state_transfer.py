"""A joiner gets the state of a round, or what a round merged, from several donors at once: chunks of 1 MiB, each checked
against its digest.

1. Every donor describes what it has: size and digests. A description that more than half of the donors still there agree
   on is taken at once; when some stay silent, the most frequent one after a while (ties: the lowest slot's).
2. Donors that described just that give chunks, a few requests ahead. A donor that dies, stalls or lies is out; what it
   owed goes to the others, and at the end idle donors are asked for what slow ones still owe.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from trainers.mesh.sockets import Wire
from trainers.mesh.views import MeshTimeout, Peer, TransferFailed
from trainers.mesh.wire import (
    CHUNK_BYTES,
    DIGEST_BYTES,
    HEADER_BYTES,
    BadWire,
    Description,
    Frame,
    Header,
    Kind,
    What,
    chunks,
    read_description,
    read_header,
)

STATES_KEPT = 2
GONE = 1
AHEAD = 4
DONOR_WAITS_S = 1.0
IDLE_S = 60.0
CHUNK_TIMEOUT_S = 10.0
LONGEST_ASKING_S = 5.0


class Offer:
    """Content that is made, and described, when somebody asks for it first."""

    def __init__(self, content: Callable[[], bytes], size_bytes: int = 0) -> None:
        self.size_bytes = size_bytes
        self._content = content
        self._lock = threading.Lock()
        self._made: tuple[Description, Sequence[memoryview]] | None = None

    def open(self) -> tuple[Description, Sequence[memoryview]]:
        """The description and the chunks."""
        with self._lock:
            if self._made is None:
                content = self._content()
                self._made = Description.of(content), tuple(chunks(content))
            return self._made


class Offers:
    """What this member gives to others: the states after the latest two rounds, and what the latest rounds merged."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held: dict[What, dict[int, Offer]] = {what: {} for what in What}
        self._newest = dict.fromkeys(What, -1)  # kept or not
        self._open = True

    def put_state(self, number: int, content: Callable[[], bytes]) -> None:
        """Offer a state."""
        with self._changed:
            held = self._with(What.STATE, number, Offer(content))
            self._held[What.STATE] = {one: held[one] for one in sorted(held)[-STATES_KEPT:]}
            self._changed.notify_all()

    def make_room(self) -> None:
        """Keep as many states as can stay when one more is offered."""
        with self._changed:
            held = self._held[What.STATE]
            self._held[What.STATE] = {one: held[one] for one in sorted(held)[1 - STATES_KEPT :]}

    def put_round(self, number: int, content: Callable[[], bytes], size_bytes: int, limit_bytes: int) -> None:
        """Offer what a round merged, beside as many rounds before it as weigh `limit_bytes` together at most."""
        with self._changed:
            held = self._with(What.ROUND, number, Offer(content, size_bytes))
            while held and sum(offer.size_bytes for offer in held.values()) > limit_bytes:
                del held[min(held)]
            self._held[What.ROUND] = held
            self._changed.notify_all()

    def forget_rounds(self) -> None:
        """What rounds merged is of no use any more."""
        with self._changed:
            self._held[What.ROUND] = {}

    def get(self, what: What, number: int, wait_s: float = 0.0) -> Offer | None:
        """The offer, after waiting up to `wait_s` for it when it is of a round to come."""
        with self._changed:
            self._changed.wait_for(lambda: not self._open or self._is_past(what, number), wait_s)
            return self._held[what].get(number)

    def _with(self, what: What, number: int, offer: Offer) -> dict[int, Offer]:
        # A later one is of rounds that were undone: numbers are used again.
        self._newest[what] = number
        return {**{one: held for one, held in self._held[what].items() if one < number}, number: offer}

    def _is_past(self, what: What, number: int) -> bool:
        """Whether that is here, or was."""
        return self._newest[what] >= number

    def close(self) -> None:
        """Answer nobody any more, and hold nothing."""
        with self._changed:
            self._open = False
            self._held = {what: {} for what in What}
            self._changed.notify_all()

    def serve(self, line: Wire) -> None:
        """Answer one joiner until it leaves. Raises OSError, BadWire."""
        while self._open:
            line.limit(time.monotonic() + IDLE_S)
            asked = read_header(line.receive(HEADER_BYTES))
            if asked.length or asked.attempt not in What._value2member_map_:
                raise BadWire("no question")
            line.limit(time.monotonic() + IDLE_S)
            line.send(self._answer(asked))

    def _answer(self, asked: Header) -> tuple[bytes | memoryview, ...]:
        describing, what = asked.kind is Kind.ASK_DESCRIPTION, What(asked.attempt)
        offer = self.get(what, asked.round, DONOR_WAITS_S if describing else 0.0)
        if offer is not None:
            description, pieces = offer.open()
            if describing:
                return Frame(Kind.DESCRIPTION, asked.round, asked.attempt, 0, (description.pack(),)).buffers
            if asked.kind is Kind.ASK_CHUNK and asked.step < len(pieces):
                piece = pieces[asked.step]
                return Frame(Kind.CHUNK, asked.round, asked.attempt, asked.step, (piece,)).buffers
        gone = GONE if describing and self._is_past(what, asked.round) else 0
        return Frame(Kind.NONE, asked.round, asked.attempt, asked.step or gone).buffers


def choose_description(described: Mapping[int, Description], silent: int, waited_enough: bool) -> Description | None:
    """The description to believe, from those by slot, or None while that is open.

    Args:
        silent: donors that are there and have not described anything yet.
    """
    votes = Counter(described.values())
    if not votes:
        return None
    best = max(votes.values())
    chosen = next(described[slot] for slot in sorted(described) if votes[described[slot]] == best)
    return chosen if waited_enough or silent == 0 or 2 * best > len(described) + silent else None


class Fetch:
    """One transfer: a thread for each donor, shared chunks. It may take `patience_s` to begin and from chunk to chunk."""

    def __init__(
        self, what: What, round_: int, donors: Sequence[Peer], patience_s: float, max_bytes: int,
        connect: Callable[[Peer, list[Wire]], Wire],
    ) -> None:  # fmt: skip
        self._what = what
        self._round = round_
        self._donors = donors
        self._patience_s = patience_s
        self._deadline = time.monotonic() + patience_s
        self._asking_until = min(self._deadline, time.monotonic() + LONGEST_ASKING_S)
        self._max_bytes = max_bytes
        self._connect = connect
        self._changed = threading.Condition()
        self._lines: dict[int, list[Wire]] = {peer.slot: [] for peer in donors}
        self._described: dict[int, Description] = {}
        self._reasons: dict[int, str] = {}
        self._chosen: Description | None = None
        self._todo: deque[int] = deque()
        self._owed: dict[int, list[int]] = {peer.slot: [] for peer in donors}
        self._got: dict[int, bytes] = {}
        self._over = False

    def run(self) -> bytes:
        """The whole content. Raises TransferFailed when no donor is left, MeshTimeout at the deadline."""
        for peer in self._donors:
            threading.Thread(target=self._ask, args=(peer,), name=f"mesh-fetch-{peer.slot}", daemon=True).start()
        try:
            with self._changed:
                self._choose()
                while not self._complete():
                    self._wait_until(self._deadline)
            assert self._chosen is not None
            return b"".join(self._got[index] for index in range(len(self._chosen.digests)))
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()
                lines = [line for lines in self._lines.values() for line in lines]
            for line in lines:
                line.close()

    # the joiner's own thread, under the lock

    def _choose(self) -> None:
        while self._chosen is None:
            silent = len(self._donors) - len(set(self._described) | set(self._reasons))
            there = {slot: one for slot, one in self._described.items() if slot not in self._reasons}
            enough = time.monotonic() >= self._asking_until
            self._chosen = choose_description(there, silent, enough)
            if self._chosen is None:
                self._wait_until(self._deadline if enough else self._asking_until)
        self._todo.extend(range(len(self._chosen.digests)))
        self._changed.notify_all()

    def _complete(self) -> bool:
        return self._chosen is not None and len(self._got) == len(self._chosen.digests)

    def _wait_until(self, until: float) -> None:
        if len(self._reasons) == len(self._donors):
            raise TransferFailed(dict(self._reasons))
        now = time.monotonic()
        if now >= self._deadline:
            slots = {peer.slot for peer in self._donors}
            raise MeshTimeout(self._named, slots - set(self._reasons))
        self._changed.wait(max(0.0, until - now))

    # a donor's thread

    def _ask(self, peer: Peer) -> None:
        reason: str | None = "no longer needed"
        try:
            line = self._connect(peer, self._lines[peer.slot])
            reason = self._get_from(peer.slot, line)
        except BadWire as error:
            reason = str(error)
        except OSError as error:
            reason = None if time.monotonic() >= self._deadline else f"{type(error).__name__}: {error}"
        finally:
            with self._changed:
                # What breaks off because the time is up says nothing about the donor, and the joiner sees the time itself.
                if reason is not None:
                    self._reasons.setdefault(peer.slot, reason)
                self._todo.extendleft(reversed(self._owed.pop(peer.slot)))
                self._changed.notify_all()
            for line in self._lines[peer.slot]:
                line.close()

    def _get_from(self, slot: int, line: Wire) -> str:
        described = self._describe(line)
        with self._changed:
            self._described[slot] = described
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._over or self._chosen is not None)
            if self._over or described != self._chosen:
                return "describes another state than most"
        while True:
            for index in self._take(slot):
                line.limit(time.monotonic() + CHUNK_TIMEOUT_S)
                line.send(Frame(Kind.ASK_CHUNK, self._round, self._what, index).buffers)
            with self._changed:
                owed = self._owed[slot]
                if not owed:
                    self._changed.wait_for(lambda: self._over or self._complete() or self._takeable(slot))
                    if self._over or self._complete():
                        return "no longer needed"
                    continue
                index = owed[0]
            piece = self._receive(line, Kind.CHUNK, index, described.chunk_size(index))
            if hashlib.sha256(piece).digest() != described.digests[index]:
                raise BadWire(f"chunk {index} is not what was described")
            with self._changed:
                owed.remove(index)
                self._got.setdefault(index, piece)
                self._deadline = max(self._deadline, time.monotonic() + self._patience_s)
                self._changed.notify_all()

    def _describe(self, line: Wire) -> Description:
        most = 8 + DIGEST_BYTES * -(-self._max_bytes // CHUNK_BYTES)
        while True:
            line.limit(self._deadline)
            line.send(Frame(Kind.ASK_DESCRIPTION, self._round, self._what, 0).buffers)
            head = read_header(line.receive(HEADER_BYTES))
            if head.kind is Kind.DESCRIPTION and head.length <= most:
                return read_description(line.receive(head.length), self._max_bytes)
            if head.kind is not Kind.NONE or head.length:
                raise BadWire("no description")
            if head.step == GONE or time.monotonic() >= self._asking_until:
                raise BadWire(f"has no {self._named}")

    @property
    def _named(self) -> str:
        return f"{'state' if self._what is What.STATE else 'record'} of round {self._round}"

    def _receive(self, line: Wire, kind: Kind, index: int, size: int) -> bytes:
        line.limit(min(self._deadline, time.monotonic() + CHUNK_TIMEOUT_S))
        head = read_header(line.receive(HEADER_BYTES))
        if (head.kind, head.step, head.length) != (kind, index, size):
            raise BadWire(f"another answer than chunk {index}")
        return line.receive(size)

    def _takeable(self, slot: int) -> Iterable[int]:
        if self._todo:
            return [self._todo[0]]
        return [one for slow, owed in self._owed.items() if slow != slot for one in owed if one not in self._got][:1]

    def _take(self, slot: int) -> list[int]:
        """Chunks to ask this donor for now: up to AHEAD that nobody was asked for, else one that a slow donor owes."""
        with self._changed:
            owed = self._owed[slot]
            taken: list[int] = []
            while self._todo and len(owed) + len(taken) < AHEAD:
                index = self._todo.popleft()
                if index not in self._got:
                    taken.append(index)
            if not taken and not owed:
                taken = list(self._takeable(slot))
            owed.extend(taken)
            return taken
