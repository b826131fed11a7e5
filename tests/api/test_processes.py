"""Start, stop, and who is left: the supervisor and what it looks after."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from market.client import Market
from market.homes import Home, pid_is_alive
from market.supervisor import MarketInfo, StartFailed, is_running, start, stop
from tests.api.square import USD, FakeProvider, FakeRun, Square, make_offer, make_spec, until

HEAVY = ("ray", "torch", "duckdb", "numpy", "pyarrow")


def processes_of(home: Path) -> list[psutil.Process]:
    """Everything on this machine whose command line names the home."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(home) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize("module", ["market.api.process", "market.supervisor"])
def test_the_exchange_and_its_keeper_import_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_sdk_imports_nothing_at_first() -> None:
    code = "import sys, market.client; print([m for m in ('pydantic', 'fastapi', 'httpx2') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_running_exchange_has_loaded_nothing_heavy(square: Square) -> None:
    pid = square.local("operator").status()["exchange_pid"]
    loaded = Path(f"/proc/{pid}/maps").read_text()
    assert not [name for name in HEAVY if re.search(rf"/site-packages/_?{name}", loaded)]


def test_a_second_up_finds_the_first_down_leaves_nothing_and_a_damaged_journal_is_told(spare: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(StartFailed, match=f"port {port} on 127.0.0.1 is in use") as failed:
            start(spare, port=port, no_ray=True)
        assert (failed.value.code, failed.value.field) == ("port_in_use", "--port")
        assert not is_running(Home(spare))
        Home(spare).market_file.write_text(f'{{"port": {port}}}')  # one that was kept is taken too, which is no error
        infos: list[MarketInfo] = []
        threads = [threading.Thread(target=lambda: infos.append(start(spare, no_ray=True))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len({info.url for info in infos}) == 1
    assert infos[0].port != port
    assert sorted(info.fresh for info in infos) == [False, False, True]
    assert Home(spare).read_market()["url"] == infos[0].url
    books = until(lambda: Home(spare).read_pid("books"), "the books run")
    with Market(infos[0].url, Home(spare).read_keys()["operator"]) as operator:
        assert operator.healthz()["ok"]
        exchange = operator.status()["exchange_pid"]
    pids = {infos[0].supervisor_pid, books, exchange}
    assert pids <= {process.pid for process in processes_of(spare)}
    assert stop(spare)
    assert not any(pid_is_alive(pid) for pid in pids)
    assert processes_of(spare) == []
    assert not stop(spare), "a second down has nothing to do"
    assert not list(Home(spare).run.glob("*.pid"))

    _is_told_that_the_journal_is_damaged(spare)


def _is_told_that_the_journal_is_damaged(home: Path) -> None:
    first = min(Home(home).journal.glob("*.journal"))
    content = bytearray(first.read_bytes())
    content[150] ^= 1
    first.write_bytes(content)
    with pytest.raises(StartFailed) as failed:
        start(home, no_ray=True)
    assert failed.value.code == "exchange_failed"
    assert "record 1" in failed.value.message, "with the tail of the log"
    assert processes_of(home) == []


def test_an_address_of_another_machine_is_an_error(spare: Path) -> None:
    with pytest.raises(StartFailed) as failed:
        start(spare, host="192.0.2.1", no_ray=True)
    assert failed.value.code == "address_unusable"


def test_when_the_keeper_is_killed_its_children_end_and_up_goes_on_with_what_was_before(spare: Path) -> None:
    info = start(spare, no_ray=True)
    home = Home(spare)
    keys = home.read_keys()
    with Market(info.url, keys["operator"]) as operator, Market(info.url, keys["provider"]) as provider:
        operator.deposit("d1", "customer", 6 * USD)
        provider.place_offer(make_offer("offer-a", "here"))
        with Market(info.url, keys["customer"]) as customer:
            customer.submit_job("job-a", make_spec("elsewhere"))
    exchange = home.read_pid("exchange")
    assert exchange is not None
    os.kill(info.supervisor_pid, signal.SIGKILL)
    until(lambda: not is_running(home), "the lock is free")
    again = start(spare, no_ray=True)
    assert (again.url, again.fresh) == (info.url, True), "the port is kept"
    assert not pid_is_alive(exchange)
    assert home.read_keys() == keys
    with Market(again.url, keys["customer"]) as customer, Market(again.url, keys["provider"]) as provider:
        assert customer.job("job-a")["state"] == "pending"
        assert customer.balance() == {
            "account": "customer", "wallet_nanos": USD, "escrow_nanos": 5 * USD, "earnings_nanos": 0, "balance_nanos": USD,
            "bought_nanos": USD, "granted_nanos": 0, "team_granted_nanos": 0, "grants": [], "limits": [],
        }  # fmt: skip
        assert [one["id"] for one in provider.offers()] == ["offer-a"]
        assert customer.submit_job("job-a", make_spec("elsewhere"))["id"] == "job-a"


def test_a_stop_waits_until_the_jobs_have_paused(spare: Path) -> None:
    info = start(spare, no_ray=True)
    keys = Home(spare).read_keys()
    with (
        Market(info.url, keys["operator"]) as operator,
        Market(info.url, keys["customer"]) as customer,
        Market(info.url, keys["provider"]) as provider,
        Market(info.url, keys["plane"]) as plane,
    ):
        operator.deposit("d1", "customer", 6 * USD)
        machines = [FakeProvider(provider, make_offer(f"offer-{n}", "here")) for n in range(2)]
        try:
            customer.submit_job("job-a", make_spec("here"))
            run = FakeRun(plane, "job-a")
            run.report(run.workers(2))
            run.checkpoint()
            stopping = threading.Thread(target=stop, args=(spare,))
            stopping.start()
            until(lambda: plane.directive("job-a")["wanted"] == "pause", "the run is asked to pause")
            assert stopping.is_alive()
            plane.report_halted("job-a", state="paused", reason="market_down", round=1, manifest=run.manifest)
        finally:
            for machine in machines:
                machine.over.set()
            for machine in machines:
                machine.thread.join()
        stopping.join(60)
        assert not stopping.is_alive()
    again = start(spare, no_ray=True)
    assert (again.url, Home(spare).read_keys()) == (info.url, keys)
    with Market(again.url, keys["customer"]) as customer:
        resumed = customer.job("job-a")
        assert resumed["state"] in ("pending", "running"), "up goes on with what down had paused"
        assert resumed["rounds_committed"] == 1
        assert resumed["billed_nanos"] > 0
        customer.cancel_job("job-a")
