"""Blobs one behind the other in one body: however it is cut on its way, the same blobs come out."""

import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market import blob_frames
from market.blob_frames import MAX_BLOBS, MAX_BYTES, Frames, FramesWrong, framed

CONTENTS = st.lists(st.binary(max_size=40), max_size=6)


def named(contents: list[bytes]) -> list[tuple[str, bytes]]:
    return [(hashlib.sha256(content).hexdigest(), content) for content in contents]


def head(length: int) -> bytes:
    return bytes(32) + length.to_bytes(8, "big")


def taken(body: bytes, cuts: list[int]) -> list[tuple[str, bytes]]:
    frames, found = Frames(), []
    places = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    for begin, end in itertools.pairwise(places):
        found += [(blob.digest, b"".join(blob.pieces)) for blob in frames.feed(body[begin:end])]
    frames.close()
    return found


@given(contents=CONTENTS, cuts=st.lists(st.integers(0, 400)))
def test_what_goes_in_comes_out_wherever_the_body_is_cut(contents: list[bytes], cuts: list[int]) -> None:
    assert taken(b"".join(framed(named(contents))), cuts) == named(contents)


@given(contents=st.lists(st.binary(max_size=40), min_size=1, max_size=3), short=st.integers(1, 39))
def test_a_body_that_ends_too_early_is_told_and_what_was_whole_is_there(contents: list[bytes], short: int) -> None:
    body, frames = b"".join(framed(named(contents))), Frames()
    found = list(frames.feed(body[:-short]))
    assert [(blob.digest, b"".join(blob.pieces)) for blob in found] == named(contents)[: len(found)]
    if body[:-short] not in (b"".join(framed(named(contents[:count]))) for count in range(len(contents))):
        with pytest.raises(FramesWrong, match="ends within blob"):
            frames.close()


def test_the_bytes_are_those_of_the_api_page() -> None:
    blob = hashlib.sha256(b"hello").hexdigest()
    assert b"".join(framed([(blob, b"hello")])) == bytes.fromhex(blob) + b"\0\0\0\0\0\0\0\5hello"


def test_large_blobs_are_not_copied_and_go_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blob_frames, "PIECE_BYTES", 4)
    content = bytearray(b"0123456789")
    body = framed([("ab" * 32, memoryview(content))])
    content[0:1] = b"x"
    assert [bytes(piece) for piece in body[1:]] == [b"x123", b"4567", b"89"]


def test_a_blob_too_long_and_one_too_many_are_refused() -> None:
    with pytest.raises(FramesWrong, match=f"blob 1 of the body has {MAX_BYTES + 1} bytes"):
        list(Frames().feed(head(MAX_BYTES + 1)))
    assert not list(Frames().feed(head(MAX_BYTES)))
    frames = Frames()
    assert len(list(frames.feed(head(0) * MAX_BLOBS))) == MAX_BLOBS
    with pytest.raises(FramesWrong, match=f"more than {MAX_BLOBS} blobs"):
        list(frames.feed(head(0)))
