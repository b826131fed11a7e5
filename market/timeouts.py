"""What happens because nothing happened: one pass over everything that has a timer, of offers over those whose time has come.

After a restart no timer counts from before `awake_ms`, since nobody could have been heard meanwhile.
"""

from __future__ import annotations

from market import outbidding
from market.agenda import Agenda
from market.commands import SYSTEM, Tick
from market.credits import expire
from market.disputes import expire_disputes
from market.faults import BY_REASON, cause_of_notice
from market.granting import end_lease
from market.heartbeats import count_heartbeats, counts_at_ms, note_heard
from market.holding import release_what_is_over
from market.jobs import finish, pause
from market.lease_times import end_what_is_due, follow_windows
from market.leases import LeaseState
from market.measuring import ask_measurements
from market.offering import follow_schedule
from market.outcomes import Answer, Refusal, forbidden
from market.periods import DAY
from market.spending import watch_limits
from market.state import OfferRecord
from market.turn import Turn


def tick(turn: Turn, command: Tick) -> Answer | Refusal:
    """Let the time since the last tick pass."""
    if command.by != SYSTEM:
        return forbidden("only the market's own process lets time pass")
    agenda = _agenda(turn)
    names = agenda.begin(turn.now_ms)
    offers = [turn.state.offers[name] for name in names]
    release_what_is_over(turn, offers)
    for offer in offers:
        follow_schedule(turn, offer)
        follow_windows(turn, offer)
    _next_day(turn)
    expire(turn)
    expire_disputes(turn)
    count_heartbeats(turn, offers)
    _silent_offers(turn, agenda, names)
    if command.random:  # without one nobody is asked to measure: a simulation, a test
        ask_measurements(turn, command.random, [turn.state.offers[name] for name in agenda.in_order(agenda.unmeasured)])
        agenda.unmeasured.clear()
    for offer in offers:
        agenda.others.put(offer.id, _due_ms(turn, agenda, offer))
    _silent_leases(turn)
    end_what_is_due(turn)
    _jobs(turn, turn.volatile.ticked_ms)
    outbidding.watch(turn)
    turn.volatile.ticked_ms = turn.now_ms
    return Answer({})


def _next_day(turn: Turn) -> None:
    """Owners who let so many hours a day let them again."""
    if DAY.number_of(turn.volatile.ticked_ms) == DAY.number_of(turn.now_ms):
        return
    if any(offer.terms.max_unit_ms_per_customer_day is not None for offer in turn.state.offers.values()):
        turn.volatile.dirty = True


def _silent_for_ms(turn: Turn, since_ms: int) -> int:
    return turn.now_ms - max(since_ms, turn.volatile.awake_ms or 0)


def _agenda(turn: Turn) -> Agenda:
    if turn.volatile.agenda is None or not turn.volatile.agenda.of(turn.state):
        turn.volatile.agenda = Agenda(turn.state)
    return turn.volatile.agenda


def _due_ms(turn: Turn, agenda: Agenda, offer: OfferRecord) -> int | None:
    """When a tick must look at the offer again if nothing happens to it; it may be that nothing is to be done then."""
    at_ms = turn.volatile.measure_ms.get(offer.id, 0) if offer.asked is None else offer.asked["until_ms"] + 1
    times = [
        offer.held["until_ms"],
        agenda.price_change_ms(offer, turn.now_ms),
        None if offer.window is None or offer.state == "withdrawn" else offer.window.end_ms,
        max(turn.now_ms, counts_at_ms(turn, offer)) if offer.state == "open" else None,
        at_ms if at_ms > turn.now_ms else None,  # else it is not idle; it is looked at when something happens to it
    ]
    return min([ms for ms in times if ms is not None], default=None)


def _silent_offers(turn: Turn, agenda: Agenda, stirred: list[str]) -> None:
    timeout_ms = turn.settings.offer_timeout_ms
    for name in agenda.in_order([*stirred, *agenda.silence.take(turn.now_ms)]):
        offer = turn.state.offers[name]
        if offer.state not in ("open", "draining"):
            continue
        heard_ms = max(offer.placed_ms, turn.volatile.heard_ms.get(offer.id, 0))
        if (silent_ms := _silent_for_ms(turn, heard_ms)) <= timeout_ms:
            agenda.silence.put(name, turn.now_ms - silent_ms + timeout_ms + 1)
            continue
        note_heard(turn, offer)
        turn.set_offer(offer, "offline", offer.price_nanos_per_gpu_hour, "not_heard")
        for granted in list(offer.live):
            lease = turn.state.leases[granted]
            if lease.state is LeaseState.GRANTED:
                end_lease(turn, lease, "offer_offline", "its provider stopped asking before the start")


def _silent_leases(turn: Turn) -> None:
    for name in list(turn.state.live_leases):
        lease = turn.state.leases[name]
        if lease.state is LeaseState.GRANTED:
            if _silent_for_ms(turn, lease.granted_ms) > turn.settings.start_timeout_ms:
                end_lease(turn, lease, "start_timeout", "")
        elif turn.state.offers[lease.offer].state == "offline":
            read_ms = max(lease.started_ms or 0, turn.volatile.reading_ms.get(lease.id, 0))
            if _silent_for_ms(turn, read_ms) > turn.settings.silence_timeout_ms:
                cause = cause_of_notice(lease.ending, "network_cut") or BY_REASON["network_cut"]
                end_lease(turn, lease, cause.reason, "neither its provider nor its run is heard")


def _jobs(turn: Turn, before_ms: int) -> None:
    settings = turn.settings
    for name in list(turn.state.open_jobs):
        job = turn.state.jobs[name]
        deadline_ms = job.spec["limits"]["deadline_ms"]
        if deadline_ms is not None and turn.now_ms > job.submitted_ms + deadline_ms:
            finish(turn, job, "failed", "deadline", "the deadline has passed")
            continue
        watch_limits(turn, job)
        if job.state == "running" and job.wanted == "pause":
            if _silent_for_ms(turn, job.wanted_ms) > settings.pause_timeout_ms:
                pause(turn, job, "pause_timeout", "the run did not confirm; its last durable round counts")
        elif any(before_ms < lost.until_ms(settings) <= turn.now_ms for lost in job.avoided.values()):
            turn.volatile.dirty = True
