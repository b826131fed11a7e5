"""Which paths of a folder a `.gitignore` leaves out, by git's own rules. Pure, but for `rules_above`.

The last rule that fits a path decides; those of a deeper folder come after those of the folders around it. What lies in a
folder that is left out cannot be taken in again: whoever walks does not go there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trainers.globs import translated

NAME: Final = ".gitignore"
REPOSITORY: Final = ".git"


@dataclass(frozen=True, slots=True)
class Rule:
    """One line. `base`: the folder of its file, as the paths in it begin: empty, or such as `src/`."""

    pattern: re.Pattern[str]
    base: str
    negated: bool
    folders_only: bool

    def fits(self, path: str, folder: bool) -> bool:
        """Whether the rule is about this path."""
        if (self.folders_only and not folder) or not path.startswith(self.base):
            return False
        return self.pattern.fullmatch(path.removeprefix(self.base)) is not None


def parse(text: str, base: str = "") -> tuple[Rule, ...]:
    """The rules of a file in the folder `base`, which is empty or ends with a slash."""
    rules = (_rule(line, base) for line in text.splitlines())
    return tuple(rule for rule in rules if rule is not None)


def is_ignored(rules: Sequence[Rule], path: str, *, folder: bool) -> bool:
    """Whether the last rule that fits leaves the path out."""
    for rule in reversed(rules):
        if rule.fits(path, folder):
            return not rule.negated
    return False


def rules_above(folder: Path) -> tuple[str, tuple[Rule, ...]]:
    """How paths in `folder` begin from the top of its repository, and what the files around it say; ("", ()) without one."""
    top = next((one for one in (folder, *folder.parents) if (one / REPOSITORY).exists()), None)
    if top is None or top == folder:
        return "", ()
    names = folder.relative_to(top).parts
    rules: list[Rule] = []
    for depth in range(len(names)):
        base = "".join(f"{name}/" for name in names[:depth])
        rules += read(top / base, base)
    return "".join(f"{name}/" for name in names), tuple(rules)


def read(folder: Path, base: str) -> Iterable[Rule]:
    """The rules of a folder's own file, if it has one that can be read."""
    path = folder / NAME
    return parse(path.read_text(encoding="utf-8", errors="replace"), base) if path.is_file() else ()


def _rule(line: str, base: str) -> Rule | None:
    line = _without_blanks(line)
    if not line or line.startswith("#"):
        return None
    negated = line.startswith("!")
    line = line[1:] if negated else line
    folders_only = line.endswith("/")
    body = line.rstrip("/")
    anchored = "/" in body
    parts = [part for part in body.split("/") if part]
    if not parts:
        return None
    if not anchored:
        parts = ["**", *parts]
    return Rule(re.compile(translated(parts), re.DOTALL), base, negated, folders_only)


def _without_blanks(line: str) -> str:
    """Trailing blanks mean nothing, unless the last one is escaped."""
    cut = line.rstrip(" \t")
    escaped = len(cut) < len(line) and (len(cut) - len(cut.rstrip("\\"))) % 2 == 1
    return cut + line[len(cut)] if escaped else cut
