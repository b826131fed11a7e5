"""One member's merge over the mesh: whole contributions to all, slices to their owners, or to one partner; again among
the living when the run says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from trainers.filled import Payload
from trainers.member import Member, Merged
from trainers.mesh.cost import choose_topology
from trainers.mesh.views import Superseded, View
from trainers.strategies import Strategy


class Exchange(Protocol):
    """What of `trainers.mesh.Mesh` a merge needs."""

    @property
    def view(self) -> View | None: ...

    def gather(self, step: int, payload: Payload, timeout_s: float) -> dict[int, Payload]: ...

    def reduce(
        self, step: int, slices: Mapping[int, bytes], combine: "Combine", timeout_s: float
    ) -> dict[int, Payload]: ...

    def pair(self, step: int, payload: Payload, partner: int | None, timeout_s: float) -> dict[int, Payload]: ...


class Combine(Protocol):
    """Makes the owner's reduced slice from all members' slices."""

    def __call__(self, received: dict[int, Payload], /) -> bytes: ...


class LeftBehind(Exception):
    """The run goes on without this member."""


@dataclass(frozen=True, slots=True)
class Way:
    """How the members of one round exchange, the same in all of its attempts: gather, butterfly, star or pairs."""

    topology: str


def way_of(strategy: Strategy, wanted: str, members: int, payload_bytes: int, dense: bool) -> Way:
    """The asked-for topology where the strategy and codec allow it, else the cheapest."""
    if strategy.exchange == "pairs":
        return Way("pairs")
    if strategy.exchange == "gather" or not dense:
        return Way("gather")
    if wanted in {"gather", "butterfly", "star"}:
        return Way(wanted)
    return Way(choose_topology(members, payload_bytes, dense, strategy.exchange))


def merge(member: Member, mesh: Exchange, way: Way, timeout_s: float) -> Merged:
    """Exchange what the member has contributed and merge what comes back: a tentative state.

    Goes on by itself in each newer view. Raises LeftBehind when a view is without this member, MeshTimeout, MemberError.
    """
    number = member.merging
    while True:
        if member.merging != number:
            raise LeftBehind(f"round {number} is over here")
        view = mesh.view
        if view is None:
            raise LeftBehind("the run ended before this exchange began")  # its mesh was closed, and took no view
        if view.peer(member.slot) is None:
            raise LeftBehind(f"round {view.round} goes on without slot {member.slot}")
        try:
            return member.merge(_results(member, mesh, way, view, timeout_s), view.slots)
        except Superseded:
            continue


def _results(member: Member, mesh: Exchange, way: Way, view: View, timeout_s: float) -> dict[int, Payload]:
    step = member.at_step
    if way.topology == "pairs":
        others = [slot for slot in member.partners if slot != member.slot]
        partner = others[0] if others and others[0] in view.slots else None
        return mesh.pair(step, member.payload(), partner, timeout_s)
    if way.topology == "gather":
        return mesh.gather(step, member.payload(), timeout_s)
    owners = view.slots if way.topology == "butterfly" else view.slots[:1]
    slices = member.cut(owners)
    return mesh.reduce(step, slices, lambda received: member.combine(received, owners), timeout_s)
