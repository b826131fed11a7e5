"""Strategies by name. A new one is a file here and a line below; it must pass tests/trainers/test_strategies.py."""

import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from trainers.strategies.base import State, Strategy
from trainers.strategies.diloco import Diloco

__all__ = ["STRATEGIES", "State", "Strategy", "strategy"]

STRATEGIES: Mapping[str, Callable[[Mapping[str, Any]], Strategy]] = MappingProxyType(
    {
        "diloco": Diloco.from_options,
    }
)


def strategy(options: Mapping[str, Any]) -> Strategy:
    """From the `strategy` part of a job spec. Raises LookupError naming the nearest known one."""
    name = str(options["name"])
    if name not in STRATEGIES:
        near = difflib.get_close_matches(name, STRATEGIES, n=1) or sorted(STRATEGIES)
        raise LookupError(f"no strategy {name!r}; did you mean {' or '.join(near)}?")
    return STRATEGIES[name](options)
