"""How the suite is spread over a few processes: what shares a market or a cluster stays together, the longest first."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parent
TOGETHER = {"cluster": "cluster", "network": "cluster", "api": "api", "bad_input": "bad_input", "engine": "engine"}
"""Folders whose tests share what takes long to start or to compile, and never two Ray clusters at a time; others go file by
file.
"""
ORDER = [*TOGETHER, "storms", "trainers"]
"""Folders with long files, so that none of these is left for the end."""

# The suite starts some hundred processes; where no bytecode may be written, each would compile all that it imports of ours.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A busy machine is no failure: no example has a time that it must keep.
settings.register_profile("torg", deadline=None)
settings.load_profile("torg")


def pytest_configure(config: pytest.Config) -> None:
    """Begun in a shell's background, the suite would hand an ignored Ctrl-C down to the programs that it interrupts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class ByFolder(LoadScopeScheduling):
    """Hands out whole folders, or files."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return TOGETHER.get(Path(path).parts[1], path)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByFolder:
    return ByFolder(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {item: item.path.relative_to(ROOT).parts[0] for item in items}
    items.sort(key=lambda item: ORDER.index(places[item]) if places[item] in ORDER else len(ORDER))
