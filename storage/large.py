"""When a batch is worked on by columns of numpy instead of row by row: the same result, from so many rows on for less."""

from collections.abc import Sized
from functools import cache
from importlib.util import find_spec
from typing import Final

LARGE: Final = 350


def is_large(rows: Sized) -> bool:
    """Whether columns are worth it; never where numpy is not installed (a client has none)."""
    return len(rows) >= LARGE and _has_numpy()


@cache
def _has_numpy() -> bool:
    return find_spec("numpy") is not None
