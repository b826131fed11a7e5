"""A job's log: equal lines are lines, and a report that is told again is not."""

from __future__ import annotations

from pathlib import Path

from market.api.job_logs import JobLogs, Line


def test_the_same_text_within_a_second_is_not_taken_for_a_repetition(tmp_path: Path) -> None:
    logs = JobLogs(tmp_path)
    first, second = [Line(1_000, "worker", "tick")], [Line(1_500, "worker", "tick")]
    assert logs.append("job-1", first)
    assert logs.append("job-1", second)
    assert not logs.append("job-1", second), "told again"
    assert logs.read("job-1", 0)[0] == "00:00:01 worker | tick\n" * 2
