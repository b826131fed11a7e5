"""One real market, one Ray head and three provider hosts for the whole folder; starting them costs half a minute."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.plaza import Plaza, open_plaza


@pytest.fixture(scope="session")
def square(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plaza]:
    yield from open_plaza(tmp_path_factory.mktemp("plaza"))


@pytest.fixture
def plaza(square: Plaza) -> Plaza:
    """The market with every provider up and free."""
    square.ready()
    return square
