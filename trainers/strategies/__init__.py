"""Strategies by name. A new one is a file here, a line below and its options in `trainers/options.py`.

It must pass tests/trainers/test_strategies.py; docs/PROTOCOLS.md builds one step by step.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from trainers.layout import Layout
from trainers.options import strategy_options
from trainers.strategies.base import Moment, Part, State, Strategy, Update
from trainers.strategies.ddp import Ddp
from trainers.strategies.demo import Demo
from trainers.strategies.diloco import Diloco
from trainers.strategies.distro import Distro
from trainers.strategies.fedavg import FedAvg
from trainers.strategies.local_sgd import LocalSgd
from trainers.strategies.noloco import NoLoco
from trainers.strategies.sparseloco import SparseLoco
from trainers.strategies.streaming_diloco import StreamingDiloco

__all__ = ["STRATEGIES", "Moment", "Part", "State", "Strategy", "Update", "strategy"]

STRATEGIES: Mapping[str, Callable[[Mapping[str, Any], Layout], Strategy]] = MappingProxyType(
    {
        "ddp": Ddp,
        "local_sgd": LocalSgd,
        "fedavg": FedAvg,
        "diloco": Diloco,
        "streaming_diloco": StreamingDiloco,
        "noloco": NoLoco,
        "demo": Demo,
        "distro": Distro,
        "sparseloco": SparseLoco,
    }
)


def strategy(options: Mapping[str, Any], layout: Layout) -> Strategy:
    """From the `strategy` part of a job spec, for a model of that layout. Raises OptionError."""
    chosen = strategy_options(options)
    return STRATEGIES[chosen["name"]](chosen, layout)
