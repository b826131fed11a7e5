"""Waiting for descriptors: any number, both directions, ends and closed ones."""

import errno
import fcntl
import os
import resource
import socket
from collections.abc import Iterator

import pytest

from trainers.ready import wait_ready

FAR = 5000  # select.select refuses whatever is above 1,023


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, FAR + 100) if hard < 0 else min(hard, FAR + 100), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_descriptors")
def test_a_descriptor_of_a_high_number_is_waited_for() -> None:
    reading, writing = os.pipe()
    high = fcntl.fcntl(reading, fcntl.F_DUPFD, FAR)
    try:
        assert wait_ready([high], 0.0) == ([], [])
        os.write(writing, b"x")
        assert wait_ready([high, writing], 5.0) == ([high], [])
    finally:
        for one in (reading, writing, high):
            os.close(one)


def test_each_direction_is_told_apart() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert wait_ready([ours], 0.0, [ours]) == ([], [ours])
        theirs.send(b"x")
        assert wait_ready([ours, theirs], 0.0, [ours]) == ([ours], [ours])


def test_whose_other_side_is_gone_is_ready_both_ways() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        assert wait_ready([ours], 5.0, [ours]) == ([ours], [ours])
    reading, writing = os.pipe()
    os.close(writing)
    assert wait_ready([reading], 5.0) == ([reading], [])
    os.close(reading)


def test_a_closed_one_is_an_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.close(writing)
    with pytest.raises(OSError) as told:
        wait_ready([reading], 0.0)
    assert told.value.errno == errno.EBADF
    closed = socket.socket()
    closed.close()
    with pytest.raises(ValueError, match="-1"):
        wait_ready([closed], 0.0)
