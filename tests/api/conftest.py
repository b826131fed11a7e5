"""One market (exchange and books, no Ray) for all tests of this folder; each test has members and a region of its own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.main import run
from market.homes import Home
from market.supervisor import start, stop
from tests.api.square import Square

Torg = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def square(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Square]:
    """The market that the tests share; they may kill its processes, which come back."""
    folder = tmp_path_factory.mktemp("home")
    info = start(folder, no_ray=True)
    found = Square(info.url, Home(folder))
    yield found
    found.close()
    assert stop(folder)


@pytest.fixture
def spare(tmp_path: Path) -> Iterator[Path]:
    """A home for a market of the test's own; whatever runs in it is ended."""
    home = tmp_path / "spare"
    yield home
    stop(home)


@pytest.fixture
def torg(square: Square, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Torg:
    """The command line with the shared market's home: exit code, standard output, standard error."""
    for name in ("TORG_URL", "TORG_KEY", "TORG_HOME"):
        monkeypatch.delenv(name, raising=False)

    def call(*argv: str) -> tuple[int, str, str]:
        code = run([*argv, "--home", str(square.home.root)])
        return code, *capsys.readouterr()

    return call
