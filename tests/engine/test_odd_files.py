"""`torg clear` on files that few people write: endless lines, Parquet of other types, memories that are none."""

import math
import tracemalloc
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from market.engine.columns import jobs_of
from tests.cli.conftest import Torg, home, market, torg  # noqa: F401
from tests.engine.checker import JOB_HEADING, OFFER_HEADING
from tests.engine.test_files import EXAMPLES, JOB, OFFER, clear, lines  # noqa: F401


def test_a_budget_is_taken_however_its_number_is_written() -> None:
    heading = f"{JOB_HEADING},budget_usd".split(",")
    jobs = jobs_of(heading, [f"{job},{budget}".split(",") for job, budget in ((JOB, "200000000"), (f"i{JOB}", "2e8"))])
    assert jobs.budget_nanos == [2 * 10**17] * 2


def test_a_line_without_end_is_refused_before_it_is_read_whole(torg: Torg, tmp_path: Path) -> None:  # noqa: F811
    pytest.importorskip("numba")
    (tmp_path / "offers.csv").write_bytes(bytes(64 * 2**20))
    tracemalloc.start()
    try:
        ran = torg("clear", str(tmp_path / "offers.csv"), str(EXAMPLES / "jobs.csv"))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert ran.code == 2
    assert "offers.csv is no CSV file: line 1: field larger than field limit" in ran.err
    assert peak_bytes < 48 * 2**20


PARQUET_CELLS = [
    ("id", b"a", ""),
    ("id", b"\xff", "row 1, id: a value of type bytes is not read (text, numbers, true and false, or lists of text)"),
    ("gpu", {"name": "H100"}, "row 1, gpu: a value of type dict is not read"),
    ("gpu", ["H100", None], "row 1, gpu: 'H100|' has a | in it"),
    ("max_hours", timedelta(hours=24), "row 1, max_hours: a value of type timedelta is not read"),
    ("usd_per_gpu_hour", Decimal("2.00"), ""),
    ("usd_per_gpu_hour", math.nan, "row 1, usd_per_gpu_hour: 'nan' is not a number"),
]


@pytest.mark.parametrize(("column", "value", "said"), PARQUET_CELLS)
def test_a_parquet_cell_is_read_as_text_or_refused_by_its_type(
    torg: Torg, tmp_path: Path, column: str, value: object, said: str  # noqa: F811
) -> None:
    pytest.importorskip("numba")
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    cells = dict(zip(OFFER_HEADING.split(","), map(str, OFFER.split(",")), strict=True)) | {column: value}
    parquet.write_table(pyarrow.table({name: [cell] for name, cell in cells.items()}), tmp_path / "o.parquet")
    (tmp_path / "j.csv").write_text(lines(JOB_HEADING, JOB))
    ran = torg("clear", str(tmp_path / "o.parquet"), str(tmp_path / "j.csv"), "--json", "--budget", "1")
    if said:
        assert ran.code == 2
        assert said in ran.document["error"]["message"] + f" ({ran.document['error']['remedy']})"
    else:
        assert [(one["offer"], one["usd_per_gpu_hour"]) for one in ran.document["matches"]] == [("a", 2.0)]


@pytest.mark.parametrize("text", ["[]", "null", "1e999", '{"format": 3}', "[" * 100_000, '{"format": "torg-clearing-memory/1"}'])
def test_what_is_no_memory_is_refused_in_plain_words(
    clear: Callable[..., object], tmp_path: Path, text: str  # noqa: F811
) -> None:
    (tmp_path / "memory.json").write_text(text)
    ran = clear(lines(OFFER_HEADING, OFFER), lines(JOB_HEADING, JOB), "--memory", str(tmp_path / "memory.json"))
    assert ran.code == 2  # type: ignore[attr-defined]
    assert "it is no memory of a clearing" in ran.err  # type: ignore[attr-defined]
    assert "torg-clearing-memory/1" in ran.err  # type: ignore[attr-defined]
    assert "object" not in ran.err  # type: ignore[attr-defined]


def test_one_gpu_is_said_as_one(clear: Callable[..., object]) -> None:  # noqa: F811
    job = "j,1,2,A100,EU,0.9,3,5,24,none,false,true"
    said = clear(lines(OFFER_HEADING, OFFER), lines(JOB_HEADING, job), "--json", "--budget", "1").document  # type: ignore[attr-defined]
    assert said["unmatched"][0]["detail"] == "needs 1 GPU, 0 of its models are offered"
