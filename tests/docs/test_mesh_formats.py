"""docs/FORMATS.md, «Mesh», is true: golden bytes are written and read, and a reader made from the page alone agrees."""

import hashlib
import hmac
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.mesh import wire
from trainers.mesh.wire import BadWire, Description, Frame, Header, Hello, Kind, Pattern, Purpose

PAGE = (Path(__file__).parents[2] / "docs" / "FORMATS.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("\n## Mesh\n")[2].partition("\n## ")[0]
SECRET, NONCE, OTHER_NONCE = bytes(range(32)), bytes(range(32, 64)), bytes(range(64, 96))
HELLO = Hello(Purpose.FRAMES, (1, 7), (2, 9), NONCE)

GOLDEN = {
    "hello": "544d483101000000010000000700000000000000020000000900000000000000202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3feec3f113e90c0ba2005131ad1d84cb17f270040e0c8fc02faa8caedd108bc70b",
    "reply": "404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f3592c5bfc9dd91df83fc4a50d780a1616ade5cbf0ab2c564627cab508d8f8b89",
    "proof": "749bd5a5499cd4425ea7aa2b2c000327bd56ca2311953685864715c397f6f920",
    "share": "544d463101000000020000000300000000000000290000000000000007000000000000007061796c6f6164",
    "result": "544d4631050000000200000003000000000000002900000000000000300000000000000001030000000000000000000000000000000100000003000000000000000400000004000000000000006f6e65666f7572",
    "description": "01001000000000008f990ba0b577b51cf009ea049368c16bbda1b21e1b93be07a824758bb253c39b2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
}


def made() -> dict[str, bytes]:
    """What the code writes."""
    reply = wire.reply_to(HELLO, OTHER_NONCE, SECRET)
    result = Frame(Kind.RESULT, 3, 2, 41, wire.pack_result(Pattern.GATHER, {1: b"one", 0: b"", 4: b"four"}))
    return {
        "hello": HELLO.pack(SECRET),
        "reply": reply,
        "proof": wire.proof_for(HELLO, reply, SECRET),
        "share": b"".join(Frame(Kind.SHARE, 3, 2, 41, (b"payload",)).buffers),
        "result": b"".join(result.buffers),
        "description": Description.of(b"x" * (wire.CHUNK_BYTES + 1)).pack(),
    }


def mac(label: bytes, data: bytes) -> bytes:
    return hmac.digest(SECRET, b"torg mesh " + label + data, "sha256")


@pytest.mark.parametrize("name", GOLDEN)
def test_the_code_writes_exactly_the_golden_bytes(name: str) -> None:
    assert made()[name].hex() == GOLDEN[name]


def test_the_handshake_is_what_the_page_says() -> None:
    hello, reply, proof = (bytes.fromhex(GOLDEN[name]) for name in ("hello", "reply", "proof"))
    body = struct.pack("<4sB3xIQIQ32s", b"TMH1", 1, 1, 7, 2, 9, NONCE)
    assert (len(body), len(hello), len(reply), len(proof)) == (64, 96, 64, 32)
    assert hello == body + mac(b"hello", body)
    assert reply == OTHER_NONCE + mac(b"reply", hello + OTHER_NONCE)
    assert proof == mac(b"proof", hello + OTHER_NONCE)
    assert wire.read_hello(hello, SECRET) == HELLO
    wire.check_proof(HELLO, OTHER_NONCE, proof, SECRET)


@given(at=st.integers(0, 95), flip=st.integers(1, 255))
def test_a_changed_hello_is_refused(at: int, flip: int) -> None:
    changed = bytearray(HELLO.pack(SECRET))
    changed[at] ^= flip
    with pytest.raises(BadWire):
        wire.read_hello(bytes(changed), SECRET)


@given(at=st.integers(0, 63), flip=st.integers(1, 255))
def test_a_changed_reply_is_refused(at: int, flip: int) -> None:
    changed = bytearray(wire.reply_to(HELLO, OTHER_NONCE, SECRET))
    changed[at] ^= flip
    with pytest.raises(BadWire):
        wire.proof_for(HELLO, bytes(changed), SECRET)


@given(
    kind=st.sampled_from(Kind), round_=st.integers(0, 2**64 - 1), attempt=st.integers(0, 2**32 - 1),
    step=st.integers(0, 2**64 - 1), payload=st.binary(max_size=99),
)  # fmt: skip
def test_a_reader_made_from_the_page_reads_any_frame(
    kind: Kind, round_: int, attempt: int, step: int, payload: bytes
) -> None:
    sent = b"".join(Frame(kind, round_, attempt, step, (payload,)).buffers)
    assert struct.unpack_from("<4sB3xIQQQ", sent) == (b"TMF1", kind, attempt, round_, step, len(payload))
    assert sent[36:] == payload
    assert wire.read_header(sent[:36]) == Header(kind, round_, attempt, step, len(payload))


@given(noise=st.binary(min_size=36, max_size=36))
def test_noise_is_no_header(noise: bytes) -> None:
    with pytest.raises(BadWire):
        wire.read_header(noise)


def test_the_golden_result_and_description_are_read_by_the_page() -> None:
    payload = bytes.fromhex(GOLDEN["result"])[36:]
    pattern, count = struct.unpack_from("<BI", payload)
    entries = [struct.unpack_from("<IQ", payload, 5 + 12 * one) for one in range(count)]
    assert (pattern, entries, payload[5 + 12 * count :]) == (1, [(0, 0), (1, 3), (4, 4)], b"onefour")
    assert wire.read_result(payload) == (Pattern.GATHER, {0: b"", 1: b"one", 4: b"four"})
    description = bytes.fromhex(GOLDEN["description"])
    chunks = [b"x" * (1 << 20), b"x"]
    expected = struct.pack("<Q", (1 << 20) + 1) + b"".join(hashlib.sha256(one).digest() for one in chunks)
    assert description == expected
    assert wire.read_description(description, 2 << 20).chunk_size(1) == 1


@given(data=st.binary(max_size=80), cut=st.integers(0, 60), slots=st.dictionaries(st.integers(0, 9), st.binary()))
def test_what_is_no_whole_result_or_description_is_refused(data: bytes, cut: int, slots: dict[int, bytes]) -> None:
    whole = b"".join(wire.pack_result(Pattern.PAIR, slots))
    assert wire.read_result(whole) == (Pattern.PAIR, slots)
    for bad in {whole[:cut], whole + b"\0", data} - {whole}:
        try:
            pattern, result = wire.read_result(bad)
        except BadWire:
            continue
        assert sorted(b"".join(wire.pack_result(pattern, result))) == sorted(bad)
    with pytest.raises(BadWire):
        wire.read_description(data, 10)


def test_the_page_lists_the_kinds_and_limits_that_the_code_knows() -> None:
    rows = re.findall(r"^\| (\d+) \| ([\w ]+) \|", SECTION, re.M)
    assert {int(number): name.upper().replace(" ", "_") for number, name in rows[-len(Kind) :]} == {
        int(kind): kind.name for kind in Kind
    }
    assert f"{wire.CHUNK_BYTES:,}".replace(",", " ") in SECTION
