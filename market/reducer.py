"""Events become state: the only code that changes `State`, used when deciding and when replaying, so both agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from market.avoidance import after_loss
from market.book_events import BOOK_HANDLERS
from market.credit_events import CREDIT_HANDLERS, note_given, note_hold, note_spent
from market.dispute_events import DISPUTE_HANDLERS
from market.elastic import may_be_outbid
from market.events import EVALUATED_BEFORE, MEMBER_BEFORE, ROUND_BEFORE, Event
from market.faults import NOTICED
from market.fruitless import deaths_in_a_row
from market.learning import learn
from market.leases import Lease, LeaseState
from market.member_events import MEMBER_HANDLERS
from market.offer_events import OFFER_HANDLERS
from market.pricing import budget_percent
from market.promise_events import PROMISE_HANDLERS
from market.restarts import note_joined
from market.state import FINAL_STATES, Departure, Job, OfferRecord, State, Trade
from market.team_events import TEAM_HANDLERS, note_use
from market.worth import DueRule
from storage.ledger import Status, Transfer
from storage.meter_readings import COUNTS
from trainers.attempts import KILLS


def apply(state: State, event: Event, at_ms: int) -> None:
    """Change `state` by one event decided at `at_ms`. An event that does not fit the state is a bug, or a bad journal."""
    state.now_ms = max(state.now_ms, at_ms)
    state.position += 1
    _HANDLERS[event["type"]](state, event, at_ms)


def book(state: State, transfer: Transfer, at_ms: int) -> None:
    """What `apply` does for the event of a transfer without a job that `Ledger.check` has just found to be CREATED."""
    state.now_ms = max(state.now_ms, at_ms)
    state.position += 1
    state.ledger.book_one(transfer, at_ms)


def book_new(state: State, transfer: Transfer, at_ms: int, floor_nanos: int) -> bool:
    """The same in one with the check: see `Ledger.book_new`."""
    if not state.ledger.book_new(transfer, at_ms, floor_nanos):
        return False
    state.now_ms = max(state.now_ms, at_ms)
    state.position += 1
    return True


def _market_opened(state: State, event: Event, at_ms: int) -> None:
    state.market_id = event["market_id"]
    state.fee_ppm = event["fee_ppm"]
    state.version = event["version"]


def _journal_format(state: State, event: Event, at_ms: int) -> None:
    state.journal_format = event["format"]


def _market_stopped(state: State, event: Event, at_ms: int) -> None:
    state.stopped = True


def _market_reopened(state: State, event: Event, at_ms: int) -> None:
    state.stopped = False


def book_event(state: State, transfer: Transfer, event: Event, at_ms: int) -> None:
    """What `apply` does for the event of this transfer."""
    state.now_ms = max(state.now_ms, at_ms)
    state.position += 1
    _book(state, transfer, event, at_ms)


def _transfer(state: State, event: Event, at_ms: int) -> None:
    transfer = Transfer(event["id"], event["kind"], event["debit"], event["credit"], event["amount_nanos"], event["job"], event["lease"])
    _book(state, transfer, event, at_ms)


def _book(state: State, transfer: Transfer, event: Event, at_ms: int) -> None:
    status = state.ledger.apply(transfer, at_ms)
    assert status is Status.CREATED, f"{transfer}: {status}"
    if transfer.kind == "hold":
        note_hold(state, event)
    elif transfer.kind in ("release", "award", "refund", "correction"):
        note_given(state, event)


def _job_submitted(state: State, event: Event, at_ms: int) -> None:
    job = Job(
        id=event["job"],
        customer=event["customer"],
        name=event["name"],
        spec=event["spec"],
        spec_digest=event["spec_digest"],
        budget_nanos=event["budget_nanos"],
        tags=dict(event["tags"]),
        submitted_ms=at_ms,
        waits_since_ms=at_ms,
    )
    state.jobs[job.id] = job
    state.jobs_of.setdefault(job.customer, {})[job.id] = None
    state.open_jobs[job.id] = None
    if may_be_outbid(job.spec):
        state.flexible_jobs[job.id] = None
    state.open_of[job.customer] = state.open_of.get(job.customer, 0) + 1


def _job_estimated(state: State, event: Event, at_ms: int) -> None:
    state.jobs[event["job"]].estimate = {name: value for name, value in event.items() if name not in ("type", "job")}


def _job_state(state: State, event: Event, at_ms: int) -> None:
    job = state.jobs[event["job"]]
    if "running" in (job.state, event["state"]):
        state.runs_version += 1
    if event["state"] == "running":
        job.attempt += 1
        job.running_since_ms = at_ms
        job.unmatched = None
    if event["state"] == "pending":
        job.waits_since_ms = at_ms
    job.state, job.reason, job.detail = event["state"], event["reason"], event["detail"]
    job.version += 1
    if job.state in FINAL_STATES:
        assert not job.live, f"{job.id} is {job.state} with living leases"
        if job.reason == KILLS:  # which its providers could not help
            for lease in deaths_in_a_row(job, state.leases_of(job)):
                if not lease.own:
                    state.providers[lease.provider].forgive(lease.ended_ms or at_ms, at_ms)
                state.touch_provider(lease.provider)
        job.ended_ms = at_ms
        if not job.leases:
            workers, limit = job.spec["workers"], job.spec["limits"]["max_price_nanos_per_gpu_hour"]
            wanted = (tuple(workers["gpu"]), tuple(workers["region"]), float(workers["vram_gib"]), limit)
            state.departures.append(Departure(at_ms, max(0, at_ms - job.waits_since_ms), *wanted))
        del state.open_jobs[job.id]
        state.flexible_jobs.pop(job.id, None)
        state.open_of[job.customer] -= 1
    if job.state == "done":
        learn(state, job)


def _job_wanted(state: State, event: Event, at_ms: int) -> None:
    job = state.jobs[event["job"]]
    job.wanted, job.wanted_reason, job.wanted_ms = event["wanted"], event["reason"], at_ms
    job.topped_up = False
    job.version += 1


def _job_budget(state: State, event: Event, at_ms: int) -> None:
    job = state.jobs[event["job"]]
    job.budget_nanos = event["budget_nanos"]
    # What is behind under the new budget was told; what is ahead again is told again.
    job.alerted = min(job.alerted, budget_percent(job.billed_nanos, job.budget_nanos))
    job.topped_up = job.wanted == "pause"
    job.version += 1


def _budget_reached(state: State, event: Event, at_ms: int) -> None:
    state.jobs[event["job"]].alerted = event["percent"]


def _job_retuned(state: State, event: Event, at_ms: int) -> None:
    job = state.jobs[event["job"]]
    assert event["tuning"] == len(job.tunings) + 1
    names = ("tuning", "id", "strategy", "request_digest", "after_round")
    job.tunings.append({name: event[name] for name in names} | {"asked_ms": at_ms})
    job.version += 1


def _lease_granted(state: State, event: Event, at_ms: int) -> None:
    lease = Lease(
        id=event["lease"],
        epoch=event["epoch"],
        slot=event["slot"],
        job=event["job"],
        customer=event["customer"],
        offer=event["offer"],
        provider=event["provider"],
        gpu=event["gpu"],
        gpus=event["gpus"],
        price_nanos_per_gpu_hour=event["price_nanos_per_gpu_hour"],
        granted_ms=at_ms,
        replaces=event["replaces"],
    )
    job, offer = state.jobs[lease.job], state.offers[lease.offer]
    _note_times(lease, offer)
    assert lease.epoch == state.last_epoch + 1
    assert lease.slot == job.next_slot
    assert lease.id not in state.leases
    state.last_epoch = lease.epoch
    state.leases[lease.id] = lease
    state.live_leases[lease.id] = None
    if not lease.own:
        waited_ms = max(0, at_ms - job.waits_since_ms)
        state.trades.append(Trade(at_ms, lease.gpu, offer.region, lease.gpus, lease.price_nanos_per_gpu_hour, job.id, waited_ms))
    job.next_slot += 1
    job.leases.append(lease.id)
    job.live[lease.id] = None
    if lease.replaces is not None:
        job.orphans.remove(lease.replaces)
    job.version += 1
    job.unmatched = None
    offer.live[lease.id] = None
    offer.gpus_used += lease.gpus
    state.touched[offer.id] = None
    offer.version += 1
    if state.teams:
        lease.team = state.members[lease.customer].team
        note_use(state, lease.team, lease.gpus, at_ms)
    assert offer.gpus_used <= offer.gpus, f"{offer.id} is sold twice"


def _note_times(lease: Lease, offer: OfferRecord) -> None:
    """What its customer can know of how long it may last."""
    most = offer.terms.max_lease_ms
    lease.longest_until_ms = None if most is None or lease.customer in offer.terms.own else lease.granted_ms + most
    lease.window_ms = None if offer.window is None else offer.window.begin_ms


def _lease_started(state: State, event: Event, at_ms: int) -> None:
    lease = state.leases[event["lease"]]
    if lease.state is LeaseState.GRANTED:
        lease.move(LeaseState.ACTIVE)
        lease.started_ms = at_ms
    lease.worker, lease.pid, lease.node = event["worker"], event["pid"], event["node"]
    lease.meter_key = event.get("meter_key", "")
    state.jobs[lease.job].version += 1
    state.offers[lease.offer].version += 1


def _lease_noticed(state: State, event: Event, at_ms: int) -> None:
    lease = state.leases[event["lease"]]
    said = {name: event[name] for name in ("reason", "notice_ms")}
    lease.ending = {**said, "ends_ms": at_ms + event["notice_ms"]}
    state.jobs[lease.job].version += 1
    state.offers[lease.offer].version += 1


def _lease_metered(state: State, event: Event, at_ms: int) -> None:
    lease = state.leases[event["lease"]]
    assert event["leased_ms"] >= lease.metered_ms
    lease.metered_ms, lease.trained_ms = event["leased_ms"], event["trained_ms"]
    lease.rounds, lease.tokens, lease.bytes = event["rounds"], event["tokens"], event["bytes"]
    lease.claimed_ms = event["claimed_ms"] if "claimed_ms" in event else event["leased_ms"]


def _meter_signed(state: State, event: Event, at_ms: int) -> None:
    state.leases[event["lease"]].signed = {name: event[name] for name in (*COUNTS, "run_ms", "signature")}


def _round_signed(state: State, event: Event, at_ms: int) -> None:
    """The workers' signatures decide nothing: they are for whoever checks the log."""


def _lease_charged(state: State, event: Event, at_ms: int) -> None:
    lease = state.leases[event["lease"]]
    assert event["from_ms"] == lease.charged_ms
    assert event["to_ms"] >= lease.charged_ms
    lease.charged_ms = event["to_ms"]
    lease.charged_nanos += event["amount_nanos"]
    lease.fee_nanos += event["fee_nanos"]
    lease.committed = [(number, ms) for number, ms in lease.committed if ms > lease.charged_ms]
    state.jobs[lease.job].billed_nanos += event["amount_nanos"]
    note_spent(state, lease.customer, event["amount_nanos"], at_ms)
    offer = state.offers[lease.offer]
    offer.earned_nanos += event["amount_nanos"] - event["fee_nanos"]
    offer.version += 1


def _lease_ended(state: State, event: Event, at_ms: int) -> None:
    lease = state.leases[event["lease"]]
    lease.move(LeaseState.ENDED)
    lease.ended_ms = at_ms
    lease.reason, lease.fault, lease.detail = event["reason"], event["fault"], event["detail"]
    del state.live_leases[lease.id]
    job, offer = state.jobs[lease.job], state.offers[lease.offer]
    if len(job.live) == job.spec["workers"]["min"]:
        job.waits_since_ms = at_ms  # from now on it needs somebody again
    del job.live[lease.id]
    del offer.live[lease.id]
    offer.note_let(lease, at_ms)
    offer.gpus_used -= lease.gpus
    if lease.team is not None:
        note_use(state, lease.team, -lease.gpus, at_ms)
    assert offer.gpus_used >= 0
    job.version += 1
    offer.version += 1
    state.touched[offer.id] = None
    if not lease.own:  # nobody makes himself a name with jobs of his own
        provider = state.providers[lease.provider]
        before, faulted, began = provider.reliability, lease.fault == "provider", lease.started_ms is not None
        provider.lease_ended(at_ms, faulted=faulted, began=began)
        if provider.reliability != before:
            state.touch_provider(lease.provider)
    if lease.reason in NOTICED or lease.fault == "provider":
        job.orphans.append(lease.id)
    if lease.fault == "provider":
        offer.lost_ms = at_ms
        state.lost[offer.id] = None
        job.avoided[offer.id] = after_loss(job.avoided.get(offer.id), at_ms, at_ms - lease.granted_ms)


def _round_committed(state: State, event: Event, at_ms: int) -> None:
    job = state.jobs[event["job"]]
    number = event["round"]
    if number <= job.rounds_committed:
        _forget_rounds(state, job, number)
    for member in event["members"]:
        lease = state.leases[member["lease"]]
        if not lease.took_part:
            note_joined(state, job, lease, at_ms)
        lease.committed.append((number, member["leased_ms"]))
        lease.took_part.add(number)
    said = {name: value for name, value in event.items() if name not in ("type", "members")}
    members = [{**MEMBER_BEFORE, **member} for member in event["members"]]
    job.rounds[number] = {**ROUND_BEFORE, **said, "members": members, "at_ms": at_ms}
    job.rounds_committed, job.step = number, event["step"]
    job.last_round_ms, job.last_round_at_ms = event["duration_ms"], at_ms


def _forget_rounds(state: State, job: Job, first: int) -> None:
    """Rounds from `first` on were lost with every machine that held them: their work is owed no longer."""
    for number in range(first, job.rounds_committed + 1):
        job.rounds.pop(number, None)
        job.losses.pop(number, None)
        job.metrics.pop(number, None)
    for lease in state.leases_of(job):
        lease.committed = [(number, ms) for number, ms in lease.committed if number < first]


def _round_evaluated(state: State, event: Event, at_ms: int) -> None:
    job, said = state.jobs[event["job"]], {**EVALUATED_BEFORE, **event}
    job.losses[said["round"]], job.metrics[said["round"]] = said["loss"], said["metrics"]


def _checkpoint_durable(state: State, event: Event, at_ms: int) -> None:
    job = state.jobs[event["job"]]
    job.durable = {name: event[name] for name in ("round", "step", "manifest", "bytes", "stall_ms")}


def _attempt_ended(state: State, event: Event, at_ms: int) -> None:
    job = state.jobs[event["job"]]
    assert event["number"] == len(job.attempts) + 1
    job.attempts.append(
        {name: value for name, value in event.items() if name not in ("type", "job")} | {"at_ms": at_ms}
    )
    job.version += 1


def _files_saved(state: State, event: Event, at_ms: int) -> None:
    saved = {name: event[name] for name in ("number", "lease", "manifest", "bytes")}
    state.leases[event["lease"]].saved_ms = state.leases[event["lease"]].metered_ms
    state.jobs[event["job"]].saved = {**saved, "at_ms": at_ms}


def _provenance(state: State, event: Event, at_ms: int) -> None:
    segment = {"segment": event["segment"], "statement": event["statement"], "digest": event["digest"]}
    job = state.jobs[event["job"]]
    job.segments.append(segment)
    for work in event["statement"]["predicate"]["work"]:
        leased_ms, trained_ms = job.proved_ms.get(work["lease"], (0, 0))
        job.proved_ms[work["lease"]] = (leased_ms + work["leased_ms"], trained_ms + work["trained_ms"])


def _job_result(state: State, event: Event, at_ms: int) -> None:
    state.jobs[event["job"]].result = event["manifest"]


def _price_rule_set(state: State, event: Event, at_ms: int) -> None:
    state.price_rule = event["rule"]


def _due_rule_set(state: State, event: Event, at_ms: int) -> None:
    state.due_rule = DueRule(event["patience"], event["most_ms"])


def _clearing(state: State, event: Event, at_ms: int) -> None:
    state.clearings = event.get("number", state.clearings + 1)
    for one in event["unmatched"]:
        job = state.jobs.get(one["job"])
        if job is not None:
            job.unmatched = one


_HANDLERS: Final[Mapping[str, Callable[[State, Event, int], Any]]] = {
    "market_opened": _market_opened,
    "journal_format": _journal_format,
    "market_stopped": _market_stopped,
    "market_reopened": _market_reopened,
    "transfer": _transfer,
    "job_submitted": _job_submitted,
    "job_estimated": _job_estimated,
    "job_state": _job_state,
    "job_wanted": _job_wanted,
    "job_budget": _job_budget,
    "budget_reached": _budget_reached,
    "job_retuned": _job_retuned,
    "lease_granted": _lease_granted,
    "lease_started": _lease_started,
    "lease_noticed": _lease_noticed,
    "lease_metered": _lease_metered,
    "meter_signed": _meter_signed,
    "lease_charged": _lease_charged,
    "lease_ended": _lease_ended,
    "round_committed": _round_committed,
    "round_signed": _round_signed,
    "round_evaluated": _round_evaluated,
    "checkpoint_durable": _checkpoint_durable,
    "attempt_ended": _attempt_ended,
    "files_saved": _files_saved,
    "provenance": _provenance,
    "job_result": _job_result,
    "price_rule_set": _price_rule_set,
    "due_rule_set": _due_rule_set,
    "clearing": _clearing,
    **OFFER_HANDLERS,
    **MEMBER_HANDLERS,
    **TEAM_HANDLERS,
    **CREDIT_HANDLERS,
    **BOOK_HANDLERS,
    **PROMISE_HANDLERS,
    **DISPUTE_HANDLERS,
}
