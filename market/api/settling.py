"""Python's collector of cycles in a process that keeps a large book: it looks seldom, and never at what was there at the start."""

import gc
from typing import Final

YOUNG: Final = 50_000
"""New objects until it looks: each look also walks lists of the book that have changed, milliseconds at 100,000 offers."""


def settle_memory() -> None:
    """To be called when the journal has been replayed."""
    gc.collect()
    gc.freeze()  # else half a second now and then, to look through all offers
    gc.set_threshold(YOUNG, 20, 50)
