"""How long leases may and must be, and maintenance windows: who is placed where, who leaves when, and who pays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from market.actors.noticed import TOLD
from market.commands import ChangeOffer, EndLease, Heard, SetLeaseTimes, SubmitJob, Tick
from market.faults import NOTICED
from market.lasting import TIMED_OUT
from market.outcomes import Refusal
from market.owner_terms import OwnerTerms
from tests.market.scene import START_MS, USD, Scene, make_spec
from tests.market.test_batch import make_spec as command_spec
from trainers.actors.failures import LEAVING

MINUTE, HOUR = 60_000, 3_600_000
NOTICE_MS = 5_000
BEGIN_MS = 2 * HOUR  # 02:00 on the first day, and the market opens at 00:16:40
WINDOW = "1970-01-01T02:00/1h"


def job(scene: Scene, id: str = "job-1", *, usd: float = 5.0, by: str = "ann", **workers: Any) -> None:
    """One of which it is not known how long it takes: an hour, or as long as its budget lasts at 0.90 an hour."""
    spec = make_spec(workers__min=1, workers__max=1, limits__budget_nanos=round(usd * USD))
    spec["workers"].update(workers)
    scene.do(SubmitJob(id, spec, by))


def listed(scene: Scene, id: str = "offer-1", by: str = "p1", **changes: Any) -> None:
    """Of which nothing is measured, so that no job's time is known."""
    scene.offer(id, by, measured={}, **changes)


def matched(scene: Scene, id: str = "job-1") -> bool:
    scene.clear()
    return bool(scene.live(id))


def why(scene: Scene, id: str = "job-1") -> tuple[str, list[str]]:
    told = scene.exchange.explain(id)
    assert told is not None
    return told["reason"], told["relaxations"]


def steps(scene: Scene, id: str = "job-1") -> list[tuple[str, int]]:
    told = scene.exchange.explain(id)
    assert told is not None
    return [(one["reason"], one["gpus"]) for one in told["removed"]]


def replays(scene: Scene) -> None:
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()


# who is placed where


@pytest.mark.parametrize(("least", "most", "fits"), [(HOUR, None, True), (HOUR + 1, None, False), (None, HOUR, True), (None, HOUR - 1, False)])
def test_a_job_goes_where_its_expected_time_is_between_the_two(least: int | None, most: int | None, fits: bool) -> None:
    scene = Scene()
    listed(scene, terms=OwnerTerms(min_lease_ms=least, max_lease_ms=most), gpus=3)
    job(scene)
    assert matched(scene) is fits
    if not fits:
        assert steps(scene) == [("min_lease" if least else "max_lease", 3)]
        assert why(scene) == (("min_lease", []) if least else ("max_lease", ["workers.movable true"]))
    replays(scene)


@pytest.mark.parametrize(("ms", "fits"), [(BEGIN_MS - NOTICE_MS - START_MS, True), (BEGIN_MS - NOTICE_MS - START_MS + 1, False)])
def test_a_job_goes_where_it_is_done_before_the_next_window_has_its_notice(ms: int, fits: bool) -> None:
    scene = Scene()
    listed(scene, terms=OwnerTerms(maintenance=(WINDOW,)))
    job(scene, available_ms=ms)
    assert matched(scene) is fits
    if not fits:
        assert steps(scene) == [("maintenance", 1)]
        assert why(scene) == ("maintenance", []), "what it asks for by name it must have"
    replays(scene)


def test_a_job_that_may_be_moved_goes_anywhere_but_where_it_could_not_work_a_minute() -> None:
    scene = Scene()
    listed(scene, terms=OwnerTerms(maintenance=(WINDOW,), max_lease_ms=HOUR // 2, notice_ms=0))
    job(scene, "waits")
    assert why(scene, "waits") == ("max_lease", ["workers.movable true"])
    job(scene, "moves", movable=True)
    assert [one.job for one in scene.clear().matches] == ["moves"]
    listed(scene, "offer-2", "p2", terms=OwnerTerms(maintenance=(f"1970-01-01T00:17:{39}/1h",), notice_ms=0))
    job(scene, "moves-2", movable=True)
    assert not matched(scene, "moves-2"), "59 s are left"
    listed(scene, "offer-3", "p3", terms=OwnerTerms(maintenance=("1970-01-01T00:17:40/1h",), notice_ms=0))
    assert matched(scene, "moves-2")
    replays(scene)


def test_one_word_of_a_job_loosens_both() -> None:
    scene = Scene()
    listed(scene, terms=OwnerTerms(max_lease_ms=HOUR // 2))
    listed(scene, "offer-2", "p2", terms=OwnerTerms(maintenance=("1970-01-01T01:00/1h",)))
    job(scene, min=2, max=2)
    assert not matched(scene)
    assert why(scene) == ("max_lease", ["workers.movable true"])
    job(scene, "moves", min=2, max=2, movable=True)
    assert matched(scene, "moves")
    replays(scene)


def test_the_time_is_what_its_customer_was_told_of_such_machines() -> None:
    scene = Scene()
    scene.offer(terms=OwnerTerms(max_lease_ms=400_000, maintenance=("00:00-00:20",)))
    scene.offer("offer-2", "p2", terms=OwnerTerms(min_lease_ms=400_000))
    plan = scene.exchange.quote(make_spec(workers__min=1, workers__max=1), "ann", scene.now_ms)
    assert not isinstance(plan, Refusal)
    assert plan["reason"] == "maintenance"
    assert plan["steps"][1:] == [{"reason": "min_lease", "gpus": 1, "left": 1}, {"reason": "maintenance", "gpus": 1, "left": 0}]
    job(scene)
    estimate = scene.view()["estimate"]
    assert estimate["basis"] == "hardware"
    assert estimate["middle_ms"] < 400_000
    until(scene, 20 * MINUTE)
    assert [match.offers for match in scene.clear().matches] == [("offer-1",)]


def test_an_owners_own_jobs_are_bound_by_windows_alone() -> None:
    scene = Scene()
    listed(scene, terms=OwnerTerms(own=("ann",), min_lease_ms=2 * HOUR, max_lease_ms=3 * HOUR))
    job(scene)
    assert matched(scene)
    assert scene.view()["leases"][0]["until_ms"] is None
    listed(scene, "offer-2", "p2", terms=OwnerTerms(own=("ann",), maintenance=(WINDOW,)))
    job(scene, "job-2", available_ms=2 * HOUR)
    assert not matched(scene, "job-2")
    replays(scene)


# who leaves when, and who pays


def running(terms: OwnerTerms, **workers: Any) -> Scene:
    scene = Scene()
    listed(scene, terms=terms)
    job(scene, **workers)
    scene.clear()
    scene.start_all()
    assert scene.live()
    return scene


def until(scene: Scene, at_ms: int) -> None:
    """Let time pass up to there, by ticks of at most a minute, while the provider polls."""
    while scene.now_ms < at_ms:
        scene.wait(min(MINUTE, at_ms - scene.now_ms))


def noticed(scene: Scene) -> list[str]:
    return [event["reason"] for event in scene.of_type("lease_noticed")]


@pytest.mark.parametrize(
    ("terms", "over_ms", "reason"),
    [
        (OwnerTerms(max_lease_ms=HOUR), START_MS + HOUR, "max_lease"),
        (OwnerTerms(maintenance=(WINDOW,)), BEGIN_MS, "maintenance"),
        (OwnerTerms(maintenance=(WINDOW,), max_lease_ms=HOUR), START_MS + HOUR, "max_lease"),
        (OwnerTerms(maintenance=(WINDOW,), max_lease_ms=2 * HOUR), BEGIN_MS, "maintenance"),
    ],
)
def test_a_lease_has_notice_before_its_time_is_over_and_pays_for_rounds_alone(terms: OwnerTerms, over_ms: int, reason: str) -> None:
    scene = running(terms)
    [lease] = scene.live()
    assert lease["until_ms"] == over_ms
    until(scene, over_ms - NOTICE_MS - 1)
    assert not noticed(scene)
    scene.wait(1)
    assert noticed(scene) == [reason]
    assert scene.live()[0]["ending"] == {"reason": reason, "notice_ms": NOTICE_MS, "ends_ms": over_ms}
    scene.round(1, {0: 20_000})
    scene.read(s0=25_000)
    scene.wait(NOTICE_MS - 1_000)
    scene.do(EndLease(lease["id"], lease["epoch"], reason, "", "p1"))
    scene.checkpoint(1)
    [ended] = scene.view()["leases"]
    assert (ended["state"], ended["reason"], ended["fault"], ended["charged_ms"]) == ("ended", reason, "none", 20_000)
    assert ended["ended_ms"] < over_ms
    record = scene.exchange.offer("offer-1")
    assert record is not None
    assert record["record"]["leases_lost"] == 0
    assert scene.state()[0] == "running", "its run goes on, and finds another machine"
    listed(scene, "offer-2", "p2")
    assert matched(scene)
    replays(scene)


@pytest.mark.parametrize(
    ("terms", "said", "counts", "fault"),
    [
        (OwnerTerms(max_lease_ms=HOUR), "worker_killed", "max_lease", "none"),
        (OwnerTerms(max_lease_ms=HOUR), "node_died", "max_lease", "none"),
        (OwnerTerms(max_lease_ms=HOUR), "bad_contribution", "bad_contribution", "provider"),
        (OwnerTerms(), "worker_killed", "maintenance_unannounced", "provider"),
    ],
)
def test_a_worker_that_its_run_misses_after_its_notice_has_left(terms: OwnerTerms, said: str, counts: str, fault: str) -> None:
    """Its provider ends it when it has left, and the run may see that before the market hears of it."""
    scene = running(terms)
    if counts == "maintenance_unannounced":
        scene.do(SetLeaseTimes("offer-1", "p1", maintenance=("1970-01-01T01:16:40/1h",)))
    until(scene, START_MS + HOUR - NOTICE_MS)
    assert scene.live()[0]["ending"] is not None
    scene.lose(0, said)
    [ended] = scene.view()["leases"]
    assert (ended["reason"], ended["fault"]) == (counts, fault)
    replays(scene)


@pytest.mark.parametrize(
    ("terms", "counts", "fault", "lost"),
    [
        (OwnerTerms(max_lease_ms=HOUR, notice_ms=HOUR // 4), "max_lease", "none", 0),
        (OwnerTerms(notice_ms=HOUR // 4), "maintenance_unannounced", "provider", 1),
        (OwnerTerms(max_lease_ms=2 * HOUR, notice_ms=HOUR // 4), "network_cut", "provider", 1),
    ],
)
def test_who_falls_silent_while_its_notice_runs_has_left(terms: OwnerTerms, counts: str, fault: str, lost: int) -> None:
    """As if its run had missed it: the notice is a quarter of an hour, and nobody is heard of for less than a minute."""
    scene = running(terms)
    if counts == "maintenance_unannounced":
        scene.do(SetLeaseTimes("offer-1", "p1", maintenance=("1970-01-01T01:16:40/1h",)))
    until(scene, START_MS + 3 * HOUR // 4)
    scene.round(1, {0: 20_000})
    assert (scene.live()[0]["ending"] is None) is (counts == "network_cut")
    for _ in range(2):
        scene.wait(30_001, silent=("offer-1",))
    scene.checkpoint(1)
    [ended] = scene.view()["leases"]
    assert (ended["state"], ended["reason"], ended["fault"], ended["charged_ms"]) == ("ended", counts, fault, 20_000)
    assert ended["ended_ms"] < START_MS + HOUR - MINUTE
    record = scene.exchange.offer("offer-1")
    assert record is not None
    assert record["record"]["leases_lost"] == lost
    replays(scene)


def test_who_does_not_leave_is_ended_some_seconds_after() -> None:
    scene = running(OwnerTerms(maintenance=(WINDOW,)))
    until(scene, BEGIN_MS - NOTICE_MS)
    scene.wait(NOTICE_MS + 9_999)
    assert scene.live()
    scene.wait(1)
    assert scene.view()["leases"][0]["reason"] == "maintenance"
    replays(scene)


def test_a_lease_that_was_never_begun_ends_without_notice() -> None:
    scene = Scene()
    listed(scene, terms=OwnerTerms(max_lease_ms=61_000, notice_ms=60_000))
    job(scene, movable=True)
    scene.clear()
    scene.wait(1_000)
    [lease] = scene.view()["leases"]
    assert (lease["state"], lease["reason"], lease["charged_ms"]) == ("ended", "max_lease", 0)
    replays(scene)


def test_a_window_that_is_set_under_a_running_lease_is_its_providers_fault() -> None:
    scene = running(OwnerTerms())
    scene.round(1, {0: 20_000})
    answer = scene.do(SetLeaseTimes("offer-1", "p1", maintenance=(WINDOW,)))
    assert answer["maintenance_next"] == {"begin_ms": BEGIN_MS, "end_ms": BEGIN_MS + HOUR}
    until(scene, BEGIN_MS - NOTICE_MS)
    assert noticed(scene) == ["maintenance_unannounced"]
    scene.do(EndLease("lease-000001", 1, "maintenance_unannounced", "", "p1"))
    [lease] = scene.view()["leases"]
    assert (lease["reason"], lease["fault"]) == ("maintenance_unannounced", "provider")
    found = scene.exchange.offer("offer-1")
    assert found is not None
    assert found["record"]["leases_lost"] == 1
    replays(scene)


@pytest.mark.parametrize("meanwhile", [(), ("1970-01-04T02:00/1h",)])
def test_a_window_that_was_taken_back_or_put_off_is_no_way_out_that_was_announced(meanwhile: tuple[str, ...]) -> None:
    scene = running(OwnerTerms(maintenance=(WINDOW,)))
    scene.do(SetLeaseTimes("offer-1", "p1", maintenance=meanwhile))
    until(scene, 5 * HOUR)
    assert noticed(scene) == []
    scene.do(SetLeaseTimes("offer-1", "p1", maintenance=("1970-01-01T06:00/1h",)))
    until(scene, 6 * HOUR - NOTICE_MS)
    assert noticed(scene) == ["maintenance_unannounced"]
    replays(scene)


def test_a_window_that_is_put_off_was_announced_and_one_that_is_taken_back_ends_nobody() -> None:
    scene = running(OwnerTerms(maintenance=(WINDOW,)))
    scene.do(SetLeaseTimes("offer-1", "p1", maintenance=("1970-01-01T03:00/1h",)))
    until(scene, 3 * HOUR - NOTICE_MS)
    assert noticed(scene) == ["maintenance"]
    other = running(OwnerTerms(maintenance=(WINDOW,)))
    other.do(SetLeaseTimes("offer-1", "p1", maintenance=()))
    until(other, BEGIN_MS + HOUR)
    assert not noticed(other)
    assert other.live()
    replays(scene)
    replays(other)


def test_nobody_but_the_market_says_that_a_leases_time_is_over() -> None:
    for reason in ("max_lease", "maintenance", "maintenance_unannounced"):
        scene = running(OwnerTerms(max_lease_ms=HOUR))
        scene.do(EndLease("lease-000001", 1, reason, "", "p1"))
        assert scene.view()["leases"][0]["reason"] == "worker_lost"


def test_lease_times_are_those_of_the_grant() -> None:
    scene = running(OwnerTerms(max_lease_ms=2 * HOUR))
    scene.do(SetLeaseTimes("offer-1", "p1", max_lease_ms=HOUR))
    until(scene, START_MS + 2 * HOUR - NOTICE_MS - 1)
    assert not noticed(scene)
    scene.wait(1)
    assert noticed(scene) == ["max_lease"]


def test_a_command_that_outlasted_a_lease_unsaved_takes_no_machine_that_lets_no_longer() -> None:
    scene = Scene()
    listed(scene, terms=OwnerTerms(max_lease_ms=HOUR))
    scene.do(SubmitJob("job-1", command_spec(timeout_ms=HOUR), "ann"))
    assert matched(scene)
    scene.start_all()
    until(scene, START_MS + HOUR)
    scene.do(EndLease("lease-000001", 1, "max_lease", "", "p1"))
    assert not matched(scene)
    assert why(scene)[0] == "max_lease"
    listed(scene, "offer-2", "p2", terms=OwnerTerms(max_lease_ms=HOUR + MINUTE))
    assert matched(scene)
    assert scene.live()[0]["offer"] == "offer-2"
    replays(scene)


def test_hosts_and_workers_know_every_notice_that_the_market_gives() -> None:
    assert set(TOLD) == NOTICED
    assert NOTICED < LEAVING
    assert TIMED_OUT < NOTICED


# what is said of an offer


def test_an_offer_comes_back_by_itself_and_says_which_window_is_next() -> None:
    scene = Scene()
    listed(scene, terms=OwnerTerms(maintenance=("02:00-03:00 thu", "04:00-05:00 thu")))  # the first day is a Thursday
    until(scene, BEGIN_MS)
    found = scene.exchange.offer("offer-1")
    assert found is not None
    assert (found["state"], found["maintenance_next"]) == ("maintenance", {"begin_ms": BEGIN_MS, "end_ms": BEGIN_MS + HOUR})
    job(scene, usd=0.45)
    assert not matched(scene)
    assert why(scene)[0] == "maintenance"
    until(scene, BEGIN_MS + HOUR - 1)
    assert not scene.exchange.dirty
    scene.wait(1)
    assert scene.exchange.dirty, "somebody who waits could use it again"
    assert matched(scene)
    found = scene.exchange.offer("offer-1")
    assert found is not None
    assert (found["state"], found["maintenance_next"]) == ("open", {"begin_ms": 4 * HOUR, "end_ms": 5 * HOUR})
    replays(scene)


def test_silence_in_a_window_is_no_silence() -> None:
    def record(terms: OwnerTerms) -> int:
        scene = Scene()
        listed(scene, terms=terms)
        until(scene, BEGIN_MS + MINUTE)
        scene.now_ms += MINUTE
        scene.do(Tick())
        found = scene.exchange.offer("offer-1")
        assert found is not None
        assert found["state"] == "offline"
        until(scene, BEGIN_MS + HOUR)
        scene.do(Heard("offer-1", "p1"))
        replays(scene)
        silences: int = scene.exchange.offer("offer-1")["record"]["silences"]  # type: ignore[index]
        return silences

    assert record(OwnerTerms()) == 1
    assert record(OwnerTerms(maintenance=(WINDOW,))) == 0


def test_what_was_said_by_hand_outlasts_a_start_with_the_same_words_and_gives_way_to_others() -> None:
    scene = Scene()
    listed(scene, terms=OwnerTerms(max_lease_ms=8 * HOUR))
    scene.do(SetLeaseTimes("offer-1", "p1", min_lease_ms=MINUTE, maintenance=(WINDOW,)))
    scene.do(ChangeOffer("offer-1", "drain", "p1"))
    listed(scene, terms=OwnerTerms(max_lease_ms=8 * HOUR))
    found = scene.exchange.offer("offer-1")
    assert found is not None
    assert (found["min_lease_ms"], found["max_lease_ms"], found["maintenance"]) == (MINUTE, 8 * HOUR, [WINDOW])
    assert found["maintenance_next"]["begin_ms"] == BEGIN_MS
    replays(scene)
    scene.do(ChangeOffer("offer-1", "withdraw", "p1"))
    listed(scene, terms=OwnerTerms(max_lease_ms=9 * HOUR))
    found = scene.exchange.offer("offer-1")
    assert found is not None
    assert (found["min_lease_ms"], found["maintenance"], found["maintenance_next"]) == (None, [], None)
    replays(scene)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"min_lease_ms": 0}, "min_lease_ms"),
        ({"max_lease_ms": NOTICE_MS + 999}, "max_lease_ms"),
        ({"min_lease_ms": 2 * HOUR, "max_lease_ms": HOUR}, "min_lease_ms"),
        ({"maintenance": ("sunday",)}, "maintenance"),
        ({"maintenance": ("00:00-24:00",)}, "maintenance"),
    ],
)
def test_times_that_cannot_be(changes: dict[str, Any], field: str) -> None:
    scene = Scene()
    made = scene.make_offer("o", "p1", 0.5, 1)
    refusal = scene.refused(replace(made, terms=OwnerTerms(**changes)))
    assert (refusal.code, refusal.field) == ("invalid", field)
    scene.do(made)
    refusal = scene.refused(SetLeaseTimes("o", "p1", **changes))
    assert (refusal.code, refusal.field) == ("invalid", field)
    assert scene.refused(SetLeaseTimes("o", "p2", maintenance=())).code == "unknown_offer"
    assert not scene.say(SetLeaseTimes("o", "op", max_lease_ms=None)).created


def test_a_window_that_is_over_is_not_set_and_one_that_was_set_stays() -> None:
    scene = Scene()
    listed(scene, terms=OwnerTerms(maintenance=(past := "1970-01-01T00:00/10m",)))
    refusal = scene.refused(SetLeaseTimes("offer-1", "p1", maintenance=(WINDOW, again := "1970-01-01T00:05/10m")))
    assert (refusal.field, refusal.message) == ("maintenance", f"maintenance: {again!r} is over")
    scene.do(SetLeaseTimes("offer-1", "p1", maintenance=(past, WINDOW)))
    found = scene.exchange.offer("offer-1")
    assert found is not None
    assert (found["maintenance"], found["maintenance_next"]["begin_ms"]) == ([past, WINDOW], BEGIN_MS)
    replays(scene)


def test_terms_are_read_as_they_are_written() -> None:
    terms = OwnerTerms(min_lease_ms=1, max_lease_ms=2, maintenance=(WINDOW, "02:00-06:00 sun"))
    assert OwnerTerms.of_json(terms.as_json()) == terms
    assert terms.as_json() == {"min_lease_ms": 1, "max_lease_ms": 2, "maintenance": [WINDOW, "02:00-06:00 sun"]}
