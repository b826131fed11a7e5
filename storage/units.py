"""Integer money and time: nano-dollars and milliseconds, and the only places where they are rounded.

Names end in their unit: `_nanos`, `_ms`, `_ppm`. Nothing here is a float on its way into the books; a float
that a person wrote in YAML is read by its shortest decimal text.
"""

import re
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal

NANOS_PER_USD = 1_000_000_000
MS_PER_SECOND = 1_000
MS_PER_MINUTE = 60_000
MS_PER_HOUR = 3_600_000
MS_PER_DAY = 86_400_000
TEN_YEARS_MS = 3_650 * MS_PER_DAY
PPM = 1_000_000
DEFAULT_FEE_PPM = 50_000
MAX_NANOS = 2**63 - 1
MAX_USD = 1_000_000_000
MAX_INSTANT_MS = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z

_USD = re.compile(r"([0-9]{1,400})(?:\.([0-9]{1,400}))?")
_DURATION_PART = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(ms|s|min|m|h|d|w)")
_MS_PER_UNIT = {
    "ms": 1, "s": MS_PER_SECOND, "m": MS_PER_MINUTE, "min": MS_PER_MINUTE, "h": MS_PER_HOUR,
    "d": MS_PER_DAY, "w": 7 * MS_PER_DAY,
}  # fmt: skip


class UnitError(ValueError):
    """A quantity that a person wrote cannot be taken; `code` names the reason, the text says it in a sentence."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class MoneyError(UnitError):
    """A money text is refused: not_a_number, negative, too_many_decimals or too_large."""


class TimeError(UnitError):
    """A duration or an instant is refused: not_a_duration, not_an_instant or too_large."""


def parse_usd(text: str | int | float | Decimal) -> int:
    """Nano-dollars of a dollar amount such as `"0.45"`, exactly; raises MoneyError and never rounds."""
    if isinstance(text, bool):
        raise MoneyError("not_a_number", f"{text} is not an amount of dollars")
    written = format(Decimal(repr(text)), "f") if isinstance(text, float) else str(text).strip()
    if isinstance(text, Decimal) and text.is_finite():
        written = format(text, "f")
    if written.startswith("-"):
        raise MoneyError("negative", f"an amount of dollars cannot be negative: {written}")
    match = _USD.fullmatch(written.removeprefix("+").removeprefix("$"))
    if match is None:
        raise MoneyError("not_a_number", f"{written!r} is not an amount of dollars; write it like 0.45")
    whole, fraction = match.group(1), (match.group(2) or "").rstrip("0")
    if len(fraction) > 9:
        raise MoneyError("too_many_decimals", f"{written} has more than 9 decimals; the smallest amount is 0.000000001")
    nanos = int(whole) * NANOS_PER_USD + int(fraction.ljust(9, "0"))
    if nanos > MAX_USD * NANOS_PER_USD:
        raise MoneyError("too_large", f"{written} is above the largest amount of {MAX_USD} dollars")
    return nanos


def counted(number: int, noun: str) -> str:
    """«1 note», «2 notes»."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def format_usd(nanos: int, places: int | None = None) -> str:
    """Dollars as text without a sign for the currency: exact (2 to 9 decimals), or half-even to `places`."""
    if places is not None:
        shown = (Decimal(nanos) / NANOS_PER_USD).quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_EVEN)
        return format(abs(shown) if shown == 0 else shown, "f")
    whole, rest = divmod(abs(nanos), NANOS_PER_USD)
    fraction = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if nanos < 0 else ''}{whole}.{fraction}"


def charge_nanos(price_nanos_per_gpu_hour: int, gpus: int, ms: int) -> int:
    """What `gpus` cards cost from the start to `ms`, rounded down once.

    A charge between two readings is the difference of two of these, so that rounding never drifts.
    """
    assert price_nanos_per_gpu_hour >= 0, price_nanos_per_gpu_hour
    assert gpus >= 0, gpus
    assert ms >= 0, ms
    return price_nanos_per_gpu_hour * gpus * ms // MS_PER_HOUR


def fee_total(charged_total_nanos: int, fee_ppm: int = DEFAULT_FEE_PPM) -> int:
    """The market's part of everything charged so far; the fee of one charge is the difference of two of these."""
    assert charged_total_nanos >= 0, charged_total_nanos
    assert 0 <= fee_ppm <= PPM, fee_ppm
    return charged_total_nanos * fee_ppm // PPM


def parse_duration_ms(text: str) -> int:
    """Milliseconds of `"90s"`, `"1h30m"`, `"2d"`, `"500ms"`; raises TimeError."""
    written = text.strip().lower().replace(" ", "")
    parts = list(_DURATION_PART.finditer(written))
    if not parts or "".join(part.group(0) for part in parts) != written:
        raise TimeError("not_a_duration", f"{text!r} is not a duration; write it like 90s, 15m, 2h or 7d")
    total = sum(Decimal(part.group(1)) * _MS_PER_UNIT[part.group(2)] for part in parts)
    if total > MAX_INSTANT_MS:
        raise TimeError("too_large", f"{text!r} is longer than this world")
    return int(total)


def format_duration(ms: int) -> str:
    """For people, in the two largest units that matter: `450 ms`, `9.3 s`, `42 s`, `3 min 05 s`, `2 h 10 min`, `3 d 4 h`."""
    assert ms >= 0, ms
    if ms < MS_PER_SECOND:
        return f"{ms} ms"
    seconds = (ms + MS_PER_SECOND // 2) // MS_PER_SECOND
    if seconds < 100:
        return f"{ms / MS_PER_SECOND:.1f} s" if ms < 9_950 else f"{seconds} s"
    if seconds < 5_400:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    if seconds < 2 * 86_400:
        return f"{seconds // 3_600} h {seconds % 3_600 // 60:02d} min"
    return f"{seconds // 86_400} d {seconds % 86_400 // 3_600} h"


def parse_instant_ms(text: str, *, now_ms: int) -> int:
    """Milliseconds since 1970 (UTC) of a date, an ISO-8601 instant, `now`, `today`, or a duration ago (`7d`).

    An instant without a zone is UTC. Raises TimeError.
    """
    written = text.strip()
    if written.lower() == "now":
        return now_ms
    if written.lower() in ("today", "yesterday"):
        return now_ms - now_ms % MS_PER_DAY - (MS_PER_DAY if written.lower() == "yesterday" else 0)
    if _DURATION_PART.match(written.lower()):
        return max(0, now_ms - parse_duration_ms(written))
    try:
        moment = datetime.fromisoformat(written)
    except ValueError as error:
        raise TimeError("not_an_instant", f"{text!r} is not a time; write 2026-11-22, an ISO instant, or 7d") from error
    zoned = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    ms = (zoned - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    if not 0 <= ms <= MAX_INSTANT_MS:
        raise TimeError("too_large", f"{text!r} is outside 1970 to 9999")
    return ms


def format_instant(at_ms: int) -> str:
    """ISO-8601 in UTC with milliseconds: `2026-11-22T10:00:00.000Z`."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
