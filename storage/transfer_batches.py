"""Many transfers as columns, and as bytes: what one journal record holds of a batch.

    offset  size  field
    0       4     magic `TPB1`; JSON begins with `{`, so a payload says itself which it is
    4       4     n, the number of transfers
    8       8     at_ms, when they were decided
    16      4     m, the bytes of the names
    20      4     i, the bytes of the ids
    24      4     flags: 1 when the columns of jobs and leases are there
    28      4     reserved, zero
    32      n     kind of each: its place in `KINDS`
    +n      n     status of each: 0 booked, k the refusal k of `KEPT`, from 1
    +4n     4n    debited account: place in the names, from 0
    +4n     4n    credited account, alike
    +8n     8n    amount in nano-dollars, signed
    (+8n)         with flag 1: job and lease, 4n each, place in the names from 1; 0: none
    +m            names, UTF-8, each but the last followed by a line feed
    +i            ids, alike

Integers are little-endian. A transfer that was refused for good without a trace (its form, another of its chain) is not
there. The bytes never hold `TREC`, by which a record begins: a batch that would is written as JSON.
"""

import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from storage.transfers import KIND_CODES, KIND_NAMES, STATUS_CODES, STATUS_OF_CODE, Status, Transfer

MAGIC: Final = b"TPB1"
MAX_BATCH: Final = 8_190
_HEAD: Final = struct.Struct("<4sIQIIII")
_WITH_JOBS: Final = 1
_BOOKED: Final = STATUS_CODES[Status.CREATED]
Event = dict[str, Any]


class BadBatch(ValueError):
    """The bytes are not a batch that this house wrote."""


@dataclass(slots=True)
class TransferBatch:
    """Columns of equal length. `debits` and `credits` are places in `names`; `jobs` and `leases` (empty: none has any) are
    places from 1, 0 for none. `statuses` are codes of storage/transfers.py, all booked until somebody decided."""

    names: list[str]
    ids: list[str]
    kinds: bytes | bytearray
    debits: Sequence[int]
    credits: Sequence[int]
    amounts: Sequence[int]
    jobs: Sequence[int] = ()
    leases: Sequence[int] = ()
    statuses: bytes = field(default=b"")

    def __post_init__(self) -> None:
        self.statuses = self.statuses or bytes(len(self.ids))

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, transfers: Iterable[Transfer]) -> "TransferBatch":
        """The columns of transfers whose kinds are known."""
        places: dict[str, int] = {}
        made = cls([], [], bytearray(), [], [], [], [], [])
        for one in transfers:
            made.ids.append(one.id)
            made.kinds.append(KIND_CODES[one.kind])  # type: ignore[union-attr]
            for column, name in ((made.debits, one.debit), (made.credits, one.credit)):
                column.append(places.setdefault(name, len(places)))  # type: ignore[attr-defined]
            for column, text in ((made.jobs, one.job), (made.leases, one.lease)):
                column.append(0 if text is None else 1 + places.setdefault(text, len(places)))  # type: ignore[attr-defined]
            made.amounts.append(one.amount_nanos)  # type: ignore[attr-defined]
        made.names = list(places)
        if not any(made.jobs) and not any(made.leases):
            made.jobs = made.leases = ()
        made.statuses = bytes(len(made.ids))
        return made

    def transfer(self, row: int) -> Transfer:
        """One row."""
        names = self.names
        job = self.jobs[row] if self.jobs else 0
        lease = self.leases[row] if self.leases else 0
        return Transfer(
            self.ids[row], KIND_NAMES[self.kinds[row]], names[self.debits[row]], names[self.credits[row]],
            self.amounts[row], names[job - 1] if job else None, names[lease - 1] if lease else None,
        )  # fmt: skip

    def status(self, row: int) -> Status:
        return STATUS_OF_CODE[self.statuses[row]]

    def take(self, stays: bytes | bytearray, statuses: bytes | bytearray) -> "TransferBatch":
        """The rows that stay (1, not 0), with what became of each."""
        if all(stays):
            return replace(self, statuses=bytes(statuses))
        runs = list(_runs(stays))
        return TransferBatch(
            self.names, _taken(self.ids, runs), _taken(self.kinds, runs), _taken(self.debits, runs), _taken(self.credits, runs),
            _taken(self.amounts, runs), _taken(self.jobs, runs), _taken(self.leases, runs), bytes(_taken(statuses, runs)),
        )  # fmt: skip

    def events(self) -> Iterator[Event]:
        """What the record says, one `transfer` or `transfer_refused` for each row: what proofs and books are made of."""
        for row, status in enumerate(self.statuses):
            event: Event = self.transfer(row).event()
            if status != _BOOKED:
                event |= {"type": "transfer_refused", "status": str(STATUS_OF_CODE[status])}
            yield event

    def encode(self, at_ms: int) -> bytes:
        """The bytes of the module's head."""
        names, ids = "\n".join(self.names).encode(), "\n".join(self.ids).encode()
        flags = _WITH_JOBS if self.jobs else 0
        head = _HEAD.pack(MAGIC, len(self), at_ms, len(names), len(ids), flags, 0)
        parts = [head, bytes(self.kinds), self.statuses, _packed("I", self.debits), _packed("I", self.credits)]
        parts.append(_packed("q", self.amounts))
        if self.jobs:
            parts += [_packed("I", self.jobs), _packed("I", self.leases)]
        return b"".join((*parts, names, ids))

    @classmethod
    def decode(cls, data: bytes | memoryview) -> "tuple[int, TransferBatch]":
        """at_ms and the batch. Raises BadBatch."""
        view = memoryview(data)
        if len(view) < _HEAD.size:
            raise BadBatch("a batch of transfers ends inside its head")
        magic, n, at_ms, named, identified, flags, reserved = _HEAD.unpack_from(view)
        width = 2 + 16 + (8 if flags & _WITH_JOBS else 0)
        if magic != MAGIC or flags > _WITH_JOBS or reserved or len(view) != _HEAD.size + n * width + named + identified:
            raise BadBatch("the head of a batch of transfers does not fit its bytes")
        at = _HEAD.size

        def column(kind: str, size: int) -> Any:
            nonlocal at
            at += n * size
            piece = view[at - n * size : at]
            return bytes(piece) if kind == "B" else _unpacked(kind, piece)

        kinds, statuses = column("B", 1), column("B", 1)
        debits, credits, amounts = column("I", 4), column("I", 4), column("q", 8)
        jobs, leases = (column("I", 4), column("I", 4)) if flags & _WITH_JOBS else ((), ())
        try:
            names = str(view[at : at + named], "utf-8").split("\n") if named else []
            ids = str(view[at + named :], "utf-8").split("\n") if identified else []
        except UnicodeDecodeError as error:
            raise BadBatch(f"the names of a batch of transfers are no text: {error}") from error
        batch = cls(names, ids, kinds, debits, credits, amounts, jobs, leases, statuses)
        _check(batch, n)
        return at_ms, batch


def _runs(stays: bytes | bytearray) -> Iterator[slice]:
    """Rows side by side that stay."""
    end = 0
    while (begin := stays.find(1, end)) >= 0:
        end = stays.find(0, begin)
        end = len(stays) if end < 0 else end
        yield slice(begin, end)


def _taken(column: Any, runs: Sequence[slice]) -> Any:
    made = column[:0]
    for run in runs:
        made += column[run]
    return made


def _check(batch: TransferBatch, n: int) -> None:
    """What loops over the columns would otherwise stumble over."""
    if len(batch.ids) != n or n == 0:
        raise BadBatch(f"a batch of {n} transfers has {len(batch.ids)} ids")
    most = len(batch.names)
    inside = max(batch.debits) < most and max(batch.credits) < most
    if batch.jobs:
        inside = inside and max(batch.jobs) <= most and max(batch.leases) <= most
    if not inside or max(batch.kinds) >= len(KIND_NAMES) or max(batch.statuses) >= len(STATUS_OF_CODE):
        raise BadBatch("a batch of transfers names a kind, a status or a name that it does not have")


def _packed(kind: str, values: Sequence[int]) -> bytes:
    made = values if isinstance(values, array) else array(kind, values)
    if sys.byteorder == "big":
        made = array(kind, made)
        made.byteswap()
    return made.tobytes()


def _unpacked(kind: str, piece: memoryview) -> "array[int]":
    made = array(kind)
    made.frombytes(piece)
    if sys.byteorder == "big":
        made.byteswap()
    return made
