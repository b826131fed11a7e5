"""The built-in workloads by name. Imports no torch, so that forms and commands may look names up cheaply."""

import difflib
from collections.abc import Mapping
from types import MappingProxyType

BUILT_IN: Mapping[str, str] = MappingProxyType(
    {
        "byte_lm": "trainers.workloads.byte_lm:ByteLM",
        "token_lm": "trainers.workloads.token_lm:TokenLM",
        "digits": "trainers.workloads.digits:Digits",
        "tabular": "trainers.workloads.tabular:Tabular",
    }
)


def nearest_name(name: str, known: Mapping[str, object]) -> str:
    """A sentence that helps whoever mistyped: the nearest known name, or all of them."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
