"""What is wrong with a form, in one line: the field, what it held, what is allowed, what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Final

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from market.form_ranges import allowed_range

_SHOWN: Final = 80


class FormError(ValueError):
    """One thing that is wrong with a form; the text is one line with all of it."""

    def __init__(self, field: str, value: object, message: str, remedy: str | None = None) -> None:
        self.field = field
        self.value = value
        self.message = message
        self.remedy = remedy
        parts = [f"{field}: {message}" if value is None else f"{field}: {self.shown} {message}"]
        super().__init__("; ".join([*parts, remedy] if remedy else parts))

    @property
    def shown(self) -> str:
        """The value as people read it, cut in the middle: of a path, both ends tell which it is."""
        shown = repr(self.value)
        return shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN // 2]}…{shown[1 - _SHOWN // 2 :]}"


_UNITS: Final = re.compile(r"^-?[\d.]+\s*([A-Za-z%$€]+[A-Za-z/-]*)$|^[$€]\s*[\d.]+$")


def form_error(form: type[BaseModel], detail: ErrorDetails) -> FormError:
    """The first of pydantic's complaints about a form, in our words."""
    names = [str(part) for part in detail["loc"] if not (isinstance(part, str) and part.startswith(("function-", "[key]")))]
    field, value = ".".join(names) or "job file", detail.get("input")
    context = detail.get("ctx", {})
    match detail["type"]:
        case "torg":
            shown = None if isinstance(value, Mapping | BaseModel) else value
            return FormError(field, shown, str(context["text"]), str(context["remedy"]) or None)
        case "torg_option":
            remedy = str(context["remedy"]) or None
            text, found = str(context["text"]), context["value"]
            return FormError(str(context["field"]), None if repr(found) in text else found, text, remedy)
        case "extra_forbidden":
            known = _fields_at(form, names[:-1])
            near = difflib.get_close_matches(names[-1], known, n=1, cutoff=0.5)
            remedy = f"did you mean {near[0]}?" if near else f"known fields: {', '.join(known)}"
            return FormError(field, value, "is in a field that is not known", remedy)
        case "missing":
            return FormError(field, None, "is missing", "every job says it" if len(names) == 1 else None)
        case "literal_error":
            return FormError(field, value, "is not known here", _near_literal(value, str(context["expected"])))
    message = detail["msg"][0].lower() + detail["msg"][1:]
    words = allowed_range(form, names)
    limits = f"allowed: {words}" if words else ""
    if isinstance(value, str) and _UNITS.match(value.strip()):
        bare = f"write the bare number; {_unit_of(names[-1])}"
        return FormError(field, value, "has a unit", "; ".join([bare, limits] if limits else [bare]))
    return FormError(field, value, f"is not allowed: {message}", limits or None)


def _unit_of(name: str) -> str:
    units = {"hours": "hours", "seconds": "seconds", "gib": "GiB", "usd": "dollars", "hour": "dollars per GPU-hour"}
    return next((f"the unit is {unit}" for end, unit in units.items() if name.endswith(end)), "it has no unit")


def _near_literal(value: object, expected: str) -> str:
    known = re.findall(r"'([^']*)'", expected)
    near = difflib.get_close_matches(str(value), known, n=1)
    return f"did you mean {near[0]}?" if near else f"allowed: {', '.join(known)}"


def _fields_at(form: type[BaseModel], path: list[str]) -> list[str]:
    for name in path:
        inner = form.model_fields[name].annotation if name in form.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        form = inner
    return list(form.model_fields)
