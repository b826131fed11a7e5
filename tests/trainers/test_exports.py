"""States in memory that is used again: none changes while it is wanted, memory is bounded, and a child that lies fails."""

import mmap
import os
import queue
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.child_log import ChildLog
from trainers.child_messages import ChildFailed
from trainers.child_process import TrainerChild
from trainers.child_start import Started
from trainers.exports import AREAS, Area, ExportAreas, Exported
from trainers.frames import Unpacker, pack
from trainers.tensor_file import Entry, head_of

LIMIT = 1 << 20


class Writer:
    """Exports as a parent and its child do: flat float32 vectors through the areas."""

    def __init__(self) -> None:
        self.areas = ExportAreas(LIMIT)
        self.maps: dict[int, mmap.mmap] = {}
        self.renewed = 0

    def export(self, values: np.ndarray, pieces: int = 1) -> Exported:
        head, _ = head_of([Entry("0.m", "F32", values.shape)], {"torg": "{}"})
        file, number = head + values.tobytes(), self.areas.free()
        if len(file) > self.areas.size_of(number):
            descriptor = self.areas.renew(number, len(file))
            self.maps[number] = mmap.mmap(descriptor, 0)
            os.close(descriptor)
            self.renewed += 1
        for piece in np.array_split(np.arange(len(file)), pieces):
            self.maps[number][piece[0] : piece[-1] + 1] = file[piece[0] : piece[-1] + 1]
        return self.areas.exported(number, len(file))


def numbers_in(exported: Exported) -> np.ndarray:
    return safetensors.numpy.load(exported.content())["0.m"]


@settings(deadline=None)
@given(script=st.lists(st.tuples(st.sampled_from(["export", "drop", "read"]), st.integers(0, 40)), max_size=30))
def test_whatever_is_still_held_is_what_was_exported(script):
    writer, held = Writer(), []
    for count, (what, number) in enumerate(script):
        if what == "export":
            values = np.full(number, count, dtype=np.float32)
            held.append((writer.export(values), values))
        elif held and what == "drop":
            held.pop(number % len(held))
        elif held:
            exported, values = held[number % len(held)]
            assert np.array_equal(numbers_in(exported), values)
        assert len(writer.maps) <= AREAS
    for exported, values in held:
        assert np.array_equal(numbers_in(exported), values)


def test_memory_is_used_again_and_copied_only_when_it_is_still_wanted(monkeypatch):
    moved, real = [], Exported.move_out
    monkeypatch.setattr(Exported, "move_out", lambda exported: (moved.append(exported.size_bytes), real(exported)))
    writer = Writer()
    before = writer.export(np.zeros(1000, dtype=np.float32))
    for number in range(10):  # one is wanted, the next is made, then the first is let go
        now = writer.export(np.full(1000, number, dtype=np.float32))
        assert before is not now
        before = now
    assert (writer.renewed, moved) == (AREAS, [])
    held = [writer.export(np.full(1000, number, dtype=np.float32)) for number in range(5)]
    assert (writer.renewed, len(moved)) == (AREAS, 4)
    assert [numbers_in(one)[-1] for one in held] == [0, 1, 2, 3, 4]
    assert numbers_in(before)[0] == 9


def test_one_area_is_enough_for_who_holds_one_at_a_time():
    writer = Writer()
    for number in (1, 2000, 1000, 2000):
        assert numbers_in(writer.export(np.ones(number, dtype=np.float32))).size == number
    assert list(writer.maps) == [0]
    assert writer.renewed == 2, "for more than fitted, and never for less"


def test_threads_that_read_while_memory_is_used_again_see_one_state_each():
    writer, given_out, torn, held = Writer(), queue.Queue(), [], []
    reading = threading.Semaphore(0)

    def read():
        while (asked := given_out.get()) is not None:
            exported, number = asked
            reading.release()
            if not (numbers_in(exported) == number).all():
                torn.append(number)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(60):
        held = [*held[-2:], (writer.export(np.full(60_000, number, dtype=np.float32), pieces=16), number)]
        for one in held:
            given_out.put(one)
        reading.acquire()  # one of them is at it now, or was
    for _ in readers:
        given_out.put(None)
    for reader in readers:
        reader.join(60)
    assert not torn
    assert writer.renewed == AREAS


def test_memory_that_is_being_read_is_not_written_to_before_that_is_over(monkeypatch):
    """A reader stops in the middle until the next export wants its area, and looks whether it got it."""
    writer, half, wanted, written = Writer(), threading.Event(), threading.Event(), threading.Event()
    first = writer.export(np.zeros(1000, dtype=np.float32))
    second = writer.export(np.ones(1000, dtype=np.float32))
    real_read, real_move = Area.read_into, Exported.move_out

    def read_into(area, offset, room):
        real_read(area, offset, room[:2000])
        if not half.is_set():
            half.set()
            assert wanted.wait(60)
            assert not written.wait(0.3)
        real_read(area, offset + 2000, room[2000:])

    def move_out(exported):
        wanted.set()
        real_move(exported)

    monkeypatch.setattr(Area, "read_into", read_into)
    monkeypatch.setattr(Exported, "move_out", move_out)
    found = []
    reader = threading.Thread(target=lambda: found.append(numbers_in(first)))
    reader.start()
    assert half.wait(60)
    third = writer.export(np.full(1000, 2, dtype=np.float32))
    written.set()
    reader.join(60)
    assert [numbers.tolist() for numbers in found] == [[0.0] * 1000]
    assert [numbers_in(one)[-1] for one in (first, second, third)] == [0, 1, 2]


def test_what_a_child_writes_later_does_not_change_what_the_file_says_of_itself():
    writer = Writer()
    exported = writer.export(np.ones(8, dtype=np.float32))
    head = len(exported.content()) - 32
    writer.maps[0][:] = b"\xff" * len(writer.maps[0])
    content = exported.content()
    assert content[:head] == head_of([Entry("0.m", "F32", (8,))], {"torg": "{}"})[0]
    assert content[head:] == b"\xff" * 32


@pytest.fixture
def liar():
    """A `TrainerChild` whose other end says what a script makes it say; `script` gets a `Child`."""
    begun = []

    def begin(script):
        ours, theirs = socket.socketpair()
        process = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
        child = TrainerChild(Started(process, ours, process.pid, ChildLog(process.stdout)), None, {}, "process", LIMIT)
        thread = threading.Thread(target=script, args=(Child(theirs),))
        begun.append((process, child, theirs, thread))
        thread.start()
        return child

    yield begin
    for process, child, theirs, thread in begun:
        child.kill()
        theirs.close()
        thread.join(60)
        process.stdin.close()


class Child:
    """The other end of a connection, which says what it likes."""

    def __init__(self, connection):
        self.connection, self.unpacker = connection, Unpacker(1 << 20, 0)

    def asked(self):
        while (frame := self.unpacker.next()) is None:
            self.unpacker.feed(self.connection.recv(1 << 16))
        return frame.fields

    def say(self, type_, **fields):
        self.connection.sendall(pack(type_, fields))

    def memory(self):
        _, [descriptor], _, _ = socket.recv_fds(self.connection, 1, 1)
        memory = mmap.mmap(descriptor, 0)
        os.close(descriptor)
        return memory


def telling(size, content, told=None):
    """A child that asks for so much room, writes that and says that it is so long."""

    def script(child):
        child.asked()
        child.say("export_size", bytes=size)
        try:
            memory = child.memory()
        except ValueError:  # nothing came: the parent has had enough
            return
        memory[: len(content)] = content
        child.say("exported", bytes=size if told is None else told)

    return script


def at_once(child):
    child.asked()
    child.say("exported", bytes=8)


GOOD = head_of([Entry("0.m", "F32", (2,))], {"torg": "{}"})[0] + bytes(8)
LIES = {
    "more than its memory limit": telling(LIMIT + 1, b""),
    "no count": telling("many", b""),
    "a truth": telling(True, b""),
    "less than nothing": telling(-1, b""),
    "before it has memory": at_once,
    "more than there is room for": telling(len(GOOD), GOOD, told=len(GOOD) + 1),
    "less than its tensors are": telling(len(GOOD), GOOD, told=len(GOOD) - 1),
    "less than a length": telling(len(GOOD), GOOD, told=7),
    "nothing": telling(0, b""),
    "a head longer than all": telling(64, (1 << 40).to_bytes(8, "little")),
    "a head that is none": telling(64, (56).to_bytes(8, "little") + b"x" * 56),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_child_that_lies_about_its_state_has_failed(liar, lie):
    child = liar(LIES[lie])
    with pytest.raises(ChildFailed, match="broke the protocol") as failed:
        child.export_inner()
    assert failed.value.kind == "exception"


def test_a_child_that_tells_the_truth_has_not(liar):
    assert liar(telling(len(GOOD), GOOD)).export_inner().content() == GOOD


@settings(max_examples=60, deadline=None)
@given(told=st.integers(0, 300), changes=st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), max_size=4))
def test_any_bytes_end_in_a_file_or_a_failure(told, changes):
    areas = ExportAreas(LIMIT)
    number = areas.free()
    descriptor = areas.renew(number, 256)
    memory = mmap.mmap(descriptor, 0)
    os.close(descriptor)
    memory[: len(GOOD)] = GOOD
    for at, value in changes:
        memory[at] = value
    try:
        exported = areas.exported(number, told if changes else len(GOOD))
    except ChildFailed:
        assert changes
        return
    assert exported.content() == memory[: exported.size_bytes]
    assert safetensors.numpy.load(exported.content()).keys() or changes
