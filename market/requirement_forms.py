"""What a batch job's file says of the packages that it needs: a file of requirements, lines of it, or a project's dependencies."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from market.form_errors import FormError
from trainers.requirement_lines import (
    MAX_FILE_BYTES,
    BadRequirement,
    requirements_of_lines,
    requirements_of_pyproject,
    requirements_of_text,
)

PROJECT = "pyproject.toml"


def requirements_of(requirements: str | Sequence[str] | None, pyproject: bool | str | None, folder: Path) -> dict[str, list[str]]:
    """`requirements` of the spec's command, in normal form; nothing where none are wanted. Files are below `folder`. Raises
    FormError, which names the line.
    """
    if requirements is None and not pyproject:
        return {}
    field, named = ("requirements", requirements) if requirements is not None else ("pyproject", pyproject)
    try:
        if isinstance(requirements, str):
            found = requirements_of_text(_read(field, requirements, folder))
        elif requirements is not None:
            found = requirements_of_lines(requirements)
        else:
            found = requirements_of_pyproject(_project(PROJECT if pyproject is True else str(pyproject), folder))
    except BadRequirement as bad:
        where = f"{named if isinstance(named, str) else field}, line {bad.number}" if field == "requirements" else f"{field}, dependency {bad.number}"
        raise FormError(where, bad.line, bad.message, bad.remedy) from None
    return {"requirements": list(found)} if found else {}


def _project(named: str, folder: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads(_read("pyproject", named, folder))
    except tomllib.TOMLDecodeError as error:
        raise FormError("pyproject", named, f"is no TOML: {error}", "a file with [project] and its dependencies") from None
    dynamic = found.get("project", {}).get("dynamic", []) if isinstance(found.get("project"), dict) else []
    if isinstance(dynamic, list) and "dependencies" in dynamic:
        raise FormError("pyproject", named, "has dynamic dependencies", "write them down, here or in a file for requirements")
    return found


def _read(field: str, named: str, folder: Path) -> str:
    path = folder / Path(named).expanduser()
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise FormError(field, named, "is too large", f"at most {MAX_FILE_BYTES} bytes")
        return content.decode("utf-8")
    except OSError as error:
        why = (error.strerror or "cannot be read").lower()
        raise FormError(field, named, f"cannot be read: {why}", "a file in the work folder, or a list of requirements") from None
    except UnicodeDecodeError:
        raise FormError(field, named, "is no text", "UTF-8") from None
