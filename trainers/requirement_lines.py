"""Lines of a requirements file as a job may have them: names with versions, and nothing that pip would take for more. Pure.

    line    = name [ "[" extra { "," extra } "]" ] [ specifier { "," specifier } ] [ ";" marker ]

Options (`--index-url`, `-e`, `-r`, `--hash`), addresses (`name @ https://…`), paths and variables (`${NAME}`) are refused: where
packages come from is the business of the machine's owner. What a version may be, pip says itself. A normal form is the same for all ways of writing a line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

MAX_LINES: Final = 200
MAX_CHARACTERS: Final = 400
"""Of one line."""
MAX_FILE_BYTES: Final = 64 << 10
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_VERSION = r"[vV]?[0-9][A-Za-z0-9.*+!_-]*"
_SPECIFIER = rf"(?:~=|===|==|!=|<=|>=|<|>)\s*{_VERSION}"
_LINE: Final = re.compile(
    rf"(?P<name>{_NAME})\s*(?:\[(?P<extras>\s*(?:{_NAME}\s*(?:,\s*{_NAME}\s*)*)?)\])?\s*"
    rf"(?P<open>\()?\s*(?P<specifiers>{_SPECIFIER}\s*(?:,\s*{_SPECIFIER}\s*)*)?(?P<close>\))?\s*(?:;(?P<marker>.*))?"
)
_MARKER_VARIABLE = (
    "python_version|python_full_version|os_name|sys_platform|platform_release|platform_system|platform_version"
    "|platform_machine|platform_python_implementation|implementation_name|implementation_version|extra"
)
_MARKER: Final = re.compile(
    rf"(?:\s*(?:\(|\)|and\b|or\b|not\s+in\b|in\b|~=|===|==|!=|<=|>=|<|>|(?:{_MARKER_VARIABLE})\b|'[A-Za-z0-9 ._*+!-]*'"
    r'|"[A-Za-z0-9 ._*+!-]*"))+\s*'
)
_WHERE: Final = "where packages come from is for the machine's owner to say: leave it out"


class BadRequirement(ValueError):
    """A line that a job may not have. `number` counts from 1; `line` is what it says; `remedy` what would do."""

    def __init__(self, number: int, line: str, message: str, remedy: str) -> None:
        self.number, self.line, self.message, self.remedy = number, line[:120], message, remedy
        super().__init__(f"line {number}: {self.line!r} {message}; {remedy}")


def requirements_of_text(text: str) -> tuple[str, ...]:
    """The lines of a requirements file in normal form, sorted, each once. Raises BadRequirement."""
    return requirements_of_lines(text.removeprefix("\ufeff").splitlines())


def requirements_of_lines(lines: Iterable[str]) -> tuple[str, ...]:
    """The same of lines. Blank ones and comments count nothing. Raises BadRequirement."""
    found: dict[str, None] = {}
    for number, line in enumerate(lines, start=1):
        bare = re.sub(r"(^|\s)#.*$", "", line).strip()
        if bare:
            found[_normal(number, bare)] = None
            if len(found) > MAX_LINES:
                raise BadRequirement(number, bare, f"is one of more than {MAX_LINES} requirements", "name what the command imports")
    return tuple(sorted(found))


def requirements_of_pyproject(project: Mapping[str, Any]) -> tuple[str, ...]:
    """`[project] dependencies` of a pyproject.toml that was read. Raises BadRequirement."""
    table = project.get("project")
    lines = table.get("dependencies") if isinstance(table, Mapping) else None
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise BadRequirement(1, "[project]", "has no list of dependencies", 'such as dependencies = ["einops>=0.8"]')
    return requirements_of_lines(lines)


def is_normal(lines: object) -> bool:
    """Whether this is what the functions above answer, with something in it."""
    if not isinstance(lines, list) or not 1 <= len(lines) <= MAX_LINES or not all(isinstance(one, str) for one in lines):
        return False
    try:
        return list(requirements_of_lines(lines)) == lines
    except BadRequirement:
        return False


def _normal(number: int, line: str) -> str:
    if len(line) > MAX_CHARACTERS:
        raise BadRequirement(number, line, f"is longer than {MAX_CHARACTERS} characters", "a requirement is a name and versions")
    if line.startswith("-"):
        raise BadRequirement(number, line, "is an option of pip", f"only names and versions; {_WHERE}")
    if line.endswith("\\"):
        raise BadRequirement(number, line, "goes on in the next line", "write each requirement on one line")
    if re.search(r"\s--?[A-Za-z]", line):
        raise BadRequirement(number, line, "has an option of pip", f"only names and versions; {_WHERE}")
    match = _LINE.fullmatch(line)
    if match is None or bool(match["open"]) != bool(match["close"]) or not _is_marker(match["marker"]):
        raise _refused(number, line)
    extras = sorted({_canonical(one) for one in (match["extras"] or "").split(",") if one.strip()})
    specifiers = sorted({re.sub(r"\s", "", one) for one in (match["specifiers"] or "").split(",") if one.strip()})
    marker = " ".join((match["marker"] or "").split())
    made = _canonical(match["name"]) + (f"[{','.join(extras)}]" if extras else "") + ",".join(specifiers)
    return f"{made}; {marker}" if marker else made


def _is_marker(text: str | None) -> bool:
    return text is None or _MARKER.fullmatch(text) is not None


def _refused(number: int, line: str) -> BadRequirement:
    if "$" in line:
        return BadRequirement(number, line, "names a variable", "write the name and version themselves")
    if re.search(r"://|\s@\s|^[A-Za-z]+\+", line) or "@" in line:
        return BadRequirement(number, line, "names an address", f"only names and versions; {_WHERE}")
    if re.match(r"[./~\\]|.*[/\\]|.*\.(whl|zip|tar\.\w+|txt|toml)$", line):
        return BadRequirement(number, line, "is a path", "only names and versions; a wheel of your own can lie in the work folder's PYTHONPATH")
    return BadRequirement(number, line, "is no requirement", "such as einops>=0.8 or transformers[torch]==4.57.*")


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
