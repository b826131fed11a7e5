"""DisTrO as in Nous' Psyche: DeMo whose coefficients travel as 1-bit signs, and leave the momentum only when accepted.

    δ_m ← β δ_m + lr · g_m;   q_m = the k largest |coefficients| of each chunk of DCT(δ_m);   send sign(q_m)
    θ ← θ (1 − lr · weight_decay) − lr · sign(IDCT(mean over senders of sign(q)))
    δ_m ← δ_m − IDCT(q_m)   at the start of the next step, if the others took q_m

What leaves is q_m itself, with its magnitudes: subtracting signs would take out what was never there. A contribution that
came to nothing stays in the momentum whole. Psyche also lets workers train on while a step's exchange is under way and
looks ahead by their own δ meanwhile; here a step waits for its exchange, so there is nothing to look ahead over.
"""

from collections.abc import Sequence

import numpy as np

from trainers.codecs import Vector
from trainers.strategies.base import Moment, State, Update
from trainers.strategies.demo import UNSENT, Demo

ACCEPTED = "accepted"


class Distro(Demo):
    """Options as DeMo's. State: also "accepted", q of the step before where the others took it, else absent."""

    name = "distro"

    def contribute(self, state: State, local: Vector, moment: Moment) -> tuple[tuple[Vector, ...], State]:
        """As DeMo, once what the others accepted has left the momentum."""
        settled = {name: vector for name, vector in state.items() if name != ACCEPTED}
        if ACCEPTED in state:
            settled[UNSENT] = state[UNSENT] - state[ACCEPTED]
        return super().contribute(settled, local, moment)

    def sent(self, state: State, decoded: tuple[Vector, ...], moment: Moment) -> State:
        """Nothing leaves yet, but what would is noted: the coefficients that travelled, unquantised."""
        if not self.error_feedback:
            return {**state, ACCEPTED: state[UNSENT]}
        return {**state, ACCEPTED: np.where(decoded[0] != 0.0, state[UNSENT], np.float32(0.0))}

    def merge(self, state: State, updates: Sequence[Update], moment: Moment) -> State:
        """As DeMo. What was noted is kept only when it was taken."""
        signs = [Update(update.slot, update.weight, (np.sign(update.vectors[0]),)) for update in updates]
        after = super().merge(state, signs, moment)
        if moment.slot in {update.slot for update in updates}:
            return after
        return {name: vector for name, vector in after.items() if name != ACCEPTED}
