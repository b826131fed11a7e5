"""The exchange: `step(command, now)` decides and applies, `replay` rebuilds from the journal. Pure: no clock, no I/O.

Each command is decided by one function of one module (market/deciding.py lists them); what it decides are events, and the
events alone change the state (market/reducer.py). So a replayed journal gives the same exchange, and a refusal changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any, cast

from market import (
    bookkeeping,
    credits,
    disputes,
    explaining,
    invitations,
    jobs,
    members,
    order_making,
    secret_keeping,
    snapshots,
    spending,
    teams,
    views,
)
from market.book import OrderBook
from market.command_checking import check_job_spec
from market.commands import ApplyClearing, Command, OpenMarket
from market.deciding import DECISIONS, DIRTYING
from market.events import Event
from market.figures import Figures, figures
from market.orders import BookSnapshot, Inputs
from market.outcomes import Json, Outcome, Refusal, Settings
from market.outlook import as_submitted, outlook
from market.quotes import Means, make_plan
from market.reducer import apply
from market.spot import seen_by
from market.state import FINAL_STATES, State, Volatile
from market.turn import Turn
from storage.ledger import Ledger

__all__ = ["Exchange", "Outcome", "Refusal", "Settings"]


class Exchange:
    """The whole market in memory. One writer calls `step`; the journal gets `Outcome.events` before anybody is told."""

    def __init__(self, settings: Settings, *, keep_history: bool = True) -> None:
        """Without `keep_history` a job that is over is forgotten, and so is every transfer (balances stay): only for a
        simulation, in which nobody asks about the past and no caller repeats himself."""
        self.settings = settings
        self._state = State(ledger=Ledger(keep_history=keep_history))
        self._volatile = Volatile(answers=keep_history)
        self._keep_history = keep_history

    def step(self, command: Command, now_ms: int) -> Outcome:
        """Decide one command at max(last, now) and apply it."""
        now_ms = max(self._state.now_ms, self._volatile.now_ms, now_ms)
        self._volatile.now_ms = now_ms
        if self._volatile.awake_ms is None:
            self._volatile.awake_ms = now_ms
        if not self._state.market_id and not isinstance(command, OpenMarket):
            return Outcome((), Refusal("not_open", "the market is not open yet", status=503), False)
        turn = Turn(self._state, self._volatile, self.settings, now_ms)
        found = DECISIONS[type(command)](turn, command)
        if isinstance(found, Refusal):
            refused = all(event["type"] == "transfer_refused" for event in turn.events)
            assert refused, f"refused after deciding: {found}"
            return Outcome(tuple(turn.events), found, False)
        if not isinstance(command, ApplyClearing):
            self._note_changes(turn.events)
        if not self._keep_history:
            self._forget(turn.events)
        return Outcome(tuple(turn.events), found.body, found.created)

    def _note_changes(self, events: Iterable[Event]) -> None:
        settled = self._volatile.settled_ms is not None
        if self._volatile.dirty and not settled:
            return
        for event in events:
            if event["type"] == "job_submitted" and settled:
                self._volatile.arrived[event["job"]] = None
            elif event["type"] in DIRTYING:
                self._volatile.dirty = True

    def _forget(self, events: Iterable[Event]) -> None:
        for event in events:
            kind = event["type"]
            if kind != "promise_ended" and (kind != "job_state" or event["state"] not in FINAL_STATES):
                continue
            known = self._state.jobs.get(event["job"])
            if known is not None and not known.open and known.promise is None:
                job = self._state.forget_job(known.id)
                self._volatile.run_ms.pop(job.id, None)
                self._volatile.run_pid.pop(job.id, None)
                for lease in job.leases:
                    self._volatile.reading_ms.pop(lease, None)
                    self._volatile.signed.pop(lease, None)

    def replay(self, at_ms: int, events: Iterable[Event]) -> None:
        """Apply one record of the journal, as it was decided."""
        for event in events:
            apply(self._state, event, at_ms)
        self._volatile.now_ms = self.now_ms  # what depends on the time of now is asked before the first command, too
        self._volatile.dirty, self._volatile.agenda = True, None

    @property
    def state(self) -> State:
        """Everything that follows from the journal: only to be read."""
        return self._state

    def take_state(self, state: State) -> None:
        """Stand where the replay stood whose state this is."""
        self._state = state
        self._volatile.now_ms = self.now_ms
        self._volatile.dirty, self._volatile.agenda = True, None

    def snapshot(self, jobs: Iterable[str] | None = None) -> BookSnapshot:
        """Everything that `clear()` needs, frozen; from now on `dirty` tells of newer changes. `jobs`: bids of these alone;
        without history on the book itself, to be applied before the next step."""
        self._volatile.dirty, self._volatile.settled_ms = False, None
        self._volatile.arrived.clear()
        take = snapshots.snapshot_to_clear if self._keep_history else snapshots.snapshot_in_passing
        return take(self._state, self._volatile, self.settings, jobs)

    def arrivals(self) -> BookSnapshot | None:
        """New bids alone, where that is enough: see `snapshots.snapshot_of_arrivals`. To be cleared, without reasons, and
        applied before the next step."""
        found = snapshots.snapshot_of_arrivals(self._state, self._volatile, self.settings)
        if found is not None:
            self._volatile.arrived.clear()
        return found

    def snapshot_again(self, inputs: Inputs, price_rule: str) -> BookSnapshot:
        """The snapshot that these inputs name, of an exchange that has replayed its journal up to there."""
        assert self._state.position == inputs.position
        return snapshots.snapshot_again(self._state, inputs, price_rule, self.settings)

    def book(self) -> OrderBook:
        """The offers as they stand now: only to be read, and only until the next step."""
        return order_making.book_of(self._state, self._volatile)

    @property
    def dirty(self) -> bool:
        """Whether something has changed since the last snapshot that a clearing could use."""
        return self._volatile.dirty or bool(self._volatile.arrived)

    @property
    def now_ms(self) -> int:
        """The latest time that the exchange was told, or that its journal says."""
        return max(self._state.now_ms, self._volatile.now_ms)

    @property
    def market_id(self) -> str:
        """Empty until the market is opened."""
        return self._state.market_id

    @property
    def journal_format(self) -> int:
        """What the journal says of its events (storage/formats.py)."""
        return self._state.journal_format

    @property
    def stopped(self) -> bool:
        """Whether the market is going down and takes no new work."""
        return self._state.stopped

    def member_by_key(self, key_sha256: str) -> Json | None:
        """{member, role, revoked, suspended, key_sha256} of whoever has, or had, this key."""
        name = self._state.by_key.get(key_sha256)
        member = None if name is None else self._state.members[name]
        if member is None:
            return None
        # A key that was replaced stays known as revoked, once its grace is over.
        revoked = not member.opens(key_sha256, self.now_ms)
        standing = {"revoked": revoked, "suspended": member.suspended}
        return {"member": member.name, "role": member.role, **standing, "key_sha256": key_sha256}

    def members(self) -> list[Json]:
        """Every member, without keys."""
        found = []
        for member in self._state.members.values():
            limits = spending.limits_view(self._state, "member", member.name, self.now_ms)
            found.append(members.member_view(member) | {"limits": limits})
        return found

    def invites(self, now_ms: int) -> list[Json]:
        """Every invitation, oldest first, without codes."""
        return [invitations.invite_view(one, now_ms) for one in self._state.invites.values()]

    def teams(self, now_ms: int) -> list[Json]:
        """See `teams.teams_view`; empty in a market without teams."""
        return teams.teams_view(self._state, max(self._state.now_ms, now_ms)) if self._state.teams else []

    def grants(self) -> list[Json]:
        """Every grant, newest last."""
        return [credits.grant_view(self._state, one) for one in self._state.grants.values()]

    def has_member(self, name: str) -> bool:
        """Whether somebody of this name is or was a member."""
        return name in self._state.members

    def holder_of_grant(self, grant: str) -> str:
        """The member that has it; empty for a team's and for one that never was."""
        found = self._state.grants.get(grant)
        return "" if found is None else found.member

    def secrets_of(self, member: str) -> list[Json]:
        """A member's secrets by name, without values."""
        return secret_keeping.secrets_of(self._state, member)

    def secret_token(self, member: str, name: str) -> str | None:
        """By which the value is found on the market's disk."""
        found = self._state.secrets.get(member, {}).get(name)
        return None if found is None else found["token"]

    def named_secrets(self) -> list[tuple[str, str, str]]:
        """(member, name, token) of every secret that counts."""
        return [
            (member, name, one["token"]) for member, own in self._state.secrets.items() for name, one in own.items()
        ]

    def secrets_for_lease(self, lease: str, epoch: int, provider: str) -> tuple[str, dict[str, str]] | None:
        """See `secret_keeping.secrets_for_lease`."""
        return secret_keeping.secrets_for_lease(self._state, lease, epoch, provider)

    def offers(self, now_ms: int) -> list[Json]:
        """Every offer that is listed, cheapest first; offline and draining ones say so in `state`."""
        found = [
            views.offer_view(self._state, self._volatile, offer)
            for offer in self._state.offers.values()
            if offer.state != "withdrawn"
        ]
        for view in found:
            view["heard_ago_ms"] = None if view["heard_ms"] is None else max(0, now_ms - view["heard_ms"])
        return sorted(found, key=lambda view: (view["price_nanos_per_gpu_hour"], view["id"]))

    def offer(self, offer: str) -> Json | None:
        """One offer, withdrawn or not."""
        found = self._state.offers.get(offer)
        return None if found is None else views.offer_view(self._state, self._volatile, found)

    def job(self, job: str) -> Json | None:
        found = self._state.jobs.get(job)
        return None if found is None else views.job_view(self._state, self._volatile, found)

    def jobs(self, customer: str | None) -> list[Json]:
        """The customer's jobs, or everybody's, newest first."""
        names = list(self._state.jobs if customer is None else self._state.jobs_of.get(customer, ()))
        return [views.job_view(self._state, self._volatile, self._state.jobs[name]) for name in reversed(names)]

    def leases_of(self, offer: str) -> Json | None:
        """What the provider of the offer polls."""
        found = self._state.offers.get(offer)
        return None if found is None else views.leases_view(self._state, found, self._volatile)

    def lease(self, lease: str) -> Json | None:
        found = self._state.leases.get(lease)
        return None if found is None else views.lease_view(self._state, found) | {"job": found.job}

    def directive(self, job: str) -> Json | None:
        """What the job's run polls."""
        found = self._state.jobs.get(job)
        return None if found is None else views.directive_view(self._state, found)

    def runs(self) -> Json:
        """What the steward polls."""
        return views.runs_view(self._state)

    def balance(self, member: str) -> Json:
        found = views.balance_view(self._state, member, self.now_ms)
        known = member in self._state.members
        return found | {"limits": list(spending.room_view(self._state, member, self.now_ms)) if known else []}

    def balances(self) -> dict[str, int]:
        """Every account's; their sum is 0."""
        return self._state.ledger.balances()

    def disputes(self) -> list[Json]:
        """Every dispute, oldest first."""
        return [disputes.dispute_view(one) for one in self._state.disputes.values()]

    def dispute(self, name: str) -> Json | None:
        found = self._state.disputes.get(name)
        return None if found is None else disputes.dispute_view(found)

    def transfers(self, account: str, after: str | None = None, limit: int = 100) -> list[Json]:
        return views.transfers_view(self._state, account, after, limit)

    def periods(self) -> list[Json]:
        """Every closed period, oldest first."""
        return [bookkeeping.period_view(self._state, one) for one in self._state.periods]

    def period(self, number: int) -> Json | None:
        """A closed period with every balance at its end."""
        found = next((one for one in self._state.periods if one.number == number), None)
        return None if found is None else bookkeeping.period_view(self._state, found, balances=True)

    def explain(self, job: str) -> Json | None:
        found = self._state.jobs.get(job)
        return None if found is None else explaining.explain_view(self._state, self._volatile, self.settings, found)

    def rounds(self, job: str) -> list[Json] | None:
        found = self._state.jobs.get(job)
        return None if found is None else views.rounds_view(found)

    def bundle(self, job: str) -> Json | None:
        """{job, customer, spec, statements, transfers}: the arguments of storage.provenance.make_bundle."""
        found = self._state.jobs.get(job)
        return None if found is None else views.bundle_view(self._state, found)

    def quote(self, spec: Mapping[str, Any], member: str, now_ms: int) -> Json | Refusal:
        """The plan of a job that is not submitted, or what is wrong with its spec."""
        state = self._state
        wrong = check_job_spec(spec, self.settings) or teams.check_gang_in_quota(state, member, dict(spec))
        if wrong is not None:
            return wrong
        snapshot = snapshots.take_snapshot(state, self._volatile, self.settings)
        bid = order_making.bid_of_spec("quote", dict(spec), now_ms, member)
        if bid.interruptible:
            snapshot = replace(snapshot, offers=tuple(seen_by(offer, bid) for offer in snapshot.offers), book=None)
        offers = snapshot.offers
        measured = {offer.id: state.offers[offer.id].measured for offer in offers}
        bid = as_submitted(state, snapshot, bid, dict(spec), measured)
        now_ms = max(self.now_ms, now_ms)
        means = Means(
            credits.spendable(state, member, now_ms),
            tuple(spending.room_view(state, member, now_ms)),
            jobs.foreseen_refusal(Turn(state, self._volatile, self.settings, now_ms), member, dict(spec)),
        )
        plan = make_plan(dict(spec), bid, offers, measured, means, state.experience, member)
        plan["price_rule"] = state.price_rule
        bid = replace(bid, team=state.members[member].team if member in state.members else "")
        plan["outlook"] = outlook(state, snapshot, bid, dict(spec), measured, now_ms)
        for candidate in plan["candidates"]:
            candidate["price_next"] = views.price_next(state.offers[candidate["offer"]], self._volatile)
        return plan

    def figures(self) -> Figures:
        """Counts by state and what lags, for metrics."""
        return figures(self._state, self._volatile, self._volatile.now_ms)

    def totals(self) -> Json:
        """Figures for status and metrics."""
        return views.totals_view(self._state, self._volatile)

    def fingerprint(self) -> Json:
        """Everything that follows from the journal, as plain data: equal after a replay."""
        state = self._state
        whole = {
            name: _plain(getattr(state, name))
            for name in (
                "market_id",
                "fee_ppm",
                "version",
                "journal_format",
                "stopped",
                "price_rule",
                "due_rule",
                "clearings",
                "members",
                "by_key",
                "invites",
                "teams",
                "usage",
                "grants",
                "limits",
                "spent",
                "limits_told",
                "disputes",
                "held_earnings",
                "corrections",
                "corrected",
                "periods",
                "offers",
                "providers",
                "jobs",
                "leases",
            )
        }
        order = {name: list(getattr(state, name)) for name in ("open_jobs", "live_leases", "offers", "jobs", "leases")}
        counts = {"last_epoch": state.last_epoch, "runs_version": state.runs_version, "now_ms": state.now_ms}
        whole["experience"] = asdict(state.experience)
        return whole | {"order": order, "balances": state.ledger.balances()} | counts


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: asdict(cast(Any, one)) if hasattr(one, "__slots__") else one for name, one in value.items()}
    return value
