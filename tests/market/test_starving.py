"""Nobody starves: with steady competition by bids that are worth more, every feasible bid is served within a bound."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from market.clearing import clear
from market.commands import SetDueRule, Tick
from market.fair_share import Usage
from market.orders import Bid, BookSnapshot, Offer, Requirements, Standing
from market.worth import DueRule, weight_ppm
from storage.units import MS_PER_DAY, MS_PER_HOUR
from tests.market.scene import USD, Scene

STEP_MS = 10 * 60_000
LEASE_STEPS = 6
LEASE_MS = LEASE_STEPS * STEP_MS
PATIENCE_MS = DueRule().after_ms(LEASE_MS) or 0


class Crowd:
    """Machines of one unit, leases that last an hour, and in each clearing as many new bids as seats come free, and one more.

    The crowd pays 5 to 9 USD; `meek` bids pay 1 USD, some want large gangs. Everybody's worth follows the house's rule.
    """

    def __init__(self, seed: int, machines: int, teams: bool) -> None:
        self.rng = random.Random(seed)
        self.now_ms = 0
        self.machines = machines
        self.busy: dict[str, tuple[int, str]] = {}
        self.waiting: dict[str, Bid] = {}
        self.served_ms: dict[str, int] = {}
        self.count = 0
        self.usage = {"rich": Usage(), "meek": Usage()} if teams else {}

    def ask(self, workers: int, usd: float, team: str) -> str:
        self.count += 1
        name = f"{team}-{self.count:04d}"
        self.waiting[name] = Bid(
            name, self.now_ms, workers, workers, Requirements(), round(usd * USD), 10**15, team=team if self.usage else "",
            expected_ms=LEASE_MS,
        )  # fmt: skip
        return name

    def step(self) -> None:
        self.now_ms += STEP_MS
        for offer, (until_ms, team) in list(self.busy.items()):
            if until_ms <= self.now_ms:
                del self.busy[offer]
                self._use(team, -1)
        for _ in range(self.machines // LEASE_STEPS + 1):
            self.ask(self.rng.choice([1, 1, 1, 2]), self.rng.uniform(5, 9), "rich")
        found = clear(self.snapshot(), reasons=False)
        assert found.forgone_nanos is not None
        for match in found.matches:
            bid = self.waiting.pop(match.job)
            self.served_ms[match.job] = self.now_ms - bid.submitted_ms
            for offer in match.offers:
                assert offer not in self.busy
                self.busy[offer] = (self.now_ms + LEASE_MS, bid.team)
                self._use(bid.team, 1)

    def snapshot(self) -> BookSnapshot:
        offers = tuple(
            Offer(f"o{n:02d}", "p", "cpu", 1, int(f"o{n:02d}" not in self.busy), 4.0, "eu", 0.99, "process", USD // 2)
            for n in range(self.machines)
        )
        bids = tuple(
            replace(
                bid, weight_ppm=weight_ppm(self.now_ms - bid.submitted_ms),
                due=self.now_ms - bid.submitted_ms >= PATIENCE_MS,
            )
            for bid in self.waiting.values()
        )  # fmt: skip
        standings: Sequence[Standing] = [
            Standing(team, 1, None, used.units, used.at(self.now_ms).unit_ms) for team, used in self.usage.items()
        ]
        return BookSnapshot(offers, bids, tuple(standings))

    def _use(self, team: str, units: int) -> None:
        if team in self.usage:
            self.usage[team] = self.usage[team].changed(units, self.now_ms)


@pytest.mark.parametrize("teams", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_every_feasible_bid_is_served_within_a_bound(seed: int, teams: bool) -> None:
    crowd = Crowd(seed, machines=12, teams=teams)
    for _ in range(6):
        crowd.step()
    meek = [crowd.ask(workers, 1.0, "meek") for workers in (1, 8, 12)]
    patience = PATIENCE_MS
    # Then each of those before it in the queue of the due needs, at worst, the whole market for one lease.
    ahead = len(crowd.waiting)
    bound = patience // STEP_MS + LEASE_STEPS * (ahead + 1)
    for _ in range(bound):
        if all(name in crowd.served_ms for name in meek):
            break
        crowd.step()
    assert all(name in crowd.served_ms for name in meek), {name: name in crowd.served_ms for name in meek}
    if not teams:  # a team that has used nothing does not wait for its turn
        assert max(crowd.served_ms[name] for name in meek) >= patience, "they were outbid until they were due"


def test_without_due_bids_a_large_gang_starves_and_small_ones_do_not_wait_idle() -> None:
    """The rule is needed: the same crowd with weights alone never has eight machines free at once."""
    crowd = Crowd(7, machines=12, teams=False)
    for _ in range(6):
        crowd.step()
    name = crowd.ask(8, 9.0, "meek")
    snapshot_of = crowd.snapshot

    def never_due() -> BookSnapshot:
        found = snapshot_of()
        return replace(found, bids=tuple(replace(bid, due=False) for bid in found.bids))

    crowd.snapshot = never_due  # type: ignore[method-assign]
    for _ in range(2 * PATIENCE_MS // STEP_MS):
        crowd.step()
    assert name not in crowd.served_ms


def test_a_gang_below_its_minimum_goes_first() -> None:
    offers = (Offer("o1", "p", "cpu", 1, 1, 4.0, "eu", 0.99, "process", USD),)
    rich = Bid("rich", 0, 1, 1, Requirements(), 9 * USD, 10**15)
    short = Bid("short", 5, 1, 1, Requirements(), 2 * USD, 10**15, due=True)
    assert [match.job for match in clear(BookSnapshot(offers, (rich, short))).matches] == ["short"]


def test_seats_are_kept_for_one_gang_only_and_only_if_it_could_ever_sit() -> None:
    free = tuple(Offer(f"o{n}", "p", "cpu", 1, int(n < 2), 4.0, "eu", 0.99, "process", USD) for n in range(4))
    small = Bid("small", 9, 1, 1, Requirements(), 9 * USD, 10**15)
    first = Bid("first", 0, 4, 4, Requirements(), 2 * USD, 10**15, due=True)
    kept = clear(BookSnapshot(free, (small, first)))
    assert (kept.matches, kept.kept_for) == ((), "first")
    reasons = {one.job: str(one.reason) for one in kept.unmatched}
    assert reasons == {"first": "busy", "small": "kept_for_another"}
    never = replace(first, workers_min=5, workers_max=5)
    assert [match.job for match in clear(BookSnapshot(free, (small, never))).matches] == ["small"]
    second = replace(first, job="second", submitted_ms=1, workers_min=1, workers_max=1)
    three = (*free[:2], *(replace(one, gpus_free=1) for one in free[2:3]), free[3])
    both = clear(BookSnapshot(three, (small, first, second)))
    assert both.matches == ()


@pytest.mark.parametrize(("waited_h", "weight"), [(0, 1), (1, 2), (24, 25), (99, 25), (-1, 1)])
def test_weights_grow_by_the_hour(waited_h: int, weight: int) -> None:
    assert weight_ppm(waited_h * MS_PER_HOUR) == weight * 1_000_000


def test_the_operator_says_when_waiting_makes_due_and_a_replay_knows_it() -> None:
    scene = Scene()
    scene.submit("poor", workers__min=1, workers__max=1, limits__max_price_nanos_per_gpu_hour=USD)
    scene.submit("rich", workers__min=1, workers__max=1, limits__max_price_nanos_per_gpu_hour=9 * USD)
    for rule, due in (((None, MS_PER_DAY), False), ((0, MS_PER_HOUR), True), ((4, MS_PER_DAY), False)):
        assert scene.do(SetDueRule(*rule, "op"))["due_rule"] == {"patience": rule[0], "most_ms": rule[1]}
        scene.now_ms += MS_PER_HOUR if rule[0] == 0 else 0
        scene.do(Tick())
        assert {bid.job: bid.due for bid in scene.exchange.snapshot().bids} == {"poor": due, "rich": due}
    assert scene.exchange.totals()["due_rule"] == {"patience": 4, "most_ms": MS_PER_DAY}
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()
    assert scene.refused(SetDueRule(4, MS_PER_DAY, "ann")).code == "forbidden"
    assert scene.refused(SetDueRule(-1, MS_PER_DAY, "op")).field == "patience"
    assert scene.refused(SetDueRule(4, 1, "op")).field == "most_ms"


@pytest.mark.parametrize(("takes_h", "due_h"), [(0, 1), (1, 4), (6, 24), (99, 24)])
def test_who_takes_longer_waits_longer_until_it_is_due(takes_h: int, due_h: int) -> None:
    assert DueRule().after_ms(takes_h * MS_PER_HOUR) == due_h * MS_PER_HOUR
