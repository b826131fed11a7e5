"""Half the start-up of a trainer child: torch's compiler is imported when something needs it, not by every optimiser.

`Optimizer.step` imports `torch._dynamo` (2 CPU-seconds, 100 MB) to call two functions that do nothing outside compiled
code, and so does joining a process group. A module that has just these stands in its place; touching any other
attribute brings the real one.
"""

import importlib
import sys
import types
from collections.abc import Callable
from typing import Any

import torch

NAME = "torch._dynamo"


def postpone_compiler() -> None:
    """Put the stand-in in place; without effect when the compiler is imported already."""
    if NAME not in sys.modules:
        stand_in = _StandIn(NAME)
        sys.modules[NAME] = stand_in
        torch._dynamo = stand_in


class _StandIn(types.ModuleType):
    """`graph_break` and `disable` as they act on code that is not compiled."""

    @staticmethod
    def graph_break(msg: str = "") -> None:
        """Outside compiled code there is no graph to break."""

    @staticmethod
    def disable(fn: Callable[..., Any], recursive: bool = True, *, wrapping: bool = True) -> Callable[..., Any]:
        """Code that is never compiled is what it was."""
        return fn

    class trace_rules:
        """What `init_process_group` touches."""

        @staticmethod
        def clear_lru_cache() -> None:
            """Nothing was compiled, so nothing is cached."""

    def __getattr__(self, name: str) -> Any:
        if name in ("__spec__", "__file__"):
            raise AttributeError(name)
        if sys.modules.get(NAME) is self:
            del sys.modules[NAME]
            torch._dynamo = importlib.import_module(NAME)
        return getattr(sys.modules[NAME], name)
