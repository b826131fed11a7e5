"""Python's collector of cycles, for verbs that make much and leave no cycles worth collecting."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Without it: it would look through all that has been read and made, and all that was imported, again and again."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
