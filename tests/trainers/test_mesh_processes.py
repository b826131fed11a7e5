"""Members in processes of their own that are killed, or frozen, in the middle of a collective or a transfer."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.trainers.mesh_network import SOON_S, Crew, crew_of, eventually, results
from tests.trainers.mesh_worker import content
from trainers.mesh import Peer, Superseded, View
from trainers.mesh.sockets import Wire
from trainers.mesh.state_transfer import Fetch

BIG = 40 << 20  # more than the kernel keeps for a socket on both sides
FIRST = 1 << 20


class Victim:
    """A member in a process."""

    def __init__(self, slot: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.trainers.mesh_worker", str(slot), "1"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.peer = Peer(slot, 1, self.process.stdout.readline().strip())

    def order(self, *words: Any) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline().strip() == "done"

    def set_view(self, view: View) -> None:
        self.order("view", view.round, view.attempt, [[p.slot, p.epoch, p.address] for p in view.members])

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)
        if number == signal.SIGKILL:
            self.process.wait(SOON_S)


@pytest.fixture
def victim() -> Iterator[Victim]:
    made = Victim(2)
    yield made
    made.process.kill()
    made.process.wait(SOON_S)
    for pipe in (made.process.stdin, made.process.stdout):
        if pipe is not None:
            pipe.close()


class HalfWay:
    """Members whose readers stop in the middle of a payload of BIG bytes until they are let go."""

    def __init__(self, crew: Crew, slots: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached = {slot: threading.Event() for slot in slots}
        self.go_on = threading.Event()
        receive = Wire.receive
        owners = {id(crew.members[slot]._links.counter): slot for slot in slots}

        def in_halves(line: Wire, size: int) -> bytes:
            slot = owners.get(id(line._counter))
            if size != BIG or slot is None:
                return receive(line, size)
            first = receive(line, FIRST)
            self.reached[slot].set()
            assert self.go_on.wait(SOON_S)
            return first + receive(line, size - FIRST)

        monkeypatch.setattr(Wire, "receive", in_halves)


@pytest.mark.parametrize("half", [[0, 1], [1]], ids=["nobody finished", "one finished"])
def test_a_member_killed_in_mid_collective(half: list[int], victim: Victim, monkeypatch: pytest.MonkeyPatch) -> None:
    with crew_of(2, real=True) as crew:
        half_way = HalfWay(crew, half, monkeypatch)
        view = View(1, 0, (crew.members[0].peer, crew.members[1].peer, victim.peer))
        for member in (crew.members[0], crew.members[1], victim):
            member.set_view(view)
        waiting = crew.gather([0, 1], 1, lambda slot: b"first %d" % slot)
        victim.order("gather", 1, BIG)
        assert all(reached.wait(SOON_S) for reached in half_way.reached.values())
        if 0 not in half:
            assert waiting[0].result(SOON_S)[2] == bytes([2]) * BIG
        victim.signal(signal.SIGKILL)
        half_way.go_on.set()
        eventually(lambda: crew.members[1].lost() == {2})
        assert FIRST < crew.members[1].wire().received_bytes < BIG, "the victim's frame arrived in part"
        crew.set_view(1, 1, [0, 1])
        with pytest.raises(Superseded):
            waiting[1].result(SOON_S)
        found = results(crew.gather([0, 1], 1, lambda slot: b"again %d" % slot))
        assert found[0] == found[1]
        assert found[0] == ({0: b"again 0", 1: b"again 1"} if 0 in half else waiting[0].result())
        assert set(results(crew.gather([0, 1], 2, lambda slot: b"next"))[0]) == {0, 1}


def test_a_frozen_member_holds_up_nobody_and_its_late_words_are_dropped(victim: Victim) -> None:
    with crew_of(2, real=True) as crew:
        view = View(1, 0, (crew.members[0].peer, crew.members[1].peer, victim.peer))
        for member in (crew.members[0], crew.members[1], victim):
            member.set_view(view)
        waiting = crew.gather([0, 1], 1, lambda slot: bytes(BIG))
        eventually(lambda: all(mesh.wire().received_bytes > BIG for mesh in crew.members.values()))
        victim.signal(signal.SIGSTOP)
        crew.set_view(1, 1, [0, 1])
        for future in waiting.values():
            with pytest.raises(Superseded):
                future.result(SOON_S)
        found = results(crew.gather([0, 1], 1, lambda slot: bytes([slot]) * BIG))
        assert found[0] == found[1] == {slot: bytes([slot]) * BIG for slot in (0, 1)}
        victim.signal(signal.SIGCONT)
        victim.order("gather", 1, 1000)
        eventually(lambda: all(mesh.dropped().get("old") for mesh in crew.members.values()))


def test_a_donor_killed_in_mid_transfer(victim: Victim, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 9 << 20
    victim.order("offer", 3, size, 5)
    killed, receive = threading.Event(), Fetch._receive

    def after_the_kill(fetch: Fetch, line: Wire, *rest: Any) -> bytes:
        if line._socket.getpeername()[1] != int(victim.peer.address.rpartition(":")[2]):
            assert killed.wait(SOON_S)
            return receive(fetch, line, *rest)
        piece = receive(fetch, line, *rest)
        victim.signal(signal.SIGKILL)
        killed.set()
        return piece

    monkeypatch.setattr(Fetch, "_receive", after_the_kill)
    with crew_of(2, real=True) as crew:
        crew.members[0].offer_state(3, lambda: content(size, 5))
        assert crew.members[1].fetch_state(3, [crew.members[0].peer, victim.peer], SOON_S) == content(size, 5)
        assert killed.is_set()
