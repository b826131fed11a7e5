"""Frames and answers of a child that may be hostile: whatever it says ends in a clean value or a clean failure."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.child_messages import ChildFailed, checked_count, checked_failure, checked_loss, checked_tensors
from trainers.frames import BadFrame, Frame, Unpacker, pack

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
fields = st.dictionaries(st.text(min_size=1, max_size=8).filter(lambda name: name not in ("type", "raw")), plain)


def unpacker() -> Unpacker:
    return Unpacker(max_header_bytes=1 << 16, max_raw_bytes=1 << 16)


@given(type_=st.text(max_size=10), fields=fields, raw=st.binary(max_size=200), cut=st.integers(1, 50))
def test_frames_come_back_whole_however_the_stream_is_cut(type_, fields, raw, cut):
    stream, stage, got = pack(type_, fields, raw) * 2, unpacker(), []
    for start in range(0, len(stream), cut):
        stage.feed(stream[start : start + cut])
        while (frame := stage.next()) is not None:
            got.append(frame)
    assert [frame.type for frame in got] == [type_, type_]
    assert got[0].raw == raw
    assert json.dumps(got[1].fields) == json.dumps(json.loads(json.dumps(fields)))


@given(noise=st.binary(max_size=300))
def test_noise_is_a_bad_frame_or_waits_for_more(noise):
    stage = unpacker()
    stage.feed(noise)
    try:
        frame = stage.next()
    except BadFrame:
        return
    assert frame is None or isinstance(frame, Frame)


@pytest.mark.parametrize(
    "header",
    [b"[]", b"{}", b'{"type":1}', b"\xff", b'{"type":"x","raw":-1}', b'{"type":"x","raw":true}', b"[" * 60_000,
     b'{"type":"x","raw":99999999999}', b'{"type":"x","n":' + b"9" * 5000 + b"}"],
)  # fmt: skip
def test_headers_that_no_child_of_ours_sends_are_bad_frames(header):
    stage = unpacker()
    stage.feed(len(header).to_bytes(4, "big") + header)
    with pytest.raises(BadFrame):
        stage.next()


def test_a_claim_of_a_huge_header_is_refused_before_it_arrives():
    stage = unpacker()
    stage.feed((1 << 31).to_bytes(4, "big"))
    with pytest.raises(BadFrame, match="allowed"):
        stage.next()


@given(value=plain)
def test_any_json_as_answer_ends_in_a_value_or_a_failure(value):
    for check in (checked_count, checked_loss, lambda v: checked_tensors(v, 1 << 20)):
        assert how(lambda check=check: check(value)) in {"a value", "exception", "nan", "memory", "shape"}
    assert how(lambda: checked_failure({"kind": value, "message": value, "traceback": value})) == "exception"


def how(check) -> str:
    """How a check ends: with a value or with a failure of some kind."""
    try:
        check()
    except ChildFailed as failed:
        return failed.kind
    return "a value"


@pytest.mark.parametrize(
    ("described", "kind"),
    [
        ([], "shape"),
        ([["w", [0]]], "shape"),
        ([["w", [2]], ["w", [3]]], "shape"),
        ([["w", [1 << 50, 1 << 50]]], "memory"),
        ([["w", [-1]]], "exception"),
        ([["w", [True]]], "exception"),
        ([["w", [1.5]]], "exception"),
        ([["w"]], "exception"),
        ({"w": [1]}, "exception"),
        ([["w", [1] * 100]], "exception"),
    ],
)
def test_models_that_cannot_be(described, kind):
    with pytest.raises(ChildFailed) as failed:
        checked_tensors(described, 1 << 20)
    assert failed.value.kind == kind


def test_tensors_lie_behind_each_other():
    tensors = checked_tensors([["a", [2, 3]], ["b", []], ["c", [4]]], 1 << 20)
    assert [(t.name, t.offset, t.size) for t in tensors] == [("a", 0, 6), ("b", 6, 1), ("c", 7, 4)]
