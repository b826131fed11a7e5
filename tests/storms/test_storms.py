"""Stories of a whole market in virtual time: thousands of faults, and the auditor has nothing to say.

A story that fails prints how to run it again. Hours of other seeds: `make storms MINUTES=60`.
"""

from collections import Counter
from pathlib import Path

import pytest

from storage.projection import Projection
from tests.storms.auditor import Auditor
from tests.storms.faults import CLASSES
from tests.storms.records import read_records
from tests.storms.story import Plan, shrunk, tell, tell_all, tell_each

BLOCK = 250
BLOCKS = 2
FIRED = (
    "message lost", "answer lost", "message twice", "message late", "message overtaken", "answered as known",
    "died: Stopped write", "died: Stopped sync data", "died: between operations", "died: JournalBroken", "died while it recovered",
    "recovered", "power cut", "unsynced bytes lost or torn", "torn tail cut", "write refused", "refused by a full disk", "sync failed",
    "clock set forward", "clock set back", "machine silent", "machine back on another node", "worker lost", "run failed",
    "provider lied", "lie refused", "meter lied", "a run that is over spoke", "the same id for another job", "price changed",
    "job cancelled", "market stopped", "batch booked", "deposit corrected", "period closed", "charges disputed", "dispute upheld",
    "dispute rejected", "given back to credit", "maintenance set", "left: max_lease",
    "left: maintenance_unannounced",
)  # fmt: skip


@pytest.mark.parametrize("block", range(BLOCKS))
def test_whatever_the_weather_the_auditor_finds_nothing(block: int) -> None:
    count, records, acknowledged = Counter[str](), 0, 0
    for told in tell_all(range(block * BLOCK, (block + 1) * BLOCK)):
        assert not told.findings, "\n".join([*told.findings[:10], f"again: {told.plan.command()} --shrink"])
        count += told.count
        records, acknowledged = records + told.records, acknowledged + told.acknowledged
    assert not {what for what in FIRED if not count[what]}, "faults that never fired"
    assert records > 10 * BLOCK
    assert acknowledged > 10 * BLOCK


def test_leases_end_by_maintenance_that_was_announced() -> None:
    """A lease that ends so was granted a minute before its notice at least: the stories are long and so are their jobs, and nobody
    stops the market, cancels, or sets the clock beyond the window meanwhile."""
    count, without = Counter[str](), frozenset({"whims", "clock"})
    for told in tell_each(Plan(seed, 130.0, 3, 4, without, announced=True) for seed in range(12)):
        assert not told.findings, "\n".join([*told.findings[:10], f"again: {told.plan.command()} --shrink"])
        count += told.count
    assert count["left: maintenance"] > 0


def test_a_story_is_the_same_every_time_it_is_told() -> None:
    first, again = tell(Plan.of(17)), tell(Plan.of(17))
    assert first.head == again.head
    assert first.count == again.count
    assert first.records > 10
    assert tell(Plan.of(18)).head != first.head


def test_the_books_say_what_the_auditor_says(tmp_path: Path) -> None:
    """DuckDB's balances and charges, made from the journal of a bad day, are those that the auditor adds up."""
    for seed in (0, 1, 2):
        assert not tell(Plan.of(seed), tmp_path / str(seed)).findings
        (folder,) = (tmp_path / str(seed)).rglob("journal")
        auditor = Auditor().read(read_records(folder))
        with Projection.in_memory(folder) as books, books.cursor() as cursor:
            found = dict(cursor.execute("SELECT account, balance_nanos FROM balances").fetchall())
            charged = dict(cursor.execute("SELECT lease, sum(amount_nanos) FROM lease_charges GROUP BY lease").fetchall())
        assert {name: nanos for name, nanos in found.items() if nanos} == {name: nanos for name, nanos in auditor.balances.items() if nanos}
        assert charged == {lease.id: lease.charged for lease in auditor.leases.values() if lease.charged_ms}


def test_a_failing_story_is_made_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.storms.auditor.FAULTS", {})
    plan = next(told.plan for told in tell_all(range(100)) if told.findings)
    small = shrunk(plan)
    assert tell(small).findings
    assert small.without > plan.without
    assert small.seconds < plan.seconds
    assert small.command().startswith(f"python -m tests.storms --seed {plan.seed}")
    assert "--without" in small.command()


def test_every_class_of_faults_can_be_left_out() -> None:
    for name in CLASSES:
        assert not tell(Plan(3, 15.0, 2, 3, frozenset({name}))).findings
    calm = tell(Plan(3, 30.0, 2, 3, frozenset(CLASSES)))
    assert not calm.findings
    assert not {what for what in calm.count if calm.count[what] and what.startswith(("died", "message", "power", "clock"))} - {"message overtaken"}


