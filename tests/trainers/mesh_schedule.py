"""Random schedules for the pure part of the mesh: deaths, views and frames in any order that a network allows.

Between two members frames arrive in order; everything else is free: which link delivers next, when a member sees a view,
when its caller looks again, when somebody dies (losing a random tail of what it had sent).
"""

import random
from collections import Counter, deque
from dataclasses import dataclass, field

from trainers.mesh.collectives import Call, Collectives, Combine, Done, Over
from trainers.mesh.views import Peer, View
from trainers.mesh.wire import Frame, Pattern

STEPS = 3
ROUNDS = 2
EXPECTED_DROPS = {"old", "unasked", "finished", "twin", "stranger"}


@dataclass
class Member:
    """A core and its caller, which makes every step of every round, again after each new view."""

    core: Collectives
    views: deque[View] = field(default_factory=deque)
    call: Call | None = None
    step: int = 1
    returned: dict[tuple[int, int], dict[int, bytes]] = field(default_factory=dict)
    calls: int = 0


class Schedule:
    """One run with `members` members in a topology; `play` returns how often each thing happened."""

    def __init__(self, seed: int, members: int, topology: str) -> None:
        self.random = random.Random(seed)
        self.topology = topology
        self.peers = {slot: Peer(slot, 7, f"h:{slot}") for slot in range(members)}
        self.members = {slot: Member(Collectives(slot, 7, 1 << 20)) for slot in self.peers}
        self.links: dict[tuple[int, int], deque[Frame]] = {}
        order = list(self.peers)
        self.random.shuffle(order)
        self.partner = {
            a: b for i in range(0, len(order) - 1, 2) for a, b in (order[i : i + 2], order[i : i + 2][::-1])
        }
        self.happened: Counter[str] = Counter()
        self.view = View(1, 0, tuple(self.peers.values()))
        self.announce(self.view)

    def play(self) -> Counter[str]:
        for round_ in range(1, ROUNDS + 1):
            if round_ > 1:
                self.announce(View(round_, 0, self.living()))
            for _ in range(self.random.randrange(400)):
                self.event(self.random.random())
            self.announce(View(round_, self.view.attempt + 1, self.living()))
            self.settle(round_)
        drops = {reason for member in self.members.values() for reason in member.core.dropped}
        assert drops <= EXPECTED_DROPS, drops
        return self.happened

    def event(self, chance: float) -> None:
        if chance < 0.01 and len(self.members) > 1:
            self.kill(self.random.choice(sorted(self.members)))
        elif chance < 0.03:
            self.announce(View(self.view.round, self.view.attempt + 1, self.living()))
        elif chance < 0.15:
            self.see_view(self.random.choice(sorted(self.members)))
        elif chance < 0.5:
            self.look(self.random.choice(sorted(self.members)))
        else:
            self.deliver()

    def settle(self, round_: int) -> None:
        """Everything that is due happens: everybody alive must come to the end of the round."""
        for _ in range(20_000):
            if all((round_, STEPS) in member.returned for member in self.members.values()):
                return
            slot = self.random.choice(sorted(self.members))
            self.see_view(slot)
            self.look(slot)
            self.deliver()
        raise AssertionError("somebody waits for ever")

    def living(self) -> tuple[Peer, ...]:
        return tuple(self.peers[slot] for slot in sorted(self.members))

    def announce(self, view: View) -> None:
        self.view = view
        for member in self.members.values():
            member.views.append(view)

    def kill(self, slot: int) -> None:
        """The member is gone, and with it a random tail of what it had sent to each other one."""
        member = self.members.pop(slot)
        self.happened["death in mid-collective"] += member.call is not None and member.call.sent
        for (source, _), frames in self.links.items():
            if source == slot:
                for _ in range(self.random.randint(0, len(frames))):
                    frames.pop()

    def see_view(self, slot: int) -> None:
        member = self.members[slot]
        if not member.views:
            return
        view = member.views.popleft()
        if member.core.view is None or view.round > member.core.view.round:
            member.step, member.call = 1, None
        member.core.set_view(view)
        self.send(slot)

    def deliver(self) -> None:
        ready = sorted(link for link, frames in self.links.items() if frames and link[1] in self.members)
        if ready:
            source, target = self.random.choice(ready)
            self.members[target].core.receive((source, 7), self.links[source, target].popleft())
            self.send(target)

    def look(self, slot: int) -> None:
        """The caller of a member begins, or looks whether it can go on."""
        member = self.members[slot]
        view = member.core.view
        if view is None or member.step > STEPS:
            return
        if member.call is None:
            member.call = self.begin(slot, member, view)
        call = member.call
        progress = member.core.advance(call)
        if isinstance(progress, Combine):
            member.core.combined(call, b"|".join(one for _, one in sorted(progress.slices.items())))
            progress = member.core.advance(call)
        self.send(slot)
        if isinstance(progress, Over):
            member.call = None
            self.happened["superseded"] += 1
        elif isinstance(progress, Done):
            self.happened["taken from another"] += call.view.attempt > 0 and not call.sent
            self.returns(slot, call.view.round, member.step, progress.result)
            member.call, member.step = None, member.step + 1

    def begin(self, slot: int, member: Member, view: View) -> Call:
        member.calls += 1
        payload = b"%d said %d" % (slot, member.calls)  # never the same twice: two results that differ are seen
        if self.topology == "pair":
            partner = self.partner.get(slot)
            both = {one: payload for one in view.slots if one in (slot, partner)}
            return member.core.begin(Pattern.PAIR, member.step, both, partner)
        if self.topology == "gather":
            return member.core.begin(Pattern.GATHER, member.step, dict.fromkeys(view.slots, payload))
        owners = view.slots[:1] if self.topology == "star" else view.slots
        return member.core.begin(Pattern.REDUCE, member.step, dict.fromkeys(owners, payload))

    def returns(self, slot: int, round_: int, step: int, result: dict[int, bytes]) -> None:
        """The promise: what a living member returned, everybody who returns returns."""
        self.members[slot].returned[round_, step] = result
        others = [self.partner.get(slot)] if self.topology == "pair" else sorted(self.members)
        for other in others:
            if other in self.members and (round_, step) in self.members[other].returned:
                assert self.members[other].returned[round_, step] == result, (slot, other, round_, step)

    def send(self, slot: int) -> None:
        outbox = self.members[slot].core.outbox
        for peer, frame in outbox:
            self.links.setdefault((slot, peer.slot), deque()).append(frame)
        outbox.clear()
