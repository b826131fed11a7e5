"""What experience says about a job before money moves: sentences for the plan, each with where its figures come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

FEW_ROUNDS: Final = 40
HIGH_MOMENTUM: Final = 0.7
"""docs/PROTOCOLS.md: 20 rounds of 30 steps ended 12.7 % behind data parallel with momentum 0.9, 2.0 % with 0.5."""


def advice(spec: Mapping[str, Any]) -> list[str]:
    """Sentences about a normalised spec; none when nothing is to be said."""
    strategy, rounds = spec["strategy"], int(spec["rounds"])
    momentum = strategy.get("outer_momentum")
    if strategy.get("name", "diloco") != "diloco" or momentum is None:
        return []
    if rounds < FEW_ROUNDS and momentum > HIGH_MOMENTUM:
        few = (
            f"{rounds} rounds are few for an outer momentum of {momentum:g}: in runs of 20 rounds 0.5 ended 10 % lower"
        )
        return [f"{few}; set strategy.outer_momentum, or fewer strategy.inner_steps"]
    return []
