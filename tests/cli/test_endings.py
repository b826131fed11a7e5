"""How a command ends that is interrupted, or whose output nobody takes: a line and an exit code, never a traceback."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cli.host import Host
from cli.main import run
from cli.settings import Settings
from cli.verbs import provide, wallet
from tests.cli.conftest import Ran, Torg
from tests.cli.fake_market import FakeMarket
from tests.cli.samples import job

ENDED = "torg: interrupted\n"


def program(home: Path, line: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TORG_")}
    words = ["sh", "-c", f'exec "$0" -m cli {line}', sys.executable]
    return subprocess.run(words, env=environment | {"TORG_HOME": str(home)} | more, capture_output=True, text=True, check=False)


def test_ctrl_c_while_the_program_is_still_imported(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt\n")
    ran = program(tmp_path, "offers", PYTHONPATH=str(tmp_path))
    assert (ran.returncode, ran.stderr) == (130, ENDED)


def test_ctrl_c_in_a_command_that_typer_has_read(torg: Torg, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(wallet, "connect", interrupted)
    ran = torg("wallet", "balance")
    assert (ran.code, ran.err) == (130, ENDED)


def test_ctrl_c_before_a_provider_has_begun_to_listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def starts_and_is_told_to_end(host: Host) -> int:
        host._drain(signal.SIGINT, None)
        return -signal.SIGTERM

    monkeypatch.setattr(Host, "run", starts_and_is_told_to_end)
    with pytest.raises(KeyboardInterrupt):
        provide._run(Settings(tmp_path, None, None, as_json=False, color=False), tmp_path, {"offer": "offer-a"})
    assert capsys.readouterr().out == ""


def test_a_machine_is_offered_by_one_command_at_a_time(torg: Torg, monkeypatch: pytest.MonkeyPatch) -> None:
    second: list[Ran] = []

    def offers_and_ends(host: Host) -> int:
        if not second:
            second.append(torg("provide", "--price", "1", "--gpus", "cpu:1", "--name", "ada"))
        return 0

    monkeypatch.setattr(Host, "run", offers_and_ends)
    line = ["provide", "--price", "0.5", "--gpus", "cpu:1", "--name", "ada"]
    assert torg(*line).code == 0
    assert second[0].code == 3
    assert second[0].err == "torg: --name: ada is offered by another `torg provide` on this machine (end that one first, or give another --name)\n"
    assert torg(*line).code == 0, "free again"


def test_a_window_that_is_over_is_said_and_does_not_keep_a_machine_away(torg: Torg, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Host, "run", lambda host: 0)
    ran = torg("provide", "--price", "1", "--gpus", "cpu:1", "--maintenance", "2020-01-01T00:00/4h", "--maintenance", "02:00-06:00 sun")
    assert (ran.code, ran.err) == (0, "--maintenance '2020-01-01T00:00/4h' is over and changes nothing\n")


@pytest.mark.parametrize("line", ["jobs", "jobs --json", "wallet balance", "job job-never --json"])
def test_output_that_cannot_be_written(home: Path, market: FakeMarket, line: str) -> None:
    market.routes = {"GET /v1/jobs": (200, {"items": [job()]}), "GET /v1/wallet": (200, {"account": "c", "wallet_nanos": 1, "escrow_nanos": 0, "earnings_nanos": 0})}
    ran = program(home, f"{line} >/dev/full")
    assert ran.returncode in (1, 3)
    assert ran.stderr.startswith("torg: ")
    assert ran.stderr.count("\n") == 1


def test_output_that_is_closed(home: Path, market: FakeMarket) -> None:
    market.routes = {"GET /v1/jobs": (200, {"items": [job()]})}
    ran = program(home, "jobs >&-")
    assert (ran.returncode, ran.stderr) == (0, "")


def test_books_that_are_read_here_end_without_a_word() -> None:
    lines = "import duckdb; duckdb.connect().execute('SELECT 1').fetchall(); from cli.main import main; main(['--version'])"
    ran = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True)
    assert ran.stderr == ""


def test_an_exit_code_of_a_verb_is_the_programs() -> None:
    assert run(["--help"]) == 0
    assert run(["wallet"]) == 2
