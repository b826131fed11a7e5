"""Real processes: a host that leaves orphans, a market that goes up and down, the demo's judgement."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cli.demo.outcome import Killing, Outcome
from cli.live import RunView
from tests.cli.samples import committed, ended, granted

WAIT_S = 30
HOST = """
import json, os, subprocess, sys, signal, time
middle = subprocess.Popen([sys.executable, "-c", "import subprocess, sys; subprocess.Popen(['sleep', '86399'], start_new_session=True)"])
middle.wait()
def drain(*_):
    print(json.dumps({"event": "drained"}), flush=True)
    os._exit(0)
signal.signal(signal.SIGTERM, drain)
if sys.argv[1] == "hopeless":
    os._exit(7)
print(json.dumps({"event": "ready", "pid": os.getpid()}), flush=True)
if sys.argv[1] == "die once":
    if os.path.exists(__file__ + ".died"):
        drain()
    open(__file__ + ".died", "w").close()
    os._exit(7)
while True:
    time.sleep(1)
"""
RUNNER = """
import json, os, sys
from pathlib import Path
from cli.host import Host
code = Host([sys.executable, sys.argv[1], sys.argv[2]], Path(sys.argv[3]), lambda told: print(json.dumps(told), flush=True), 0.05).run()
print(json.dumps({"code": code}), flush=True)
"""


def runner(tmp_path: Path, manner: str) -> subprocess.Popen[str]:
    host = tmp_path / "host.py"
    host.write_text(HOST)
    command = [sys.executable, "-c", RUNNER, str(host), manner, str(tmp_path / "host.log")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def heard(process: subprocess.Popen[str]) -> list[dict[str, object]]:
    out, _ = process.communicate(timeout=WAIT_S)
    return [json.loads(line) for line in out.splitlines()]


def test_a_host_that_dies_is_cleared_up_and_started_again(tmp_path: Path) -> None:
    told = heard(runner(tmp_path, "die once"))
    assert [one.get("event") for one in told[:-1]] == ["ready", "restart", "ready", "drained"]
    assert told[-1] == {"code": 0}
    assert not psutil.pid_exists(int(str(told[0]["pid"])))
    assert [one.pid for one in psutil.process_iter(["cmdline"]) if one.info["cmdline"] == ["sleep", "86399"]] == []


def test_a_host_that_never_serves_is_given_up(tmp_path: Path) -> None:
    told = heard(runner(tmp_path, "hopeless"))
    assert [one.get("event") for one in told[:-1]] == ["restart", "restart"]
    assert told[-1] == {"code": 7}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_the_host(tmp_path: Path, number: signal.Signals) -> None:
    process = runner(tmp_path, "stay")
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["event"] == "ready"
    process.send_signal(number)
    assert heard(process) == [{"event": "drained"}, {"code": 0}]


def test_a_host_hears_of_the_death_of_its_command(tmp_path: Path) -> None:
    process = runner(tmp_path, "stay")
    assert process.stdout is not None
    host = psutil.Process(json.loads(process.stdout.readline())["pid"])
    orphans = [one for one in psutil.Process(process.pid).children() if one.pid != host.pid]
    process.kill()
    process.communicate()
    host.wait(WAIT_S)
    for one in orphans:  # its own host would have ended it
        one.kill()


def torg(home: Path, *argv: str, key: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TORG_")}
    environment |= {"TORG_HOME": str(home)} | ({"TORG_KEY": key} if key else {})
    return subprocess.run(
        [sys.executable, "-m", "cli", *argv], env=environment, capture_output=True, text=True, timeout=120
    )


def document(ran: subprocess.CompletedProcess[str]) -> dict[str, object]:
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert isinstance(found, dict)
    return found


@pytest.fixture
def up(tmp_path: Path) -> Iterator[dict[str, object]]:
    made = document(torg(tmp_path, "up", "--ray", "none", "--json"))
    yield made
    assert torg(tmp_path, "down").returncode == 0


@pytest.mark.timeout(180)
def test_a_market_by_hand(tmp_path: Path, up: dict[str, object]) -> None:
    again = document(torg(tmp_path, "up", "--json"))
    assert (again["url"], again["already"], again["supervisor_pid"]) == (up["url"], True, up["supervisor_pid"])
    status = document(torg(tmp_path, "status", "--json"))
    assert {
        "url",
        "ray_address",
        "exchange_pid",
        "books_pid",
        "offers",
        "jobs_running",
        "journal_records",
        "uptime_s",
    } <= set(status)
    assert (
        document(torg(tmp_path, "wallet", "deposit", "20", "--id", "d1", "--json"))["balance_nanos"] == 20_000_000_000
    )
    assert (
        document(torg(tmp_path, "wallet", "deposit", "20", "--id", "d1", "--json"))["balance_nanos"] == 20_000_000_000
    )
    assert torg(tmp_path, "wallet", "deposit", "21", "--id", "d1").returncode == 3
    keys = json.loads((tmp_path / "keys.json").read_text())
    assert torg(tmp_path, "wallet", "deposit", "1", key=keys["customer"]).returncode == 3
    assert torg(tmp_path, "jobs", key="nonsense").returncode == 3
    assert torg(tmp_path, "job", "job-unknown").returncode == 3
    assert document(torg(tmp_path, "books", "verify", "--json"))["ok"] is True

    assert document(torg(tmp_path, "down", "--json"))["was_running"] is True
    assert document(torg(tmp_path, "down", "--json"))["was_running"] is False
    assert torg(tmp_path, "jobs").returncode == 4
    assert document(torg(tmp_path, "books", "verify", "--json"))["ok"] is True
    assert json.loads(torg(tmp_path, "billing", "--json").stdout) == []

    assert document(torg(tmp_path, "up", "--ray", "none", "--json"))["url"] == up["url"]
    assert document(torg(tmp_path, "wallet", "balance", "--json"))["wallet_nanos"] == 20_000_000_000


@pytest.mark.timeout(120)
def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ran = torg(tmp_path, "up", "--ray", "none", "--port", str(taken.getsockname()[1]), "--json")
    assert ran.returncode == 3
    assert json.loads(ran.stdout)["error"]["code"] == "port_in_use"


def killing() -> Killing:
    return Killing("borealis", "lease-000002", at_ms=10_000, after_round=5, pids=[1])


def happen(at: Killing, *events: tuple[int, dict[str, object]]) -> Killing:
    for at_ms, event in events:
        at.hear({"at_ms": at_ms, "event": event})
    return at


def test_a_kill_that_was_seen_replaced_and_overcome() -> None:
    told = happen(
        killing(),
        (11_000, ended("lease-000002", "provider")),
        (11_500, granted("lease-000003", "cumulus", replaces="lease-000002")),
        (13_000, committed(6, "lease-000001", lost=("lease-000002",))),
        (15_000, committed(7, "lease-000001", "lease-000003")),
    )
    assert (told.noticed, told.recovery_s, told.replacement_s, told.newcomer) == (True, 3.0, 5.0, "cumulus")


def outcome(**changed: object) -> Outcome:
    made = Outcome(loss_first=3.0, loss_last=2.0, billed_nanos=100, provider_earnings_nanos=95, fee_nanos=5,
                   books_balanced=True, provenance_verified=True,
                   invoice_verified=True)  # fmt: skip
    for name, value in changed.items():
        setattr(made, name, value)
    return made


def good_kill() -> Killing:
    return happen(
        killing(), (11_000, ended("lease-000002", "provider")), (11_500, granted("lease-000003", "cumulus")),
        (13_000, committed(6, "lease-000001")), (15_000, committed(7, "lease-000003")),
    )  # fmt: skip


VERDICTS = [
    # outcome                                  killing       state     failures
    (outcome(),                                good_kill(),  "done",   0),
    (outcome(loss_last=3.0),                   good_kill(),  "done",   1),
    (outcome(loss_last=None),                  good_kill(),  "done",   1),
    (outcome(),                                None,         "done",   1),
    (outcome(),                                killing(),    "done",   3),
    (outcome(),                                good_kill(),  "paused", 1),
    (outcome(books_balanced=False),            good_kill(),  "done",   1),
    (outcome(fee_nanos=4),                     good_kill(),  "done",   1),
    (outcome(escrow_left_nanos=1),             good_kill(),  "done",   1),
    (outcome(provenance_verified=False),       good_kill(),  "done",   1),
    (outcome(invoice_verified=False),          good_kill(),  "done",   1),
]  # fmt: skip


@pytest.mark.parametrize(("made", "kill", "state", "failures"), VERDICTS)
def test_the_demo_judges_itself(made: Outcome, kill: Killing | None, state: str, failures: int) -> None:
    made.judge(RunView("job", state=state), kill)
    assert len(made.failures) == failures
