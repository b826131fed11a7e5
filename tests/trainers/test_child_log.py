"""Lines of a pipe as they are shown while their writer lives: whole ones, and those that stay unfinished."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from trainers.child_log import MAX_LINE_CHARACTERS, OVERWRITTEN_S, UNFINISHED_S, ChildLog


class Writer:
    """A process that writes to the log's pipe, and a clock that the test moves."""

    def __init__(self) -> None:
        reading, self._writing = os.pipe()
        self.now = 0.0
        self._bytes = 0
        self.pipe = os.fdopen(reading, "rb", buffering=0)
        self.log = ChildLog(self.pipe, clock=lambda: self.now)

    def write(self, text: bytes) -> None:
        """Returns when the log has read it."""
        before = self.log.read_bytes
        os.write(self._writing, text)
        until = time.monotonic() + 60
        while self.log.read_bytes < before + len(text):
            assert time.monotonic() < until
            time.sleep(0.001)

    def end(self) -> None:
        os.close(self._writing)
        self.log.close()


@pytest.fixture
def writer() -> Iterator[Writer]:
    made = Writer()
    yield made
    if not made.pipe.closed:
        made.end()


def test_a_prompt_is_shown_after_a_while_and_what_follows_is_a_line(writer: Writer) -> None:
    writer.write(b"hello\nname: ")
    assert writer.log.take() == ["hello"]
    writer.now = UNFINISHED_S
    assert writer.log.take() == ["name: "]
    assert writer.log.take() == [], "shown once"
    writer.write(b"Ann\nage: ")
    assert writer.log.take() == ["Ann"]
    writer.end()
    assert writer.log.take() == ["age: "]
    assert writer.log.tail().splitlines() == ["hello", "name: ", "Ann", "age: "]


def test_the_bare_end_of_a_line_that_was_shown_is_no_line(writer: Writer) -> None:
    writer.write(b"name: ")
    writer.now = UNFINISHED_S
    assert writer.log.take() == ["name: "]
    writer.write(b"\r\n\nnext\n")
    assert writer.log.take() == ["", "next"]


def test_a_line_that_goes_on_is_not_cut(writer: Writer) -> None:
    for word in (b"one ", b"two ", b"three"):
        writer.write(word)
        writer.now += UNFINISHED_S / 2
        assert writer.log.take() == []
    writer.write(b"\n")
    assert writer.log.take() == ["one two three"]


def test_a_line_that_is_too_long_says_that_it_was_cut(writer: Writer) -> None:
    writer.write(b"x" * MAX_LINE_CHARACTERS + b"\n" + "é".encode() * MAX_LINE_CHARACTERS + b"e\nnext\n")
    whole, cut, following = writer.log.take()
    assert whole == "x" * MAX_LINE_CHARACTERS
    assert cut.endswith("é [torg: cut: 4,001 bytes]")
    assert len(cut) == MAX_LINE_CHARACTERS
    assert following == "next"


def test_a_bar_of_progress_is_given_longer(writer: Writer) -> None:
    writer.write(b"\r10 %")
    writer.now = UNFINISHED_S
    assert writer.log.take() == []
    writer.write(b"\r20 %")
    writer.now += OVERWRITTEN_S
    assert writer.log.take() == ["20 %"]
    writer.write(b"\r30 %\r40 %\n")
    assert writer.log.take() == ["40 %"]
