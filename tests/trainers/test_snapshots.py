"""What is set aside stays as it was, is bounded, and leads to the states that it says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.exports import Exported
from trainers.snapshots import Snapshot, Snapshots


def base(round: int, size: int = 10) -> Snapshot:
    """Of `size` bytes in all: two thirds are the inner optimiser's, as AdamW's are, some the model's buffers."""
    inner, buffers = 2 * size // 3, size // 10
    return Snapshot(
        "base", round, f"digest {round}", size - inner - buffers, lambda: f"{round}".encode(),
        inner=Exported(bytes(inner), inner), buffers=bytes(buffers),
    )  # fmt: skip


def delta(round: int, size: int = 1) -> Snapshot:
    return Snapshot("delta", round, f"digest {round}", size, lambda: f"+{round}".encode())


def replay(state: bytes, deltas: list[bytes]) -> bytes:
    return b"".join([state, *deltas])


def test_a_state_is_had_from_its_base_and_the_deltas_since() -> None:
    kept = Snapshots()
    for one in (base(1), delta(2), delta(3), base(4), delta(5), delta(7)):
        kept.add(one)
    assert kept.rounds() == {round: f"digest {round}" for round in (1, 2, 3, 4, 5)}, "6 is missing, so 7 leads nowhere"
    assert kept.state(3, replay) == b"1+2+3"
    assert kept.state(4, replay) == b"4"
    assert kept.state(5, replay) == b"4+5"
    assert kept.state(7, replay) is None
    assert [found and found.round for found in map(kept.base, (3, 4, 5, 7))] == [1, 4, 4, None]
    assert kept.staged(7) == b"+7"
    assert kept.buffers(4) == bytes(1)
    assert kept.size_bytes == 2 * 10 + 4 - 6, "what lies beside the states counts too"
    inner = kept.take_inner(4)
    assert inner is not None
    assert inner.content() == bytes(6)
    assert kept.take_inner(4) is None, "its memory is used again once it was handed out"
    assert kept.take_inner(1) is None, "only the newest base keeps one"
    assert kept.size_bytes == 2 * 10 + 4 - 12
    assert kept.state(3, replay) == b"1+2+3"
    with pytest.raises(KeyError):
        kept.staged(6)


def test_rounds_that_were_undone_go() -> None:
    kept = Snapshots()
    for one in (base(1), delta(2), delta(3)):
        kept.add(one)
    kept.add(base(2))
    assert kept.rounds() == {1: "digest 1", 2: "digest 2"}


@given(
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=40),
    bases=st.integers(1, 3),
    limit=st.integers(0, 100),
)
def test_memory_is_bounded_and_the_newest_chain_stays(steps: list[tuple[bool, int]], bases: int, limit: int) -> None:
    kept, last_base, since = Snapshots(bases=bases, limit_bytes=limit), None, 0
    for round, (is_base, size) in enumerate(steps, start=1):
        kept.add(base(round, size) if is_base else delta(round, size))
        last_base, since = (round, size) if is_base else (last_base, since + size)
        if last_base is not None:
            assert kept.rounds().keys() >= set(range(last_base, round + 1))
            assert kept.size_bytes <= max(limit, since)
        assert sum(1 for at in kept.rounds() if kept.staged(at)[:1] != b"+") <= bases
