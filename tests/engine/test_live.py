"""A book too large to be cleared between two commands is cleared aside, by the engine once that is ready, and replays to the bit."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import market.api.desk
from market import clearing, snapshots
from market.api.desk import Desk
from market.api.feed import Feed
from market.api.opening import open_market
from market.api.warming import Warming
from market.commands import AddMember, CancelJob, Deposit, PlaceOffer, SubmitJob
from market.homes import Home
from market.recollection import new_exchange
from market.replaying import replay
from storage.canonical import parse_json
from storage.journal import Journal, read_journal
from tests.market.scene import USD, Scene, digest, make_spec

OFFERS, JOBS = 40, 30


def offer(number: int) -> PlaceOffer:
    """One, of which the market has `OFFERS` from the beginning; another one has everybody looked at."""
    return Scene().make_offer(f"offer-{number}", "p1", 0.3 + number / 100, 1 + number % 4)


def jobs(first: int, last: int) -> list[SubmitJob]:
    return [
        SubmitJob(f"job-{n}", make_spec(workers__min=1 + n % 3, workers__max=1 + n % 3, limits__budget_nanos=2 * USD), "ann")
        for n in range(first, last)
    ]  # fmt: skip


def on_a_market(folder: Path, engine: Warming, play: Callable[[Desk], Awaitable[None]]) -> list[dict[str, object]]:
    """Play on a desk with 40 offers; what each clearing's replay says."""
    home = Home(folder)
    home.make_folders()
    with Journal.open(home.journal) as journal:
        desk = Desk(journal, new_exchange, Feed(), now_ms=lambda: 1_000, broken=lambda error: None, engine=engine)
        open_market(home, desk)

        async def whole() -> None:
            writer = asyncio.create_task(desk.write())
            await desk.ask(AddMember("ann", "customer", digest("ann"), "operator"))
            await desk.ask(AddMember("p1", "provider", digest("p1"), "operator"))
            await desk.ask(Deposit("d", "ann", 1_000 * USD, "operator"))
            await asyncio.gather(*(desk.ask(one) for one in map(offer, range(OFFERS))))
            await play(desk)
            writer.cancel()

        asyncio.run(whole())
    bodies = [parse_json(record.payload) for record in read_journal(home.journal)]
    found = replay(lambda: ((body["at_ms"], body["events"]) for body in bodies))
    assert isinstance(found, list)
    return found


async def matched(desk: Desk, job: str) -> None:
    """Until the job has workers."""
    while not desk.exchange.job(job)["workers"]:  # type: ignore[index]
        await asyncio.sleep(0.01)


async def at_rest(desk: Desk) -> None:
    while desk.exchange.dirty or desk._clearing is not None:
        await asyncio.sleep(0.01)
        if desk.exchange.dirty and desk._clearing is None:
            await desk.ask(Deposit("d", "ann", 1_000 * USD, "operator"))  # said again: any command does


@pytest.fixture(autouse=True)
def _every_book_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(market.api.desk, "SMALL_BOOK", 0)
    monkeypatch.setattr(snapshots, "SMALL_BOOK", 0)


def test_a_large_book_is_cleared_aside_and_a_new_bid_at_once(tmp_path: Path) -> None:
    async def play(desk: Desk) -> None:
        await asyncio.gather(*(desk.ask(one) for one in jobs(0, 5)))
        await matched(desk, "job-4")
        await at_rest(desk)
        (one,) = jobs(5, 6)
        await desk.ask(one)
        assert len(desk.exchange.job("job-5")["workers"]) == 3, "in the very batch"  # type: ignore[index]

    told = on_a_market(tmp_path, Warming(), play)
    assert all(one["same"] for one in told)
    assert {one["algorithm"] for one in told} == {clearing.WELFARE}


def test_the_engine_clears_large_books_once_it_is_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    monkeypatch.setattr(clearing, "LARGE_BOOK", 100)
    engine = Warming()

    async def play(desk: Desk) -> None:
        await asyncio.gather(*(desk.ask(one) for one in (*jobs(0, 10), offer(OFFERS))))
        await matched(desk, "job-9")
        await engine.done()
        assert engine.ready
        await at_rest(desk)
        await asyncio.gather(*(desk.ask(one) for one in (CancelJob("job-0", "ann"), *jobs(10, JOBS))))
        await matched(desk, f"job-{JOBS - 1}")

    told = on_a_market(tmp_path, engine, play)
    assert [one["differs"] for one in told if not one["same"]] == []
    assert next(one["algorithm"] for one in told) == clearing.WELFARE
    assert clearing.ENGINE in {one["algorithm"] for one in told}


def test_where_the_engine_cannot_be_made_ready_the_market_clears_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clearing, "LARGE_BOOK", 100)
    engine = Warming((sys.executable, "-c", "raise SystemExit(3)"))

    async def play(desk: Desk) -> None:
        await asyncio.gather(*(desk.ask(one) for one in (*jobs(0, 10), offer(OFFERS))))
        await matched(desk, "job-9")
        await engine.done()
        assert not engine.ready

    assert {one["algorithm"] for one in on_a_market(tmp_path, engine, play)} == {clearing.WELFARE}
