"""The sections «Sealed segment» and «Snapshot» of docs/FORMATS.md are true: readers made from them alone read the golden files."""

import hashlib
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.journal import Journal, segments
from storage.sealing import seal_segment, sealable
from storage.segment_files import open_sealed
from storage.snapshots import read_snapshot
from tests.docs.specimens import GOLDEN, make_sealed
from tests.docs.test_formats import Refuse, demand

NAME = f"{1:020d}"
SEALED = GOLDEN / "sealed" / f"{NAME}.sealed"
SNAPSHOT = GOLDEN / f"{3:020d}.snapshot"


def unsealed_by_the_page(data: bytes, name: int) -> bytes:
    """The segment that a sealed file stands for."""
    demand(len(data) >= 160 and data[:8] == b"TORGSEG1", "magic")
    first, last, size, term = struct.unpack_from("<QQQQ", data, 8)
    (count,) = struct.unpack_from("<I", data, 136)
    demand(first == name and data[140:156] == bytes(16) and count >= 1, "name, reserved bytes, number of blocks")
    demand(zlib.crc32(data[160 : 160 + 64 * count], zlib.crc32(data[:156])) == int.from_bytes(data[156:160], "little"), "CRC of head and index")
    head = b"TORGJNL1" + struct.pack("<QQ", first, term) + data[40:72] + bytes(36)
    made, number, hashed, at = head + struct.pack("<I", zlib.crc32(head)), first, data[40:72], 160 + 64 * count
    for entry in range(160, 160 + 64 * count, 64):
        says = struct.unpack_from("<QQ32sQII", data, entry)
        demand(says[:4] == (number, len(made), hashed, at), "the index")
        block = data[at : at + says[4]]
        demand(zlib.crc32(block) == says[5], "CRC of a block")
        plain = zlib.decompress(block)
        (records,) = struct.unpack_from("<I", plain)
        begin = 4 + 8 * records
        for length, place in struct.iter_unpack("<II", plain[4:begin]):
            payload = plain[begin : begin + length]
            hashed = hashlib.sha256(hashed + struct.pack("<Q", number) + payload).digest()
            start = b"TREC" + struct.pack("<II", length, place)
            made += start + struct.pack("<I", zlib.crc32(start + hashed + payload)) + hashed + payload
            begin, number = begin + length, number + 1
        demand(begin == len(plain), "the end of a block")
        at += says[4]
    demand(at == len(data) and number == last + 1 and len(made) == size, "the end")
    demand(hashed == data[72:104] and hashlib.sha256(made).digest() == data[104:136], "chain hash and digest")
    return made


def test_both_readers_give_the_golden_segment() -> None:
    expected = (GOLDEN / "journal" / f"{NAME}.journal").read_bytes()
    assert unsealed_by_the_page(SEALED.read_bytes(), 1) == expected
    with open_sealed(SEALED.name, SEALED.open("rb")) as file:
        assert file.read() == expected
    assert SEALED.read_bytes()[136] == 2, "blocks"


def test_what_is_sealed_today_is_the_same_but_for_the_compressor(tmp_path: Path) -> None:
    made = make_sealed(tmp_path)
    assert made[:140] == SEALED.read_bytes()[:140]
    assert unsealed_by_the_page(made, 1) == unsealed_by_the_page(SEALED.read_bytes(), 1)


@settings(deadline=None, max_examples=20)
@given(appends=st.lists(st.lists(st.binary(max_size=90), min_size=1, max_size=3), min_size=1, max_size=9), block_bytes=st.integers(1, 900))
def test_a_reader_made_from_the_page_reads_any_sealed_segment(
    appends: list[list[bytes]], block_bytes: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("sealed")
    with Journal.open(folder, segment_bytes=500) as journal:
        for payloads in appends:
            journal.append(payloads)
    with Journal.open(folder):
        pass
    for first in sealable(folder, 1 << 60):
        expected = (folder / f"{first:020d}.journal").read_bytes()
        seal_segment(folder, first, block_bytes=block_bytes)
        assert unsealed_by_the_page((folder / f"{first:020d}.sealed").read_bytes(), first) == expected
    assert {path.suffix for path in segments(folder)[:-1]} == {".sealed"}


@settings(deadline=None, max_examples=80)
@given(data=st.data())
def test_both_readers_refuse_any_changed_byte(data: st.DataObject) -> None:
    content = bytearray(SEALED.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1), label="at")] ^= data.draw(st.integers(1, 255), label="flip")
    with pytest.raises((Refuse, zlib.error)):
        unsealed_by_the_page(bytes(content), 1)


def test_both_readers_read_the_golden_snapshot() -> None:
    data = SNAPSHOT.read_bytes()
    magic, number, hashed, first, offset, at_ms, shape, length, digest, reserved, crc = struct.unpack("<8sQ32sQQQ32sQ32s12sI", data[:160])
    body, sections = data[160:], dict[str, bytes]()
    assert (magic, f"{number:020d}", reserved, crc) == (b"TORGSNP1", SNAPSHOT.stem, bytes(12), zlib.crc32(data[:156]))
    assert (length, digest) == (len(body), hashlib.sha256(body).digest())
    at = 0
    while at < len(body):
        (size,) = struct.unpack_from("<I", body, at)
        name = body[at + 4 : at + 4 + size].decode()
        (length,) = struct.unpack_from("<Q", body, at + 4 + size)
        at += 12 + size + length
        sections[name] = body[at - length : at]
    found = read_snapshot(SNAPSHOT, shape)
    assert (found.place.first, found.place.offset, found.place.number, found.place.hash) == (first, offset, number, hashed.hex())
    assert (found.at_ms, {name: bytes(content) for name, content in found.sections.items()}) == (at_ms, sections)
    assert set(sections) == {"state", "past"}
