"""Whoever lacks the secret gets not a byte; whoever has it and misbehaves harms nobody else; memory stays bounded."""

import os
import random
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from tests.trainers.mesh_network import SECRET, SOON_S, Crew, crew_of, eventually, results
from trainers.mesh import Mesh, Peer, View, sockets, wire
from trainers.mesh.collectives import WAITING_FRAMES, Collectives, Done, Waiting
from trainers.mesh.sockets import Counter, Wire, call, split
from trainers.mesh.wire import Header, Hello, Kind, Pattern, Purpose

LIMIT = 1 << 16


@pytest.fixture
def crew() -> Iterator[Crew]:
    with crew_of(2, real=True, max_frame_bytes=LIMIT) as made:
        made.set_view(5, 0, [0, 1])
        yield made


def dial(mesh: Mesh) -> socket.socket:
    return socket.create_connection(split(mesh.address), timeout=SOON_S)


def everything(connection: socket.socket) -> bytes:
    """What the other side sends until it closes the connection."""
    got = b""
    try:
        while piece := connection.recv(4096):
            got += piece
    except ConnectionResetError:
        pass
    finally:
        connection.close()
    return got


def still_works(crew: Crew, step: int = 9) -> None:
    found = results(crew.gather([0, 1], step, lambda slot: b"%d" % slot))
    assert found == {0: {0: b"0", 1: b"1"}, 1: {0: b"0", 1: b"1"}}


def hello(mesh: Mesh, secret: bytes = SECRET, purpose: Purpose = Purpose.FRAMES) -> bytes:
    return Hello(purpose, (1, 1), mesh.peer.identity, bytes(32)).pack(secret)


GARBAGE = random.Random(1).randbytes(500)
SPEECHES: dict[str, Callable[[Mesh], bytes]] = {
    "garbage": lambda mesh: GARBAGE,
    "http": lambda mesh: b"GET / HTTP/1.1\r\n\r\n" * 10,
    "zeros": lambda mesh: bytes(500),
    "frames": lambda mesh: b"".join(wire.Frame(Kind.WANT, 5, 0, 1).buffers) * 20,
    "another secret": lambda mesh: hello(mesh, bytes(32)),
    "another purpose": lambda mesh: hello(mesh)[:4] + b"\2" + hello(mesh)[5:],
    "for another member": lambda mesh: Hello(Purpose.STATE, (1, 1), (0, 2), bytes(32)).pack(SECRET),
}


@pytest.mark.parametrize("speech", SPEECHES)
def test_without_the_secret_nothing_is_answered(speech: str, crew: Crew) -> None:
    connection = dial(crew.members[0])
    connection.sendall(SPEECHES[speech](crew.members[0]))
    assert everything(connection) == b""
    still_works(crew)


@pytest.mark.parametrize("purpose", list(Purpose))
def test_a_recorded_hello_gets_a_nonce_and_nothing_else(purpose: Purpose, crew: Crew) -> None:
    crew.members[0].offer_state(1, lambda: b"precious")
    connection = dial(crew.members[0])
    connection.sendall(hello(crew.members[0], purpose=purpose))
    connection.sendall(GARBAGE[:32] + b"".join(wire.Frame(Kind.ASK_DESCRIPTION, 1, 0, 0).buffers))
    assert len(everything(connection)) == wire.REPLY_BYTES
    still_works(crew)


def test_silent_and_dripping_callers_are_cut_off(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    still_works(crew, 8)
    monkeypatch.setattr(sockets, "HANDSHAKE_TIMEOUT_S", 0.3)
    silent = [dial(crew.members[0]) for _ in range(5)]
    dripping = dial(crew.members[0])
    dripping.settimeout(0.02)
    sent = 0
    for byte in hello(crew.members[0]):
        try:
            dripping.sendall(bytes([byte]))
            assert dripping.recv(1) == b"", "nothing but the end"
            break
        except TimeoutError:
            sent += 1
        except OSError:
            break
    dripping.close()
    assert sent < wire.HELLO_BYTES
    assert [everything(one) for one in silent] == [b""] * 5
    still_works(crew)


def test_a_crowd_of_silent_callers_does_not_keep_a_member_out(crew: Crew) -> None:
    crowd = [dial(crew.members[0]) for _ in range(3 * 32)]
    assert everything(crowd[0]) == b"", "the oldest stranger makes room"
    crew.add(2)
    crew.set_view(6, 0, [0, 1, 2])
    assert set(results(crew.gather([0, 1, 2], 1, lambda slot: b"%d" % slot))[0]) == {0, 1, 2}
    for one in crowd:
        one.close()


def insider(mesh: Mesh, identity: tuple[int, int], purpose: Purpose = Purpose.FRAMES) -> Wire:
    return call(mesh.peer, identity, purpose, SECRET, Counter())


def test_an_insider_that_talks_nonsense_is_cut_off(crew: Crew) -> None:
    line = insider(crew.members[0], (7, 1))
    line.send([os.urandom(wire.HEADER_BYTES)])
    assert everything(line._socket) == b""
    huge = insider(crew.members[0], (7, 1))
    huge.send([wire.pack_header(Header(Kind.SHARE, 5, 0, 9, 1 << 62))])
    assert everything(huge._socket) == b""
    assert crew.members[0].dropped()["large"] == 1
    still_works(crew)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (Header(Kind.SHARE, 4, 9, 9, 8), "old"),
        (Header(Kind.SHARE, 5, 0, 9, 8), "stranger"),
        (Header(Kind.RESULT, 5, 0, 9, 8), "unasked"),
        (Header(Kind.NONE, 5, 0, 9, 0), "unasked"),
        (Header(Kind.WANT, 5, 0, 9, 8), "payload"),
        (Header(Kind.CHUNK, 5, 0, 9, 8), "kind"),
    ],
    ids=lambda one: one if isinstance(one, str) else one.kind.name,
)
def test_frames_that_nobody_waits_for_are_dropped_and_counted(header: Header, reason: str, crew: Crew) -> None:
    line = insider(crew.members[0], (7, 1))
    line.send([wire.pack_header(header), bytes(header.length)])
    eventually(lambda: crew.members[0].dropped().get(reason) == 1)
    still_works(crew)
    line.close()


def test_a_former_life_of_a_member_is_a_stranger(crew: Crew) -> None:
    line = insider(crew.members[0], (1, 0))
    line.send([*wire.Frame(Kind.SHARE, 5, 0, 9, (b"of the past",)).buffers])
    eventually(lambda: crew.members[0].dropped().get("stranger") == 1)
    still_works(crew)
    line.close()


@pytest.mark.parametrize("pattern", [Pattern.REDUCE, Pattern.PAIR])
def test_a_result_of_another_exchange_is_none(pattern: Pattern) -> None:
    core = Collectives(0, 1, LIMIT)
    core.set_view(View(1, 1, (Peer(0, 1, "a:1"), Peer(1, 1, "b:1"))))
    call = core.begin(Pattern.GATHER, 3, {0: b"mine", 1: b"mine"})
    for answered in (pattern, Pattern.GATHER):
        assert core.advance(call) == Waiting(frozenset({1}))
        core.receive((1, 1), wire.Frame(Kind.RESULT, 1, 1, 3, wire.pack_result(answered, {1: b"theirs"})))
    assert core.advance(call) == Done({1: b"theirs"})
    assert core.dropped == {"result": 1}


def test_what_waits_for_views_to_come_is_bounded() -> None:
    core, view = Collectives(0, 1, LIMIT), View(1, 0, (Peer(0, 1, "a:1"), Peer(1, 1, "b:1")))
    core.set_view(view)
    for round_ in range(2, 12):
        for step in range(20):
            core.receive((1, 1), wire.Frame(Kind.SHARE, round_, 0, step, (b"x",)))
            core.receive((1, 1), wire.Frame(Kind.WANT, round_, 0, step))
    assert len(core._waiting[1, 1]) == len(core._wants[1, 1]) == WAITING_FRAMES
    assert {order for order, _, _ in core._waiting[1, 1]} == {(11, 0)}, "only the newest view counts"
    whole = wire.Frame(Kind.SHARE, 100, 0, 1, (bytes(LIMIT),))
    assert [core.receive((1, 1), wire.Frame(Kind.SHARE, 100, 0, step, whole.parts)) for step in range(3)] == [
        True, True, False
    ]  # fmt: skip


@pytest.mark.parametrize(
    "question",
    [
        struct.pack("<36s", b"no header"),
        wire.pack_header(Header(Kind.ASK_CHUNK, 1, 9, 0, 0)),
        wire.pack_header(Header(Kind.ASK_CHUNK, 1, 0, 0, 1 << 40)),
    ],
    ids=["garbage", "store", "length"],
)
def test_a_joiner_that_asks_nonsense_is_cut_off(question: bytes, crew: Crew) -> None:
    line = insider(crew.members[0], (7, 1), Purpose.STATE)
    line.send([question])
    assert everything(line._socket) == b""


def test_chunks_that_are_not_there_are_answered_with_none(crew: Crew) -> None:
    crew.members[0].offer_state(1, lambda: b"short")
    line = insider(crew.members[0], (7, 1), Purpose.STATE)
    line.send([wire.pack_header(Header(Kind.ASK_CHUNK, 1, 0, 1 << 40, 0))])
    assert wire.read_header(line.receive(wire.HEADER_BYTES)).kind is Kind.NONE
    line.close()
