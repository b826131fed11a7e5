"""The pairing of sessions and their frames, without a network: what is pushed comes out, whole, in order, once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from market.outcomes import Refusal
from market.sessions import MOST, MOST_OF_A_JOB, QUEUE_BYTES, TAKE_WITHIN_S, Session, Sessions
from trainers.sessions import frames
from trainers.sessions.frames import BadFrame, Reader, frame, whole_frames

UP = st.lists(st.one_of(
    st.binary(max_size=200).map(lambda data: (frames.STDIN, data)), st.just((frames.STDIN_END, b"")),
    st.integers(1, 31).map(lambda number: (frames.SIGNAL, bytes([number]))), st.binary(min_size=4, max_size=4).map(lambda size: (frames.SIZE, size)),
), max_size=12)  # fmt: skip


def opened(sessions: Sessions, id: str = "s", job: str = "job", now_s: float = 0.0) -> Session:
    found = sessions.open(id, job=job, customer="ann", lease="l", epoch=1, order={"kind": "exec"}, now_s=now_s)
    assert isinstance(found, Session)
    return found


@given(UP, st.lists(st.integers(1, 40), max_size=60))
def test_frames_cut_anywhere_are_read_as_they_were_written(told: list[tuple[int, bytes]], cuts: list[int]) -> None:
    data, reader, heard = b"".join(frame(*one) for one in told), Reader(frames.FROM_CUSTOMER), []
    while data:
        size = cuts.pop() if cuts else len(data)
        heard += reader.read(data[:size])
        data = data[size:]
    assert heard == told
    assert reader.whole


@given(st.binary(max_size=300))
def test_any_bytes_are_frames_or_refused(data: bytes) -> None:
    try:
        found = whole_frames(data, frames.FROM_MACHINE)
    except BadFrame:
        return
    assert b"".join(frame(*one) for one in found) == data


@given(UP, st.data())
def test_what_is_pushed_again_counts_once(told: list[tuple[int, bytes]], choice: st.DataObject) -> None:
    """The pusher may repeat any piece that it is not sure was heard."""
    sessions = Sessions()
    session, got, written = opened(sessions), b"", b""
    sessions.take(session, "machine")
    pieces = [frame(*one) for one in told]
    starts = [sum(map(len, pieces[:number])) for number in range(len(pieces) + 1)]
    for number, piece in enumerate(pieces):
        written += piece
        back = choice.draw(st.integers(0, number))
        assert sessions.push(session, "customer", starts[back], written[starts[back] :]) == len(written)
        if choice.draw(st.booleans()):
            got += sessions.pull(session, "machine")
    assert got + sessions.pull(session, "machine") == b"".join(pieces)
    gap = sessions.push(session, "customer", len(written) + 1, b"")
    assert isinstance(gap, Refusal)
    assert gap.code == "frames_missing"


@given(st.lists(st.integers(0, frames.MAX_PAYLOAD_BYTES), min_size=1, max_size=12), st.data())
def test_no_more_waits_than_there_is_room_for(sizes: list[int], choice: st.DataObject) -> None:
    sessions = Sessions()
    session = opened(sessions)
    sessions.take(session, "customer")
    stream = b"".join(frame(frames.STDOUT, bytes([number]) * size) for number, size in enumerate(sizes))
    got, offset = b"", 0
    while offset < len(stream):
        following = sessions.push(session, "machine", offset, stream[offset:])
        assert isinstance(following, int)
        assert session.waits_for["customer"].size <= QUEUE_BYTES
        if following == offset or choice.draw(st.booleans()):
            got += sessions.pull(session, "customer")
        offset = following
    assert got + sessions.pull(session, "customer") == stream


def test_a_side_sends_only_what_is_its_own() -> None:
    sessions = Sessions()
    session = opened(sessions)
    for end, kind in (("customer", frames.STDOUT), ("machine", frames.STDIN), ("customer", frames.OVER)):
        refused = sessions.push(session, end, 0, frame(kind, b""))  # type: ignore[arg-type]
        assert isinstance(refused, Refusal)
        assert refused.code == "bad_frames"


def test_bounds_are_named_and_given_back() -> None:
    sessions = Sessions()
    mine = [opened(sessions, f"a{number}") for number in range(MOST_OF_A_JOB)]
    refused = sessions.open("more", job="job", customer="ann", lease="l", epoch=1, order={}, now_s=0)
    assert isinstance(refused, Refusal)
    assert (refused.code, refused.status) == ("too_many_sessions", 429)
    for number in range(MOST - MOST_OF_A_JOB):
        opened(sessions, f"b{number}", job=f"job-{number}")
    assert isinstance(sessions.open("more", job="other", customer="ann", lease="l", epoch=1, order={}, now_s=0), Refusal)
    for end in ("customer", "machine"):
        sessions.take(mine[0], end)  # type: ignore[arg-type]
    sessions.leave(mine[0], "customer")
    assert mine[0].over == ("customer_gone", "the customer's connection ended")
    sessions.leave(mine[0], "machine")
    opened(sessions, "again")


def test_each_end_is_taken_once_and_what_nobody_takes_is_forgotten() -> None:
    sessions = Sessions()
    session = opened(sessions)
    assert [one["id"] for one in sessions.of_lease("l", 1)["sessions"]] == ["s"]
    assert sessions.of_lease("l", 2)["sessions"] == []
    assert sessions.take(session, "customer") is None
    assert isinstance(sessions.take(session, "customer"), Refusal)
    assert sessions.expire(TAKE_WITHIN_S - 1) == []
    assert sessions.expire(TAKE_WITHIN_S) == [session]
    assert session.over is not None
    assert session.over[0] == "no_answer"
    assert sessions.finished(session, "customer")
    sessions.leave(session, "customer")
    assert len(sessions) == 0


def test_a_machine_that_goes_before_it_said_how_it_ended_is_lost() -> None:
    sessions = Sessions()
    for said_exit, reason in ((False, "machine_lost"), (True, None)):
        session = opened(sessions, f"s{said_exit}")
        for end in ("customer", "machine"):
            sessions.take(session, end)  # type: ignore[arg-type]
        if said_exit:
            sessions.push(session, "machine", 0, frame(frames.EXIT, b"{}"))
        sessions.leave(session, "machine")
        assert (session.over or (None,))[0] == reason
        assert sessions.finished(session, "customer") == (not said_exit)
        sessions.pull(session, "customer")
        assert sessions.finished(session, "customer")


def test_a_customer_that_comes_when_all_is_over_hears_how_it_was() -> None:
    sessions = Sessions()
    session = opened(sessions)
    sessions.take(session, "machine")
    sessions.push(session, "machine", 0, frame(frames.EXIT, b"{}"))
    sessions.leave(session, "machine")
    assert sessions.get("s") is session
    assert sessions.take(session, "customer") is None
    assert sessions.pull(session, "customer") == frame(frames.EXIT, b"{}")
    assert sessions.finished(session, "customer")
    sessions.leave(session, "customer")
    assert sessions.get("s") is None
