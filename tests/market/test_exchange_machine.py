"""Random people, machines and attackers talk to one exchange; after every word the house's promises hold."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from market.clearing import Clearing, Match, clear
from market.commands import (
    AddBudget,
    AddMember,
    ApplyClearing,
    CancelJob,
    ChangeOffer,
    Command,
    Deposit,
    EndLease,
    Evaluated,
    GrantCredit,
    HaltJob,
    Heard,
    HoldOffer,
    LoseRay,
    LostWorker,
    MoveMember,
    Payout,
    Reading,
    RemoveTeam,
    ReopenMarket,
    ReportCheckpoint,
    ReportReadings,
    ResumeMember,
    RevokeMember,
    SetLeaseTimes,
    SetLimits,
    SetRole,
    SetTeam,
    StartLease,
    StopMarket,
    SubmitJob,
    SuspendMember,
    Tick,
)
from market.exchange import Refusal, Settings
from market.faults import CAUSES
from market.order_making import offer_order
from market.owner_terms import OwnerTerms
from market.periods import DAY
from storage.units import MS_PER_HOUR as HOUR
from storage.units import charge_nanos, fee_total
from tests.market.scene import USD, Scene, digest, make_spec

WHO = st.sampled_from(["op", "ann", "bob", "p1", "p2", "plane", "nobody", ""])
OFFERS = st.sampled_from([f"offer-{n}" for n in range(4)] + ["?"])
JOBS = st.sampled_from(["job-0"] * 6 + ["job-1"] * 3 + ["job-own", "job-2", "?"])
LEASES = st.integers(1, 6) | st.integers(0, 20)
REASONS = st.sampled_from([cause.reason for cause in CAUSES] + ["", "made up"])
MS = st.integers(-5, 200_000)
AMOUNTS = st.sampled_from([USD // 100, USD // 50, USD // 10, USD // 1000, USD, 1, 999, 50 * USD, 0, -1, 10**30])
SLOTS = st.sets(st.integers(0, 5), max_size=4)


class ExchangeMachine(RuleBasedStateMachine):
    """Most rules pick existing names; all may be wrong in owner, order, epoch or amount."""

    @initialize()
    def open(self) -> None:
        tight = Settings(max_open_jobs_per_customer=3, max_live_leases=5, max_offers_per_provider=3, max_members=9)
        self.scene = Scene(settings=tight, funds_nanos=3 * USD)
        self.said: list[Command] = []
        hours, bobs = OwnerTerms(max_unit_ms_per_customer_day=5_000), OwnerTerms(own=("bob",))
        for number, (by, usd, terms) in enumerate([("p1", 0.5, OwnerTerms()), ("p1", 0.7, hours), ("p2", 0.6, bobs)]):
            self.say(self.scene.make_offer(f"offer-{number}", by, usd, 2, terms=terms))
        self.submit("job-0", "ann", USD // 100, 1, 1)
        self.clear()
        self.start_everything()

    def say(self, command: Command) -> Any:
        self.said.append(command)
        return self.scene.say(command)

    def lease(self, number: int) -> dict[str, Any]:
        found = self.scene.exchange.lease(f"lease-{number:06d}")
        return found or {"id": "?", "epoch": 0, "provider": "p1", "slot": 0}

    @rule(ms=st.sampled_from([10, 2_000, 2_000, 9_000, 70_000, 50_000_000]), heard=st.sampled_from([True, True, True, False]))
    def time_passes(self, ms: int, heard: bool) -> None:
        self.scene.now_ms += ms
        for offer in self.scene.exchange.offers(self.scene.now_ms) if heard else []:
            self.say(Heard(offer["id"], offer["provider"]))
        self.say(Tick())

    @rule()
    def start_everything(self) -> None:
        self.say(ApplyClearing(clear(self.scene.exchange.snapshot())))
        for job in self.scene.exchange.jobs(None):
            for lease in self.scene.live(job["id"]):
                self.say(StartLease(lease["id"], lease["epoch"], "w", 7, "node", lease["provider"]))

    @rule(
        job=JOBS,
        rounds=st.integers(1, 4),
        late=st.integers(0, 3_000),
        durable=st.sampled_from([True, True, False]),
        end=st.sampled_from([False] * 3 + [True]),
    )
    def train(self, job: str, rounds: int, late: int, durable: bool, end: bool) -> None:
        """A round as a good run does it, by all who live, then perhaps a checkpoint, then perhaps the end."""
        view = self.scene.exchange.job(job)
        live = [] if view is None else self.scene.live(job)
        if view is None or not live:
            return
        for number in range(view["rounds_committed"] + 1, view["rounds_committed"] + 1 + rounds):
            self.time_passes(2_000, True)
            now_ms = self.scene.now_ms
            meters = {lease["slot"]: max(0, now_ms - lease["granted_ms"] - late) for lease in live}
            self.say(self.scene.make_round(number, meters, job))
            if durable:
                self.say(ReportCheckpoint(job, number, 30 * number, digest(f"m{number}"), 10, 1, (), "plane"))
        if end:
            self.say(HaltJob(job, "done", "", "", None, "plane"))

    @rule(job=JOBS)
    def answer_wish(self, job: str) -> None:
        """A good run halts when it is asked to."""
        directive = self.scene.exchange.directive(job)
        if directive is not None and directive["wanted"] == "pause":
            self.say(HaltJob(job, "paused", "", "", None, "plane"))

    @rule(
        offer=OFFERS, by=st.sampled_from(["p1", "p2", "op", "ann"]), gpus=st.integers(-1, 3), for_ms=st.none() | MS,
        leases=st.sets(LEASES, max_size=2),
    )  # fmt: skip
    def hold(self, offer: str, by: str, gpus: int, for_ms: int | None, leases: set[int]) -> None:
        until_ms = None if for_ms is None else self.scene.now_ms + for_ms
        names = tuple(f"lease-{number:06d}" for number in leases)
        self.say(HoldOffer(offer, gpus, by, "reclaim", "mine", until_ms, names))

    @rule(offer=OFFERS, by=st.sampled_from(["p1", "p2", "ann"]))
    def hear(self, offer: str, by: str) -> None:
        self.say(Heard(offer, by))

    @rule(
        offer=OFFERS, by=st.sampled_from(["p1", "p1", "p2", "ann"]), milli=st.integers(0, 900), gpus=st.integers(0, 3),
        own=st.sampled_from([(), ("ann",), ("ann", "bob")]), day_ms=st.none() | st.sampled_from([1, 5_000, 60_000]),
        most_ms=st.none() | st.sampled_from([1, 6_000, 70_000]),
    )  # fmt: skip
    def place(self, offer: str, by: str, milli: int, gpus: int, own: tuple[str, ...], day_ms: int | None, most_ms: int | None) -> None:
        terms = OwnerTerms(own=own, max_unit_ms_per_customer_day=day_ms, max_lease_ms=most_ms)
        self.say(self.scene.make_offer(offer, by, milli / 1000, gpus, terms=terms))

    @rule(
        offer=OFFERS, by=st.sampled_from(["p1", "p1", "p2", "op", "ann"]), least=st.just(-1) | st.none() | st.sampled_from([0, 1, HOUR + 1]),
        most=st.just(-1) | st.none() | st.sampled_from([5_999, 6_000, 70_000]),
        windows=st.none() | st.lists(st.tuples(st.integers(-60, 120), st.integers(1, 90)), max_size=2),
    )  # fmt: skip
    def set_times(self, offer: str, by: str, least: int | None, most: int | None, windows: list[tuple[int, int]] | None) -> None:
        """Windows that begin so many seconds from now, and last as long."""
        texts = None if windows is None else tuple(f"{self.shown(begin)}/{length}s" for begin, length in windows)
        self.say(SetLeaseTimes(offer, by, least, most, texts))

    def shown(self, seconds: int) -> str:
        return datetime.fromtimestamp(self.scene.now_ms // 1000 + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")

    @rule(offer=OFFERS, node=st.sampled_from(["node", "node-new"]))
    def come_back(self, offer: str, node: str) -> None:
        """A provider starts again, perhaps on a node of another name."""
        known = self.scene.exchange.offer(offer)
        if known is not None:
            price = known["price_nanos_per_gpu_hour"] / USD
            self.say(self.scene.make_offer(offer, known["provider"], price, known["gpus"], node=node))

    @rule(offer=OFFERS, by=WHO, action=st.sampled_from(["price", "drain", "withdraw", "relist", "?"]), price=AMOUNTS)
    def change(self, offer: str, by: str, action: str, price: int) -> None:
        self.say(ChangeOffer(offer, action, by, price))

    @rule(
        job=JOBS,
        by=st.sampled_from(["ann", "ann", "bob", "p1"]),
        budget=AMOUNTS,
        low=st.integers(0, 2),
        more=st.integers(0, 2),
    )
    def submit(self, job: str, by: str, budget: int, low: int, more: int) -> None:
        spec = make_spec(limits__budget_nanos=budget, workers__min=low, workers__max=low + more, rounds=4)
        self.say(SubmitJob(job, spec, by))

    @rule(
        job=st.sampled_from(["job-own", "job-own-2", "job-0"]), by=st.sampled_from(["bob", "bob", "ann"]),
        own=st.sampled_from([["p2"], ["p1", "p2"], ["p1"]]), wait=st.booleans(),
    )  # fmt: skip
    def run_on_own_machines(self, job: str, by: str, own: list[str], wait: bool) -> None:
        spec = make_spec(limits__budget_nanos=0, limits__max_price_nanos_per_gpu_hour=0, workers__min=1, rounds=4, wait=wait)
        spec["workers"]["own"] = own
        self.say(SubmitJob(job, spec, by))
        self.start_everything()

    @rule(id=st.sampled_from(["a", "b"]), by=WHO, account=WHO, amount=AMOUNTS)
    def deposit(self, id: str, by: str, account: str, amount: int) -> None:
        self.say(Deposit(id, account, amount, by))

    @rule(id=st.sampled_from(["a", "b", "c"]), by=WHO, account=WHO, amount=AMOUNTS | st.integers(1, 2_000))
    def payout(self, id: str, by: str, account: str, amount: int) -> None:
        self.say(Payout(id, account, amount, by))

    @rule(id=st.sampled_from(["a", "b"]), job=JOBS, by=WHO, amount=AMOUNTS)
    def add_budget(self, id: str, job: str, by: str, amount: int) -> None:
        self.say(AddBudget(id, job, amount, by))

    @rule(job=JOBS, by=st.sampled_from(["bob", "p1", "nobody", "plane", "ann"]))
    def cancel(self, job: str, by: str) -> None:
        self.say(CancelJob(job, by))

    @rule()
    def clear(self) -> None:
        self.say(ApplyClearing(clear(self.scene.exchange.snapshot())))

    @rule(job=JOBS, offers=st.lists(OFFERS, max_size=3), price=st.integers(1, USD))
    def forged_clearing(self, job: str, offers: list[str], price: int) -> None:
        match = Match(job, tuple(offers), 1, (price,) * len(offers))
        self.say(ApplyClearing(Clearing((match, match), ())))

    @rule()
    def stale_clearing(self) -> None:
        clearing = clear(self.scene.exchange.snapshot())
        self.say(ApplyClearing(clearing))
        self.say(ApplyClearing(clearing))

    @rule(
        number=LEASES,
        off=st.sampled_from([0, 0, 0, 1]),
        by=st.sampled_from([None, None, "p2", "ann"]),
        worker=st.sampled_from(["w", "w", "other"]),
    )
    def start(self, number: int, off: int, by: str | None, worker: str) -> None:
        lease = self.lease(number)
        self.say(StartLease(lease["id"], lease["epoch"] + off, worker, 7, "node", by or lease["provider"]))

    @rule(by=st.sampled_from(["plane", "p1"]))
    def lose_ray(self, by: str) -> None:
        self.say(LoseRay(by))

    @rule(number=LEASES, off=st.sampled_from([0, 0, 1]), reason=REASONS, by=st.sampled_from([None, None, "p2"]))
    def end(self, number: int, off: int, reason: str, by: str | None) -> None:
        lease = self.lease(number)
        self.say(EndLease(lease["id"], lease["epoch"] + off, reason, "x" * 5000, by or lease["provider"]))

    @rule(job=JOBS, number=LEASES, ms=MS, loss=st.floats(), by=st.sampled_from(["plane", "plane", "p1"]))
    def read(self, job: str, number: int, ms: int, loss: float, by: str) -> None:
        lease = self.lease(number)
        readings = (Reading(lease["id"], lease["epoch"], ms, ms, 1, 1, 1),)
        self.say(ReportReadings(job, 5, readings, (Evaluated(1, loss),), (), by))

    @rule(job=JOBS, number=LEASES, reason=REASONS)
    def lose(self, job: str, number: int, reason: str) -> None:
        lease = self.lease(number)
        self.say(ReportReadings(job, 5, (), (), (LostWorker(lease["id"], lease["epoch"], reason),), "plane"))

    @rule(job=JOBS, off=st.sampled_from([1, 1, 1, 0, -1, 2]), slots=SLOTS, ms=MS, mark=st.sampled_from(["", "", "x"]))
    def commit(self, job: str, off: int, slots: set[int], ms: int, mark: str) -> None:
        view = self.scene.exchange.job(job)
        if view is None:
            return
        there = {lease["slot"] for lease in view["leases"]}
        number = view["rounds_committed"] + off
        self.say(self.scene.make_round(number, dict.fromkeys(sorted(slots & there), ms), job, mark))

    @rule(job=JOBS, off=st.sampled_from([0, 0, -1, 1]))
    def checkpoint(self, job: str, off: int) -> None:
        view = self.scene.exchange.job(job)
        number = off + (0 if view is None else view["rounds_committed"])
        self.say(ReportCheckpoint(job, number, 30 * number, digest(f"m{number}"), 10, 1, (), "plane"))

    @rule(
        job=JOBS,
        state=st.sampled_from(["paused", "done", "failed", "?"]),
        reason=REASONS,
        by=st.sampled_from(["plane", "ann"]),
    )
    def halt(self, job: str, state: str, reason: str, by: str) -> None:
        self.say(HaltJob(job, state, reason, "", None, by))

    @rule(by=st.sampled_from(["op", "ann"]), up=st.sampled_from([True, True, False]))
    def market(self, by: str, up: bool) -> None:
        self.say(ReopenMarket(by) if up else StopMarket(by))

    @rule(
        member=st.sampled_from(["p2", "bob", "new"]),
        by=st.sampled_from(["op", "p1"]),
        key=st.sampled_from(["k1", "k2"]),
    )
    def members(self, member: str, by: str, key: str) -> None:
        self.say(AddMember(member, "provider" if member != "bob" else "customer", digest(key), by))

    @rule(member=st.sampled_from(["p2", "bob"]), by=st.sampled_from(["ann", "p2", "op"]))
    def revoke(self, member: str, by: str) -> None:
        self.say(RevokeMember(member, by))

    @rule(
        team=st.sampled_from(["physics", "bio"]), weight=st.none() | st.integers(0, 3),
        quota=st.none() | st.integers(0, 3), by=st.sampled_from(["op", "op", "ann"]),
    )  # fmt: skip
    def set_team(self, team: str, weight: int | None, quota: int | None, by: str) -> None:
        self.say(SetTeam(team, by, weight, quota))

    @rule(
        id=st.sampled_from(["g1", "g2", "g3"]), to=st.sampled_from(["ann", "bob", "p1", "physics"]), nanos=AMOUNTS,
        for_ms=st.none() | st.sampled_from([5_000, 60_000]), by=st.sampled_from(["op", "op", "ann"]),
    )  # fmt: skip
    def grant(self, id: str, to: str, nanos: int, for_ms: int | None, by: str) -> None:
        member, team = (None, to) if to == "physics" else (to, None)
        expires_ms = None if for_ms is None else self.scene.now_ms + for_ms
        self.say(GrantCredit(id, member, team, nanos, expires_ms, "to begin with", by))

    @rule(who=st.sampled_from(["ann", "bob", "physics"]), day=st.none() | AMOUNTS, month=st.just(-1) | AMOUNTS)
    def limit(self, who: str, day: int | None, month: int) -> None:
        member, team = (None, who) if who == "physics" else (who, None)
        self.say(SetLimits(member, team, "op", day, month))

    @rule(member=WHO, by=st.sampled_from(["op", "op", "ann"]), back=st.booleans())
    def suspend(self, member: str, by: str, back: bool) -> None:
        self.say(ResumeMember(member, by) if back else SuspendMember(member, "for a reason", by))

    @rule(member=st.sampled_from(["bob", "p2", "ann", "plane"]), role=st.sampled_from(["customer", "provider", "operator"]))
    def change_role(self, member: str, role: str) -> None:
        self.say(SetRole(member, role, "op"))

    @rule(member=WHO, team=st.sampled_from(["physics", "bio", "", "chem"]))
    def move(self, member: str, team: str) -> None:
        self.say(MoveMember(member, team, "op"))

    @rule(team=st.sampled_from(["physics", "bio"]))
    def remove_team(self, team: str) -> None:
        self.say(RemoveTeam(team, "op"))

    @rule(data=st.data())
    def retry(self, data: Any) -> None:
        """Whatever was said may be said again at once: a repeated write moves no money."""
        if not self.said:
            return
        command = data.draw(st.sampled_from(self.said))
        self.scene.say(command)
        if isinstance(command, Deposit | Payout | SubmitJob | AddBudget | ReportCheckpoint | HaltJob | CancelJob):
            before = self.scene.balances()
            again = self.scene.say(command)
            assert self.scene.balances() == before
            assert isinstance(again.answer, Refusal) or not again.created

    @rule()
    def power_cut(self) -> None:
        self.scene.restart()

    @invariant()
    def what_the_state_must_be(self) -> None:
        """Each with the same plain copy of it, which costs more than to look at it."""
        whole = self.scene.exchange.fingerprint()
        for holds in (
            self.replay_is_equal,
            self.what_was_granted_is_spent_or_there_or_given_back,
            self.nothing_is_sold_twice,
            self.teams_use_what_their_leases_have,
            self.every_lease_has_a_running_job,
            self.nobody_pays_too_much,
            self.own_machines_cost_nothing_and_are_nobody_elses,
            self.what_was_let_on_a_day_is_what_its_leases_say,
        ):
            holds(whole)

    def replay_is_equal(self, whole: Any) -> None:
        assert self.scene.replayed().fingerprint() == whole

    @invariant()
    def money_is_conserved(self) -> None:
        balances = self.scene.balances()
        assert sum(balances.values()) == 0
        assert all(nanos >= 0 for account, nanos in balances.items() if account not in ("world", "grants"))

    @invariant()
    def granted_and_bought_are_the_wallet(self) -> None:
        for member in ("ann", "bob", "op"):
            found = self.scene.exchange.balance(member)
            assert found["granted_nanos"] + found["bought_nanos"] == found["wallet_nanos"]
            assert min(found[f"{name}_nanos"] for name in ("granted", "bought", "team_granted")) >= 0

    def what_was_granted_is_spent_or_there_or_given_back(self, whole: Any) -> None:
        balances, jobs = whole["balances"], whole["jobs"].values()
        for grant in self.scene.exchange.grants():
            name, held, spent = grant["grant"], 0, 0
            for job in jobs:
                billed = job["billed_nanos"]
                for other, nanos in job["granted"].items():
                    part, billed = min(billed, nanos), max(0, billed - nanos)
                    spent += part if other == name else 0
                    held += nanos - part if other == name and job["ended_ms"] is None else 0
            back = sum(
                one["amount_nanos"] for one in self.scene.of_type("transfer") if one["debit"] == f"credit:{name}" and one["kind"] == "expire"
            )
            assert grant["amount_nanos"] == balances[f"credit:{name}"] + held + spent + back

    @invariant()
    def deposits_less_payouts_are_all_that_is_held(self) -> None:
        moved = dict.fromkeys(("deposit", "payout"), 0)
        for transfer in self.scene.of_type("transfer"):
            if transfer["kind"] in moved:
                moved[transfer["kind"]] += transfer["amount_nanos"]
        held = sum(nanos for account, nanos in self.scene.balances().items() if account != "world")
        assert moved["deposit"] - moved["payout"] == held

    @invariant()
    def the_book_that_is_kept_is_the_book_made_anew(self) -> None:
        exchange = self.scene.exchange
        state, volatile = exchange._state, exchange._volatile
        listed = [offer_order(state, one, volatile) for one in state.offers.values() if one.state != "withdrawn"]
        assert {one.id: one for one in exchange.book()} == {one.id: one for one in listed}

    def nothing_is_sold_twice(self, whole: Any) -> None:
        live = [whole["leases"][name] for name in whole["order"]["live_leases"]]
        for offer in whole["offers"].values():
            used = sum(lease["gpus"] for lease in live if lease["offer"] == offer["id"])
            assert used == offer["gpus_used"] <= offer["gpus"]
        assert len({lease["epoch"] for lease in whole["leases"].values()}) == len(whole["leases"])

    def teams_use_what_their_leases_have(self, whole: Any) -> None:
        live = [whole["leases"][name] for name in whole["order"]["live_leases"]]
        for team, usage in whole["usage"].items():
            assert usage["units"] == sum(lease["gpus"] for lease in live if lease["team"] == team)

    @invariant()
    def nothing_begins_in_maintenance_and_who_was_heard_of_its_end_has_left(self) -> None:
        """A lease whose notice was over for ten seconds at the last tick is not there."""
        state, ticked_ms = self.scene.exchange.state, self.scene.exchange._volatile.ticked_ms
        for lease in (state.leases[name] for name in state.live_leases):
            window = state.offers[lease.offer].window
            assert lease.window_ms is None or lease.granted_ms < lease.window_ms
            over_ms = [ms for ms in (lease.longest_until_ms, None if window is None else window.begin_ms) if ms is not None]
            if over_ms and min(over_ms) <= ticked_ms:
                assert lease.ending is not None
            assert lease.ending is None or lease.ending["reason"] == "preempted" or ticked_ms < lease.ending["ends_ms"] + 10_000

    def every_lease_has_a_running_job(self, whole: Any) -> None:
        for name in whole["order"]["live_leases"]:
            assert whole["jobs"][whole["leases"][name]["job"]]["state"] == "running"

    def nobody_pays_too_much(self, whole: Any) -> None:
        for job in whole["jobs"].values():
            leases = [lease for lease in whole["leases"].values() if lease["job"] == job["id"]]
            assert sum(lease["charged_nanos"] for lease in leases) == job["billed_nanos"] <= job["budget_nanos"]
            for lease in leases:
                limit = job["spec"]["limits"]["max_price_nanos_per_gpu_hour"]
                assert lease["price_nanos_per_gpu_hour"] <= limit
                assert lease["charged_ms"] <= lease["metered_ms"] <= self.scene.now_ms - lease["granted_ms"]
                assert lease["charged_nanos"] == charge_nanos(
                    lease["price_nanos_per_gpu_hour"], lease["gpus"], lease["charged_ms"]
                )
                assert lease["fee_nanos"] == fee_total(lease["charged_nanos"], 50_000)
            if job["state"] in ("done", "failed", "cancelled"):
                assert self.scene.balances().get(f"escrow:{job['id']}", 0) == 0

    def own_machines_cost_nothing_and_are_nobody_elses(self, whole: Any) -> None:
        for job in whole["jobs"].values():
            named = job["spec"]["workers"].get("own")
            for lease in (whole["leases"][name] for name in job["leases"] if named):
                assert lease["price_nanos_per_gpu_hour"] == 0
                assert lease["provider"] in named

    def what_was_let_on_a_day_is_what_its_leases_say(self, whole: Any) -> None:
        for offer in whole["offers"].values():
            day, let = offer["let_day"], {name: ms for name, ms in offer["let_unit_ms"].items() if ms}
            had: dict[str, int] = {}
            for lease in whole["leases"].values():
                if lease["offer"] == offer["id"] and lease["price_nanos_per_gpu_hour"] and DAY.number_of(lease["ended_ms"] or -1) == day:
                    ms = lease["gpus"] * (lease["ended_ms"] - max(lease["granted_ms"], DAY.begin_ms(day)))
                    had[lease["customer"]] = had.get(lease["customer"], 0) + ms
            assert let == {name: ms for name, ms in had.items() if ms}


ExchangeMachine.TestCase.settings = hypothesis_settings(max_examples=25, stateful_step_count=40, deadline=None)
TestExchange = ExchangeMachine.TestCase
