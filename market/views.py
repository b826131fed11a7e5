"""The read side: plain dicts as the API returns them. Nothing here changes anything."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from market.alerts import forecast_nanos
from market.attempts import attempts_view, command_view, restarts
from market.credits import granted_view, job_credit_view
from market.estimates import outcome_of
from market.events import MEMBER_BEFORE
from market.fruitless import deaths_in_a_row
from market.holding import shown_state
from market.learning import took_of
from market.lease_times import ends_by, times_view
from market.leases import Lease, LeaseState
from market.order_making import has_network, is_suspect
from market.outcomes import Json
from market.reliability import ProviderRecord
from market.schedules import next_change
from market.selftests import summary
from market.state import Job, OfferRecord, State, Volatile
from market.tuning import planned_rounds, spec_in_force, tunings_view
from storage.ledger import Entry, account_class, credit, earnings, escrow, wallet
from storage.units import NANOS_PER_USD, format_instant

MAX_TRANSFERS = 10_000
MOST_ENDED = 32


def offer_view(state: State, volatile: Volatile, offer: OfferRecord) -> Json:
    heard_ms = volatile.heard_ms.get(offer.id)
    return {
        "id": offer.id,
        "provider": offer.provider,
        "name": offer.name,
        "gpu": offer.gpu,
        "gpus": offer.gpus,
        "gpus_free": offer.gpus_free,
        "vram_gib": offer.vram_gib,
        "region": offer.region,
        "reliability": state.providers[offer.provider].reliability,
        "record": record_view(state.providers[offer.provider]),
        "usd_per_gpu_hour": offer.price_nanos_per_gpu_hour / NANOS_PER_USD,
        "price_nanos_per_gpu_hour": offer.price_nanos_per_gpu_hour,
        "floor_price_nanos_per_gpu_hour": offer.floor_price_nanos_per_gpu_hour,
        "interruptible": offer.floor_price_nanos_per_gpu_hour is not None,
        "isolation": offer.isolation,
        "selftest": summary(offer.selftest),
        "measured": dict(offer.measured),
        "state": shown_state(offer, volatile.now_ms),
        "held": dict(offer.held),
        "notice_ms": offer.terms.notice_ms,
        "until_ms": offer.terms.until_ms,
        "prices": [{"hours": hours, "price_nanos_per_gpu_hour": nanos} for hours, nanos in offer.terms.prices],
        "zone": offer.terms.zone,
        "price_next": price_next(offer, volatile),
        "allow": list(offer.terms.allow),
        "deny": list(offer.terms.deny),
        "own": list(offer.terms.own),
        "max_units_per_customer": offer.terms.max_units_per_customer,
        "max_unit_ms_per_customer_day": offer.terms.max_unit_ms_per_customer_day,
        **times_view(offer),
        "suspect": bool(offer.doubt) or is_suspect(offer, volatile),
        "suspect_reason": offer.doubt or ("it lost a lease and is not heard of since" if is_suspect(offer, volatile) else ""),
        "pace": offer.pace,
        "measure": None if offer.asked is None else dict(offer.asked),
        "shares": list(offer.shares),
        "network": has_network(offer),
        "environments": offer.terms.environments,
        "node": offer.node,
        "versions": dict(offer.versions),
        "earned_nanos": offer.earned_nanos,
        "placed_ms": offer.placed_ms,
        "heard_ms": heard_ms,
        "leases": list(offer.live),
    }


def record_view(provider: ProviderRecord) -> Json:
    """What its reliability stands on; `newcomer`: too little for it to say more than that nothing is known."""
    return {
        "leases_ended": provider.ended,
        "leases_lost": provider.faulted,
        "silences": provider.silences,
        "heard_ms": provider.heard_ms,
        "newcomer": provider.newcomer,
    }


def price_next(offer: OfferRecord, volatile: Volatile) -> Json | None:
    """When its price changes by its hours, and to what; None where it does not."""
    found = next_change(offer.terms.prices, offer.terms.zone, offer.base_nanos, volatile.now_ms)
    return None if found is None else {"at_ms": found[0], "price_nanos_per_gpu_hour": found[1]}


def lease_view(state: State, lease: Lease) -> Json:
    return {
        "id": lease.id,
        "epoch": lease.epoch,
        "slot": lease.slot,
        "offer": lease.offer,
        "name": state.offers[lease.offer].name,
        "provider": lease.provider,
        "gpu": lease.gpu,
        "gpus": lease.gpus,
        "price_nanos_per_gpu_hour": lease.price_nanos_per_gpu_hour,
        "state": str(lease.state),
        "pid": lease.pid,
        "worker": lease.worker,
        "node": lease.node,
        "rounds": lease.rounds,
        "tokens": lease.tokens,
        "bytes": lease.bytes,
        "metered_ms": lease.metered_ms,
        "questioned_ms": lease.questioned_ms,
        "questioned_nanos": lease.questioned_nanos,
        "signed": lease.signed,
        "meter_key": lease.meter_key,
        "trained_ms": lease.trained_ms,
        "charged_ms": lease.charged_ms,
        "charged_nanos": lease.charged_nanos,
        "reason": lease.reason,
        "fault": lease.fault,
        "detail": lease.detail,
        "replaces": lease.replaces,
        "granted_ms": lease.granted_ms,
        "started_ms": lease.started_ms,
        "ending": lease.ending if lease.live else None,
        "until_ms": ends_by(state, lease),
        "ended_ms": lease.ended_ms,
    }


def job_view(state: State, volatile: Volatile, job: Job) -> Json:
    """`workers` are the newest lease of each seat (see `_seats`), `leases` all that there ever were."""
    pending = job.state == "pending" and job.unmatched is not None
    losses = job.losses
    return {
        "id": job.id,
        "customer": job.customer,
        "name": job.name,
        "state": job.state,
        "reason": job.unmatched["reason"] if pending and job.unmatched else job.reason,
        "detail": job.unmatched["detail"] if pending and job.unmatched else job.detail,
        "wanted": job.wanted,
        "rounds_committed": job.rounds_committed,
        "rounds_planned": planned_rounds(job),
        "round_durable": job.durable_round,
        "step": job.step,
        "last_round_ms": job.last_round_ms,
        "loss_first": losses.get(1),
        "loss_last": losses[max(losses)] if losses else None,
        "metrics_last": job.metrics[max(losses)] if losses else {},
        "workers": [lease_view(state, lease) for lease in _seats(state, job)],
        "leases": [lease_view(state, lease) for lease in state.leases_of(job)],
        "run_pid": volatile.run_pid.get(job.id) if job.state == "running" else None,
        "run": job.attempt,
        "budget_nanos": job.budget_nanos,
        "budget_reached_percent": job.alerted,
        "escrow_nanos": state.escrow(job),
        "billed_nanos": job.billed_nanos,
        **job_credit_view(job),
        "accrued_nanos": sum(lease.accrued_nanos for lease in state.live_leases_of(job)),
        "forecast_nanos": forecast_nanos(state, job),
        "disputes": list(job.disputes),
        "manifest": job.result,
        "durable": job.durable,
        "tags": dict(job.tags),
        "strategy": job.strategy,
        "tunings": tunings_view(job),
        "command": command_view(job, state.leases_of(job)),
        "training": training_view(state, job),
        "estimate": estimate_view(state, job),
        "spec": job.spec,
        "spec_digest": job.spec_digest,
        "submitted_ms": job.submitted_ms,
        "ended_ms": job.ended_ms,
    }


def estimate_view(state: State, job: Job) -> Json | None:
    """What its customer was told at submit, and how that came true once the job is done (None until then)."""
    if job.estimate is None:
        return None
    took_ms = took_of(state, job) if job.state == "done" else None
    outcome = None if took_ms is None else outcome_of(job.estimate, took_ms, job.billed_nanos)
    return {**job.estimate, "outcome": outcome}


def training_view(state: State, job: Job) -> Json:
    """What the committed rounds came to. `goodput` is trained ÷ leased worker-milliseconds of all leases, the lost ones
    too; `tokens_per_s` counts the time of the rounds. None where there is nothing to divide by."""
    members = [member for record in job.rounds.values() for member in record["members"]]
    sums = {name: sum(member[name] for member in members) for name in ("tokens", *MEMBER_BEFORE)}
    in_rounds: dict[str, int] = {}
    for member in members:
        in_rounds[member["lease"]] = max(in_rounds.get(member["lease"], 0), member["trained_ms"])
    leased_ms, trained_ms = sum(lease.metered_ms for lease in state.leases_of(job)), sum(in_rounds.values())
    round_ms = sum(record["duration_ms"] for record in job.rounds.values())
    return {
        **sums,
        "leased_ms": leased_ms,
        "trained_ms": trained_ms,
        "goodput": round(trained_ms / leased_ms, 4) if leased_ms and job.command is None else None,
        "tokens_per_s": round(sums["tokens"] * 1_000 / round_ms, 1) if round_ms else None,
        "retries": sum(record["attempts"] - 1 for record in job.rounds.values()),
        "late": sum(len(record["late"]) for record in job.rounds.values()),
    }


def _seats(state: State, job: Job) -> list[Lease]:
    """The gang as it is, or as it last was: the living leases, and of this run's ended ones the newest that nobody has
    replaced, `workers.max` in all, by slot."""
    leases = state.leases_of(job)
    replaced = {lease.replaces for lease in leases}
    seats = [lease for lease in leases if lease.live]
    ended = [
        lease
        for lease in leases
        if lease.ended_ms is not None and lease.ended_ms >= job.running_since_ms and lease.id not in replaced
    ]
    room = max(0, int(job.spec["workers"]["max"]) - len(seats))
    return sorted([*seats, *ended[len(ended) - min(room, len(ended)) :]], key=lambda lease: lease.slot)


def leases_view(state: State, offer: OfferRecord, volatile: Volatile) -> Json:
    """What a provider polls: a worker whose lease is not listed must be stopped."""
    return {
        "version": offer.version,
        "offer": offer_view(state, volatile, offer),
        "earned_nanos": offer.earned_nanos,
        "leases": [_provider_lease(state, state.leases[lease]) for lease in offer.live],
    }


def _provider_lease(state: State, lease: Lease) -> Json:
    job = state.jobs[lease.job]
    data = job.spec["data"]
    return {
        "id": lease.id,
        "epoch": lease.epoch,
        "slot": lease.slot,
        "job": lease.job,
        "job_name": job.name,
        "state": str(lease.state),
        "gpus": lease.gpus,
        "share": data["name"] if data["kind"] == "share" else None,
        "command": job.command is not None,
        "secrets": bool((job.command or {}).get("secrets")),
        "worker": lease.worker,
        "ending": lease.ending,
        "metered_ms": lease.metered_ms,
        "charged_nanos": lease.charged_nanos,
    }


def directive_view(state: State, job: Job) -> Json:
    """What a run must know; `version` changes whenever a lease, the wish or the state does."""
    durable = job.durable
    return {
        "version": job.version,
        "job": job.id,
        "customer": job.customer,
        "state": job.state,
        "run": job.attempt,
        "wanted": job.wanted,
        "reason": job.wanted_reason,
        "spec": spec_in_force(job),
        "tuning": len(job.tunings),
        "rounds_committed": job.rounds_committed,
        "attempts": attempts_view(job),
        "restarts": restarts(job, state.leases_of(job)),
        "saved": None if job.saved is None else job.saved["manifest"],
        "deaths": [] if job.command is None else [one.provider for one in deaths_in_a_row(job, state.leases_of(job))],
        "step": job.step,
        "durable": None if durable is None else {name: durable[name] for name in ("round", "step", "manifest")},
        "leases": [_directive_lease(state, lease) for lease in state.live_leases_of(job)],
        "ended": [_ended_lease(state.leases[lease]) for lease in job.leases[-MOST_ENDED:] if lease not in job.live],
    }


def _ended_lease(lease: Lease) -> Json:
    return {"slot": lease.slot, "reason": lease.reason, "detail": lease.detail}


def _directive_lease(state: State, lease: Lease) -> Json:
    offer = state.offers[lease.offer]
    return {
        "id": lease.id,
        "epoch": lease.epoch,
        "slot": lease.slot,
        "offer": lease.offer,
        "provider": lease.provider,
        "worker": lease.worker,
        "node": lease.node,
        "gpus": lease.gpus,
        "gpu": lease.gpu,
        "state": str(lease.state),
        "meter_key": lease.meter_key,
        "draining": offer.state == "draining",
        "ending": lease.ending,
        "price_nanos_per_gpu_hour": lease.price_nanos_per_gpu_hour,
    }


def runs_view(state: State) -> Json:
    """Jobs that need a RunActor now."""
    return {"version": state.runs_version, "runs": [{"job": job.id, "run": job.attempt} for job in state.running()]}


def balance_view(state: State, member: str, now_ms: int) -> Json:
    record, earned = state.members.get(member), state.balance(earnings(member))
    provides = record is not None and record.role == "provider"
    money = granted_view(state, member, now_ms)
    own_jobs = state.jobs_of.get(member, ())
    return {
        "account": member,
        **money,
        "escrow_nanos": sum(state.escrow(state.jobs[job]) for job in own_jobs if state.jobs[job].open),
        "earnings_nanos": earned,
        "balance_nanos": earned if provides else money["wallet_nanos"],
    }


def transfers_view(state: State, account: str, after: str | None, limit: int) -> list[Json]:
    """Newest first. `account` is a member (wallet, earnings and its grants together) or an account of the ledger.

    A customer's charges are paid out of escrows, which have entries of their own (`escrow:{job}`).
    """
    limit = max(0, min(limit, MAX_TRANSFERS))
    names = [account]
    if not account_class(account):
        names = [wallet(account), earnings(account), *map(credit, state.grants_of.get(("member", account), ()))]
    found: list[Entry] = []
    for name in names:
        known = state.ledger.transfer(after) if after is not None else None
        if known is not None and name not in (known.debit, known.credit):
            continue
        found += islice(state.ledger.entries(name, after=after), limit)
    found.sort(key=lambda entry: -entry.number)
    return [
        {
            "id": entry.transfer.id,
            "at": format_instant(entry.at_ms),
            "at_ms": entry.at_ms,
            "kind": entry.transfer.kind,
            "amount_nanos": entry.amount_nanos,
            "balance_nanos": entry.balance_nanos,
            "job": entry.transfer.job,
            "lease": entry.transfer.lease,
        }
        for entry in found[:limit]
    ]


def rounds_view(job: Job) -> list[Json]:
    """Every committed round with its members, its held-out loss (None until it is known) and figures (none until then)."""
    return [
        {**record, "loss": job.losses.get(number), "metrics": job.metrics.get(number, {})}
        for number, record in sorted(job.rounds.items())
    ]


def bundle_view(state: State, job: Job) -> Json:
    """The parts that storage.provenance.make_bundle takes: spec, statements, and all transfers in journal order."""
    transfers = [entry.transfer for entry in state.ledger.entries(escrow(job.id))]
    return {
        "job": job.id,
        "customer": job.customer,
        "spec": job.spec,
        "statements": [segment["statement"] for segment in job.segments],
        "transfers": transfers[::-1],
    }


def totals_view(state: State, volatile: Volatile) -> Json:
    """Figures for status and metrics."""
    balances: Mapping[str, int] = state.ledger.balances()
    sums = dict.fromkeys(("wallet", "escrow", "earnings", "credit", "fee", "grants", "world"), 0)
    for account, nanos in balances.items():
        sums[account_class(account) or "world"] += nanos
    states: dict[str, int] = {}
    for job in state.jobs.values():
        states[job.state] = states.get(job.state, 0) + 1
    offers = [offer for offer in state.offers.values() if offer.state == "open"]
    found: dict[str, Any] = {
        "market_id": state.market_id,
        "version": state.version,
        "stopped": state.stopped,
        "price_rule": state.price_rule,
        "due_rule": {"patience": state.due_rule.patience, "most_ms": state.due_rule.most_ms},
        "clearings": state.clearings,
        "members": len(state.members),
        "offers": len(offers),
        "gpus": sum(offer.gpus for offer in offers),
        "gpus_free": sum(offer.gpus_free for offer in offers),
        "jobs": states,
        "jobs_running": states.get("running", 0),
        "leases_active": sum(state.leases[name].state is LeaseState.ACTIVE for name in state.live_leases),
        "balances_nanos": sums,
        "calibration": state.experience.calibration(),
        "balanced": sum(balances.values()) == 0,
    }
    return found
