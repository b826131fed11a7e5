"""What an owner says to `torg provide` beside price and hardware, as the provider's host takes it."""

import re
import time
from datetime import datetime
from typing import Any

from cli.arguments import pair, price_nanos
from cli.errors import usage
from cli.output import log, printable
from cli.settings import machines_zone

DAY_S = 86_400
MOST_HOURS = 100_000


def watched(
    when: str, idle_for: str | None, idle_load: float | None, ignore: list[str] | None, not_between: list[str] | None
) -> dict[str, Any] | None:
    """The rules of when the machine is for rent; None where it always is."""
    from market.hours import HoursError, parse_hours
    from market.idling import DEFAULT_IDLE_FOR_MS, DEFAULT_IDLE_LOAD

    if when not in ("always", "idle"):
        raise usage(f"--when {when!r} is neither always nor idle", field="--when")
    said = {"--idle-for": idle_for, "--idle-load": idle_load, "--idle-ignore": ignore}
    for option, value in said.items():
        if value is not None and when != "idle":
            raise usage(f"{option} says nothing without --when idle", field=option, remedy="add it, or leave this out")
    if idle_load is not None and not 0 < idle_load <= 1:
        raise usage(f"--idle-load {idle_load:g} is out of range", field="--idle-load", remedy="above 0, at most 1")
    try:
        hours = [str(parse_hours(text)) for text in not_between or ()]
    except HoursError as error:
        raise usage(f"--not-between {error}", field="--not-between", code="bad_hours") from None
    if when == "always" and not hours:
        return None
    return {
        "by_use": when == "idle", "not_between": hours, "ignore": ignore or [],
        "idle_for_ms": DEFAULT_IDLE_FOR_MS if idle_for is None else duration_ms(idle_for, "--idle-for"),
        "idle_load": DEFAULT_IDLE_LOAD if idle_load is None else idle_load,
    }  # fmt: skip


def until_ms(until: str | None, duration: str | None, notice_ms: int, now_s: float) -> int | None:
    """When the machine goes, by `--until` (on this machine's clock) or `--for`; None is never."""
    if until is None and duration is None:
        return None
    if until is not None and duration is not None:
        raise usage("--until and --for say the same thing", field="--for", remedy="give one")
    option, text = ("--for", duration or "") if until is None else ("--until", until)
    at_s = now_s + duration_ms(text, option) / 1000 if until is None else _moment(until, now_s)
    if at_s - notice_ms / 1000 <= now_s:
        raise usage(
            f"{option} {text!r} leaves no time before the notice of {notice_ms / 1000:g} s",
            field=option, remedy="a later time, or a shorter --notice", code="out_of_range",
        )  # fmt: skip
    return int(1000 * at_s)


def members(given: list[str] | None, option: str) -> list[str]:
    """The members that an option names, each once."""
    from market.owner_terms import MOST_NAMED

    named = list(dict.fromkeys(name.strip() for text in given or () for name in text.split(",")))
    wrong = next((name for name in named if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name)), None)
    if wrong is not None:
        raise usage(f"{option} {wrong!r} is not a member's name", field=option, remedy="names with commas between them")
    if len(named) > MOST_NAMED:
        raise usage(f"{option} names {len(named)} members", field=option, remedy=f"at most {MOST_NAMED}")
    return named


def day_ms(hours: float | None) -> int | None:
    """GPU-hours a day in milliseconds."""
    if hours is None:
        return None
    if not 0 < hours <= MOST_HOURS:
        raise usage(
            f"--max-hours-per-customer {hours:g} is out of range", field="--max-hours-per-customer",
            remedy=f"above 0, at most {MOST_HOURS}", code="out_of_range",
        )  # fmt: skip
    return max(1, round(hours * 3_600_000))


def prices(between: list[str] | None, zone: str | None) -> tuple[list[dict[str, Any]], str]:
    """The prices of hours, and the zone of their clock."""
    from market.hours import HoursError, parse_hours
    from market.schedules import is_zone

    if not between:
        return [], ""
    named = machines_zone() if zone is None else zone
    if not is_zone(named):
        raise usage(f"--zone {named!r} is not known here", field="--zone", remedy="such as Europe/Berlin or UTC")
    found = []
    for text in between:
        hours, amount = pair(text, "--price-between", "HOURS=USD")
        try:
            said = str(parse_hours(hours))
        except HoursError as error:
            raise usage(f"--price-between {error}", field="--price-between", code="bad_hours") from None
        found.append({"hours": said, "price_nanos_per_gpu_hour": price_nanos(amount, "--price-between")})
    return found, named


def windows(given: list[str] | None, zone: str | None, option: str) -> list[str]:
    """The maintenance windows that an option names; `zone` is of those that name none, UTC where it is not said."""
    from market.maintenance import WindowError, parse_window, wrong_windows
    from market.schedules import is_zone

    if zone is not None and not is_zone(zone):
        raise usage(f"--zone {zone!r} is not known here", field="--zone", remedy="such as Europe/Berlin or UTC")
    found: list[str] = []
    try:
        for text in given or ():
            named = len(text.split()) > 1 and is_zone(text.split()[-1])
            found.append(str(parse_window(text if named or zone is None else f"{text} {zone}")))
    except WindowError as error:
        raise usage(f"{option} {error}", field=option, code="bad_window") from None
    wrong = wrong_windows(found)
    if wrong is not None:
        raise usage(f"{option}: {wrong}", field=option, code="bad_window")
    return found


def note_what_is_over(windows: list[str]) -> None:
    """Said and not refused: a unit file outlasts the windows that it names, and its machine is to come back all the same."""
    from market.maintenance import over_window

    over = over_window(windows, time.time_ns() // 1_000_000)
    if over is not None:
        log(printable(f"--maintenance {over!r} is over and changes nothing"))


def lease_times(least: str | None, most: str | None, notice_ms: int) -> dict[str, int | None]:
    """How long leases must and may be, as the offer says it."""
    found = {
        name: None if text is None else duration_ms(text, option)
        for name, option, text in (("min_lease_ms", "--min-lease", least), ("max_lease_ms", "--max-lease", most))
    }
    shortest, longest = found["min_lease_ms"], found["max_lease_ms"]
    if longest is not None and longest < notice_ms + 1000:
        raise usage(
            f"--max-lease {most} leaves no time before the notice of {notice_ms / 1000:g} s",
            field="--max-lease", remedy="a longer time, or a shorter --notice", code="out_of_range",
        )  # fmt: skip
    if shortest is not None and longest is not None and shortest > longest:
        raise usage(f"--min-lease {least} is above --max-lease {most}", field="--min-lease", code="out_of_range")
    return found


def _moment(text: str, now_s: float) -> float:
    """The next time that the clock shows so (`18:00`), or an ISO date and time, of this machine's zone if it names none."""
    try:
        clock = time.strptime(text.strip(), "%H:%M")
    except ValueError:
        try:
            return datetime.fromisoformat(text.strip()).timestamp()
        except ValueError:
            raise usage(
                f"--until {text!r} is not a time", field="--until", remedy="18:00, or 2026-12-24T18:00", code="not_an_instant"
            ) from None
    today = time.localtime(now_s)
    shown = (clock.tm_hour, clock.tm_min, 0, 0, 0, -1)
    at_s = time.mktime((today.tm_year, today.tm_mon, today.tm_mday, *shown))
    return at_s if at_s > now_s else time.mktime((today.tm_year, today.tm_mon, today.tm_mday + 1, *shown))


def duration_ms(text: str, field: str) -> int:
    """Of an option. Raises CliError that names it."""
    from storage.units import TimeError, parse_duration_ms

    try:
        return parse_duration_ms(text)
    except TimeError as error:
        raise usage(f"{field}: {error.message}", field=field, code=error.code) from None
