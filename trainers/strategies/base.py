"""What a strategy is: how workers' results become the parameters that everybody goes on from. Pure functions."""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

from trainers.codecs.base import Vector

State: TypeAlias = Mapping[str, Vector]  # the outer state by name; "parameters" is always there; all float32 [n]


class Strategy(Protocol):
    """No function here changes its arguments or keeps anything: what must last is in the state."""

    def init(self, parameters: Vector) -> State:
        """The outer state of a job that starts from these parameters."""

    def contribute(self, state: State, trained: Vector) -> Vector:
        """What a worker that ended its inner steps at `trained` tells the others."""

    def partners(self, round: int, slot: int, slots: Sequence[int]) -> tuple[int, ...]:
        """Whose contributions `slot` merges in this round, itself included, in merging order."""

    def merge(self, state: State, contributions: Sequence[Vector]) -> State:
        """The state after a round, from the partners' contributions in the order of `partners`."""
