"""Patterns of paths, as a shell writes them: `*.pt`, `runs/*/metrics.json`, `**/*.log`, `out`. Pure.

`*` and `?` stay within one name, `**` spans folders, `[a-z]` is a set. A pattern that names a folder means all that is in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import Final

MAX_PATTERN: Final = 1_000


class BadPattern(ValueError):
    """A pattern that cannot be used; the message says why."""


def checked_pattern(text: str) -> str:
    """The pattern, if it is relative and leaves its folder nowhere. Raises BadPattern."""
    if not text or len(text) > MAX_PATTERN or not text.isprintable():
        raise BadPattern(f"is not a pattern of 1 to {MAX_PATTERN} printable characters")
    parts = text.split("/")
    if text.startswith(("/", "~")):
        raise BadPattern("is not relative to the working folder")
    if ".." in parts:
        raise BadPattern("leaves the working folder")
    if "\\" in text:
        raise BadPattern("has a backslash")
    if not any(part not in ("", ".") for part in parts):
        raise BadPattern("names nothing")
    return text


def matches(pattern: str, path: str) -> bool:
    """Whether the relative `path` of a file, with slashes, is meant by the pattern or lies in a folder that is."""
    return _compiled(pattern).fullmatch(path) is not None


def matching(patterns: Iterable[str], path: str) -> list[str]:
    """Those of the patterns that mean this path."""
    return [pattern for pattern in patterns if matches(pattern, path)]


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    return re.compile(translated(parts) + r"(?:/.*)?", re.DOTALL)


def translated(parts: list[str]) -> str:
    """The regular expression of a pattern's names, the slashes between them included."""
    found = ""
    for place, part in enumerate(parts):
        last = place == len(parts) - 1
        if part == "**":
            found += ".*" if last else "(?:[^/]+/)*"
        else:
            found += _name(part) + ("" if last else "/")
    return found


def _name(part: str) -> str:
    found, at = "", 0
    while at < len(part):
        letter = part[at]
        at += 1
        if letter == "*":
            found += "[^/]*"
        elif letter == "?":
            found += "[^/]"
        elif letter == "\\" and at < len(part):  # only where patterns may have it
            found += re.escape(part[at])
            at += 1
        elif letter == "[" and (end := part.find("]", at + 1 + (part[at : at + 1] in ("!", "^")))) > 0:
            found += _set(part[at:end])
            at = end + 1
        else:
            found += re.escape(letter)
    return found


def _set(inside: str) -> str:
    """A set in brackets; one that is none (such as `[z-a]`) means nothing."""
    negated = inside[:1] in ("!", "^")
    letters = (inside[1:] if negated else inside).replace("\\", "\\\\").replace("[", "\\[").replace("&", "\\&")
    letters = letters.replace("~", "\\~").replace("|", "\\|").replace("]", "\\]")
    if letters.startswith("^"):
        letters = "\\" + letters
    made = f"(?!/)[{'^' if negated else ''}{letters}]"
    try:
        re.compile(made)
    except re.error:
        return "(?!)"
    return made
