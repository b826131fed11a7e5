"""`torg simulate` on files: what it prints and writes, and what it says of files that cannot be played."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from market.engine.columns import BadRow
from market.simulation.churning import comings_and_goings, seats_of
from market.simulation.rule import priced
from market.simulation.supply import machines_of, scaled
from market.simulation.trace import PHILLY_COLUMNS, TORG_COLUMNS, Churn, churn_of, philly_jobs, torg_jobs
from tests.cli.conftest import Torg, home, market, torg  # noqa: F401
from tests.simulation.samples import CHURN, HOUR_MS, MACHINES, philly_like

OFFERS = "gpu,gpus,vram_mib_per_gpu,usd_per_hour_total,region\nA100,2,40960,1.50,EU\nRTX 4090,4,24564,1.39,NA\n"
PHILLY = "timestamp,duration,num_gpus,gpu_time,cluster\n2017-10-09 07:01:55,66.0,1,66.0,11cb48\n2017-10-09 06:00:00,7200,2,14400,aa\n\n"
TORG = (
    "id,tenant,submitted_s,duration_s,gpus_min,gpus_max,gpu,regions,vram_gib,max_usd_per_gpu_hour,estimate_s,patience_s\n"
    "a,ann,0,3600,1,1,,,0,1.00,3600,\nb,bob,60,1800,2,4,A100|RTX-4090,,0,0.80,,86400\n"
)
Play = Callable[..., object]


@pytest.fixture
def play(torg: Torg, tmp_path: Path) -> Play:  # noqa: F811
    def run(jobs: str, offers: str, *options: str, name: str = "jobs.csv") -> object:
        written = gzip.compress(jobs.encode()) if name.endswith(".gz") else jobs.encode()
        (tmp_path / name).write_bytes(written)
        (tmp_path / "offers.csv").write_text(offers)
        return torg("simulate", "--jobs", str(tmp_path / name), "--offers", str(tmp_path / "offers.csv"), *options)

    return run


def test_a_philly_trace_gives_a_document_a_summary_and_a_page(play: Play, tmp_path: Path) -> None:
    answer = play(PHILLY, OFFERS, "--report", str(tmp_path / "out.html"), "--json", name="jobs.csv.gz")
    told = json.loads(answer.out)  # type: ignore[attr-defined]
    assert told["trace"]["jobs"] == 2
    assert set(told["runs"]) == {"market", "fifo", "auction", "greedy"}
    assert told["money_conserved"] is True
    assert "</html>" in (tmp_path / "out.html").read_text()


def test_the_summary_fits_a_hundred_columns(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    answer = play(TORG, OFFERS, "--trace-format", "torg", "--load", "none")
    lines = answer.out.splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= 100
    assert any(line.split()[:2] == ["market", "2"] for line in lines)


def test_a_loss_has_no_bar_of_its_own_and_no_bar_leaves_the_picture() -> None:
    from market.simulation.plots import WIDTH, bars

    drawn = bars("welfare", [("torg", "c1", -10.0, "-$10"), ("FIFO", "c2", -1_000.0, "-$1,000")])
    widths = [float(width) for width in re.findall(r'<rect[^>]* width="([^"]+)"', drawn)]
    assert widths == [1.0, 1.0]
    assert all(0 <= float(x) <= WIDTH for x in re.findall(r' x="([^"]+)"', drawn))


def test_losses_and_reasons_are_said_whole(capsys: pytest.CaptureFixture[str]) -> None:
    from cli.settings import Settings
    from cli.simulation_view import show_not_served
    from market.simulation.report import dollars

    reasons = {f"gave_up: a_reason_with_a_long_name_{number}": 10 for number in range(6)}
    show_not_served(Settings(Path(), None, None, as_json=False, color=False), {"revenue_usd": {}, "not_served": reasons})
    told = capsys.readouterr().out
    assert max(map(len, told.splitlines())) <= 100
    assert told.split()[-5:] == ["gave_up:", "a_reason_with_a_long_name_3", "10,", "others", "20"]
    assert (dollars(-961.7), dollars(-0.2), dollars(1234.0)) == ("-$962", "$0", "$1,234")


@pytest.mark.parametrize(
    ("jobs", "offers", "options", "code", "says"),
    [
        (PHILLY.replace("2017-10-09 07:01:55", "9999-12-31 07:01:55"), OFFERS, (), 2, "row 1, timestamp: is more than ten years after that of row 2"),
        (PHILLY, OFFERS, ("--report", "."), 2, ". is a folder"),
        (PHILLY.replace("cluster", "colour"), OFFERS, (), 2, "no such column"),
        (PHILLY.replace("duration,", ""), OFFERS, (), 2, "column is missing"),
        (PHILLY.replace("66.0,1", "-66.0,1"), OFFERS, (), 2, "row 1, duration: -66.0 is out of range"),
        (PHILLY.replace("66.0,1", "nan,1"), OFFERS, (), 2, "row 1, duration: 'nan' is not a number"),
        (PHILLY.replace("66.0,1", "66.0,0"), OFFERS, (), 2, "row 1, num_gpus"),
        (PHILLY.replace("66.0,1", "66.0,99999999"), OFFERS, (), 2, "row 1, num_gpus"),
        (PHILLY.replace("2017-10-09 07", "yesterday 07"), OFFERS, (), 2, "row 1, timestamp"),
        (PHILLY.splitlines()[0] + "\n", OFFERS, (), 3, "the trace has no jobs"),
        ("", OFFERS, (), 2, "is empty"),
        (PHILLY, OFFERS.splitlines()[0] + "\n", (), 3, "there are no offers"),
        (PHILLY, OFFERS.replace("1.50", "-1.50"), (), 2, "row 1, usd_per_hour_total"),
        (PHILLY, OFFERS.replace("gpus,", "cards,"), (), 2, "no such column"),
        (TORG.replace("\nb,", "\na,"), OFFERS, ("--trace-format", "torg"), 2, "'a' is the id of row 1 too"),
        (TORG.replace("2,4,A100", "5,4,A100"), OFFERS, ("--trace-format", "torg"), 2, "5 is above gpus_max"),
        (TORG.replace("0.80", "-0.80"), OFFERS, ("--trace-format", "torg"), 2, "max_usd_per_gpu_hour"),
        (PHILLY, OFFERS, ("--trace-format", "borg"), 2, "no trace format 'borg'"),
        (PHILLY, OFFERS, ("--price-rule", "free"), 2, "no price rule 'free'"),
        (PHILLY, OFFERS, ("--load", "0"), 2, "is no load"),
        (PHILLY, OFFERS, ("--baselines", "fifo,lifo"), 2, "no baseline 'lifo'"),
        (PHILLY, OFFERS, ("--seed", "-1"), 2, "-1 is out of range"),
        (PHILLY, OFFERS, ("--churn", "nowhere.csv"), 2, "does not exist"),
        (PHILLY, OFFERS, ("--interruptible", "1.5"), 2, "1.5 is out of range"),
        (PHILLY, OFFERS, ("--times", "0"), 2, "0 is out of range"),
    ],
)  # fmt: skip
def test_what_cannot_be_played_is_said(play: Play, jobs: str, offers: str, options: tuple[str, ...], code: int, says: str) -> None:
    answer = play(jobs, offers, *options)
    assert answer.code == code  # type: ignore[attr-defined]
    assert says in answer.err  # type: ignore[attr-defined]


def test_a_job_that_nothing_serves_ends_the_simulation_all_the_same(play: Play) -> None:
    jobs = TORG.replace("a,ann,0,3600,1,1,,,0,1.00,3600,", "a,ann,0,3600,64,64,,,0,1.00,3600,")
    told = json.loads(play(jobs, OFFERS, "--trace-format", "torg", "--load", "none", "--json").out)  # type: ignore[attr-defined]
    for run in told["runs"].values():
        assert run["states"] == {"done": 1, "unfinished": 1}


def test_rows_are_read_in_any_order_and_only_as_far_as_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [["2017-10-09 07:01:55", "66", "1", "66", "b"], ["2017-10-09 06:01:55", "60", "2", "120", "a"]]
    found = philly_jobs(PHILLY_COLUMNS, rows)
    assert [(one.id, one.submitted_ms, one.gpus) for one in found] == [("job-2", 0, 2), ("job-1", HOUR_MS, 1)]
    monkeypatch.setattr("market.simulation.trace.MAX_JOBS", 1)
    with pytest.raises(BadRow, match="more than 1 rows"):
        philly_jobs(PHILLY_COLUMNS, rows)
    with pytest.raises(BadRow, match="more than 1 rows"):
        torg_jobs(TORG_COLUMNS, (f"j{row},t,0,1,1,1,,,0,1,1,".split(",") for row in range(3)))


def test_offers_are_read_as_torg_clear_has_them() -> None:
    heading = ["id", "gpu", "vram_gib", "usd_per_gpu_hour", "gpus", "region", "reliability", "max_hours", "available_in_hours", "interconnect"]
    [one] = machines_of(heading, [["x", "H100", "80", "1.95", "8", "eu", "0.99", "", "", "nvlink"]])
    assert (one.gpu, one.gpus, one.vram_gib, one.region, one.ask_nanos) == ("H100", 8, 80.0, "eu", 1_950_000_000)


def test_cards_have_the_names_that_the_market_lists_them_under() -> None:
    rows = [["RTX4090", "1", "24564", "0.4", "eu"], ["RTX4090", "1", "49140", "0.4", "eu"], ["RTX A6000", "2", "49140", "0.85", "eu"]]
    found = machines_of(["gpu", "gpus", "vram_mib_per_gpu", "usd_per_hour_total", "region"], rows)
    assert [one.gpu for one in found] == ["RTX4090", "RTX4090-48GB-changed", "A6000"]
    assert torg_jobs(TORG_COLUMNS, [["j", "t", "0", "1", "1", "1", "RTXA6000|H100", "", "0", "1", "1", ""]])[0].models == ("A6000", "H100")


def test_the_rule_is_the_same_for_the_same_seed_and_never_asks_for_more_cards_than_there_are_twice() -> None:
    supply = scaled(MACHINES, 46, 1)
    jobs = philly_like(200)
    first, again = list(priced(jobs, supply, 3)), list(priced(jobs, supply, 3))
    assert first == again != list(priced(jobs, supply, 4))
    for one in first:
        fitting = sum(machine.gpus for machine in supply if machine.vram_gib >= one.vram_gib and (not one.regions or machine.region in one.regions))
        assert fitting >= min(2 * one.gpus_max, 46)
        assert one.limit_nanos % 10_000_000 == 0 < one.limit_nanos
        assert one.estimate_ms % 60_000 == 0 < one.estimate_ms


def test_churn_is_read_and_repeated_with_every_machine_coming_and_going_in_turn() -> None:
    seats = seats_of(CHURN)
    assert seats is not None
    assert seats.there == (((0, 3 * HOUR_MS), (4 * HOUR_MS, 12 * HOUR_MS)), ((0, 9 * HOUR_MS), (10 * HOUR_MS, 12 * HOUR_MS)))
    assert seats.share() == pytest.approx(22 / 24)
    there: dict[int, bool] = {}
    last = 0
    for at, comes, machine in comings_and_goings(seats, 5, 1, 100 * HOUR_MS):
        assert last <= at <= 100 * HOUR_MS
        assert there.get(machine, False) is not comes
        there[machine], last = comes, at
    assert set(there) == set(range(5))
    assert seats_of([Churn(0, True, "a")]) is None


@pytest.mark.parametrize(
    ("row", "says"),
    [("5,join,a", "neither add nor remove"), ("5,add", "2 cells"), ("-5,add,a", "time"), ("5,remove,zz", "is not there"), ("0,add,b", "is before the row above")],
)
def test_churn_that_cannot_be_is_refused(row: str, says: str) -> None:
    with pytest.raises(BadRow, match=says):
        churn_of([["0", "add", "x"], ["3", "remove", "x"], row.split(",")])
