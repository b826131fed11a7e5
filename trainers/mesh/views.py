"""Who takes part in a try of a round, and what may go wrong while waiting for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Identity = tuple[int, int]
"""(slot, epoch): one life of a member. A slot given to another worker has a higher epoch."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A member and where it listens (`address` is "host:port")."""

    slot: int
    epoch: int
    address: str

    @property
    def identity(self) -> Identity:
        return self.slot, self.epoch


@dataclass(frozen=True, slots=True)
class View:
    """The members of one try (`attempt`, from 0) of a round, ascending by slot.

    A member that a view of a round leaves out does not come back within that round, unless with a new epoch: what it
    finished before is no longer asked for.
    """

    round: int
    attempt: int
    members: tuple[Peer, ...]

    def __post_init__(self) -> None:
        slots = [peer.slot for peer in self.members]
        assert slots == sorted(set(slots)), "members stand in ascending order of slots, each once"

    @property
    def order(self) -> tuple[int, int]:
        return self.round, self.attempt

    @property
    def slots(self) -> tuple[int, ...]:
        return tuple(peer.slot for peer in self.members)

    def peer(self, slot: int) -> Peer | None:
        return next((peer for peer in self.members if peer.slot == slot), None)

    def has(self, identity: Identity) -> bool:
        return any(peer.identity == identity for peer in self.members)


class Superseded(Exception):
    """Another view was set while waiting: begin again in that one."""


class MeshTimeout(Exception):
    """The deadline passed; `missing` are the slots from which something is awaited."""

    def __init__(self, what: str, missing: Iterable[int]) -> None:
        self.missing = frozenset(missing)
        super().__init__(f"{what}: nothing whole from {', '.join(map(str, sorted(self.missing))) or 'anybody'} in time")


class MeshClosed(Exception):
    """The mesh was closed while waiting."""


class TransferFailed(Exception):
    """No donor could give the whole state; `reasons` says by slot what each did wrong."""

    def __init__(self, reasons: dict[int, str]) -> None:
        self.reasons = reasons
        super().__init__("; ".join(f"slot {slot}: {reason}" for slot, reason in sorted(reasons.items())) or "no donors")


@dataclass(frozen=True, slots=True)
class WireCount:
    """Since the mesh was made: every byte on its sockets, and how long collectives waited for others."""

    sent_bytes: int
    received_bytes: int
    waited_ms: int
