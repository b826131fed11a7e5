"""One market (exchange and books, no Ray) for all tests of this folder; each test has members and a region of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from market.homes import Home
from market.supervisor import start, stop
from tests.api.square import Square


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
