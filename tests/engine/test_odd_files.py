"""`torg clear` on files that few people write: endless lines, Parquet of other types, memories that are none."""

import math
import tracemalloc
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from market.engine.columns import jobs_of
from tests.cli.conftest import Torg, home, market, on_a_terminal, torg  # noqa: F401
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


def test_a_memory_is_refused_before_anything_is_read_where_it_could_not_be_written(
    torg: Torg, tmp_path: Path  # noqa: F811
) -> None:
    pytest.importorskip("numba")
    for where, said in ((tmp_path / "nowhere" / "m.json", "nowhere is no folder"), (tmp_path, "is a folder")):
        ran = torg("clear", str(tmp_path / "none.csv"), str(EXAMPLES / "jobs.csv"), "--memory", str(where))
        assert (ran.code, said in ran.err) == (2, True), ran.err


def test_nobody_is_told_to_remove_a_table_that_was_named_as_memory(torg: Torg) -> None:  # noqa: F811
    pytest.importorskip("numba")
    offers = str(EXAMPLES / "offers.csv")
    ran = torg("clear", offers, str(EXAMPLES / "jobs.csv"), "--memory", offers)
    assert ran.code == 2
    assert "it is no memory of a clearing" in ran.err
    assert "remove" not in ran.err


def test_a_parquet_column_that_is_there_twice_is_named(torg: Torg, tmp_path: Path) -> None:  # noqa: F811
    pytest.importorskip("numba")
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table([pyarrow.array(["a"])] * 2, names=["id", "id"]), tmp_path / "o.parquet")
    ran = torg("clear", str(tmp_path / "o.parquet"), str(EXAMPLES / "jobs.csv"))
    assert ran.code == 2
    assert "id: the column is there twice" in ran.err


@pytest.mark.parametrize("mark", [";", "\t"])
@pytest.mark.parametrize("verb", ["clear", "simulate"])
def test_columns_joined_by_something_else_are_told_of_commas(
    torg: Torg, tmp_path: Path, verb: str, mark: str  # noqa: F811
) -> None:
    pytest.importorskip("numba")
    for name in ("offers.csv", "jobs.csv"):
        (tmp_path / name).write_text((EXAMPLES / name).read_text().replace(",", mark))
    trace = tmp_path / "trace.csv"
    trace.write_text("timestamp,duration,num_gpus\n2017-10-09 07:01:55,60,1\n")
    bad_trace = tmp_path / "bad.csv"
    bad_trace.write_text(trace.read_text().replace(",", mark))
    files = {
        "clear": [(str(tmp_path / "offers.csv"), str(EXAMPLES / "jobs.csv")), (str(EXAMPLES / "offers.csv"), str(tmp_path / "jobs.csv"))],
        "simulate": [
            ("--jobs", str(trace), "--offers", str(tmp_path / "offers.csv")), ("--jobs", str(bad_trace), "--offers", str(EXAMPLES / "offers.csv")),
        ],
    }  # fmt: skip
    for words in files[verb]:
        ran = torg(verb, *words)
        assert (ran.code, "join columns by commas" in ran.err) == (2, True), ran.err


def test_how_much_is_cleared_is_said_on_a_terminal_alone(torg: Torg, home: Path) -> None:  # noqa: F811
    pytest.importorskip("numba")
    words = ["clear", str(EXAMPLES / "offers.csv"), str(EXAMPLES / "jobs.csv"), "--budget", "0"]
    counts = [len((EXAMPLES / name).read_text().splitlines()) - 1 for name in ("jobs.csv", "offers.csv")]
    said = f"clearing {counts[0]:,} jobs × {counts[1]:,} offers"
    assert said in on_a_terminal(words, {"TORG_HOME": str(home)})
    assert said not in on_a_terminal([*words, "--json"], {"TORG_HOME": str(home)})
    assert torg(*words).err == ""
