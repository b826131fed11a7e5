"""A job's log: equal lines are lines, a report that is told again is not, and a kill between the two changes nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from market.api.job_logs import STREAMS_REMEMBERED, Counts, JobLogs, Line
from tests.api.square import USD, FakeProvider, FakeRun, Square, make_offer, make_spec

AT = "1970-01-01T00:00:0"


def test_the_same_text_within_a_second_is_not_taken_for_a_repetition(tmp_path: Path) -> None:
    logs = JobLogs(tmp_path)
    first, second = [Line(1_000, "worker", "tick")], [Line(1_500, "worker", "tick")]
    assert logs.append("job-1", first)
    assert logs.append("job-1", second)
    assert not logs.append("job-1", second), "told again"
    assert logs.read("job-1", 0)[0] == f"{AT}1.000Z worker | tick\n{AT}1.500Z worker | tick\n"


def test_what_was_told_is_known_after_a_restart(tmp_path: Path) -> None:
    lines = [Line(1_000, "worker", "tick"), Line(1_000, "worker", "tick")]
    assert JobLogs(tmp_path).append("job-1", lines)
    assert not JobLogs(tmp_path).append("job-1", lines), "told again to another process"
    assert JobLogs(tmp_path).append("job-1", lines[:1]), "another batch"


@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=60)
@given(
    batches=st.lists(st.lists(st.text(max_size=8), min_size=1, max_size=3), min_size=1, max_size=5),
    cuts=st.lists(st.integers(0, 60), max_size=6),
    told_again=st.booleans(),
)
def test_a_kill_at_any_byte_shows_each_line_once(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[str]], cuts: list[int], told_again: bool
) -> None:
    """Each batch is told until it is answered; the process may die after any number of bytes of it. Someone reads on."""
    folder = tmp_path_factory.mktemp("logs")
    told = [[Line(1_000 * number, "w", text) for text in texts] for number, texts in enumerate(batches)]
    path, counts = folder / "job-1.log", folder / "job-1.lines"
    shown, after = "", 0
    for lines in told:
        logs = JobLogs(folder)
        before = path.read_bytes() if path.exists() else b""
        counted = counts.read_bytes() if counts.exists() else b"end 0\n"
        logs.append("job-1", lines)
        if cuts:
            whole = path.read_bytes()
            path.write_bytes(whole[: len(before) + min(cuts.pop(), len(whole) - len(before))])
            counts.write_bytes(counted)
            text, after = JobLogs(folder).read("job-1", after)
            shown += text
            assert JobLogs(folder).append("job-1", lines)
        if told_again:
            assert not JobLogs(folder).append("job-1", lines)
        text, after = JobLogs(folder).read("job-1", after)
        shown += text
    other = folder / "other"
    other.mkdir()
    for lines in told:
        JobLogs(other).append("job-1", lines)
    assert shown == JobLogs(folder).read("job-1", 0)[0] == JobLogs(other).read("job-1", 0)[0]
    shutil.rmtree(folder)


def numbered(*numbers: int, stream: str = "lease-1.1") -> list[Line]:
    return [Line(1_000, "w", f"{stream} {number}", stream, number) for number in numbers]


def test_a_new_run_tells_what_its_predecessor_told_in_other_reports_and_each_line_is_shown_once(tmp_path: Path) -> None:
    logs = JobLogs(tmp_path)
    assert logs.append("job-1", numbered(1, 2, 5))
    assert logs.append("job-1", numbered(1, stream="lease-2.1"))
    assert not JobLogs(tmp_path).append("job-1", numbered(1, 2)), "a part of it"
    assert logs.append("job-1", [Line(2_000, "run", "it goes on"), *numbered(2, 5, 6, 7)])
    assert not logs.append("job-1", numbered(3)), "too late: it was dropped before a later one"
    shown = [line.partition(" | ")[2] for line in logs.read("job-1", 0)[0].splitlines()]
    one, other = "lease-1.1", "lease-2.1"
    assert shown == [f"{one} 1", f"{one} 2", f"{one} 5", f"{other} 1", "it goes on", f"{one} 6", f"{one} 7"]


def test_the_first_report_may_be_cut_off_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Counts, "with_report", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            JobLogs(tmp_path).append("job-1", numbered(1, 2))
    assert (tmp_path / "job-1.log").stat().st_size > 0
    assert JobLogs(tmp_path).read("job-1", 0) == ("", 0)
    assert JobLogs(tmp_path).append("job-1", numbered(1))
    assert JobLogs(tmp_path).read("job-1", 0)[0] == f"{AT}1.000Z w | lease-1.1 1\n"


def test_only_so_many_streams_are_remembered(tmp_path: Path) -> None:
    logs = JobLogs(tmp_path)
    for lease in range(STREAMS_REMEMBERED + 1):
        logs.append("job-1", numbered(1, stream=f"lease-{lease}.1"))
    assert (tmp_path / "job-1.lines").read_text().count("stream ") == STREAMS_REMEMBERED
    assert not logs.append("job-1", numbered(1, stream=f"lease-{lease}.1"))


def test_a_line_that_nobody_completes_ends_before_the_next_one(tmp_path: Path) -> None:
    logs, path = JobLogs(tmp_path), tmp_path / "job-1.log"
    logs.append("job-1", [Line(1_000, "w", "cut off here")])
    path.write_bytes(path.read_bytes()[:-5])
    logs.append("job-1", [Line(2_000, "w", "next")])
    assert logs.read("job-1", 0)[0].splitlines() == [f"{AT}1.000Z w | cut off ", f"{AT}2.000Z w | next"]


def test_a_full_log_says_so_once_in_whole_lines_and_still_has_what_the_run_says(tmp_path: Path) -> None:
    logs = JobLogs(tmp_path, limit_bytes=80, run_bytes=300)
    assert logs.append("job-1", [Line(1_000, "w", "first")])
    assert logs.append("job-1", [Line(2_000, "w", "x" * 100), Line(2_000, "w", "more")])
    assert not logs.append("job-1", [Line(2_000, "w", "x" * 100), Line(2_000, "w", "more")]), "told again"
    assert not logs.append("job-1", [Line(3_000, "w", "b")])
    assert logs.append("job-1", [Line(4_000, "run", "[torg: it exited with status 1]"), Line(4_000, "w", "c")])
    shown = [line.partition("Z ")[2] for line in logs.read("job-1", 0)[0].splitlines()]
    assert [shown[0], shown[2]] == ["w | first", "run | [torg: it exited with status 1]"]
    assert shown[1].startswith("run | [torg: the log is full: 80 bytes; ")
    for number in range(20):
        logs.append("job-1", [Line(5_000 + number, "run", "again and again")])
    assert (tmp_path / "job-1.log").stat().st_size <= 80 + 300 + len(shown[1]) + 30, "that is bounded, too"


@pytest.mark.parametrize(
    ("tail", "since_ms", "shown"),
    [
        (None, None, "abcd"), (2, None, "cd"), (0, None, ""), (9, None, "abcd"), (None, 2_000, "bcd"), (None, 2_001, "cd"),
        (None, 9_000, ""), (1, 2_000, "d"), (3, 3_000, "cd"),
    ],
)  # fmt: skip
def test_the_end_of_a_log_and_what_came_since(tmp_path: Path, tail: Any, since_ms: Any, shown: str) -> None:
    logs = JobLogs(tmp_path)
    logs.append("job-1", [Line(1_000 * number, "w", text) for number, text in enumerate("abcd", 1)])
    text, _ = logs.read("job-1", logs.place("job-1", tail=tail, since_ms=since_ms))
    assert "".join(line.partition(" | ")[2] for line in text.splitlines()) == shown
    assert logs.place("job-2", tail=tail, since_ms=since_ms) == 0


def test_a_log_from_before_full_times_still_reads(tmp_path: Path) -> None:
    (tmp_path / "job-1.log").write_text("23:59:58 w | old\n23:59:59 w | older times have no day\n")
    logs = JobLogs(tmp_path)
    logs.append("job-1", [Line(1_000, "w", "new")])
    assert logs.read("job-1", 0)[0].splitlines() == ["23:59:58 w | old", "23:59:59 w | older times have no day", f"{AT}1.000Z w | new"]  # fmt: skip
    assert logs.read("job-1", logs.place("job-1", tail=None, since_ms=0))[0] == f"{AT}1.000Z w | new\n"
    assert logs.read("job-1", logs.place("job-1", tail=2, since_ms=None))[0].count("\n") == 2


def test_lines_that_are_told_again_to_an_exchange_that_was_killed_print_once(square: Square) -> None:
    region, job = square.name("region"), square.name("job")
    _, ann = square.newcomer("customer", 20 * USD)
    _, host = square.newcomer("provider")
    machine = FakeProvider(host, make_offer(square.name("offer"), region))
    try:
        ann.submit_job(job, make_spec(region, workers__min=1, workers__max=1))
        run = FakeRun(square.local("plane"), job)
        workers = run.workers(1)
        lines = [{"at_ms": number, "source": "w", "line": f"line {number}"} for number in range(3)]
        run.read(workers, logs=lines)
        square.back("exchange", square.kill("exchange"))
        run.read(workers, logs=lines)
        run.read(workers, logs=[{"at_ms": 3, "source": "w", "line": "line 3"}])
        text = ann.job_logs(job)["text"]
        assert [line.partition(" | ")[2] for line in text.splitlines()] == [f"line {number}" for number in range(4)]
        assert ann.job_logs(job, tail=1)["text"].endswith("| line 3\n")
        assert ann.job_logs(job, since_ms=2)["text"].count("\n") == 2
    finally:
        machine.close()
        ann.cancel_job(job)


def test_a_follower_goes_on_after_the_exchange_was_killed(square: Square, tmp_path: Path) -> None:
    region, job = square.name("region"), square.name("job")
    _, ann = square.newcomer("customer", 20 * USD)
    _, host = square.newcomer("provider")
    machine = FakeProvider(host, make_offer(square.name("offer"), region))
    settings = {"TORG_URL": square.url, "TORG_KEY": str(ann._wire._key), "TORG_HOME": str(tmp_path)}
    try:
        ann.submit_job(job, make_spec(region, workers__min=1, workers__max=1))
        run = FakeRun(square.local("plane"), job)
        workers = run.workers(1)
        run.read(workers, logs=[{"at_ms": 1, "source": "w", "line": "before"}])
        follower = subprocess.Popen(
            [sys.executable, "-m", "cli", "logs", job, "-f", "--tail", "5"], stdout=subprocess.PIPE, env=os.environ | settings
        )  # fmt: skip
        assert follower.stdout is not None
        assert follower.stdout.readline().endswith(b"| before\n")
        square.back("exchange", square.kill("exchange"))
        run.read(workers, logs=[{"at_ms": 2, "source": "w", "line": "after"}])
        assert follower.stdout.readline().endswith(b"| after\n")
    finally:
        machine.close()
        ann.cancel_job(job)
    with follower:
        assert follower.stdout.read() == b""
    assert follower.returncode == 0
