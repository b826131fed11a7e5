"""docs/PROTOCOLS.md: its Python runs, and it knows every strategy and option."""

import re
from pathlib import Path

import pytest
import torch

from trainers.options import STRATEGIES

PAGE = (Path(__file__).parents[2] / "docs" / "PROTOCOLS.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)


def test_the_new_strategy_of_the_page_is_built_and_works():
    names: dict[str, object] = {}
    for block in BLOCKS[1:]:
        exec(block, names)  # our own page
    assert names["Majority"]


def test_the_comparison_of_the_page_runs():
    torch.set_num_threads(1)
    names: dict[str, tuple[float, int]] = {}
    exec(BLOCKS[0], names)
    assert names["sparse"][1] * 10 < names["diloco"][1]


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_strategy_has_a_chapter_and_a_row(name):
    assert re.search(rf"^## {name}$", PAGE, re.M)
    assert f"[`{name}`](#{name})" in PAGE


def test_the_page_has_a_place_for_the_measured_tables():
    assert PAGE.index("<!-- measured tables: begin -->") < PAGE.index("<!-- measured tables: end -->")
