"""Verbs that people type all day, without typer's parser.

Typer 0.29 imports pydantic to coerce any parameter, which takes as long as everything else together. Where a line is
plain (known options, text and flags), its values can be read off the very same declarations; for anything else
(help, numbers, mistakes) `match` answers None and typer reads the line and says what is wrong with it.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

from typer.models import ArgumentInfo, OptionInfo

from cli.settings import Settings

VERBS = frozenset({"offers", "jobs", "job", "billing", "invoice", "prices", "status", "explain", "cancel", "logs", "sql", "exec"})
_TEXT = (str, str | None)
_TEXTS = (list[str], list[str] | None)


@dataclass(frozen=True, slots=True)
class Context:
    """As much of a typer context as our verbs use."""

    obj: Settings


@dataclass(frozen=True, slots=True)
class _Parameter:
    name: str
    kind: object
    option: bool
    spellings: tuple[str, ...]


def match(verb: Callable[..., Any], words: Sequence[str]) -> dict[str, Any] | None:
    """The keyword arguments that `words` mean for `verb`, or None where typer must look."""
    parameters = _parameters(verb)
    options = {spelling: one for one in parameters if one.option for spelling in one.spellings}
    places = [one for one in parameters if not one.option]
    values: dict[str, Any] = {}
    rest, bare = iter(words), False
    for word in rest:
        if word == "--" and not bare:
            bare = True
            continue
        name, equals, inline = word.partition("=") if word.startswith("--") else (word, "", "")
        if name in options and not bare:
            found, value = options[name], inline if equals else None
            if found.kind is bool:
                value = None if equals else "yes"
            elif value is None:
                value = next(rest, None)
            if value is None or value.startswith("-"):
                return None
        elif (word.startswith("-") and not bare) or not places:
            return None
        else:
            found, value = (places[0] if places[0].kind in _TEXTS else places.pop(0)), word
        if not _put(values, found, value):
            return None
    return _complete(verb, values)


def _put(values: dict[str, Any], found: _Parameter, value: str) -> bool:
    if found.kind in _TEXTS:
        values.setdefault(found.name, []).append(value)
        return True
    values[found.name] = True if found.kind is bool else value
    return found.kind in (*_TEXT, bool)


def _complete(verb: Callable[..., Any], values: dict[str, Any]) -> dict[str, Any] | None:
    for name, parameter in inspect.signature(verb).parameters.items():
        if name != "ctx" and name not in values:
            if parameter.default is inspect.Parameter.empty:
                return None
            values[name] = parameter.default
    return values


def _parameters(verb: Callable[..., Any]) -> list[_Parameter]:
    found = []
    for name, hint in get_type_hints(verb, include_extras=True).items():
        kind, *notes = get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
        note = next((one for one in notes if isinstance(one, ArgumentInfo | OptionInfo)), None)
        if note is not None:
            option = isinstance(note, OptionInfo)
            given = [text for text in (note.default, *(note.param_decls or ())) if isinstance(text, str)]
            found.append(_Parameter(name, kind, option, tuple(given) or (f"--{name.replace('_', '-')}",)))
    return found
