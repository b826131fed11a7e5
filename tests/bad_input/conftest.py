"""One market (exchange and books, no Ray) for all files, and the real command line beside it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli.main import run
from market.homes import Home
from market.supervisor import start, stop
from tests.api.square import Square

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Ran:
    """How a `torg` process ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> dict[str, Any]:
        """The error of `--json`; there is exactly one line about it on stderr."""
        assert self.err.startswith("torg: ")
        assert self.err.count("\n") == 1, self.err
        error: dict[str, Any] = json.loads(self.out)["error"]
        assert set(error) == {"code", "message", "field", "remedy"}
        return error


Torg = Callable[..., Ran]


def run_torg(home: Path, *argv: str, cwd: Path | None = None) -> Ran:
    """`torg …` as a process of its own, with nothing of ours in its environment but the home."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TORG_", "RAY_"))}
    done = subprocess.run(
        [sys.executable, "-m", "cli", *argv],
        env=environment | {"TORG_HOME": str(home), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def square(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Square]:
    """The market that the tests share; each withdraws the offers that it leaves, and counts only jobs of its own."""
    folder = tmp_path_factory.mktemp("home")
    info = start(folder, no_ray=True)
    found = Square(info.url, Home(folder))
    yield found
    found.close()
    assert stop(folder)


@pytest.fixture
def torg(square: Square, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Torg:
    """A command on that market, run by this process, in a folder of the test's own."""
    for name in ("TORG_URL", "TORG_KEY", "NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORG_HOME", str(square.home.root))
    monkeypatch.chdir(tmp_path)

    def call(*argv: str) -> Ran:
        code = run(argv)
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return call


@pytest.fixture
def torg_process(square: Square, tmp_path: Path) -> Torg:
    """The same as a process of its own."""
    return lambda *argv: run_torg(square.home.root, *argv, cwd=tmp_path)
