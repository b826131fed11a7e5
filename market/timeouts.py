"""What happens because nothing happened: one pass over everything that has a timer.

After a restart no timer counts from before `awake_ms`, since nobody could have been heard meanwhile.
"""

from __future__ import annotations

from market import outbidding
from market.commands import SYSTEM, Tick
from market.credits import expire
from market.disputes import expire_disputes
from market.granting import end_lease
from market.heartbeats import count_heartbeats, note_heard
from market.holding import release_what_is_over
from market.jobs import finish, pause
from market.lease_times import end_what_is_due, follow_windows
from market.leases import LeaseState
from market.measuring import ask_measurements
from market.offering import follow_schedule
from market.outcomes import Answer, Refusal, forbidden
from market.periods import DAY
from market.spending import watch_limits
from market.turn import Turn


def tick(turn: Turn, command: Tick) -> Answer | Refusal:
    """Let the time since the last tick pass."""
    if command.by != SYSTEM:
        return forbidden("only the market's own process lets time pass")
    release_what_is_over(turn)
    for offer in list(turn.state.offers.values()):
        follow_schedule(turn, offer)
        follow_windows(turn, offer)
    _next_day(turn)
    expire(turn)
    expire_disputes(turn)
    count_heartbeats(turn)
    _silent_offers(turn)
    ask_measurements(turn, command.random)
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


def _silent_offers(turn: Turn) -> None:
    for offer in list(turn.state.offers.values()):
        if offer.state not in ("open", "draining"):
            continue
        heard_ms = max(offer.placed_ms, turn.volatile.heard_ms.get(offer.id, 0))
        if _silent_for_ms(turn, heard_ms) <= turn.settings.offer_timeout_ms:
            continue
        note_heard(turn, offer)
        turn.set_offer(offer, "offline", offer.price_nanos_per_gpu_hour, "not_heard")
        for name in list(offer.live):
            lease = turn.state.leases[name]
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
                end_lease(turn, lease, "network_cut", "neither its provider nor its run is heard")


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
