"""Checkpoints off the training path: the copy is what counts, nothing is lost silently."""

import threading

import numpy as np
import pytest

from trainers.snapshots import Durable, NotDurable, Snapshots


class Store:
    """A blob store that can be held up and can be full."""

    def __init__(self) -> None:
        self.blobs: list[bytes] = []
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()
        self.full = False

    def put(self, data: bytes) -> str:
        self.entered.set()
        assert self.go_on.wait(30)
        if self.full:
            raise OSError(28, "No space left on device")
        self.blobs.append(data)
        return f"digest-{len(self.blobs)}"


def serialise(tensors, round):
    return round.to_bytes(4, "big") + b"".join(tensors[name].tobytes() for name in sorted(tensors))


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def snapshots(store):
    made = Snapshots(serialise, store.put)
    yield made
    store.go_on.set()
    assert made.close(30)


def state_of(value: float) -> dict[str, np.ndarray]:
    return {"parameters": np.full(1000, value, np.float32), "momentum": np.zeros(1000, np.float32)}


def test_what_is_stored_is_the_state_at_the_copy_not_what_training_made_of_it(snapshots, store):
    store.go_on.clear()
    state = state_of(1.0)
    expected = serialise(state, 1)
    stall_ms = snapshots.stage(state, 1)
    assert store.entered.wait(30)
    state["parameters"][:] = 2.0
    store.go_on.set()
    assert snapshots.flush(30)
    assert store.blobs == [expected]
    (done,) = snapshots.finished()
    assert isinstance(done, Durable)
    assert (done.round, done.digest, done.size_bytes, done.stall_ms) == (1, "digest-1", len(expected), stall_ms)
    assert snapshots.latest() == (1, expected)


def test_a_newer_snapshot_replaces_one_that_waits_and_says_so(snapshots, store):
    store.go_on.clear()
    snapshots.stage(state_of(1), 1)
    assert store.entered.wait(30)
    for round in (2, 3, 4):
        snapshots.stage(state_of(round), round)
    assert not snapshots.flush(0)
    store.go_on.set()
    assert snapshots.flush(30)
    outcome = [(type(done), done.round) for done in snapshots.finished()]
    assert outcome == [(NotDurable, 2), (NotDurable, 3), (Durable, 1), (Durable, 4)]
    assert [int.from_bytes(blob[:4], "big") for blob in store.blobs] == [1, 4]


def test_buffers_are_reused(snapshots):
    kept = set()
    for round in range(1, 6):
        snapshots.stage(state_of(round), round)
        assert snapshots.flush(30)
        kept |= {id(buffer) for buffer in snapshots._free}
    assert len(kept) == 1


def test_a_full_store_is_reported_and_the_next_snapshot_is_tried(snapshots, store):
    store.full = True
    snapshots.stage(state_of(1), 1)
    assert snapshots.flush(30)
    (failed,) = snapshots.finished()
    assert isinstance(failed, NotDurable)
    assert "No space left" in failed.error
    assert snapshots.latest()[0] == 1
    store.full = False
    snapshots.stage(state_of(2), 2)
    assert snapshots.flush(30)
    assert [done.round for done in snapshots.finished() if isinstance(done, Durable)] == [2]


def test_close_writes_what_still_waits(store):
    made = Snapshots(serialise, store.put)
    made.stage(state_of(1), 1)
    assert made.close(30)
    assert len(store.blobs) == 1


def test_a_bug_of_ours_on_the_thread_is_raised_where_somebody_looks():
    made = Snapshots(lambda tensors, round: 1 / 0, lambda data: "digest")
    made.stage(state_of(1), 1)
    assert made.flush(30)
    with pytest.raises(ZeroDivisionError):
        made.finished()
    assert made.close(30)
