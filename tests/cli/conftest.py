"""A home with keys for a fake market, and one way to run a command in this process."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli.main import run
from tests.cli.fake_market import FakeMarket


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)


Torg = Callable[..., Ran]


@pytest.fixture
def market() -> Iterator[FakeMarket]:
    with FakeMarket() as made:
        yield made


@pytest.fixture
def home(tmp_path: Path, market: FakeMarket) -> Path:
    made = tmp_path / "home"
    made.mkdir()
    (made / "market.json").write_text(json.dumps({"url": market.url}))
    keys = {role: f"key-of-{role}" for role in ("operator", "customer", "provider", "plane")}
    (made / "keys.json").write_text(json.dumps(keys))
    return made


@pytest.fixture
def torg(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Torg:
    for name in ("TORG_URL", "TORG_KEY", "NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORG_HOME", str(home))

    def call(*argv: str) -> Ran:
        code = run(argv)
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return call


def on_a_terminal(argv: list[str], environment: dict[str, str]) -> str:
    """What a command writes to a terminal."""
    outer, inner = pty.openpty()
    base = {name: value for name, value in os.environ.items() if not name.startswith("TORG_") and name != "NO_COLOR"}
    process = subprocess.Popen([sys.executable, "-m", "cli", *argv], stdout=inner, stderr=inner, env=base | environment)
    os.close(inner)
    shown = b""
    while True:
        try:
            piece = os.read(outer, 65536)
        except OSError:  # Linux says EIO when the last writer has closed
            break
        if not piece:
            break
        shown += piece
    os.close(outer)
    assert process.wait() == 0, shown
    return shown.decode()
