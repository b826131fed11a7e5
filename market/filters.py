"""The filter language of `torg offers`: `'vram>=24 reliability>0.98 region in [eu,us] gpu=A100 price<0.5'`.

    filter  = clause { ["and" | ","] clause }        every clause must hold
    clause  = field op value | field ["not"] "in" list | ["not"] flag
    op      = "=" | "==" | "!=" | ">" | ">=" | "<" | "<="
    list    = "[" value { "," value } "]"
    order   = field ["-" | "+"] { "," field ["-" | "+"] }     a trailing - means highest first

Fields are those of an offer as the API shows it, or their short names below. Text is compared without case; `gpu` takes
any name that the catalogue knows. Money is in dollars per GPU-hour.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from market.hardware import UnknownGpu, canonical_name

Offer = Mapping[str, Any]
Predicate = Callable[[Offer], bool]

NUMBERS: Final[Mapping[str, str]] = {
    "price": "usd_per_gpu_hour",
    "usd_per_gpu_hour": "usd_per_gpu_hour",
    "price_nanos_per_gpu_hour": "price_nanos_per_gpu_hour",
    "vram": "vram_gib",
    "vram_gib": "vram_gib",
    "gpus": "gpus",
    "num_gpus": "gpus",
    "free": "gpus_free",
    "gpus_free": "gpus_free",
    "reliability": "reliability",
}
TEXTS: Final[Mapping[str, str]] = {
    "gpu": "gpu",
    "gpu_name": "gpu",
    "region": "region",
    "provider": "provider",
    "name": "name",
    "id": "id",
    "isolation": "isolation",
    "state": "state",
}
FLAGS: Final[Mapping[str, str]] = {
    "environments": "environments", "interruptible": "interruptible", "network": "network", "suspect": "suspect",
}  # fmt: skip
FIELDS: Final[Mapping[str, str]] = {**NUMBERS, **TEXTS, **FLAGS}

_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<op>==|!=|>=|<=|=|>|<)|(?P<mark>[\[\],])|"(?P<double>[^"]*)"|'(?P<single>[^']*)'|(?P<word>[^\s=!<>\[\],"']+))"""
)
_COMPARE: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_MEASURED: Final = re.compile(r"measured\.[A-Za-z0-9_]+")
MAX_LENGTH: Final = 4_096


class FilterError(ValueError):
    """A filter or an order that cannot be read; the text is one line for the person who wrote it."""


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str


def compile_filter(text: str) -> Predicate:
    """A predicate over offers; an empty filter lets everything pass. Raises FilterError."""
    if len(text) > MAX_LENGTH:
        raise FilterError(f"the filter is longer than {MAX_LENGTH} characters")
    clauses = _Parser(_tokens(text)).clauses()
    return lambda offer: all(clause(offer) for clause in clauses)


def order_offers(offers: Sequence[Offer], order: str) -> list[Offer]:
    """The offers in that order, ties by id; raises FilterError."""
    found = sorted(offers, key=lambda offer: str(offer.get("id", "")))
    for part in reversed([part.strip() for part in order.split(",") if part.strip()]):
        name = part.rstrip("+-")
        field = _field(name)
        found.sort(key=lambda offer: _rank(_value(offer, field)), reverse=part.endswith("-"))
    return found


def _rank(value: Any) -> tuple[int, Any]:
    if isinstance(value, str):
        return (1, value.lower())
    return (0, -math.inf if value is None else value)


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    at = 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise FilterError(f"the filter cannot be read from {text[at:].strip()!r} on")
        kind = match.lastgroup
        assert kind is not None
        found.append(_Token("word" if kind in ("double", "single") else kind, match[kind]))
        at = match.end()
    return found


def _field(name: str) -> str:
    if _MEASURED.fullmatch(name):
        return name
    if name.lower() in FIELDS:
        return FIELDS[name.lower()]
    near = difflib.get_close_matches(name.lower(), FIELDS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(FIELDS))}"
    raise FilterError(f"unknown field {name!r}; {hint}")


def _value(offer: Offer, field: str) -> Any:
    if field.startswith("measured."):
        measured: Mapping[str, Any] = offer.get("measured") or {}
        return measured.get(field.removeprefix("measured."))
    return offer.get(field)


class _Parser:
    """Reads tokens from left to right; one method per rule."""

    def __init__(self, tokens: Sequence[_Token]) -> None:
        self._tokens = tokens
        self._at = 0

    def clauses(self) -> list[Predicate]:
        found: list[Predicate] = []
        while self._peek() is not None:
            if (found and self._is("word", "and")) or (found and self._is("mark", ",")):
                self._at += 1
            found.append(self._clause())
        return found

    def _clause(self) -> Predicate:
        negated = self._is("word", "not")
        if negated:
            self._at += 1
        name = self._take("word", "a field name").text
        field = _field(name)
        if field in FLAGS.values() and not self._is("op"):
            return lambda offer: bool(_value(offer, field)) is not negated
        if negated:
            raise FilterError(f"after 'not' comes interruptible; write {name} != …, or {name} not in […]")
        if self._is("word", "not"):
            self._at += 1
            self._keyword("in", name)
            return self._membership(field, name, wanted=False)
        if self._is("word", "in"):
            self._at += 1
            return self._membership(field, name, wanted=True)
        return self._comparison(field, name)

    def _comparison(self, field: str, name: str) -> Predicate:
        sign = self._take("op", f"=, !=, <, <=, >, >= or in after {name}").text
        value = _read(field, name, self._take("word", f"a value after {name}{sign}").text)
        if isinstance(value, (str, bool)) and sign not in ("=", "==", "!="):
            raise FilterError(f"{name} is compared with = or !=, not {sign}")
        compare = _COMPARE[sign]

        def holds(offer: Offer) -> bool:
            own = _value(offer, field)
            own = own.lower() if isinstance(own, str) else own
            return own is not None and compare(own, value)

        return holds

    def _membership(self, field: str, name: str, *, wanted: bool) -> Predicate:
        self._take("mark", f"a list after {name} in, such as [eu,us]", "[")
        values: set[Any] = set()
        while not self._is("mark", "]"):
            values.add(_read(field, name, self._take("word", f"a value in the list of {name}").text))
            if not self._is("mark", "]"):
                self._take("mark", f"a comma or ] in the list of {name}", ",")
        self._at += 1
        if not values:
            raise FilterError(f"the list of {name} is empty")

        def holds(offer: Offer) -> bool:
            own = _value(offer, field)
            return ((own.lower() if isinstance(own, str) else own) in values) is wanted

        return holds

    def _peek(self) -> _Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _is(self, kind: str, text: str | None = None) -> bool:
        token = self._peek()
        return token is not None and token.kind == kind and (text is None or token.text.lower() == text)

    def _take(self, kind: str, wanted: str, text: str | None = None) -> _Token:
        token = self._peek()
        if token is None or not self._is(kind, text):
            found = "the end" if token is None else repr(token.text)
            raise FilterError(f"expected {wanted}, found {found}")
        self._at += 1
        return token

    def _keyword(self, word: str, name: str) -> None:
        if not self._is("word", word):
            raise FilterError(f"expected {word} after {name} not")
        self._at += 1


def _read(field: str, name: str, text: str) -> Any:
    """The value as its field has it: a finite number, a flag, or lower-case text."""
    if field in NUMBERS.values() or field.startswith("measured."):
        try:
            number = float(text.removeprefix("$"))
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise FilterError(f"{name} is compared with a number, not {text!r}")
        return number
    if field in FLAGS.values():
        if text.lower() not in ("true", "false", "yes", "no"):
            raise FilterError(f"{name} is true or false, not {text!r}")
        return text.lower() in ("true", "yes")
    if field == "gpu":
        try:
            return canonical_name(text).lower()
        except UnknownGpu as error:
            raise FilterError(str(error)) from None
    return text.lower()
