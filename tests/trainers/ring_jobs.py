"""The model and the job specs of `tests.trainers.ring`."""

from __future__ import annotations

from typing import Any

import numpy as np

from trainers.layout import elements_of, layout_of
from trainers.options import strategy_options

Json = dict[str, Any]

LAYOUT = layout_of([("a", (60, 80)), ("b", (80,)), ("c", (50, 70)), ("d", (1400,))])
ELEMENTS = elements_of(LAYOUT)
RATE = 0.05
STRATEGIES = {
    name: strategy_options({"name": name, "inner_steps": 12 if name == "streaming_diloco" else 3})
    for name in ("ddp", "local_sgd", "fedavg", "diloco", "streaming_diloco", "noloco", "demo", "distro", "sparseloco")
}  # fmt: skip
BY_STEP = ("ddp", "demo", "distro")
BY_ROUND = tuple(name for name in STRATEGIES if name not in BY_STEP)
TARGET = np.linspace(-1, 1, ELEMENTS, dtype=np.float32)


def strategy_of(name: str, **options: object) -> Json:
    """Whole options, with a short round."""
    return strategy_options({"name": name, "inner_steps": STRATEGIES[name]["inner_steps"], **options})


def spec_of(strategy: Json, *, rounds: int = 10, members: int = 3, every: int = 1, steps: int | None = None) -> Json:
    """A normalised job."""
    a_round = strategy["inner_steps"] // strategy.get("fragments", 1)
    return {
        "workload": {"kind": "builtin", "name": "none"}, "data": {"kind": "blob"}, "seed": 1, "rounds": rounds,
        "steps": steps or rounds * a_round, "workers": {"min": members}, "strategy": strategy,
        "checkpoint": {"every_rounds": every, "keep": 2, "base_every_rounds": 3}, "evaluate": {"every_rounds": 1000},
    }  # fmt: skip


def is_done(halt: object) -> bool:
    """Whether a run ended well."""
    return (halt.state, halt.reason) == ("done", "done")  # type: ignore[attr-defined]
