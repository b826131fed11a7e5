"""`torg clear` on files: what it prints, and what it says of files that cannot be cleared."""

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from market.engine.columns import BadRow, jobs_of, offers_of
from tests.cli.conftest import Torg, home, market, torg  # noqa: F401
from tests.engine.checker import JOB_HEADING, OFFER_HEADING, Row, check

EXAMPLES = Path(__file__).parents[2] / "examples" / "clearing"
OFFER = "a,H100,80,2,8,EU,0.99,24,0,nvlink"
JOB = "j,1,2,H100,EU,0.9,3,5,24,none,false,true"


@pytest.fixture
def clear(torg: Torg, tmp_path: Path) -> Callable[..., object]:  # noqa: F811
    pytest.importorskip("numba")

    def run(offers: str | bytes, jobs: str | bytes, *options: str) -> object:
        for name, text in (("offers.csv", offers), ("jobs.csv", jobs)):
            (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
        return torg("clear", str(tmp_path / "offers.csv"), str(tmp_path / "jobs.csv"), *options)

    return run


def lines(heading: str, *rows: str) -> str:
    return "\n".join([heading, *rows, ""])


def rows_of(path: Path) -> list[Row]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_example_is_cleared_and_everything_said_of_it_is_true(torg: Torg) -> None:  # noqa: F811
    pytest.importorskip("numba")
    offers, jobs = EXAMPLES / "offers.csv", EXAMPLES / "jobs.csv"
    said = torg("clear", str(offers), str(jobs), "--bound", "--budget", "1", "--json").document
    welfare = check(rows_of(offers), rows_of(jobs), said["matches"])
    assert said["welfare_nanos"] == welfare * 10**9
    assert said["welfare_usd"] == float(welfare) <= said["bound_usd"] < float(welfare) + 0.001
    assert {one["job"]: one["reason"] for one in said["unmatched"]} == {
        "too-cheap": "price_too_low", "too-large": "gang_too_big",
    }  # fmt: skip
    assert said["budget"] == 1
    assert said["clear_ms"] > 0
    table = torg("clear", str(offers), str(jobs), "--budget", "1").out
    assert "8 × ada-h100" in table
    assert "4 jobs matched, 2 not; welfare $756.16" in table


def test_one_price_for_a_class_is_between_asks_and_limits(clear: Callable[..., object]) -> None:
    offers = lines(
        OFFER_HEADING,
        "a,H100,80,2,1,EU,0.99,24,0,nvlink",
        "b,H100,80,3,1,EU,0.99,24,0,nvlink",
        "c,T4,16,1,1,EU,0.99,24,0,none",
    )
    jobs = lines(
        JOB_HEADING, "i,1,1,H100,EU,0.9,9,5,24,none,false,true", "j,1,1,H100,EU,0.9,8,5,24,none,false,true",
        "k,1,1,H100,EU,0.9,6,5,24,none,false,true", "l,1,1,H100,EU,0.9,7,5,4,none,false,true", "m,1,1,T4,,0,5,1,,none,false,true",
    )  # fmt: skip
    said = clear(offers, jobs, "--price-rule", "uniform", "--json").document  # type: ignore[attr-defined]
    # k, which is left over, could have used a machine at 6, and i and j pay up to 8; l can use none before its deadline.
    assert {one["job"]: one["usd_per_gpu_hour"] for one in said["matches"]} == {"i": 7.0, "j": 7.0, "m": 1.0}
    assert said["price_rule"] == "uniform"
    assert said["classes"] == [
        {"gpu": "H100", "region": "EU", "gpus": 2, "usd_per_gpu_hour": 7.0},
        {"gpu": "T4", "region": "EU", "gpus": 1, "usd_per_gpu_hour": 1.0},
    ]
    assert {one["job"]: one["reason"] for one in said["unmatched"]} == {"k": "outbid", "l": "deadline"}


def test_parquet_is_read_as_csv_is(torg: Torg, tmp_path: Path) -> None:  # noqa: F811
    pytest.importorskip("numba")
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import csv as arrow_csv
    from pyarrow import parquet

    for name in ("offers", "jobs"):
        parquet.write_table(arrow_csv.read_csv(EXAMPLES / f"{name}.csv"), tmp_path / f"{name}.parquet")
    words = "--budget", "1", "--json"
    one = torg("clear", str(tmp_path / "offers.parquet"), str(tmp_path / "jobs.parquet"), *words).document
    two = torg("clear", str(EXAMPLES / "offers.csv"), str(EXAMPLES / "jobs.csv"), *words).document
    assert one["matches"] == two["matches"]
    (tmp_path / "bad.parquet").write_bytes(b"no such thing")
    refused = torg("clear", str(tmp_path / "bad.parquet"), str(tmp_path / "jobs.parquet"))
    assert refused.code == 2
    assert "is no Parquet file" in refused.err
    assert pyarrow


UNMATCHED = [
    ("j,1,2,A100,EU,0.9,3,5,24,none,false,true", "gpu_model"),
    ("j,1,2,H100,NA,0.9,3,5,24,none,false,true", "region"),
    ("j,1,2,H100,,1,3,5,24,none,false,true", "reliability"),
    ("j,1,2,H100,,,3,5,24,nvswitch,false,true", "interconnect"),
    ("j,1,2,H100,,,3,25,,none,false,true", "max_hours"),
    ("j,1,2,H100,,,3,5,4.9,none,false,true", "deadline"),
    ("j,1,2,H100,,,1.99,5,,none,false,true", "price_too_low"),
    ("j,9,9,H100,,,3,5,,none,true,true", "same_region"),
    ("j,30,30,,,,3,5,,none,true,true", "gang_too_big"),
]


@pytest.mark.parametrize(("job", "reason"), UNMATCHED, ids=[reason for _, reason in UNMATCHED])
def test_a_job_that_nothing_can_serve_is_told_why(clear: Callable[..., object], job: str, reason: str) -> None:
    offers = lines(OFFER_HEADING, OFFER, "b,H100,80,2,4,AS,0.99,24,0,none")
    said = clear(offers, lines(JOB_HEADING, job), "--json", "--budget", "1").document  # type: ignore[attr-defined]
    assert [one["reason"] for one in said["unmatched"]] == [reason]
    assert said["matches"] == []
    assert said["welfare_usd"] == 0


def test_a_job_that_another_one_pays_more_than_is_outbid(clear: Callable[..., object]) -> None:
    jobs = lines(JOB_HEADING, "rich,8,8,,,,9,5,,none,false,true", "poor,1,1,,,,3,5,,none,false,true")
    said = clear(lines(OFFER_HEADING, OFFER), jobs, "--json", "--bound").document  # type: ignore[attr-defined]
    assert [(one["job"], one["reason"]) for one in said["unmatched"]] == [("poor", "outbid")]
    assert said["welfare_usd"] == 280


@pytest.mark.parametrize("offers", [(), (OFFER,)])
@pytest.mark.parametrize("jobs", [(), (JOB,)])
def test_no_offers_and_no_jobs_are_cleared_too(
    clear: Callable[..., object], offers: tuple[str, ...], jobs: tuple[str, ...]
) -> None:
    said = clear(
        lines(OFFER_HEADING, *offers), lines(JOB_HEADING, *jobs), "--json", "--bound", "--budget", "1"
    ).document  # type: ignore[attr-defined]
    assert len(said["matches"]) == (1 if offers and jobs else 0)
    assert [one["reason"] for one in said["unmatched"]] == (["no_offers"] if jobs and not offers else [])
    assert said["bound_usd"] >= said["welfare_usd"]


def test_equal_asks_are_shared_out_once(clear: Callable[..., object]) -> None:
    offers = lines(OFFER_HEADING, *(f"o{place},H100,80,2,1,EU,0.99,24,0,none" for place in range(5)))
    jobs = lines(JOB_HEADING, *(f"j{place},2,2,H100,EU,0.9,3,5,24,none,false,true" for place in range(3)))
    said = clear(offers, jobs, "--json", "--budget", "1").document  # type: ignore[attr-defined]
    assert len({one["offer"] for one in said["matches"]}) == len(said["matches"]) == 4
    assert [one["reason"] for one in said["unmatched"]] == ["outbid"]


BAD_OFFERS = [
    ("a,H100,80,-2,8,EU,0.99,24,0,none", "offers: row 1, usd_per_gpu_hour: -2 cannot be negative"),
    ("a,H100,80,nan,8,EU,0.99,24,0,none", "row 1, usd_per_gpu_hour: 'nan' is not a number"),
    ("a,H100,80,inf,8,EU,0.99,24,0,none", "row 1, usd_per_gpu_hour: 'inf' is not a number"),
    ("a,H100,80,$2,8,EU,0.99,24,0,none", "row 1, usd_per_gpu_hour: '$2' is not a number"),
    ("a,H100,80,,8,EU,0.99,24,0,none", "row 1, usd_per_gpu_hour: '' is not a number"),
    ("a,H100,80,1e300,8,EU,0.99,24,0,none", "row 1, usd_per_gpu_hour: 1e300 is out of range"),
    ("a,H100,80,1e999999999,8,EU,0.99,24,0,none", "row 1, usd_per_gpu_hour: 1e999999999 is out of range"),
    ("a,H100,80,-1e999999999,8,EU,0.99,24,0,none", "row 1, usd_per_gpu_hour: -1e999999999 cannot be negative"),
    (f"a,H100,80,{'9' * 50_000},8,EU,0.99,24,0,none", f"row 1, usd_per_gpu_hour: {'9' * 40}… is out of range"),
    ("a,H100,80,1_0,8,EU,0.99,24,0,none", "row 1, usd_per_gpu_hour: '1_0' is not a number"),
    ("a,H100,80,2,٨,EU,0.99,24,0,none", "row 1, gpus: '٨' is not a number"),
    ("a,H100,80,2,8,EU,-1e-999999,24,0,none", "row 1, reliability: -1e-999999 is out of range"),
    ("a,H100,80,1001,8,EU,0.99,24,0,none", "row 1, usd_per_gpu_hour: 1001 is out of range"),
    ("a,H100,80,2,0,EU,0.99,24,0,none", "row 1, gpus: 0 is out of range"),
    ("a,H100,80,2,1.5,EU,0.99,24,0,none", "row 1, gpus: 1.5 is no number of GPUs"),
    ("a,H100,80,2,-1,EU,0.99,24,0,none", "row 1, gpus: -1 cannot be negative"),
    ("a,H100,80,2,8,EU,1.01,24,0,none", "row 1, reliability: 1.01 is out of range"),
    ("a,H100,80,2,8,EU,0.99,0,0,none", "row 1, max_hours: 0 is out of range"),
    ("a,H100,80,2,8,EU,0.99,24,-1,none", "row 1, available_in_hours: -1 cannot be negative"),
    ("a,H100,80,2,8,EU,0.99,24,0,wire", "row 1, interconnect: 'wire' is no interconnect"),
    ("a,,80,2,8,EU,0.99,24,0,none", "row 1, gpu: is empty"),
    ("a,A|B,80,2,8,EU,0.99,24,0,none", "row 1, gpu: 'A|B' has a | in it"),
    ("a,H100,-1,2,8,EU,0.99,24,0,none", "row 1, vram_gib: -1 is out of range"),
    (",H100,80,2,8,EU,0.99,24,0,none", "row 1, id: is empty"),
    ("a,H100,80,2,8,EU,0.99,24,0", "row 1, id: the row has 9 cells and the heading 10"),
    (f"{OFFER}\n{OFFER}", "row 2, id: 'a' is the id of row 1 too"),
]
BAD_JOBS = [
    ("j,3,2,H100,EU,0.9,3,5,24,none,false,true", "jobs: row 1, gpus_min: 3 is above gpus_max, which is 2"),
    ("j,1,2,H100|,EU,0.9,3,5,24,none,false,true", "row 1, gpu: 'H100|' has an empty name in it"),
    ("j,1,2,H100,EU,0.9,3,0,24,none,false,true", "row 1, hours: 0 is out of range"),
    ("j,1,2,H100,EU,0.9,3,1e9,24,none,false,true", "row 1, hours: 1e9 is out of range"),
    ("j,1,2,H100,EU,0.9,3,5,-2,none,false,true", "row 1, deadline_hours: -2 cannot be negative"),
    ("j,1,2,H100,EU,0.9,3,5,24,none,maybe,true", "row 1, same_region: 'maybe' is neither true nor false"),
    ("j,1,2,H100,EU,2,3,5,24,none,false,true", "row 1, reliability_min: 2 is out of range"),
]


@pytest.mark.parametrize(("row", "said"), BAD_OFFERS)
def test_a_bad_row_of_offers_is_named(row: str, said: str) -> None:
    with pytest.raises(BadRow) as caught:
        offers_of(OFFER_HEADING.split(","), [line.split(",") for line in row.split("\n")])
    assert said in str(caught.value)


@pytest.mark.parametrize(("row", "said"), BAD_JOBS)
def test_a_bad_row_of_jobs_is_named(row: str, said: str) -> None:
    with pytest.raises(BadRow) as caught:
        jobs_of(JOB_HEADING.split(","), [line.split(",") for line in row.split("\n")])
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("heading", "said"),
    [
        (OFFER_HEADING + ",colour", "offers: heading, colour: no such column"),
        (OFFER_HEADING.replace(",region", ""), "offers: heading, region: the column is missing"),
        (OFFER_HEADING.replace("region", "gpus"), "offers: heading, gpus: the column is there twice"),
    ],
)
def test_a_bad_heading_is_named(heading: str, said: str) -> None:
    with pytest.raises(BadRow) as caught:
        offers_of(heading.split(","), [])
    assert said in str(caught.value)


BAD_FILES = [
    (b"", "is empty (the first line names the columns)"),
    (b"\x80\x81\x82 no text", "is no CSV file: it is not UTF-8 text, near line 1 (CSV in UTF-8, or .parquet)"),
    (b'id,"gpu\nopen for ever', "is no CSV file: line"),
    (b"a poem\nof two lines\n", "heading, a poem: no such column (columns: id,gpu,"),
]


@pytest.mark.parametrize(("content", "said"), BAD_FILES)
def test_a_file_that_is_no_table_is_refused(clear: Callable[..., object], content: bytes, said: str) -> None:
    ran = clear(content, lines(JOB_HEADING, JOB))
    assert ran.code == 2  # type: ignore[attr-defined]
    assert said in ran.err  # type: ignore[attr-defined]


def test_options_that_cannot_be_are_refused_with_what_there_is(torg: Torg, tmp_path: Path) -> None:  # noqa: F811
    words = str(EXAMPLES / "offers.csv"), str(EXAMPLES / "jobs.csv")
    for option, value, said in (
        ("--price-rule", "vickrey", "torg: --price-rule: there is no price rule 'vickrey' (there is: ask, spot, uniform)"),
        ("--budget", "-1", "torg: --budget: -1 is out of range (0 to 1,000,000 million pairs)"),
        ("--seed", "-1", "torg: --seed: -1 is out of range (0 to 2^63 - 1)"),
    ):
        ran = torg("clear", *words, option, value)
        assert (ran.code, ran.err.strip()) == (2, said)
    missing = torg("clear", str(tmp_path / "none.csv"), words[1])
    assert missing.code == 2
    assert "none.csv does not exist" in missing.err


def test_without_the_extra_it_says_what_to_install(torg: Torg, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    import cli.verbs.clear

    monkeypatch.setattr(cli.verbs.clear, "find_spec", lambda name: None if name == "numba" else object())
    ran = torg("clear", str(EXAMPLES / "offers.csv"), str(EXAMPLES / "jobs.csv"))
    assert (ran.code, ran.err.strip()) == (3, "torg: the engine needs numba (pip install 'torg[engine]')")


def test_numba_is_not_imported_before_the_files_are_read(tmp_path: Path) -> None:
    program = (
        "import sys; from cli.main import run; "
        f"code = run(['clear', {str(tmp_path / 'none.csv')!r}, 'x']); "
        "print(code, sorted({'numba', 'numpy', 'pyarrow'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "2 []"


def test_a_hundred_thousand_rows_are_read_and_the_last_one_is_checked() -> None:
    rows = [
        f"o{place},H100,80,{place % 97 / 50},{place % 8 + 1},EU,0.99,24,0,none".split(",") for place in range(100_000)
    ]
    assert len(offers_of(OFFER_HEADING.split(","), rows).ids) == 100_000
    rows[-1][3] = "-1"
    with pytest.raises(BadRow) as caught:
        offers_of(OFFER_HEADING.split(","), rows)
    assert caught.value.row == 100_000


def test_budgets_and_curves_are_read_and_cleared_at_the_asks(clear: Callable[..., object]) -> None:
    jobs = lines(
        JOB_HEADING + ",budget_usd,goodput,speeds,usd_per_million_steps",
        f"{JOB},20,,,", "poor,2,2,H100,,,3,5,,none,false,true,19.99,,,", "curve,1,4,H100,,,3,5,,none,false,true,,1:1|2:2|4:2.5,,1000",
    )  # fmt: skip
    said = clear(lines(OFFER_HEADING, OFFER), jobs, "--json").document  # type: ignore[attr-defined]
    assert {(one["job"], one["gpus"]) for one in said["matches"]} == {("j", 2), ("curve", 2)}
    assert [(one["job"], one["reason"]) for one in said["unmatched"]] == [("poor", "budget_too_small")]
    assert said["welfare_usd"] == 10 + (7.2 - 4) * 5
    refused = clear(lines(OFFER_HEADING, OFFER), jobs, "--price-rule", "uniform")
    assert refused.code == 2  # type: ignore[attr-defined]
    assert "cleared at the asks alone" in refused.err  # type: ignore[attr-defined]


BAD_CURVES = [
    ("1:1|1:2,,5", "goodput: '1:1|1:2' names something twice"),
    ("1=1,,5", "goodput: '1=1' is not GPUs:steps per second"),
    (",H100:1,", "speeds: speeds are of a goodput, and there is none"),
    ("1:1,,", "usd_per_million_steps: is empty or 0, and goodput is stated"),
    (",,5", "goodput: is empty, and usd_per_million_steps is stated"),
]


@pytest.mark.parametrize(("cells", "said"), BAD_CURVES)
def test_a_bad_curve_is_named(cells: str, said: str) -> None:
    heading = f"{JOB_HEADING},goodput,speeds,usd_per_million_steps".split(",")
    with pytest.raises(BadRow) as caught:
        jobs_of(heading, [f"{JOB},{cells}".split(",")])
    assert f"row 1, {said}" in str(caught.value)


def test_a_clearing_goes_on_from_the_memory_of_the_last_one(clear: Callable[..., object], tmp_path: Path) -> None:
    offers, jobs = lines(OFFER_HEADING, OFFER), lines(JOB_HEADING, JOB)
    words = "--memory", str(tmp_path / "memory.json"), "--budget", "0", "--json"
    first, second = (clear(offers, jobs, *words).document for _ in range(2))  # type: ignore[attr-defined]
    assert first["matches"] == second["matches"] != []
    assert [path.name for path in tmp_path.glob("memory*")] == ["memory.json"]
    (tmp_path / "memory.json").write_text("{}")
    refused = clear(offers, jobs, *words[:-1])
    assert refused.code == 2  # type: ignore[attr-defined]
    assert "memory.json: it is no memory of a clearing" in refused.err  # type: ignore[attr-defined]


def test_weights_and_waiting_decide_and_their_cost_is_said(clear: Callable[..., object]) -> None:
    jobs = lines(
        JOB_HEADING + ",team,waited_hours", "rich,8,8,,,,9,5,,none,false,true,red,0",
        "poor,8,8,,,,3,5,,none,false,true,blue,10",
    )  # fmt: skip
    offers = lines(OFFER_HEADING, OFFER)
    plain = clear(offers, jobs, "--json").document  # type: ignore[attr-defined]
    assert ({one["job"] for one in plain["matches"]}, plain["welfare_usd"]) == ({"rich"}, 280)
    assert "fairness_cost_usd" not in plain
    for option, value in (("--team-weights", "red:0.1"), ("--ageing", "4")):
        fair = clear(offers, jobs, option, value, "--bound", "--json").document  # type: ignore[attr-defined]
        assert ({one["job"] for one in fair["matches"]}, fair["welfare_usd"], fair["fairness_cost_usd"]) == ({"poor"}, 40, 240)
        assert fair["bound_usd"] >= fair["objective_usd"]
    assert fair["waited"]["by_team"] == {
        "blue": {"served": {"count": 1, "p50_hours": 10, "p99_hours": 10}, "waiting": {"count": 0, "p50_hours": None, "p99_hours": None}},
        "red": {"served": {"count": 0, "p50_hours": None, "p99_hours": None}, "waiting": {"count": 1, "p50_hours": 0, "p99_hours": 0}},
    }  # fmt: skip
    assert list(fair["waited"]["by_gang"]) == ["5-8"]
    table = clear(offers, jobs, "--ageing", "4").out  # type: ignore[attr-defined]
    assert "weights and waiting cost $240.00 of welfare" in table
    assert "hours waited" in table


@pytest.mark.parametrize(
    ("option", "value"),
    [("--team-weights", "red"), ("--team-weights", "red:-1"), ("--team-weights", "red:1,red:2"), ("--ageing", "-1"), ("--ageing", "much")],
)
def test_weights_that_cannot_be_are_refused(torg: Torg, option: str, value: str) -> None:  # noqa: F811
    ran = torg("clear", str(EXAMPLES / "offers.csv"), str(EXAMPLES / "jobs.csv"), option, value)
    assert ran.code == 2
    assert f"torg: {option}: " in ran.err


def test_a_file_of_too_many_rows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("market.engine.columns.MAX_ROWS", 1)
    with pytest.raises(BadRow, match="row 2, id: there are more than 1 rows"):
        offers_of(OFFER_HEADING.split(","), [OFFER.split(","), OFFER.replace("a", "b", 1).split(",")])
