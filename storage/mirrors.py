"""A copy of a journal in an object store: a folder (a mount of another machine, perhaps) or a bucket.

    torg-mirror                             whose it is: canonical JSON {"format": "torg-mirror-1", "market": ID}
    journal/{first:020d}.journal            a segment that is over, whole
    journal/{first:020d}/{offset:012d}      bytes of a segment from `offset` on, to the end of some append
    journal/{first:020d}/{end:012d}         empty: the segment ends here
    home.sealed                             keys and settings, encrypted (storage/mirrored_homes.py)

`first` is the number of a segment's first record. At any moment the mirror is a prefix of the journal's durable bytes: parts
are added in order, and a segment is begun when the one before has its end. A part is put only where there is none of its
name. So of two markets that go on from one record, each holding itself for the only one, the second is refused.

Parts may overlap, with equal bytes: a joined one takes the name of its first, then the others go; likewise the whole segment
comes before its parts go. Its end stays, so that nobody adds to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from storage.canonical import NotCanonical, canonical_bytes, parse_json
from storage.formats import found_format, newer_manifest
from storage.journal_format import Durable, segment_name, segments
from storage.object_stores import ObjectMissing, ObjectStore
from storage.segment_files import about_bytes, read_segment, segment_bytes

FORMAT: Final = "torg-mirror-1"
MARK: Final = "torg-mirror"
PART_BYTES: Final = 8 << 20
JOINED_PARTS: Final = 256
_WHOLE: Final = re.compile(r"journal/(\d{20})\.journal")
_PART: Final = re.compile(r"journal/(\d{20})/(\d{12})")


class MirrorRefused(Exception):
    """The mirror is another market's, or contradicts this journal; nothing of it was changed. `remedy`: what to do."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class MirrorGone(Exception):
    """There is no mirror where one was: it is not mounted, or was emptied."""


@dataclass(slots=True)
class Held:
    """What a mirror has of one segment: `whole` its length as one object, `parts` (offset, length) by offset."""

    first: int
    whole: int | None = None
    parts: list[tuple[int, int]] = field(default_factory=list)

    @property
    def end(self) -> int:
        """How many bytes from the beginning on. Raises MirrorRefused where a part between two others is missing."""
        if self.whole is not None:
            return self.whole
        at = 0
        for offset, size in self.parts:
            if offset > at:
                message = f"{part_name(self.first, at)} is missing, although {part_name(self.first, offset)} is there"
                raise MirrorRefused(message, "use another mirror or a backup")
            at = max(at, offset + size)
        return at

    def pieces(self) -> Iterator[tuple[str, int, int]]:
        """Objects that make up the segment, each with the range of it to take."""
        if self.whole is not None:
            yield whole_name(self.first), 0, self.whole
            return
        at, end = 0, self.end
        for offset, size in self.parts:
            if at < min(offset + size, end):
                yield part_name(self.first, offset), at - offset, size
                at = offset + size


def whole_name(first: int) -> str:
    """The object that is a whole segment."""
    return f"journal/{segment_name(first)}"


def part_name(first: int, offset: int) -> str:
    """The object that holds bytes of a segment from `offset` on."""
    return f"journal/{first:020d}/{offset:012d}"


def held(store: ObjectStore) -> list[Held]:
    """What is there of every segment, oldest first. Raises ObjectStoreError."""
    found: dict[int, Held] = {}
    for one in store.list("journal"):
        if match := _WHOLE.fullmatch(one.name):
            found.setdefault(int(match[1]), Held(int(match[1]))).whole = one.bytes
        elif match := _PART.fullmatch(one.name):
            found.setdefault(int(match[1]), Held(int(match[1]))).parts.append((int(match[2]), one.bytes))
    return [found[first] for first in sorted(found)]


def market_of(store: ObjectStore) -> str | None:
    """Whose mirror this is; None where there is none. Raises MirrorRefused, ObjectStoreError."""
    try:
        data = store.get(MARK)
    except ObjectMissing:
        return None
    try:
        said = parse_json(data)
    except NotCanonical:
        said = None
    if (newer := newer_manifest(f"the mirror {store.where}", found_format(said), FORMAT)) is not None:
        raise MirrorRefused(newer, "name another place")
    if found_format(said) != FORMAT or not isinstance(said.get("market"), str):
        raise MirrorRefused(f"{store.where}: {MARK} does not say whose mirror this is", "name another place")
    return str(said["market"])


def claim(store: ObjectStore, market: str, *, begun: bool) -> None:
    """Make the place this market's, if it is nobody's. `begun`: it was claimed before, so that an empty one is the wrong one.

    Raises MirrorRefused, MirrorGone, ObjectStoreError.
    """
    owner = market_of(store)
    if owner is None:
        if begun:
            raise MirrorGone(f"{store.where} holds no mirror any more: is it mounted, was it emptied?")
        if held(store):
            raise MirrorRefused(f"{store.where} holds a journal and does not say whose", "name another place")
        store.put_new(MARK, canonical_bytes({"format": FORMAT, "market": market}))
        owner = market_of(store)
    if owner != market:
        remedy = "name another place; `torg restore --from-mirror` makes that market's home"
        raise MirrorRefused(f"{store.where} is the mirror of another market, {owner}", remedy)


class Mirror:
    """Copies one market's journal in `folder` to `store`. One thread calls `open` and `ship`; another may call `tidy`.

    `records` is how many are in the mirror, as far as is known: up to the segment that is being copied, until it is caught up.
    """

    def __init__(self, store: ObjectStore, folder: Path, market: str, *, part_bytes: int = PART_BYTES) -> None:
        self.store = store
        self.records = 0
        self.untidy = 0
        """Parts that were put since `tidy` was called last."""
        self.closed = False
        """Whether a segment that is in parts has ended since then."""
        self._folder, self._market, self._part_bytes = folder, market, part_bytes
        self._first, self._offset = 0, 0

    def open(self, durable: Durable, *, begun: bool) -> None:
        """Claim the mirror and find where it stands. `begun`: it was claimed before, so that an empty one is the wrong one.

        Raises MirrorRefused, MirrorGone, ObjectStoreError.
        """
        claim(self.store, self._market, begun=begun)
        known = held(self.store)
        if not known:
            self._first, self._offset = 0, 0
            return
        self._check_follows(known[-1], durable)
        self._first, self._offset = known[-1].first, known[-1].end
        self.records = self._first - 1
        self.untidy = sum(len(one.parts) for one in known)
        self.closed = any(one.whole is None for one in known[:-1])

    def check_there(self) -> None:
        """Raises MirrorGone where the mirror of before is not there: a folder whose mount went away."""
        if self.store.size(MARK) is None:
            raise MirrorGone(f"{self.store.where} holds no mirror any more: is it mounted?")

    def ship(self, durable: Durable) -> None:
        """Copy on until everything durable is there. Raises MirrorRefused, ObjectStoreError; then it may be called again."""
        while self._first < durable.first or self._offset < durable.bytes:
            if self._first == 0:
                self._enter(0)
            elif self._offset < (size := self._size(durable)):
                self._put_next(size, durable)
            else:
                self._put(part_name(self._first, self._offset), b"")
                self.closed = True
                self._enter(self._first)
        self.records = durable.records

    def behind_bytes(self, durable: Durable) -> int:
        """How many durable bytes are not in the mirror."""
        sizes = [about_bytes(path) for path in segments(self._folder) if self._first <= int(path.stem) < durable.first]
        return max(0, sum(sizes) + durable.bytes - (self._offset if self._first else 0))

    def tidy(self, durable: Durable) -> None:
        """Put segments that are over as one object each, join small parts of the open one. Raises ObjectStoreError."""
        self.untidy, self.closed = 0, False
        for one in held(self.store):
            if one.first < min(durable.first, self._first):
                self._make_whole(one)
            elif one.whole is None:
                self._join(one)

    def _enter(self, first: int) -> None:
        """Begin with the segment after `first`."""
        later = [number for path in segments(self._folder) if (number := int(path.stem)) > first]
        self._first, self._offset = min(later), 0
        self.records = self._first - 1

    def _size(self, durable: Durable) -> int:
        """Durable length of the segment that is being copied; earlier ones never change again."""
        return durable.bytes if self._first == durable.first else segment_bytes(self._folder, self._first)

    def _put_next(self, size: int, durable: Durable) -> None:
        if self._offset == 0 and self._first < durable.first:
            self._put(whole_name(self._first), self._read(self._first, 0, size), whole=True)
            self._offset = size
            return
        end = min(size, self._offset + self._part_bytes)
        self._offset += self._put(part_name(self._first, self._offset), self._read(self._first, self._offset, end))
        self.untidy += 1

    def _put(self, name: str, data: bytes, *, whole: bool = False) -> int:
        """Make the object; how long it is. A part that a put of before has made may end elsewhere, and has the journal's bytes."""
        if self.store.put_new(name, data):
            return len(data)
        there = self.store.get(name)
        ours = self._read(self._first, self._offset, self._offset + len(there))
        if there != ours or bool(there) != bool(data) or (whole and len(there) != len(data)):
            message = f"{self.store.where}: {name} has other bytes than this journal: another market writes there"
            raise MirrorRefused(message, "end one of the two; restore the other from the mirror, or name another place")
        return len(there)

    def _check_follows(self, last: Held, durable: Durable) -> None:
        """The chain is in every record: where the last object is the journal's, everything before it is."""
        name, begin = (whole_name(last.first), 0) if last.whole is not None else self._last_part(last)
        here = any(int(path.stem) == last.first for path in segments(self._folder))
        size = durable.bytes if last.first == durable.first else segment_bytes(self._folder, last.first) if here else 0
        if last.first > durable.first or (here and last.end > size):
            message = f"{self.store.where} is ahead of this journal, which ends at record {durable.records}"
            remedy = "this home has lost records: `torg restore --from-mirror` makes one that has them; or name another place"
            raise MirrorRefused(message, remedy)
        there = self.store.get(name)
        if not here or self._read(last.first, begin, begin + len(there)) != there:
            message = f"{self.store.where} has another history than this journal, from {name} on or before"
            raise MirrorRefused(message, "name another place; nothing in this one was changed")

    @staticmethod
    def _last_part(last: Held) -> tuple[str, int]:
        offset = max(offset for offset, size in last.parts if size)
        return part_name(last.first, offset), offset

    def _read(self, first: int, begin: int, end: int) -> bytes:
        return read_segment(self._folder, first, begin, end)

    def _make_whole(self, one: Held) -> None:
        if one.whole is None:
            self.store.put_new(whole_name(one.first), self._read(one.first, 0, one.end))
        for offset, size in one.parts:
            if size:
                self.store.delete(part_name(one.first, offset))

    def _join(self, one: Held) -> None:
        """Every `JOINED_PARTS` small parts become one; the last part stays, for whoever puts the next one."""
        small = [part for part in one.parts[:-1] if part[1] < self._part_bytes]
        while len(small) >= JOINED_PARTS:
            run, small = small[:JOINED_PARTS], small[JOINED_PARTS:]
            begin, end = run[0][0], max(offset + size for offset, size in run)
            self.store.replace(part_name(one.first, begin), self._read(one.first, begin, end))
            for offset, _ in run[1:]:
                self.store.delete(part_name(one.first, offset))
