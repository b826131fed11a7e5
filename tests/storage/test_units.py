"""Money and time from text and back, without a rounding that nobody asked for."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.units import (
    MAX_USD,
    MS_PER_DAY,
    NANOS_PER_USD,
    MoneyError,
    TimeError,
    charge_nanos,
    fee_total,
    format_duration,
    format_instant,
    format_usd,
    parse_duration_ms,
    parse_instant_ms,
    parse_usd,
)

NOW = 1_795_392_000_123


@pytest.mark.parametrize(
    ("written", "nanos"),
    [
        ("0.45", 450_000_000), ("5", 5 * NANOS_PER_USD), ("0.000000001", 1), (" $2.10 ", 2_100_000_000),
        ("1.5000000000000000", 1_500_000_000), (0.9, 900_000_000), (1e-9, 1), (3, 3 * NANOS_PER_USD),
        (Decimal("0.30"), 300_000_000), (Decimal("1E+2"), 100 * NANOS_PER_USD), ("0", 0),
    ],
)  # fmt: skip
def test_dollars_are_read_exactly(written, nanos) -> None:
    assert parse_usd(written) == nanos


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("nan", "not_a_number"), (float("nan"), "not_a_number"), (float("inf"), "not_a_number"), ("", "not_a_number"),
        ("1_000", "not_a_number"), ("1,5", "not_a_number"), ("0x1", "not_a_number"), (True, "not_a_number"),
        (Decimal("NaN"), "not_a_number"), ("-1", "negative"), (-0.5, "negative"), ("0.0000000001", "too_many_decimals"),
        ("1000000001", "too_large"), (1e300, "too_large"), ("9" * 40, "too_large"), ("٣", "not_a_number"),
    ],
)  # fmt: skip
def test_what_is_not_an_amount_is_refused_by_name(written, code) -> None:
    with pytest.raises(MoneyError) as refused:
        parse_usd(written)
    assert refused.value.code == code


@given(st.integers(0, MAX_USD * NANOS_PER_USD))
def test_what_is_shown_is_what_is_read(nanos) -> None:
    assert parse_usd(format_usd(nanos)) == nanos


@pytest.mark.parametrize(
    ("nanos", "places", "shown"),
    [(450_000_000, None, "0.45"), (1, None, "0.000000001"), (-2_500_000_000, None, "-2.50"), (0, None, "0.00"),
     (125_000_000, 2, "0.12"), (135_000_000, 2, "0.14"), (-1, 2, "0.00"), (999_999_999, 4, "1.0000")],
)  # fmt: skip
def test_dollars_are_shown(nanos, places, shown) -> None:
    assert format_usd(nanos, places) == shown


@given(st.integers(0, 10**12), st.integers(1, 64), st.lists(st.integers(0, 10**9), min_size=1, max_size=20))
def test_charges_between_readings_add_up_to_the_charge_of_all(price, gpus, gaps) -> None:
    total = reading = 0
    for gap in gaps:
        total += charge_nanos(price, gpus, reading + gap) - charge_nanos(price, gpus, reading)
        reading += gap
    assert total == charge_nanos(price, gpus, reading)


def test_an_hour_costs_its_price_and_the_fee_is_a_twentieth() -> None:
    assert charge_nanos(450_000_000, 2, 3_600_000) == 900_000_000
    assert fee_total(900_000_000) == 45_000_000
    assert fee_total(19) == 0


@pytest.mark.parametrize(
    ("written", "ms"),
    [("90s", 90_000), ("1h30m", 5_400_000), ("500ms", 500), ("2d", 2 * MS_PER_DAY), ("1.5h", 5_400_000),
     ("1 h 5 min", 3_900_000), ("1w", 7 * MS_PER_DAY)],
)  # fmt: skip
def test_durations_are_read(written, ms) -> None:
    assert parse_duration_ms(written) == ms


@pytest.mark.parametrize("written", ["", "5", "h", "1h-5m", "-5s", "1 year", "9" * 15 + "d"])
def test_what_is_not_a_duration_is_refused(written) -> None:
    with pytest.raises(TimeError):
        parse_duration_ms(written)


@pytest.mark.parametrize(
    ("written", "ms"),
    [("now", NOW), ("2026-11-23", 1_795_392_000_000), ("2026-11-23T00:00:00.123Z", NOW), ("1h", NOW - 3_600_000),
     ("today", 1_795_392_000_000), ("yesterday", 1_795_392_000_000 - MS_PER_DAY), ("1970-01-01", 0),
     ("2026-11-23T02:00:00+02:00", 1_795_392_000_000)],
)  # fmt: skip
def test_instants_are_read(written, ms) -> None:
    assert parse_instant_ms(written, now_ms=NOW) == ms


@pytest.mark.parametrize("written", ["", "soon", "2026-13-01", "1969-12-31", "23.11.2026"])
def test_what_is_not_an_instant_is_refused(written) -> None:
    with pytest.raises(TimeError):
        parse_instant_ms(written, now_ms=NOW)


@given(st.integers(0, 253_402_300_799_999))
def test_an_instant_survives_its_text(ms) -> None:
    assert parse_instant_ms(format_instant(ms), now_ms=0) == ms


@pytest.mark.parametrize(
    ("ms", "shown"),
    [
        (450, "450 ms"),
        (9_340, "9.3 s"),
        (42_400, "42 s"),
        (185_000, "3 min 05 s"),
        (7_800_000, "2 h 10 min"),
        (90_000_000, "25 h 00 min"),
        (273_600_000, "3 d 4 h"),
    ],
)
def test_durations_are_shown(ms, shown) -> None:
    assert format_duration(ms) == shown
