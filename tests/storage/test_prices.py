"""Prices from the books: what a plain model of the same asks and leases says, to the nano, and nobody's name."""

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from storage.offline import offline_books
from storage.prices import last_ms, prices
from storage.projection import Projection, projection_equal
from storage.tables import rows_of
from tests.storage.books_examples import DAY_MS, Story, payload, write

HOUR_MS = 3_600_000
Event = dict[str, Any]


def placed(offer: str, price: int, gpu: str = "H100", region: str = "eu", gpus: int = 1) -> Event:
    return {
        "type": "offer_placed", "offer": offer, "provider": "p-secret", "name": "n", "gpu": gpu, "gpus": gpus,
        "vram_gib": 80.0, "region": region, "price_nanos_per_gpu_hour": price, "floor_price_nanos_per_gpu_hour": None,
        "isolation": "sandbox", "measured": {}, "shares": [], "node": "n", "versions": {}, "request_digest": "0" * 64,
    }  # fmt: skip


def changed(offer: str, price: int, state: str = "open", reason: str = "price") -> Event:
    return {"type": "offer_changed", "offer": offer, "state": state, "price_nanos_per_gpu_hour": price, "reason": reason}


def granted(number: int, offer: str, price: int, gpu: str = "H100", gpus: int = 1) -> Event:
    return {
        "type": "lease_granted", "lease": f"l{number}", "epoch": number, "slot": 0, "job": "j-secret", "customer": "c-secret",
        "offer": offer, "provider": "p-secret", "gpu": gpu, "gpus": gpus, "price_nanos_per_gpu_hour": price, "replaces": None,
    }  # fmt: skip


def books(folder: Path, *told: tuple[int, Event]) -> Projection:
    story = Story()
    for at_ms, event in told:
        story.add(DAY_MS + at_ms, event)
    write(folder, story.records)
    return Projection.in_memory(folder)


def ask(projection: Projection, since: int, until: int, **more: Any) -> dict[str, Any]:
    with projection.cursor() as cursor:
        return prices(cursor, since_ms=DAY_MS + since, until_ms=DAY_MS + until, **more)


def test_a_quote_weighs_by_its_units_and_how_long_it_stood(tmp_path: Path) -> None:
    with books(
        tmp_path,
        (0, placed("a", 100)), (0, placed("b", 300, gpus=4)), (10, placed("c", 7, region="us")), (50, changed("a", 900)),
        (51, changed("a", 100)), (60, changed("c", 7, "offline", "not_heard")), (90, changed("c", 7, "open", "heard")),
    ) as made:  # fmt: skip
        eu, us = ask(made, 0, 100)["items"]
        # 4 units at 300 for 100 ms, one unit at 100 for 99 ms and at 900 for one
        assert (eu["n"], eu["min_nanos"], eu["p25_nanos"], eu["median_nanos"], eu["max_nanos"]) == (3, 100, 300, 300, 900)
        assert (eu["last_nanos"], eu["last_ms"]) == (100, DAY_MS + 51)
        assert (us["region"], us["kind"], us["n"]) == ("us", "quotes", 1)
        assert [one["region"] for one in ask(made, 61, 89)["items"]] == ["eu"], "an offer that is silent asks nothing"
        assert projection_equal(made)[0]


def test_trades_have_the_region_of_their_time_and_nobodys_name(tmp_path: Path) -> None:
    with books(
        tmp_path,
        (0, placed("a", 100)), (1, granted(1, "a", 100)), (2, changed("a", 100, "withdrawn", "withdraw")),
        (3, placed("a", 200, region="us")), (4, granted(2, "a", 200, gpus=3)), (5, granted(3, "a", 0)),
    ) as made:  # fmt: skip
        answer = ask(made, 0, 10, points=2)
        trades = [(one["region"], one["n"], one["median_nanos"]) for one in answer["items"] if one["kind"] == "trades"]
        assert trades == [("eu", 1, 100), ("us", 1, 200)], "a lease of an owner on its own machine is no trade"
        assert "secret" not in json.dumps(answer)
        assert ask(made, 0, 10, gpu="h100", region="US")["items"] == [one for one in answer["items"] if one["region"] == "us"]
        assert ask(made, 0, 10, gpu="A100")["items"] == []


def test_a_market_that_is_down_asks_nothing_after_its_end(tmp_path: Path) -> None:
    story = Story()
    story.add(DAY_MS, placed("a", 100))
    story.add(DAY_MS + HOUR_MS, {"type": "market_stopped", "by": "root"})
    write(tmp_path / "journal", story.records)
    with offline_books(tmp_path / "journal", tmp_path / "books.duckdb") as connection:
        assert last_ms(connection) == DAY_MS + HOUR_MS
        [line] = prices(connection, until_ms=last_ms(connection))["items"]
        assert (line["kind"], line["n"], line["median_nanos"]) == ("quotes", 1, 100)
        assert prices(connection, until_ms=last_ms(connection), points=7)["series"][-1]["at_ms"] < DAY_MS + HOUR_MS


def quantile(weighed: Sequence[tuple[int, int]], share: Fraction) -> int:
    """The lowest price at or below which `share` of the weight lies."""
    whole, upto = sum(weight for _, weight in weighed), 0
    for price, weight in sorted(weighed):
        upto += weight
        if upto >= share * whole:
            return price
    raise AssertionError


STEP = st.tuples(
    st.integers(0, 30),
    st.one_of(
        st.builds(lambda o, p, g: placed(o, p, gpus=g), st.sampled_from("ab"), st.integers(1, 9), st.integers(1, 3)),
        st.builds(changed, st.sampled_from("ab"), st.integers(1, 9), st.sampled_from(["open", "draining", "offline"])),
        st.builds(lambda o, p, g: ("grant", o, p, g), st.sampled_from("ab"), st.integers(1, 9), st.integers(1, 3)),
    ),
)


def fill(made: Projection, told: Sequence[tuple[int, Event]]) -> None:
    """The rows of these events and no others."""
    with made.cursor() as cursor:
        for name in ("offers", "offer_changes", "leases"):
            cursor.execute(f"DELETE FROM {name}")
        for record, (at_ms, event) in enumerate(told):
            for name, row in rows_of(record, payload(DAY_MS + at_ms, [event])):
                cursor.execute(f"INSERT INTO {name} VALUES ({', '.join('?' * len(row))})", row)


def test_lines_and_series_are_those_of_a_model_that_counts_every_millisecond(tmp_path: Path) -> None:
    with books(tmp_path / "journal") as empty:

        @settings(max_examples=60, deadline=None)
        @given(steps=st.lists(STEP, max_size=14), since=st.integers(0, 100), length=st.integers(1, 120), points=st.integers(1, 5))
        def check(steps: list[tuple[int, Any]], since: int, length: int, points: int) -> None:
            fill(empty, script(steps))
            compare(ask(empty, since, since + length, points=min(points, length)), script(steps), since, length, min(points, length))

        check()


def script(steps: list[tuple[int, Any]]) -> list[tuple[int, Event]]:
    """Two offers, then these steps, each so long after the one before."""
    at, told = 0, [(0, placed("a", 5)), (0, placed("b", 6, gpus=2))]
    for number, (wait, event) in enumerate(steps):
        at += wait
        told.append((at, granted(number, event[1], event[2], gpus=event[3]) if isinstance(event, tuple) else event))
    return told


def compare(answer: dict[str, Any], told: list[tuple[int, Event]], since: int, length: int, points: int) -> None:
    until = since + length
    seconds: dict[int, list[tuple[int, int]]] = {}
    standing: dict[str, tuple[int, int, bool]] = {}
    place = 0
    for now in range(until):
        while place < len(told) and told[place][0] <= now:
            event = told[place][1]
            if event["type"] == "offer_placed":
                standing[event["offer"]] = (event["price_nanos_per_gpu_hour"], event["gpus"], True)
            elif event["type"] == "offer_changed":
                units = standing[event["offer"]][1]
                standing[event["offer"]] = (event["price_nanos_per_gpu_hour"], units, event["state"] == "open")
            place += 1
        seconds[now] = [(price, units) for price, units, is_open in standing.values() if is_open]
    weighed = [one for now in range(since, until) for one in seconds[now]]
    newest = [event for when, event in told if when == until and event["type"] != "lease_granted"]
    lines = {one["kind"]: one for one in answer["items"]}
    if not newest:  # what is placed in the last moment weighs a millisecond, which the model does not have
        assert ("quotes" in lines) == bool(weighed)
        if weighed:
            found = [lines["quotes"][name] for name in ("min_nanos", "p25_nanos", "median_nanos", "p75_nanos", "max_nanos")]
            middle = [quantile(weighed, Fraction(share, 4)) for share in (1, 2, 3)]
            assert found == [min(weighed)[0], *middle, max(weighed)[0]]
        for part in (one for one in answer["series"] if one["kind"] == "quotes"):
            within = [
                one for now in range(since, until) if (now - since) * points // length == _place(part, since, length, points)
                for one in seconds[now]
            ]  # fmt: skip
            assert part["median_nanos"] == quantile(within, Fraction(1, 2))
    trades = [
        (event["price_nanos_per_gpu_hour"], event["gpus"])
        for when, event in told
        if event["type"] == "lease_granted" and since <= when <= until
    ]
    assert ("trades" in lines) == bool(trades)
    if trades:
        assert (lines["trades"]["n"], lines["trades"]["median_nanos"]) == (len(trades), quantile(trades, Fraction(1, 2)))


def _place(part: Event, since: int, length: int, points: int) -> int:
    return (part["at_ms"] - DAY_MS - since) * points // length
