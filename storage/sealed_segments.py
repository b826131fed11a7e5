"""A sealed segment: what a segment's records say, compressed in blocks that can be read one by one. It is not encrypted.

What follows from the payloads is left out and made again by whoever reads: heads of records, CRCs and chain hashes, which do
not shrink. So a reader gives back the segment byte for byte, and a chain hash that comes out as the index says is the proof
that every payload before it is the one that was written. `{first:020d}.sealed`, integers unsigned and little-endian:

    offset  size  field
    0       8     magic `TORGSEG1`
    8       8     number of the first record
    16      8     number of the last record
    24      8     length of the segment in bytes, as it was
    32      8     term
    40      32    chain hash of the record before the segment
    72      32    chain hash of the last record
    104     32    SHA-256 of the segment, as it was
    136     4     b, the number of blocks
    140     16    reserved, zero
    156     4     CRC-32 of bytes 0..155 and of the index
    160     64·b  index: for each block the number of its first record (8), where that begins in the segment (8), the chain
                  hash before it (32), where the block begins in this file (8), its length here (4), CRC-32 of it (4)
    …             blocks, one behind the other to the end: a zlib stream (RFC 1950) each, of n (4), the number of its
                  records, then of each the length of its payload (4) and its place in its append (4), then the payloads
"""

from __future__ import annotations

import io
import struct
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from storage.formats import FormatNewer
from storage.journal_format import (
    RECORD_HEADER,
    SEGMENT_HEADER,
    JournalCorrupt,
    JournalNewer,
    SegmentHeader,
    chain,
    frame,
)

MAGIC: Final = b"TORGSEG1"
BLOCK_BYTES: Final = 64 * 1024
LEVEL: Final = 6
HEAD: Final = struct.Struct("<8sQQQQ32s32s32sI16sI")
ENTRY: Final = struct.Struct("<QQ32sQII")
_CRC_AT: Final = HEAD.size - 4
ReadAt = Callable[[int, int], bytes]
"""Bytes of the file: offset and how many, fewer only at its end."""
Row = tuple[bytes, int, bytes]
"""A record: its payload, its place in the append, its chain hash."""


@dataclass(frozen=True, slots=True)
class Block:
    """Records from `number` on, which begin at `begin` in the segment, behind chain hash `before`; its bytes in the file."""

    number: int
    begin: int
    before: bytes
    at: int
    length: int
    crc: int


@dataclass(frozen=True, slots=True)
class SealedHead:
    """Head and index. `segment_bytes` is how long the segment was, `digest` its SHA-256, `hash` the chain hash at its end."""

    first: int
    last: int
    segment_bytes: int
    term: int
    before: bytes
    hash: bytes
    digest: bytes
    blocks: tuple[Block, ...]

    def encode(self) -> bytes:
        """The first bytes of the file, up to the blocks."""
        head = HEAD.pack(MAGIC, self.first, self.last, self.segment_bytes, self.term, self.before, self.hash, self.digest, len(self.blocks), bytes(16), 0)
        index = b"".join(ENTRY.pack(one.number, one.begin, one.before, one.at, one.length, one.crc) for one in self.blocks)
        crc = zlib.crc32(index, zlib.crc32(head[:_CRC_AT]))
        return b"".join((head[:_CRC_AT], struct.pack("<I", crc), index))

    @property
    def file_bytes(self) -> int:
        """How long the sealed file is."""
        return self.blocks[-1].at + self.blocks[-1].length

    def segment_header(self) -> bytes:
        """The header that the segment had."""
        return SegmentHeader(self.first, self.term, self.before).encode()

    def end(self, place: int) -> tuple[int, int, bytes]:
        """Behind the block at this place of the index: the next record's number, where it begins, the chain hash before it."""
        if place + 1 < len(self.blocks):
            then = self.blocks[place + 1]
            return then.number, then.begin, then.before
        return self.last + 1, self.segment_bytes, self.hash


def read_head(name: str, read: ReadAt) -> SealedHead:
    """Head and index of the sealed segment that messages call `name`. Raises JournalNewer, JournalCorrupt, OSError."""
    data = read(0, HEAD.size)
    if data[:7] == MAGIC[:7] and data[7:8].isdigit() and data[7:8] > MAGIC[7:]:
        raise JournalNewer(str(FormatNewer(f"the sealed segment {name}", int(data[7:8]), int(MAGIC[7:]))))
    if len(data) != HEAD.size or data[:8] != MAGIC:
        raise _damaged(name, "its head is damaged")
    _, first, last, length, term, before, hashed, digest, count, reserved, crc = HEAD.unpack(data)
    index = read(HEAD.size, ENTRY.size * count) if count <= last - first + 1 else b""
    if crc != zlib.crc32(index, zlib.crc32(data[:_CRC_AT])) or any(reserved) or len(index) != ENTRY.size * count or not count:
        raise _damaged(name, "its head or index is damaged")
    blocks = tuple(Block(*one) for one in ENTRY.iter_unpack(index))
    return SealedHead(first, last, length, term, before, hashed, digest, blocks)


def seal(header: SegmentHeader, records: Iterable[tuple[int, bytes | memoryview]], *, block_bytes: int = BLOCK_BYTES) -> bytes:
    """The sealed file of a segment whose records, one at least, are (place in the append, payload)."""
    digest = sha256(header.encode())
    blocks, written = list[Block](), list[bytes]()
    number, hashed, at, length = header.first, header.before, 0, SEGMENT_HEADER.size
    entry, batch, begin = (number, hashed), list[tuple[int, bytes | memoryview]](), length

    def close() -> None:
        nonlocal at
        data = zlib.compress(_packed(batch), LEVEL)
        blocks.append(Block(entry[0], begin, entry[1], at, len(data), zlib.crc32(data)))
        written.append(data)
        at += len(data)

    for place, payload in records:
        if batch and length - begin >= block_bytes:
            close()
            entry, batch, begin = (number, hashed), [], length
        hashed = chain(hashed, number, payload)
        digest.update(frame(place, hashed, payload))
        batch.append((place, payload))
        number, length = number + 1, length + RECORD_HEADER.size + len(payload)
    assert batch, "an empty segment is not sealed"
    close()
    start = HEAD.size + ENTRY.size * len(blocks)
    moved = tuple(Block(one.number, one.begin, one.before, one.at + start, one.length, one.crc) for one in blocks)
    head = SealedHead(header.first, number - 1, length, header.term, header.before, hashed, digest.digest(), moved)
    return b"".join((head.encode(), *written))


def _packed(records: Sequence[tuple[int, bytes | memoryview]]) -> bytes:
    heads = struct.pack(f"<{1 + 2 * len(records)}I", len(records), *(n for place, payload in records for n in (len(payload), place)))
    return b"".join((heads, *(payload for _, payload in records)))


class SealedFile(io.RawIOBase):
    """The segment as it was, read from its sealed file by `read_at`; keeps the block that was read last.

    Wrap it in `io.BufferedReader`. Raises JournalCorrupt where a block is damaged, naming it, and what `read_at` raises.
    """

    def __init__(self, name: str, read_at: ReadAt, done: Callable[[], None] = lambda: None) -> None:
        """Raises JournalNewer, JournalCorrupt, OSError. `done` is called when this is closed."""
        super().__init__()
        self._named, self._read_at, self._done = name, read_at, done  # first: one whose head is damaged is closed all the same
        self.head = read_head(name, read_at)
        self._position = 0
        self._held: tuple[int, bytes] = (0, self.head.segment_header())
        """Where the bytes that were made last begin in the segment, and they."""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.head.segment_bytes}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Bytes of one block at most, so that what is damaged behind it does not take it away."""
        if self._position >= self.head.segment_bytes:
            return 0
        begin, held = self._held
        if not begin <= self._position < begin + len(held):
            begin, held = self._held = self._make(self._position)
        piece = held[self._position - begin : self._position - begin + len(buffer)]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def records(self, begin: int, before: bytes) -> Iterator[tuple[int, bytes, bytes]]:
        """Number, payload and chain hash of each record from the one at `begin` in the segment on, behind chain hash `before`.

        For who reads on: nothing that was left out is made but the chain. Raises JournalCorrupt, and what `read_at` raises.
        """
        begun = False
        for place in range(self._place_of(begin), len(self.head.blocks)):
            block = self.head.blocks[place]
            at, hashed = block.begin, block.before
            for number, (payload, _, then) in enumerate(self._rows(place), block.number):
                if at >= begin and not begun:
                    if (at, hashed) != (begin, before):
                        raise _damaged(self._named, f"the chain hash does not follow from record {number - 1}", f"record {number}, offset {at}:")
                    begun = True
                if begun:
                    yield number, payload, then
                at, hashed = at + RECORD_HEADER.size + len(payload), then

    def close(self) -> None:
        if not self.closed:
            self._done()
        super().close()

    def _make(self, position: int) -> tuple[int, bytes]:
        blocks = self.head.blocks
        if position < blocks[0].begin:
            return 0, self.head.segment_header()
        place = self._place_of(position)
        frames = (frame(seat, hashed, payload) for payload, seat, hashed in self._rows(place))
        return blocks[place].begin, b"".join(frames)

    def _place_of(self, position: int) -> int:
        return max(0, bisect_right(self.head.blocks, position, key=lambda one: one.begin) - 1)

    def _rows(self, place: int) -> list[Row]:
        """The records of the block at this place of the index; it leads to where the next one begins."""
        block, (number, end, hashed) = self.head.blocks[place], self.head.end(place)
        data = self._read_at(block.at, block.length)
        where = f"record {block.number}, offset {block.begin}: block {place}"
        if len(data) != block.length or zlib.crc32(data) != block.crc:
            raise _damaged(self._named, "was changed (CRC)", where)
        rows = _unpacked(data, block, end - block.begin)
        if rows is None or (block.number + len(rows), rows[-1][2]) != (number, hashed):
            raise _damaged(self._named, "does not give the records that the index says", where)
        return rows


def _unpacked(data: bytes, block: Block, length: int) -> list[Row] | None:
    """The records, one at least; None where it is no block of `length` bytes of a segment."""
    inflate = zlib.decompressobj()
    try:
        plain = inflate.decompress(data, max(1, length))
    except zlib.error:
        return None
    count = int.from_bytes(plain[:4], "little")
    whole = inflate.eof and not inflate.unused_data and len(plain) >= 4 + 8 * count
    if not count or not whole or len(plain) - 4 - 8 * count != length - RECORD_HEADER.size * count:
        return None
    heads = struct.unpack_from(f"<{2 * count}I", plain, 4)
    at, hashed, rows = 4 + 8 * count, block.before, list[Row]()
    for number, size, seat in zip(range(block.number, block.number + count), heads[::2], heads[1::2], strict=True):
        payload = plain[at : at + size]
        hashed = chain(hashed, number, payload)
        rows.append((payload, seat, hashed))
        at += size
    return rows if at == len(plain) else None


def _damaged(name: str, why: str, where: str = "offset 0:") -> JournalCorrupt:
    return JournalCorrupt(f"segment {name}, {where} {why}")
