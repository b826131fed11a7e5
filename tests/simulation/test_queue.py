"""The short list that a simulated clearing is shown: it comes to something nearly whenever the whole book would."""

from __future__ import annotations

from collections.abc import Iterable

from market.clearing import clear
from market.simulation.market import MarketRun
from market.simulation.queue import Queue, Wanted
from market.simulation.rule import priced
from market.simulation.supply import Machine, with_providers
from market.simulation.terms import Terms
from market.worth import DueRule
from tests.simulation.samples import HOUR_MS, MACHINES, USD, philly_like

ANY = ((), (), 0.0)


def wanted(job: str, need: int = 1, *, usd: float = 1.0, hours: float = 1, since_ms: int = 0) -> Wanted:
    return Wanted(job, ANY, need, round(usd * USD), round(hours * HOUR_MS), since_ms)


def queue(gpus: int, *bids: Wanted, due_rule: DueRule | None = None) -> Queue:
    machine = Machine("m", "p", "A100", gpus, 40.0, "eu", USD // 2)
    made = Queue([machine], due_rule)
    made.listed(machine, gpus)
    for bid in bids:
        made.add(bid)
    made.begin()
    return made


def test_who_finds_no_room_or_pays_too_little_is_not_shown() -> None:
    shown = queue(2, wanted("fits"), wanted("large", 3), wanted("poor", usd=0.4))
    assert shown.shown(0) == ["fits"]
    assert shown.shown(0) == []  # nobody twice in one clearing


def test_a_gang_that_is_due_is_shown_so_that_seats_are_kept_for_it() -> None:
    made = queue(2, wanted("single"), wanted("gang", 2), wanted("never", 3))
    made.freed("m", -1)
    assert made.shown(0) == ["single"]
    made.begin()
    assert sorted(made.shown(5 * HOUR_MS)) == ["gang", "single"]


def test_a_gang_is_due_when_the_markets_rule_says_so() -> None:
    for rule, hours in ((DueRule(16), 16), (DueRule(1), 1), (DueRule(16, 5 * HOUR_MS), 5), (DueRule(None), None)):
        made = queue(2, wanted("single"), wanted("gang", 2), due_rule=rule)
        made.freed("m", -1)
        assert made.shown(round(((hours or 10_000) - 0.01) * HOUR_MS)) == ["single"]
        made.begin()
        if hours is not None:
            assert sorted(made.shown(hours * HOUR_MS)) == ["gang", "single"]


def test_the_most_valuable_are_shown_and_the_longest_waiting_of_those_that_are_due() -> None:
    made = queue(1, *(wanted(f"job-{number}", usd=1 + number / 10, since_ms=HOUR_MS * 24) for number in range(40)))
    assert "job-39" in made.shown(24 * HOUR_MS)
    made.add(wanted("old", usd=0.6, since_ms=0))
    made.begin()
    assert "old" in made.shown(24 * HOUR_MS)


class Watched(MarketRun):
    """Clears the whole book beside each list, and counts where only one of the two came to something."""

    cleared = differed = 0

    def _at_clear(self, about: None, version: int) -> None:
        whole = clear(self.exchange.snapshot(), 1_000_000, reasons=False, forgone=False)
        granted = sum(len(run.held) for run in self._runs.values())
        super()._at_clear(about, version)
        after = sum(len(run.held) for run in self._runs.values())
        self.cleared += 1
        self.differed += bool(whole.matches) != (after > granted)


def test_a_list_comes_to_something_nearly_whenever_the_whole_book_does() -> None:
    cleared = differed = 0
    waits: list[list[int | None]] = []
    for seed, rule in ((0, DueRule()), (1, DueRule()), (70, DueRule()), (70, DueRule(None)), (70, DueRule(1, HOUR_MS))):
        machines = with_providers(MACHINES[:3])
        trace = list(priced(philly_like(60, seed), machines, seed))
        window_ms = trace[-1].submitted_ms
        run = Watched(machines, Terms(window_ms=window_ms, horizon_ms=window_ms + 100 * 24 * HOUR_MS, due_rule=rule))
        run.play(trace)
        waits.append([one.started_ms for one in run.record.jobs.values()])
        cleared, differed = cleared + run.cleared, differed + run.differed
    assert cleared > 100
    assert differed <= cleared // 20, (differed, cleared)
    assert waits[2] != waits[3] != waits[4], "the rule decides who begins when"


def test_who_got_nothing_is_not_looked_at_again_until_something_comes_free_for_it() -> None:
    made = queue(1, wanted("first"), wanted("second"), wanted("gang", 2))
    made.listed(Machine("m", "p", "A100", 1, 40.0, "eu", USD // 2), 1)
    assert sorted(made.unsettled(["first", "second"], 0)) == ["first", "second"]
    made.note(["first", "second"], None, 0)
    assert made.unsettled(["first", "second"], 0) == []
    made.add(wanted("new"))
    assert made.unsettled(["first", "second", "new"], 0) == ["new"]
    assert sorted(made.unsettled(["first", "second"], 5 * HOUR_MS)) == ["first", "second"]  # due by now
    made.freed("m", 1)
    assert sorted(made.unsettled(["first", "second"], 0)) == ["first", "second"]


def test_for_whom_seats_are_kept_is_always_looked_at_and_when_it_goes_everybody_is() -> None:
    made = queue(2, wanted("single"), wanted("gang", 3))
    made.note(["single", "gang"], "gang", 0)
    assert made.unsettled(["single", "gang"], 0) == []
    made.add(wanted("new"))
    assert made.unsettled(["single", "gang", "new"], 0) == ["gang", "new"]
    made.discard("gang")
    assert made.unsettled(["single", "new"], 0) == ["single", "new"]


class Forgetful(Queue):
    """Nobody is ever settled."""

    def note(self, empty: Iterable[str], kept_for: str | None, now_ms: int) -> None:
        """Nothing is noted."""


def test_what_is_left_out_changes_nothing() -> None:
    clearings = [0, 0]
    for seed in (2, 6):
        machines = with_providers(MACHINES[:2])
        trace = list(priced(philly_like(60, seed), machines, seed))
        terms = Terms(window_ms=trace[-1].submitted_ms, horizon_ms=trace[-1].submitted_ms + 100 * 24 * HOUR_MS)
        runs = [MarketRun(machines, terms), MarketRun(machines, terms)]
        runs[1].waiting = Forgetful(machines)
        short, whole = (run.play(trace) for run in runs)
        assert short.jobs == whole.jobs
        clearings = [before + record.clearings for before, record in zip(clearings, (short, whole), strict=True)]
    assert clearings[0] < clearings[1] * 0.9, clearings
