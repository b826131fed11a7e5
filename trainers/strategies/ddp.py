"""Synchronous data parallel: in every step all apply the mean of all gradients.

g = mean_m g_m; each worker's own optimiser, whose state is the same everywhere, steps with g. What the other strategies
are measured against: the most bytes, and the loss of one large batch.
"""

from collections.abc import Sequence

from trainers.codecs import Vector
from trainers.strategies.base import Applies, Base, Cadence, Moment, State, Update

OWED = "gradient_residual"


class Ddp(Base):
    """A lossy codec without error feedback biases the gradient; with it, what was lost is in the next step's."""

    name = "ddp"
    cadence: Cadence = "step"
    applies: Applies = "gradient"

    def contribute(self, state: State, local: Vector, moment: Moment) -> tuple[tuple[Vector, ...], State]:
        """The gradient, and what is owed from the step before."""
        if not self.error_feedback:
            return (local,), state
        owed = local + state[OWED] if OWED in state else local
        return (owed,), {**state, OWED: owed}

    def sent(self, state: State, decoded: tuple[Vector, ...], moment: Moment) -> State:
        """With error feedback, what the codec lost stays owed."""
        return {**state, OWED: state[OWED] - decoded[0]} if self.error_feedback else state

    def owing(self, state: State, owed: Vector, moment: Moment) -> State:
        """With error feedback, it is in the next step's gradient."""
        return {**state, OWED: owed} if self.error_feedback else state

    def merge(self, state: State, updates: Sequence[Update], moment: Moment) -> State:
        """The mean gradient as "gradient"; the parameters are what the workers' optimisers make of it."""
        return {**state, "gradient": self.merged(updates)}

    def merge_into(self, room: Vector, state: State, updates: Sequence[Update], moment: Moment) -> State:
        """See `merge`."""
        return {**state, "gradient": self.merged(updates, room)}

    def resume(self, state: State, local: Vector, moment: Moment) -> Vector:
        """Where the own optimiser stepped to."""
        return local
