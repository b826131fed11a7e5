"""From a job's spec to how its run goes: steps a round, who agrees with whom, how patient the run is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainers.layout import flat_layout
from trainers.round_decisions import RoundPlan
from trainers.round_lengths import round_lengths
from trainers.strategies import strategy


def plan_of(spec: Mapping[str, Any], *, first_deadline_ms: int, grace_ms: int) -> RoundPlan:
    """The plan of a normalised spec."""
    options = spec["strategy"]
    chosen, lengths = strategy(options, flat_layout(1)), round_lengths(options, spec["steps"])
    return RoundPlan(
        total_steps=spec["steps"],
        inner_steps=lengths.steps,
        inner_steps_later=lengths.later,
        later_from=lengths.later_from,
        nominal_members=spec["workers"]["min"] if options.get("adapt") == "steps" else None,
        overlap_steps=min(chosen.overlap_steps, max(0, lengths.steps - 1)),
        every_step=chosen.cadence == "step",
        agrees="parameters" in chosen.shared,
        min_members=spec["workers"]["min"],
        first_deadline_ms=first_deadline_ms,
        grace_ms=grace_ms,
    )
