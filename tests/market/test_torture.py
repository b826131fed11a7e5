"""The torture runs clean, each of its faults fires, and it finds a writer that breaks a promise."""

import json
import shutil
from pathlib import Path
from random import Random

import pytest

from cli.main import run
from market.torture.power_cut import Unsynced
from market.torture.storm import ANY_MOMENT, DANGEROUS, STARVED, Storm, kind
from storage.journal import Journal

KILLS = [kind(operation, "kill", when) for operation, when in DANGEROUS]
FAILING = [kind("journal.write", "full"), kind("blob.write", "full"), kind("journal.sync", "io_error"), kind("blob.sync", "io_error")]
OPENING = [kind("segment.sync", "kill", opening=True), kind("segment.rename", "kill", "after", opening=True)]


def test_a_short_torture_runs_clean_and_every_fault_fires(tmp_path: Path) -> None:
    kinds = [*KILLS, *FAILING, *OPENING, STARVED, ANY_MOMENT, ANY_MOMENT]
    report = Storm(tmp_path, 1, kinds=kinds).run(lambda so_far: so_far.lives < len(kinds))
    assert report.held, (report.lost, report.double_booked, report.wrong)
    fired = {f"{one['fault']['operation']} {one['fault']['when'] if one['fault']['how'] == 'kill' else one['fault']['how']}" for one in kinds if one["fault"]}
    assert fired <= set(report.faults)
    assert report.faults["at any moment"] >= 2
    assert report.kills >= len(KILLS) + len(OPENING)
    assert report.refused["disk_full"] >= 2
    assert report.healed, "a writer that was starved goes on"
    assert report.power_cuts.total(), "something unsynced was damaged"
    assert report.acknowledged > 50
    assert len(report.recovery_us) > len(KILLS)
    assert not list(tmp_path.iterdir()), "it cleans up after itself"


def test_power_cuts_one_after_the_other_leave_a_journal_that_opens(tmp_path: Path) -> None:
    """Whoever opens it may die before anything is durable."""
    with Journal.open(tmp_path / "whole") as journal:
        journal.append([b"durable"])
        durable = journal.durable.bytes
        journal.append([b"not durable", b"of the same append"])
    for seed in range(80):
        home = tmp_path / str(seed)
        shutil.copytree(tmp_path / "whole", home / "journal")
        unsynced, [path] = Unsynced(), [*(home / "journal").glob("*.journal")]
        unsynced.hear({"synced": str(path), "size": durable})
        draw = Random(seed)
        for _ in range(4):
            unsynced.cut_power(home, draw)
        with Journal.open(home / "journal") as journal:
            assert 1 <= journal.records <= 3


@pytest.mark.parametrize("fault", ["acknowledge_before_sync", "skip_the_chain", "book_again", "forget_the_folder"])
def test_a_writer_that_breaks_a_promise_is_found(tmp_path: Path, fault: str) -> None:
    kinds = [ANY_MOMENT] if fault != "forget_the_folder" else [kind("blob.rename", "kill", "after"), ANY_MOMENT]
    report = Storm(tmp_path, 2, kinds=kinds, hook=f"tests.market.careless:{fault}").run(lambda so_far: so_far.lives < 40)
    assert not report.held
    assert report.kept is not None
    assert report.kept.is_dir()
    if fault == "book_again":
        assert report.double_booked or any("an id was booked twice" in one for one in report.wrong), "by the audit, or by the replay itself"
    if fault == "acknowledge_before_sync":
        assert report.lost or report.wrong


def test_the_command_says_how_to_repeat_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["torture", "--minutes", "0.01", "--folder", str(tmp_path), "--seed", "7", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["held"], told["acknowledged_and_lost"], told["double_booked"], told["seed"]) == (True, 0, 0, 7)
    assert "--seed 7" in told["again"]
    assert run(["torture", "--minutes", "0"]) == 2
    assert run(["torture", "--folder", str(tmp_path / "nowhere")]) == 2
