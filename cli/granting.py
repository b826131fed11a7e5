"""What `torg members` and `torg teams` share: credit with a reason and perhaps an end, and spending limits."""

from __future__ import annotations

import time
from typing import Any

from cli.arguments import usd, usd_nanos
from cli.errors import usage
from cli.output import document
from cli.session import connect, once
from cli.settings import Settings


def give(
    settings: Settings, amount: str, reason: str, expires: str | None, id: str | None, *,
    member: str | None = None, team: str | None = None,
) -> None:  # fmt: skip
    """Grant it and say so."""
    nanos, expires_ms = usd_nanos(amount, "AMOUNT"), instant_to_come(expires, "--expires")
    with once(id, "grant") as made:
        answer = connect(settings, "operator").grant(made, nanos, reason=reason, member=member, team=team, expires_ms=expires_ms)
    if settings.as_json:
        document(answer)
        return
    from cli.verbs.wallet import moment

    until = f" until {moment(answer['expires_ms'])}" if answer["expires_ms"] else ""
    whom = f"team {team}" if team else str(member)
    print(f"{usd(answer['amount_nanos'])} granted to {whom}{until} ({answer['grant']}): spent first, never paid out.")


def instant_to_come(text: str | None, field: str) -> int | None:
    """Milliseconds since the epoch of a date, an ISO instant, or a duration from now (`30d`)."""
    if text is None:
        return None
    from storage.units import TimeError, parse_duration_ms, parse_instant_ms

    now_ms = time.time_ns() // 1_000_000
    try:
        if text.strip()[-1:].isalpha() and text.strip()[:1].isdigit() and "T" not in text.upper():
            return now_ms + parse_duration_ms(text)
        found = parse_instant_ms(text, now_ms=now_ms)
    except TimeError as error:
        raise usage(f"{field}: {error.message}", field=field, code=error.code) from None
    if found <= now_ms:
        raise usage(f"{field} {text!r} is past", field=field, remedy="2026-12-31, or 30d from now")
    return found


def limits_asked(per_day: str | None, per_month: str | None) -> dict[str, int | None]:
    """The limits that were named, as the API takes them."""
    named = (("per_day", per_day, "--limit-per-day"), ("per_month", per_month, "--limit-per-month"))
    return {
        f"{name}_nanos": None if text == "none" else usd_nanos(text, field, lowest_nanos=0)
        for name, text, field in named
        if text is not None
    }


def limited(limits: dict[str, Any] | None) -> str:
    """`$41.20 of $50.00 a month`: what was billed or is held, of each limit; a dash without one."""
    found = [
        f"{usd(limits[f'{period}_billed_nanos'] + limits['held_nanos'])} of {usd(limits[f'per_{period}_nanos'])} a {period}"
        + (f" ({reached} % reached)" if (reached := limits.get(f"{period}_reached_percent")) else "")
        for period in ("day", "month")
        if limits and limits.get(f"per_{period}_nanos") is not None
    ]
    return ", ".join(found) or ("no limit" if limits else "–")
