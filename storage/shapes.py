"""Dataclasses as JSON and back, by their fields' types alone: no pickle, and nothing about any one class in here.

A record is an array of its fields in order; a `dict[str, T]` is an object in its own order, one with other keys an array of
pairs, a `dict[str, None]` (a set in order) an array of its keys; sets are sorted arrays; an enum is its value; a deque is
its bound and its items. `Any` must be plain JSON: what JSON would change silently, a tuple or a key that is no string, is
refused. `describe` writes down a type with all that it holds, so that who reads can see whether it is still the same.
"""

import types
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

_PLAIN: Final = (str, int, float, bool, type(None))


class ShapeError(Exception):
    """A value does not have the shape that its type says; the text names the type."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How values of one type are written and read. None stands for «as they are»."""

    write: Callable[[Any], Any] | None
    read: Callable[[Any], Any] | None


_AS_IT_IS: Final = Shape(None, None)


def to_plain(kind: Any, value: Any) -> Any:
    """`value`, which is of type `kind`, as JSON. Raises ShapeError."""
    write = shape_of(kind).write
    return value if write is None else write(value)


def from_plain(kind: Any, plain: Any) -> Any:
    """What `to_plain` wrote. Raises ShapeError where it has another shape."""
    read = shape_of(kind).read
    try:
        return plain if read is None else read(plain)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ShapeError(f"this is no {kind}: {error}") from error


@cache
def shape_of(kind: Any) -> Shape:
    """The shape of a type. Raises ShapeError for one that it does not know."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return Shape(_checked, None)
    if kind is None or kind in _PLAIN:
        return _AS_IT_IS
    if origin in (Union, types.UnionType):
        return _optional(parts)
    if origin is dict:
        return _mapping(*parts)
    if origin is tuple:
        return _tuple(parts)
    if origin in (list, set, deque):
        return {list: _list, set: _set, deque: _deque}[origin](parts[0])
    if isinstance(kind, type) and issubclass(kind, Enum):
        return Shape(lambda value: value.value, kind)
    if is_dataclass(kind) and isinstance(kind, type):
        return _record(kind)
    raise ShapeError(f"{kind} is of no shape that can be written")


def describe(kind: Any) -> str:
    """The type with every type in it, by names and fields: equal texts mean that what one wrote the other reads."""
    known: dict[str, str] = {}
    _note(kind, known)
    return "\n".join([_name(kind), *(f"{name}({inside})" for name, inside in sorted(known.items()))])


def _name(kind: Any) -> str:
    return kind.__qualname__ if isinstance(kind, type) and not get_args(kind) else str(kind)


def _note(kind: Any, known: dict[str, str]) -> None:
    for part in get_args(kind):
        _note(part, known)
    if not isinstance(kind, type) or get_args(kind) or kind.__qualname__ in known:
        return
    if issubclass(kind, Enum):
        known[kind.__qualname__] = ", ".join(str(one.value) for one in kind)
    elif is_dataclass(kind):
        hints = get_type_hints(kind)
        known[kind.__qualname__] = ", ".join(f"{one.name}: {_name(hints[one.name])}" for one in fields(kind))
        for hint in hints.values():
            _note(hint, known)


def _checked(value: Any) -> Any:
    """A value of any type that JSON leaves as it is."""
    kind = type(value)
    if kind is dict:
        if not all(type(key) is str for key in value):
            raise ShapeError(f"a key of {value!r} is no string")
        for each in value.values():
            _checked(each)
    elif kind is list:
        for each in value:
            _checked(each)
    elif kind not in _PLAIN:
        raise ShapeError(f"{value!r} is no plain JSON")
    return value


def _optional(parts: tuple[Any, ...]) -> Shape:
    others = [part for part in parts if part is not type(None)]
    if len(others) == len(parts):
        if any(part not in _PLAIN for part in parts):
            raise ShapeError(f"a union of {parts} does not say which of them a value is")
        return _AS_IT_IS
    inner = shape_of(others[0]) if len(others) == 1 else _optional(tuple(others))
    write, read = inner.write, inner.read
    return Shape(
        write and (lambda value: None if value is None else write(value)),
        read and (lambda plain: None if plain is None else read(plain)),
    )


def _list(part: Any) -> Shape:
    inner = shape_of(part)
    write, read = inner.write, inner.read
    return Shape(
        write and (lambda value: [write(one) for one in value]), read and (lambda plain: [read(one) for one in plain])
    )


def _set(part: Any) -> Shape:
    if part not in _PLAIN:
        raise ShapeError(f"a set of {part} has no order to be written in")
    return Shape(sorted, set)


def _deque(part: Any) -> Shape:
    inner = _list(part)
    write, read = inner.write or list, inner.read or list
    return Shape(lambda value: [value.maxlen, write(value)], lambda plain: deque(read(plain[1]), maxlen=plain[0]))


def _tuple(parts: tuple[Any, ...]) -> Shape:
    if len(parts) == 2 and parts[1] is Ellipsis:
        inner = _list(parts[0])
        read = inner.read
        return Shape(inner.write or list, tuple if read is None else lambda plain: tuple(read(plain)))
    return Shape(*_pair_of(*parts))


def _pair_of(*parts: Any) -> tuple[Callable[[Any], list[Any]], Callable[[Any], tuple[Any, ...]]]:
    """How a tuple of these types is written and read."""
    shapes = [shape_of(part) for part in parts]

    def write_all(value: Any) -> list[Any]:
        return [one if s.write is None else s.write(one) for s, one in zip(shapes, value, strict=True)]

    def read_all(plain: Any) -> tuple[Any, ...]:
        return tuple(one if s.read is None else s.read(one) for s, one in zip(shapes, plain, strict=True))

    return write_all, read_all


def _mapping(key: Any, part: Any) -> Shape:
    inner = shape_of(part)
    write, read = inner.write, inner.read
    if key is str and part in (None, type(None)):
        return Shape(list, dict.fromkeys)
    if key is str:
        return Shape(
            write and (lambda value: {name: write(one) for name, one in value.items()}),
            read and (lambda plain: {name: read(one) for name, one in plain.items()}),
        )
    write_pair, read_pair = _pair_of(key, part)
    return Shape(
        lambda value: [write_pair(pair) for pair in value.items()], lambda plain: dict(map(read_pair, plain))
    )


def _record(kind: type) -> Shape:
    hints = get_type_hints(kind)
    names = [one.name for one in fields(kind) if one.init]
    if len(names) != len(fields(kind)):
        raise ShapeError(f"{kind.__qualname__} has fields that are no arguments")
    shapes = [(name, shape_of(hints[name])) for name in names]
    readers = [shape.read for _, shape in shapes]
    writers = [(name, shape.write) for name, shape in shapes]

    def write(value: Any) -> list[Any]:
        if type(value) is not kind:
            raise ShapeError(f"{type(value).__qualname__} stands where {kind.__qualname__} belongs")
        return [
            getattr(value, name) if write is None else write(getattr(value, name)) for name, write in writers
        ]

    def read(plain: Any) -> Any:
        return kind(*[one if read is None else read(one) for read, one in zip(readers, plain, strict=True)])

    return Shape(write, read)


