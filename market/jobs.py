"""The life of a job as its customer and its run tell it: submit, more budget, cancel, halt; market down and up."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from market import credits
from market.attempts import succeeded
from market.checking import check_size, invalid, is_digest, is_int, is_name, option_refusal, sized_bytes
from market.command_checking import check_sized_spec
from market.commands import AddBudget, CancelJob, HaltJob, ReopenMarket, RetuneJob, StopMarket, SubmitJob
from market.disputes import held_in_escrow
from market.estimates import estimate_of, may_be_estimated, seats_of_any_time
from market.faults import cause_of_halt
from market.feasibility import cheapest_minute_nanos, never_fits
from market.granting import end_lease
from market.metering import report_answer
from market.offering import closing
from market.order_making import bid_of_spec, book_of
from market.outcomes import Answer, Json, Refusal, conflict, forbidden
from market.secret_keeping import check_secrets
from market.spending import check_limits
from market.state import Job
from market.teams import check_gang_in_quota
from market.tuning import MAX_TUNINGS, retuned
from market.turn import Turn
from market.views import job_view
from storage.canonical import digest_of
from storage.units import format_usd
from trainers.options import OptionError, strategy_options

CUSTOMERS: Final = ("customer", "operator")


def submit_job(turn: Turn, command: SubmitJob) -> Answer | Refusal:
    """Check everything, hold the whole budget, and place the bid."""
    refusal = turn.require(command.by, CUSTOMERS)
    if refusal is not None:
        return refusal
    if not is_name(command.id):
        return invalid("id", command.id, "1 to 64 letters, digits, dots, dashes")
    spec = dict(command.spec)
    encoded = sized_bytes("spec", spec, turn.settings.max_spec_bytes)
    if isinstance(encoded, Refusal):
        return encoded
    digest = sha256(encoded).hexdigest()
    known = turn.state.jobs.get(command.id)
    if known is not None:
        if (known.customer, known.spec_digest) == (command.by, digest):
            return _shown(turn, known, created=False)
        return conflict("job", command.id)
    refusal = check_sized_spec(spec, turn.settings) or foreseen_refusal(turn, command.by, spec)
    if refusal is not None:
        return refusal
    budget = spec["limits"]["budget_nanos"]
    fields = {"job": command.id, "customer": command.by, "name": spec["name"], "spec": spec, "budget_nanos": budget}
    turn.emit("job_submitted", fields | {"spec_digest": digest, "tags": spec["tags"]})
    job = turn.state.jobs[command.id]
    _estimate(turn, job)
    credits.hold(turn, f"hold:{job.id}", job, budget)
    return _shown(turn, job)


def _shown(turn: Turn, job: Job, *, created: bool = True) -> Answer:
    """The job as it stands now, for whoever asked."""
    return Answer(job_view(turn.state, turn.volatile, job) if turn.volatile.answers else {}, created)


def foreseen_refusal(turn: Turn, customer: str, spec: Json) -> Refusal | None:
    """What a valid spec is refused for if this customer submits it now: the plan says it before anything is uploaded."""
    return (
        (closing() if turn.state.stopped else turn.require_active(customer))
        or _check_open_jobs(turn, customer)
        or check_secrets(turn.state, customer, spec)
        or check_gang_in_quota(turn.state, customer, spec)
        or _check_feasible(turn, spec, customer)
        or _check_funds(turn, customer, spec)
    )


def _estimate(turn: Turn, job: Job) -> None:
    """Keep what a plan says of it now, to compare with what comes (market/learning.py)."""
    state = turn.state
    if not may_be_estimated(job.spec, state.experience, job.customer):
        return
    book = book_of(state, turn.volatile)
    bid = bid_of_spec(job.id, job.spec, turn.now_ms, job.customer)
    seats = seats_of_any_time(bid, book)
    measured = {offer.id: state.offers[offer.id].measured for offer in seats}
    estimate = estimate_of(job.spec, seats, measured, state.experience, job.customer)
    if estimate is not None:
        turn.emit("job_estimated", {"job": job.id, **estimate})


def _check_open_jobs(turn: Turn, customer: str) -> Refusal | None:
    own = turn.state.open_of.get(customer, 0)
    if own >= turn.settings.max_open_jobs_per_customer or len(turn.state.open_jobs) >= turn.settings.max_open_jobs:
        return Refusal(
            "too_many_jobs", "too many jobs are open", remedy="wait for one to end, or cancel it", status=429
        )
    return None


def _check_feasible(turn: Turn, spec: Json, customer: str) -> Refusal | None:
    """Refuse requirements that no listed hardware meets (unless the job says `wait`), and a budget under a minute."""
    book = book_of(turn.state, turn.volatile)
    bid = bid_of_spec("new", spec, turn.now_ms, customer)
    minute = cheapest_minute_nanos(book, bid)
    never = None if minute is not None or spec.get("wait", False) else never_fits(book, bid)
    if never is not None:
        remedy = " or ".join(never.relaxations) or _REMEDY_OF.get(never.reason, "other requirements")
        return Refusal(
            f"never_fits_{never.reason}",
            never.detail.partition("; would match with")[0],
            field=_FIELD_OF[never.reason],
            remedy=f"{remedy}; or say `wait: true` to wait for such hardware",
        )
    if minute is not None and spec["limits"]["budget_nanos"] < minute:
        return Refusal(
            "budget_too_small",
            f"the budget of {format_usd(bid.spendable_nanos)} USD is less than one minute of the cheapest gang",
            field="limits.budget_usd",
            remedy=f"at least {format_usd(minute)} USD",
        )
    return None


_FIELD_OF: Final = {
    "gpu_model": "workers.gpu",
    "vram_too_small": "workers.vram_gib",
    "region": "workers.region",
    "isolation": "workers.isolation",
    "network": "network",
    "environments": "requirements",
    "reliability": "workers.reliability",
    "share_missing": "data",
    "offer_too_small": "workers.gpus",
    "not_yours": "workers.own",
    "not_for_you": "workers",
    "customer_limit": "workers.gpus",
    "leaves_too_soon": "workers.available_hours",
}
_REMEDY_OF: Final = {"not_yours": "`torg provide --own` there names you, and `own` names its provider"}


def _check_funds(turn: Turn, customer: str, spec: Json) -> Refusal | None:
    budget, balance = spec["limits"]["budget_nanos"], credits.spendable(turn.state, customer, turn.now_ms)
    if balance < budget:
        return credits.short_of(balance, budget)
    return check_limits(turn.state, customer, budget, turn.now_ms, "limits.budget_usd")


def add_budget(turn: Turn, command: AddBudget) -> Answer | Refusal:
    """Hold more for the job; one that paused because the escrow ran out goes on, one that is pausing does so once its
    run has halted."""
    job = turn.require(command.by, CUSTOMERS) or turn.find_job(command.job, command.by)
    if isinstance(job, Refusal):
        return job
    if not is_name(command.id):
        return invalid("id", command.id, "1 to 64 letters, digits, dots, dashes")
    most = turn.settings.max_amount_nanos
    if not is_int(command.add_nanos, 1, most):
        return invalid("add_nanos", command.add_nanos, f"a whole number of nano-dollars from 1 to {most}")
    if job.spec["workers"].get("own"):
        message = f"{job.id} runs on machines of its owner alone, which cost nothing"
        return Refusal("costs_nothing", message, field="job", remedy="it needs no budget", status=409)
    mark = f"budget:{job.id}:{command.id}"
    known = job.holds.get(mark)
    if known is not None:
        same = known == command.add_nanos
        return _shown(turn, job, created=False) if same else conflict("budget", command.id)
    if not job.open:
        return Refusal("job_over", f"{job.id} is {job.state}", field="job", status=409)
    refusal = turn.require_active(command.by)
    if refusal is not None:
        return refusal
    balance = credits.spendable(turn.state, job.customer, turn.now_ms)
    if balance < command.add_nanos:
        message = f"the wallet holds {format_usd(balance)} USD"
        return Refusal("insufficient_funds", message, field="add_nanos", remedy="deposit more", status=402)
    refusal = check_limits(turn.state, job.customer, command.add_nanos, turn.now_ms, "add_nanos")
    if refusal is not None:
        return refusal
    credits.hold(turn, mark, job, command.add_nanos)
    total = job.budget_nanos + command.add_nanos
    turn.emit("job_budget", {"job": job.id, "added_nanos": command.add_nanos, "budget_nanos": total})
    # A run that has been asked to pause knows only how to pause: the job goes on when it has halted (see `pause`).
    if job.state == "paused":
        _resume_topped_up(turn, job)
    return _shown(turn, job)


def retune_job(turn: Turn, command: RetuneJob) -> Answer | Refusal:
    """Change the strategy from the next round boundary on. What is in force already is answered and changes nothing."""
    job = turn.require(command.by, CUSTOMERS) or turn.find_job(command.job, command.by)
    if isinstance(job, Refusal):
        return job
    if not is_name(command.id):
        return invalid("id", command.id, "1 to 64 letters, digits, dots, dashes")
    options = dict(command.options)
    refusal = check_size("options", options, turn.settings.max_spec_bytes)
    if refusal is not None:
        return refusal
    digest = digest_of({"strategy": command.strategy, "options": options})
    known = next((one for one in job.tunings if one["id"] == command.id), None)
    if known is not None:
        if known["request_digest"] == digest:
            return _shown(turn, job, created=False)
        return conflict("tuning", command.id)
    if job.customer != command.by:
        return forbidden(f"{job.id} is steered by {job.customer}, whose job it is")
    if not job.open:
        return Refusal("job_over", f"{job.id} is {job.state}", field="job", status=409)
    if job.command is not None:
        return Refusal("no_strategy", f"{job.id} runs a command: it has no strategy", field="job", status=409)
    if len(job.tunings) >= MAX_TUNINGS:
        return Refusal("too_many_tunings", f"{job.id} was retuned {MAX_TUNINGS} times", field="job", status=429)
    before = strategy_options(job.strategy)
    try:
        strategy = retuned(before, command.strategy, options)
    except OptionError as error:
        return option_refusal(error)
    if strategy == before:
        return _shown(turn, job, created=False)
    fields = {"job": job.id, "tuning": len(job.tunings) + 1, "id": command.id, "strategy": strategy}
    turn.emit("job_retuned", fields | {"request_digest": digest, "after_round": job.rounds_committed})
    return _shown(turn, job)


def cancel_job(turn: Turn, command: CancelJob) -> Answer | Refusal:
    """End the job at once: its leases are charged to their last reading, the rest of the escrow goes back."""
    job = turn.require(command.by, CUSTOMERS) or turn.find_job(command.job, command.by)
    if isinstance(job, Refusal):
        return job
    if not job.open:
        if job.state == "cancelled":
            return _shown(turn, job, created=False)
        return Refusal("job_over", f"{job.id} is {job.state} already", field="job", status=409)
    finish(turn, job, "cancelled", "cancelled", f"by {command.by}")
    return _shown(turn, job)


def finish(turn: Turn, job: Job, state: str, reason: str, detail: str) -> None:
    """Settle and close: end the leases as the fault table says, give the rest back, and only then say the state."""
    turn.want(job, "stop", reason)
    end_all(turn, job, cause_of_halt(state, reason).reason, detail)
    credits.release(turn, job, held_in_escrow(turn.state, job))
    manifest = _result(job, state)
    if manifest is not None:
        turn.emit("job_result", {"job": job.id, "manifest": manifest})
    turn.set_job(job, state, reason, detail)


def _result(job: Job, state: str) -> str | None:
    """What the job leaves: the last checkpoint of one that is done, a command's artifacts however it ended."""
    if job.command is not None:
        found: str | None = job.attempts[-1]["manifest"] if job.attempts and state in ("done", "failed") else None
        return found
    if state != "done":
        return None
    assert job.durable is not None
    return str(job.durable["manifest"])


def end_all(turn: Turn, job: Job, reason: str, detail: str) -> None:
    live = turn.state.live_leases_of(job)
    for lease in live:
        end_lease(turn, lease, reason, detail, watch=lease is live[-1])


def pause(turn: Turn, job: Job, lease_reason: str, detail: str) -> None:
    """Close the leases and keep the rest of the escrow; the state's reason is why the pause was wanted.

    A job that got more budget since then goes on at once.
    """
    end_all(turn, job, lease_reason, detail)
    if not _resume_topped_up(turn, job):
        turn.set_job(job, "paused", job.wanted_reason, detail)


def _resume_topped_up(turn: Turn, job: Job) -> bool:
    """Make a job pending that ran out of escrow and has got more; the clearing says whether that is enough."""
    if not job.topped_up or job.wanted_reason != "escrow_exhausted":
        return False
    turn.want(job, "run", "budget_added")
    turn.set_job(job, "pending", "budget_added")
    return True


def halt_job(turn: Turn, command: HaltJob) -> Answer | Refusal:
    """The run has stopped. An earlier attempt's word, or one on a job that is over, is answered and changes nothing."""
    refusal = turn.require(command.by, ("plane",))
    if refusal is not None:
        return refusal
    job = turn.state.jobs.get(command.job)
    if job is None:
        return Refusal("unknown_job", f"there is no job {command.job!r}", field="job", status=404)
    if command.state not in ("paused", "done", "failed"):
        return invalid("state", command.state, "paused, done or failed")
    if command.manifest is not None and not is_digest(command.manifest):
        return invalid("manifest", command.manifest, "a SHA-256 in hex")
    if job.state != "running" or command.run not in (None, job.attempt):
        return report_answer(job, created=False)
    if command.state == "paused":
        if job.wanted != "pause":
            return Refusal("not_asked", f"nobody asked {job.id} to pause", field="state", status=409)
        pause(turn, job, cause_of_halt("paused", job.wanted_reason).reason, command.detail)
    elif command.state == "failed":
        finish(turn, job, "failed", cause_of_halt("failed", command.reason).reason, command.detail)
    elif job.command is not None:
        if not succeeded(job):
            return Refusal("not_ended", "the command has not ended well", field="state", status=409)
        finish(turn, job, "done", "done", command.detail)
    else:
        durable = job.durable
        if (
            durable is None
            or durable["round"] != job.rounds_committed
            or command.manifest not in (None, durable["manifest"])
        ):
            return Refusal("not_durable", "the last round is not durable yet", field="manifest", status=409)
        finish(turn, job, "done", "done", command.detail)
    return report_answer(job)


def stop_market(turn: Turn, command: StopMarket) -> Answer | Refusal:
    """Refuse new work, also after a restart, and ask every running job to pause at a durable round."""
    refusal = turn.require(command.by, ("operator",))
    if refusal is not None:
        return refusal
    if not turn.state.stopped:
        turn.emit("market_stopped", {"by": command.by})
    jobs = list(turn.state.running())
    for job in jobs:
        if job.wanted == "run":
            turn.want(job, "pause", "market_down")
    return Answer({"pausing": [job.id for job in jobs]})


def reopen_market(turn: Turn, command: ReopenMarket) -> Answer | Refusal:
    """Take new work again; what the market's end had paused goes on."""
    refusal = turn.require(command.by, ("operator",))
    if refusal is not None:
        return refusal
    if turn.state.stopped:
        turn.emit("market_reopened", {"by": command.by})
    resumed: list[str] = []
    for job in [turn.state.jobs[name] for name in turn.state.open_jobs]:
        if job.wanted != "pause" or job.wanted_reason != "market_down":
            continue
        end_all(turn, job, "market_down", "")
        turn.want(job, "run", "market_up")
        turn.set_job(job, "pending", "market_up")
        resumed.append(job.id)
    turn.volatile.dirty = True
    return Answer({"resumed": resumed})
