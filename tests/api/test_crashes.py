"""Processes die by SIGKILL and disks fill up: nothing that was confirmed is lost, nothing happens twice."""

import asyncio
import os
import resource
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from market.api.desk import Desk
from market.api.feed import Feed
from market.api.opening import open_market
from market.client import Market, Refused
from market.commands import Deposit, SetTeam, Tick
from market.homes import Home
from market.recollection import new_exchange
from market.supervisor import start
from storage.journal import Journal, JournalBroken
from tests.api.square import PATIENCE_S, USD, FakeProvider, FakeRun, Square, make_offer, make_spec, refusal, until
from tests.storage.test_journal import SyncingBy

THREADS = 8


def all_transfers(market: Market, account: str) -> Iterator[dict[str, object]]:
    """Every page, newest first."""
    after = None
    while page := market.transfers(account=account, after=after, limit=100):
        yield from page
        after = str(page[-1]["id"])


def test_every_confirmed_deposit_survives_sigkill_and_none_counts_twice(square: Square) -> None:
    name, ann = square.newcomer("customer")
    confirmed: list[list[str]] = [[] for _ in range(THREADS)]
    over = threading.Event()
    key = square.home.read_keys()["operator"]

    def deposit(thread: int) -> None:
        with Market(square.url, key, patience_s=PATIENCE_S) as operator:
            while not over.is_set():
                id = f"{name}-{thread}-{len(confirmed[thread])}"
                operator.deposit(id, name, 7)
                confirmed[thread].append(id)

    threads = [threading.Thread(target=deposit, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        so_far = sum(map(len, confirmed))
        until(lambda so_far=so_far: sum(map(len, confirmed)) > so_far + 40, "deposits flow")  # type: ignore[misc]
        square.back("exchange", square.kill("exchange"))
    so_far = sum(map(len, confirmed))
    until(lambda: sum(map(len, confirmed)) > so_far + 40, "deposits flow after the last death")
    over.set()
    for thread in threads:
        thread.join()

    found = [str(one["id"]) for one in all_transfers(square.local("operator"), name)]
    assert len(found) == len(set(found))
    assert set(found) == {id for ids in confirmed for id in ids}, "every answer was confirmed, so both sets are equal"
    assert ann.balance()["wallet_nanos"] == 7 * len(found)
    books = square.local("operator").verify_books()
    assert (books["ok"], books["balanced"]) == (True, True)


def test_a_running_job_goes_on_through_the_death_of_the_exchange(square: Square) -> None:
    region, job = square.name("region"), square.name("job")
    _, ann = square.newcomer("customer", 6 * USD)
    _, owner = square.newcomer("provider")
    machines = [FakeProvider(owner, make_offer(square.name("offer"), region)) for _ in range(2)]
    try:
        ann.submit_job(job, make_spec(region))
        run = FakeRun(square.local("plane"), job)
        workers = run.workers(2)
        run.report(workers)
        seen: list[tuple[int, int]] = []
        heard = threading.Event()

        def follow() -> None:
            for one in ann.job_events(job):
                seen.append((one["number"], one["index"]))
                heard.set()

        listener = threading.Thread(target=follow)
        listener.start()
        assert heard.wait(30)
        before = ann.job(job)
        square.back("exchange", square.kill("exchange"))
        run.report(workers)
        run.report(workers)
        run.checkpoint()
        run.market.report_halted(job, state="done", reason="done", round=3, manifest=run.manifest)
        after = ann.job(job)
        assert (before["rounds_committed"], after["rounds_committed"], after["state"]) == (1, 3, "done")
        assert {one["id"] for one in after["leases"]} == {one["id"] for one in workers}, "no lease was granted anew"
        listener.join(30)
        assert not listener.is_alive()
        whole = [(one["number"], one["index"]) for one in ann.job_events(job)]
        assert seen == whole, "the stream went on without a gap or a repetition"
    finally:
        for machine in machines:
            machine.close()


def test_old_events_are_read_from_the_journal(square: Square) -> None:
    job = square.name("job")
    _, ann = square.newcomer("customer", 6 * USD)
    ann.submit_job(job, make_spec(square.name("region")))
    ann.cancel_job(job)
    whole = list(ann.job_events(job))
    later = list(ann.job_events(job, after=whole[0]["number"]))
    assert later == [one for one in whole if one["number"] > whole[0]["number"]]
    assert [one["number"] for one in whole] == sorted(one["number"] for one in whole)


@pytest.mark.parametrize("garble", [False, True])
def test_the_books_may_die_and_their_file_be_garbled(square: Square, garble: bool) -> None:
    name, ann = square.newcomer("customer", 3 * USD)
    before = ann.sql("SELECT * FROM transfers ORDER BY id")
    old = square.kill("books")
    until(lambda: not Path(f"/proc/{old}").exists() or square.home.read_pid("books") != old, "the books are gone")
    if garble:
        square.home.books_database.write_bytes(os.urandom(100_000))
        square.back("books", old)
    assert square.local("operator").deposit(f"meanwhile-{name}", name, 1)["amount_nanos"] == 1
    after = until(lambda: asked(ann, "SELECT * FROM transfers ORDER BY id"), "the books answer")
    assert len(after["rows"]) == len(before["rows"]) + 1
    assert square.local("operator").verify_books()["ok"]


def asked(market: Market, statement: str) -> dict[str, object] | None:
    """The answer, or None while the books are away."""
    try:
        return market.sql(statement)
    except Refused as refused:
        if refused.status != 503 or not refused.remedy:
            raise
        return None


def test_a_full_disk_refuses_new_work_loses_nothing_and_heals(square: Square) -> None:
    """The exchange meets a real EFBIG: a limit on the length of its files, set from outside while it runs."""
    name, ann = square.newcomer("customer", USD)
    offer = square.name("offer")
    _, provider = square.newcomer("provider")
    machine = FakeProvider(provider, make_offer(offer, square.name("region")))
    operator = square.local("operator")
    pid = int(operator.status()["exchange_pid"])
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    try:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (square.newest_segment_bytes() + 100, hard))
        refused = refusal(lambda: [operator.deposit(f"{name}-{n}", name, 1) for n in range(1000)])
        assert (refused.status, refused.code) == (507, "disk_full")
        assert "disk full" in refused.message
        assert refusal(lambda: ann.submit_job(square.name("job"), make_spec("r"))).status == 507
        assert ann.balance()["wallet_nanos"] >= USD, "reads go on"
        assert operator.status()["disk_full"]
        assert provider.leases(offer)["offer"]["id"] == offer, "providers are still heard"
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))
        machine.close()
    until(lambda: not operator.status()["disk_full"], "the disk takes writes again")
    assert operator.deposit(f"healed-{name}", name, 5)["amount_nanos"] == 5
    total = sum(int(str(one["amount_nanos"])) for one in all_transfers(operator, name))
    assert total == ann.balance()["wallet_nanos"]
    assert operator.status()["exchange_pid"] == pid, "it did not need to die for it"
    assert operator.verify_books()["ok"]


def test_a_failed_sync_confirms_nothing_and_ends_the_process(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.make_folders()
    failing = False

    def sync(descriptor: int) -> None:
        if failing:
            raise OSError(5, "Input/output error")
        os.fdatasync(descriptor)

    ended: list[Exception] = []
    with Journal.open(home.journal, disk=SyncingBy(sync)) as journal:
        desk = Desk(journal, new_exchange, Feed(), now_ms=lambda: 1_000, broken=ended.append)
        open_market(home, desk)
        records = desk.records
        failing = True

        async def deposit() -> bool:
            writer = asyncio.create_task(desk.write())
            asking = asyncio.create_task(desk.ask(Deposit("d1", "customer", 5, "operator")))
            await asyncio.wait((writer, asking), return_when=asyncio.FIRST_COMPLETED)
            assert isinstance(writer.exception(), JournalBroken)
            confirmed = asking.done()
            asking.cancel()
            return confirmed

        assert not asyncio.run(deposit())
    assert [type(error) for error in ended] == [JournalBroken]
    with Journal.open(home.journal) as journal:
        assert journal.records in (records, records + 1), "nobody knows, and nobody was told"


def test_commands_that_wait_together_share_one_sync(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.make_folders()
    syncs: list[int] = []

    def sync(descriptor: int) -> None:
        syncs.append(descriptor)
        os.fdatasync(descriptor)

    with Journal.open(home.journal, disk=SyncingBy(sync)) as journal:
        desk = Desk(journal, new_exchange, Feed(), now_ms=lambda: 1_000, broken=lambda error: None)
        open_market(home, desk)
        before = len(syncs)

        async def deposit_together() -> None:
            writer = asyncio.create_task(desk.write())
            await asyncio.gather(*(desk.ask(Deposit(f"d{n}", "customer", 5, "operator")) for n in range(100)))
            writer.cancel()

        asyncio.run(deposit_together())
        assert desk.exchange.balance("customer")["wallet_nanos"] == 500
        assert len(syncs) - before == 1


def test_a_clock_that_goes_back_changes_nothing_in_a_replay(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.make_folders()
    clock_ms = 5_000
    with Journal.open(home.journal) as journal:
        desk = Desk(journal, new_exchange, Feed(), now_ms=lambda: clock_ms, broken=lambda error: None)
        open_market(home, desk)
        clock_ms = 9_000
        desk.decide_now(Tick())  # decides nothing, and is not in the journal
        clock_ms = 6_000
        desk.decide_now(SetTeam("bio", "operator"))
        assert desk.exchange.now_ms == 9_000
        again = Desk(journal, new_exchange, Feed(), now_ms=lambda: clock_ms, broken=lambda error: None)
        assert again.exchange.fingerprint() == desk.exchange.fingerprint()


def test_a_bug_in_one_command_harms_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)
    home.make_folders()
    with Journal.open(home.journal) as journal:
        desk = Desk(journal, new_exchange, Feed(), now_ms=lambda: 1_000, broken=lambda error: None)
        open_market(home, desk)
        good = Deposit("d1", "customer", 5, "operator")

        async def deposit() -> list[object]:
            writer = asyncio.create_task(desk.write())
            bad = replace(good, id="d2", amount_nanos=object())  # type: ignore[arg-type]
            strange = object()  # no command at all: what a bug looks like from here
            asks = (desk.ask(good), desk.ask(strange), desk.ask(bad), desk.ask(replace(good, id="d3")))  # type: ignore[arg-type]
            found = await asyncio.gather(*asks, return_exceptions=True)
            writer.cancel()
            return list(found)

        answers = asyncio.run(deposit())
        assert isinstance(answers[1], KeyError)
        assert desk.exchange.balance("customer")["wallet_nanos"] == 10
        assert desk.numbers.bugs == 1


def test_an_exchange_that_dies_while_the_market_goes_down_takes_no_new_work(spare: Path) -> None:
    info = start(spare, no_ray=True)
    found = Square(info.url, Home(spare))
    try:
        _, ann = found.newcomer("customer", 6 * USD)
        found.local("operator").stop_market()
        found.back("exchange", found.kill("exchange"))
        assert found.local("operator").status()["stopped"] is True
        with Market(info.url, Home(spare).read_keys()["customer"], patience_s=0) as hasty:
            assert refusal(lambda: hasty.submit_job(found.name("job"), make_spec("eu"))).code == "market_closing"
        found.local("operator").reopen_market()
        assert ann.submit_job(found.name("job"), make_spec("eu"))["state"] == "pending"
    finally:
        found.close()
