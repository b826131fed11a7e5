"""`torg submit` of a job that cannot be: one line that says which field, exit 2 or 3, and no money or record moves."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.api.square import USD, Square, make_offer
from tests.bad_input.conftest import Torg

REGION = "nearby"
GOOD: dict[str, Any] = {
    "name": "mine",
    "workload": "byte_lm",
    "data": "./text",
    "steps": 24,
    "strategy": {"name": "diloco", "inner_steps": 12, "codec": "int8"},
    "workers": {"min": 2, "max": 2, "gpu": ["cpu"], "region": [REGION]},
    "limits": {"max_usd_per_gpu_hour": 0.9, "budget_usd": 1.0},
}
"""Fits the two offers of `place`."""

# In the file itself: usage, exit 2.
FILES = [
    # path                              value        the line says
    ("stepz",                           3,           ["stepz", "3", "did you mean steps?"]),
    ("workers.gpuss",                   1,           ["workers.gpuss", "did you mean gpus?"]),
    ("workers.vram_gib",                "24GB",      ["workers.vram_gib", "'24GB'", "the unit is GiB", "0 to 4096"]),
    ("limits.deadline_hours",           "2h",        ["limits.deadline_hours", "'2h'", "hours", "above 0 to 87600"]),
    ("steps",                           0,           ["steps", "1 to 1000000000"]),
    ("workers.reliability",             98,          ["workers.reliability", "98", "0 to 1"]),
    ("workers.gpu",                     ["RTX409"],  ["workers.gpu", "RTX409", "RTX4090"]),
    ("limits.max_usd_per_gpu_hour",     0,           ["limits.max_usd_per_gpu_hour", "above 0 to 1000 dollars"]),
    ("limits.max_usd_per_gpu_hour",     -1,          ["limits.max_usd_per_gpu_hour", "-1", "cannot be negative"]),
    ("limits.max_usd_per_gpu_hour",     float("nan"), ["limits.max_usd_per_gpu_hour", "nan"]),
    ("limits.max_usd_per_gpu_hour",     1e9,         ["limits.max_usd_per_gpu_hour", "above 0 to 1000 dollars"]),
    ("limits.budget_usd",               "5 EUR",     ["limits.budget_usd", "5 EUR", "dollars"]),
    ("strategy.name",                   "dilocco",   ["strategy.name", "'dilocco'", "did you mean diloco?"]),
    ("strategy.outer_lr",               0,           ["strategy.outer_lr", "above 0 to 100"]),
    ("strategy.alpha",                  0.5,         ["strategy.alpha", "diloco does not have"]),
    ("strategy.codec",                  "int9",      ["strategy.codec", "'int9'", "did you mean int8?"]),
    ("strategy.codec",                  "top_k:9/4+fp16", ["strategy.codec", "top_k:9/4", "more than a chunk has"]),
    ("train",                           {"processes": 2}, ["train.processes", "workers.gpus, which is 1"]),
    ("train",                           {"precision": "fp8"}, ["train.precision", "'fp8'", "fp32, bf16, fp16"]),
    ("checkpoint",                      {"base_every_rounds": 0}, ["checkpoint.base_every_rounds", "1 to 10000"]),
    ("options",                         {"sise": "1M"}, ["options.sise", "did you mean 'size'?"]),
    ("data",                            "./nowhere", ["data", "nowhere", "does not exist"]),
    ("data",                            "./empty",   ["data", "empty"]),
    ("workload",                        "./gone.py:Mine", ["workload", "gone.py"]),
    ("workload",                        "./broken.py:Mine", ["workload", "broken.py", "is not Python"]),
]  # fmt: skip

# In what it asks of this market: refused, exit 3.
REQUESTS = [
    # path                          value             code                          field               the line says
    ("limits.budget_usd",           0.01,             "budget_too_small",           "limits.budget_usd", "one minute"),
    ("limits.budget_usd",           500,              "insufficient_funds",         "limits.budget_usd", "deposit"),
    ("workers.gpu",                 ["A100"],         "never_fits_gpu_model",       "workers.gpu",      "workers.gpu also cpu"),
    ("workers.vram_gib",            640,              "never_fits_vram_too_small",  "workers.vram_gib", "workers.vram_gib 4"),
    ("workers.region",              ["mars"],         "never_fits_region",          "workers.region",   "workers.region also nearby"),
    ("workers.isolation",           "sandbox",        "never_fits_isolation",       "workers.isolation", "workers.isolation process"),
    ("workers.gpus",                3,                "never_fits_offer_too_small", "workers.gpus",     "workers.gpus 1"),
    ("data",                        "share:books",    "never_fits_share_missing",   "data",             "share:corpus"),
]  # fmt: skip


@pytest.fixture(scope="module")
def place(square: Square) -> Iterator[Square]:
    """Two offers of one core each for half a dollar, and ten dollars for the customer."""
    square.local("operator").deposit("pocket-money", "customer", 10 * USD)
    for offer in square.local("operator").offers():  # what machines of other files have left
        square.local("operator").change_offer(offer["id"], "withdraw")
    offers = [square.name("offer") for _ in range(2)]
    for offer in offers:
        square.local("provider").place_offer(make_offer(offer, REGION, shares=["corpus"]))
    yield square
    for offer in offers:
        square.local("provider").change_offer(offer, "withdraw")


@pytest.fixture
def submit(torg: Torg, tmp_path: Path) -> Any:
    """Submit GOOD with one change."""
    for folder in ("text", "empty"):
        (tmp_path / folder).mkdir()
    (tmp_path / "text" / "a.txt").write_text("to be or not to be\n" * 50)
    (tmp_path / "broken.py").write_text("class Mine(:\n")

    def call(path: str, value: Any) -> Any:
        made = deepcopy(GOOD)
        *outer, name = path.split(".")
        where = made[outer[0]] if outer else made
        where[name] = value
        (tmp_path / "job.yaml").write_text(yaml.safe_dump(made))
        return torg("submit", "job.yaml", "-y", "--json")

    return call


def standing(square: Square) -> tuple[int, list[str]]:
    """What must not change: the customer's wallet, the jobs."""
    customer = square.local("customer")
    return customer.balance()["wallet_nanos"], [job["id"] for job in customer.jobs()]


@pytest.mark.parametrize(("path", "value", "named"), FILES, ids=[f"{path}={value}" for path, value, _ in FILES])
def test_a_mistake_in_the_file(place: Square, submit: Any, path: str, value: Any, named: list[str]) -> None:
    before = standing(place)
    ran = submit(path, value)
    assert (ran.code, ran.error["code"]) == (2, "bad_job_file")
    assert ran.error["field"].startswith(path)
    assert [part for part in named if part not in ran.err] == []
    assert standing(place) == before


@pytest.mark.parametrize(("path", "value", "code", "field", "named"), REQUESTS, ids=[row[2] for row in REQUESTS])
def test_what_this_market_cannot_give(
    place: Square, submit: Any, path: str, value: Any, code: str, field: str, named: str
) -> None:
    before = standing(place)
    ran = submit(path, value)
    assert (ran.code, ran.error["code"], ran.error["field"]) == (3, code, field)
    assert named in ran.err
    assert standing(place) == before


def test_the_same_job_without_a_mistake_is_taken(place: Square, submit: Any) -> None:
    before, jobs = standing(place)
    ran = submit("steps", 24)
    assert ran.code == 0, ran.err
    assert standing(place)[0] == before - USD
    [job] = [one for one in place.local("customer").jobs() if one["id"] not in jobs]
    place.local("customer").cancel_job(job["id"])
    assert standing(place)[0] == before, "unspent, it comes back"
