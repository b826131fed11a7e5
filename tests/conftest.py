"""How the suite is spread over two processes: what shares a market or a cluster stays together, the longest first."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent
TOGETHER = ("cluster", "network", "api", "bad_input")
"""Folders whose tests share what takes long to start; of the rest, each file stays together."""


@pytest.hookimpl(tryfirst=True)  # the plug-in that spreads them reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def group(item: pytest.Item) -> str:
        folder = item.path.relative_to(ROOT).parts[0]
        # Two Ray clusters at a time are too many for two cores.
        return {"network": "cluster"}.get(folder, folder) if folder in TOGETHER else item.path.name

    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))
    items.sort(key=lambda item: TOGETHER.index(found) if (found := item.path.relative_to(ROOT).parts[0]) in TOGETHER else 99)
