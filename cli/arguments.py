"""Global options anywhere on the line, and the small values that people type: money, times, pairs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING

from cli.errors import usage
from storage.units import MAX_USD, NANOS_PER_USD, MoneyError, parse_usd

if TYPE_CHECKING:
    from market.hardware import GpuRequest

HIGHEST_PRICE_USD = 1_000
_VALUED = ("--url", "--key", "--home", "--ca")


@dataclass(frozen=True, slots=True)
class Globals:
    """What the global options said; None where they were silent."""

    as_json: bool = False
    url: str | None = None
    key: str | None = None
    home: str | None = None
    ca: str | None = None


def hoist(argv: Sequence[str]) -> tuple[Globals, list[str]]:
    """Take the global options out of `argv`, wherever they stand before a bare `--`."""
    found = Globals()
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--":
            return found, [*rest, word, *words]
        name, equals, value = word.partition("=")
        if word == "--json":
            found = replace(found, as_json=True)
        elif name in _VALUED:
            given = value if equals else next(words, None)
            if not given:
                raise usage(f"{name} needs a value", field=name)
            found = _with(found, name, given)
        else:
            rest.append(word)
    return found, rest


def _with(found: Globals, name: str, value: str) -> Globals:
    if name == "--url":
        return replace(found, url=value)
    if name == "--ca":
        return replace(found, ca=value)
    return replace(found, key=value) if name == "--key" else replace(found, home=value)


def usd_nanos(text: str, field: str, *, lowest_nanos: int = 1, highest_usd: int = MAX_USD) -> int:
    """Nano-dollars of an amount such as `20`, `0.45` or `$1.5`; exact, never rounded."""
    lowest = "above $0" if lowest_nanos == 1 else usd(lowest_nanos)
    allowed = f"allowed: {lowest} to ${highest_usd:,}"
    try:
        nanos = parse_usd(text)
    except MoneyError as error:
        raise usage(f"{field} {text!r}: {error.message}", field=field, remedy=allowed, code=error.code) from None
    if not lowest_nanos <= nanos <= highest_usd * NANOS_PER_USD:
        raise usage(f"{field} {text!r} is out of range", field=field, remedy=allowed, code="out_of_range")
    return nanos


def price_nanos(text: str, field: str) -> int:
    """Nano-dollars per GPU-hour; zero, negative, NaN and absurd prices are refused."""
    return usd_nanos(text, field, lowest_nanos=100_000, highest_usd=HIGHEST_PRICE_USD)


def usd(nanos: int | None) -> str:
    """Dollars for people: two to six decimals, as many as the size of the amount needs."""
    if nanos is None:
        return "–"
    dollars = Decimal(nanos) / NANOS_PER_USD
    size = abs(dollars)
    places = 2 if size >= 100 or size == 0 else 4 if size >= Decimal("0.01") else 6
    text = f"{abs(dollars):,.{places}f}"
    while places > 2 and text.endswith("0"):
        text, places = text[:-1], places - 1
    return f"{'-' if nanos < 0 else ''}${text}"


def exact_usd(nanos: int) -> str:
    """Dollars to the nano-dollar, for invoices."""
    sign, size = ("-" if nanos < 0 else ""), abs(nanos)
    return f"{sign}${size // NANOS_PER_USD:,}.{size % NANOS_PER_USD:09d}"


def megabytes(size: int) -> str:
    """`1.84 MB`; three digits that matter."""
    if size < 1000:
        return f"{size} B"
    unit, factor = next((one for one in (("kB", 1e3), ("MB", 1e6)) if size < one[1] * 999.5), ("GB", 1e9))
    value = size / factor
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"


def pair(text: str, field: str, form: str = "NAME=VALUE") -> tuple[str, str]:
    """The two sides of `form`, both present."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip() or not value.strip():
        raise usage(f"{field} {text!r} is not {form}", field=field)
    return name.strip(), value.strip()


def gpu_request(text: str, field: str = "--gpus") -> "GpuRequest":
    """`auto`, `2`, `cpu:2` or `RTX4090:2`; a model alone is one of it."""
    from market.hardware import BadRequest, UnknownGpu, parse_request

    try:
        return parse_request(text)
    except UnknownGpu as error:
        raise usage(f"{field} {text!r}: {error}", field=field, code="unknown_gpu") from None
    except BadRequest as error:
        raise usage(f"{field} {error}", field=field, remedy=error.remedy) from None
