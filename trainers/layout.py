"""Where a model's parameters lie in the flat float32 vector that codecs, strategies and the wire work on. No numpy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One parameter and where it lies in the flat vector (`offset` and `size` in elements, `dtype` as it travels)."""

    name: str
    shape: tuple[int, ...]
    offset: int
    size: int
    dtype: str = "float32"


Layout: TypeAlias = tuple[TensorSpec, ...]
"""All parameters in the model's own order, without gaps: each begins where the one before ends."""


def flat_layout(elements: int) -> Layout:
    """The layout of a vector about which nothing is known: one tensor of one dimension."""
    return (TensorSpec("flat", (elements,), 0, elements),)


def elements_of(layout: Layout) -> int:
    """Length of the flat vector."""
    return layout[-1].offset + layout[-1].size if layout else 0


def layout_of(named_shapes: Sequence[tuple[str, Sequence[int]]]) -> Layout:
    """From names and shapes, in the model's order."""
    tensors: list[TensorSpec] = []
    offset = 0
    for name, shape in named_shapes:
        size = 1
        for edge in shape:
            size *= edge
        tensors.append(TensorSpec(name, tuple(shape), offset, size))
        offset += size
    return tuple(tensors)
