"""docs/WORKLOADS.md says what is so: its tables are the code's, its workload trains, every example is a valid job."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from market.forms import digest_only, read_job, resolve
from trainers.loop import InnerLoop
from trainers.metrics import mean_metrics
from trainers.workload import Workload, built_in
from trainers.workloads.options import WORKLOADS, workload_options

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "WORKLOADS.md").read_text(encoding="utf-8")
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


def shown(default):
    return "–" if default is None else f"`{dict(default) if isinstance(default, dict) or not default else default}`"


def options_table(name):
    """The rows of one workload's options as the page has them."""
    rows = [
        f"| `{option}` | {shown(known.default)} | {known.allowed} | {known.meaning} |"
        for option, known in WORKLOADS[name].items()
    ]
    return "\n".join(["| option | default | may be | |", "|---|---|---|---|", *rows])


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_page_has_every_option_of_every_built_in(name):
    assert options_table(name) in PAGE


def test_the_workload_on_the_page_streams_its_shards_and_learns(tmp_path):
    source = next(block for block in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "class NextToken" in block)
    namespace = {"__name__": "page"}
    exec(compile(source, "WORKLOADS.md", "exec"), namespace)
    [made] = [
        one
        for one in namespace.values()
        if isinstance(one, type) and issubclass(one, Workload) and one.__module__ == "page"
    ]
    for number in range(2):
        np.tile(np.arange(60, dtype="<u2"), 60).tofile(tmp_path / f"{number}.bin")
    torch.set_num_threads(1)
    workload = made({}, tmp_path, 1)
    assert workload.streams
    loop = InnerLoop(workload, 1, 30)
    before = loop.evaluate()
    loop.train(0, 30, 0, position=0)
    assert loop.evaluate() < before - 0.3
    with torch.no_grad():
        figures = mean_metrics([workload.metrics(loop.model, batch) for batch in workload.held_out()])
    assert 0 <= figures["accuracy"] <= 1


def test_the_script_on_the_page_is_a_workload():
    source = next(block for block in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "torg.workload" in block)
    namespace = {"__name__": "page"}
    exec(compile(source, "WORKLOADS.md", "exec"), namespace)
    loop = InnerLoop(namespace["Job"]({}, None, 1), 1, 40)
    before = loop.evaluate()
    loop.train(0, 40, 0)
    assert loop.evaluate() < before


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_a_job_whose_options_its_workload_takes(path, tmp_path):
    job = read_job(path)
    spec = resolve(job, digest_only, folder=path.parent) if job.data != "stdlib" else {"workload": {"kind": "builtin"}}
    if spec["workload"]["kind"] == "builtin":
        assert workload_options(job.workload, job.options)
        assert issubclass(built_in(job.workload), Workload)
