"""The rule of when a job that waits goes before others, as it is typed: `4x,1d`, `4x` or `never`."""

from cli.errors import usage


def due_rule_of(text: str) -> tuple[int | None, int]:
    """(patience, most_ms) of it; raises CliError."""
    from market.worth import MOST_PATIENCE, DueRule
    from storage.units import TimeError, parse_duration_ms

    usual = DueRule()
    if text == "never":
        return None, usual.most_ms
    times, comma, most = text.partition(",")
    patience = times.removesuffix("x")
    try:
        most_ms = parse_duration_ms(most) if comma else usual.most_ms
    except TimeError:
        most_ms = 0
    if not (times.endswith("x") and patience.isdecimal() and int(patience) <= MOST_PATIENCE and most_ms):
        raise usage(f"{text!r} is no rule", field="--due-rule", remedy=f"0x to {MOST_PATIENCE}x, such as 4x,1d (a day at most), or never")
    return int(patience), most_ms
