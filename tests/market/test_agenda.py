"""Whom a tick looks at: the decisions are those of looking at everybody, event by event."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest

from market.agenda import Calendar
from market.clearing import clear
from market.commands import (
    AddMember,
    ApplyClearing,
    ChangeOffer,
    Command,
    Deposit,
    EndLease,
    Heard,
    HoldOffer,
    OpenMarket,
    PlaceOffer,
    ReportMeasured,
    SetLeaseTimes,
    StartLease,
    SubmitJob,
    Tick,
)
from market.exchange import Exchange, Settings
from market.owner_terms import OwnerTerms
from tests.market.scene import START_MS, USD, digest, make_spec

OFFERS = 5
SETTINGS = replace(Settings(), measure_every_ms=600_000, measure_patience_ms=20_000)
TERMS = (
    OwnerTerms(), OwnerTerms(), OwnerTerms(prices=(("00:20-00:40", USD // 5), ("00:50-02:00 thu", USD // 4)), zone="Europe/Berlin"),
    OwnerTerms(maintenance=("00:30-00:35", "01:10-01:11 thu")), OwnerTerms(max_lease_ms=120_000),
)  # fmt: skip


@dataclass
class Twins:
    """Two exchanges that hear the same; the ticks of one look at every offer."""

    random: Random
    now_ms: int = START_MS
    records: list[tuple[int, list[dict[str, Any]]]] = field(default_factory=list)
    kinds: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.keen, self.thorough = Exchange(SETTINGS), Exchange(SETTINGS)
        self.say(OpenMarket("square", "1"))
        for name, role in (("op", "operator"), ("ann", "customer"), ("p", "provider")):
            self.say(AddMember(name, role, digest(name), "market"))
        self.say(Deposit("d", "ann", 1_000 * USD, "op"))
        for number in range(OFFERS):
            self.say(self.offer(number))

    def say(self, command: Command) -> Any:
        if isinstance(command, Tick):
            self.thorough._volatile.agenda = None
        found, wanted = (exchange.step(command, self.now_ms) for exchange in (self.keen, self.thorough))
        assert found.events == wanted.events
        if found.events:
            self.records.append((self.now_ms, list(found.events)))
            self.kinds |= {f"{event['type']} {event.get('reason', '')}".strip() for event in found.events}
        return found.answer

    def restart(self) -> None:
        self.keen, self.thorough = Exchange(SETTINGS), Exchange(SETTINGS)
        for exchange in (self.keen, self.thorough):
            for at_ms, events in self.records:
                exchange.replay(at_ms, events)

    def offer(self, number: int) -> PlaceOffer:
        return PlaceOffer(
            id=f"o{number}", name=f"o{number}", gpu="cpu", gpus=2, vram_gib=4.0, region="eu", price_nanos_per_gpu_hour=USD // 2,
            floor_price_nanos_per_gpu_hour=None, isolation="sandbox", measured={"matmul_gflops": 50.0}, shares=(), node="n",
            versions={"python": "3.11", "ray": "2.60", "torg": "0.1"}, by="p", terms=TERMS[number % len(TERMS)],
        )  # fmt: skip

    def act(self) -> None:
        """Whatever a provider, a customer or the market's own process does next."""
        random, drawn = self.random, self.random.random()
        name = f"o{random.randrange(OFFERS + 1)}"
        if drawn < 0.06:
            until_ms = self.now_ms + random.choice((1, 500, 4_000, 100_000))
            self.say(HoldOffer(name, random.randint(0, 2), "p", until_ms=random.choice((None, until_ms))))
        elif drawn < 0.12:
            self.say(ChangeOffer(name, random.choice(("price", "drain", "withdraw", "relist")), "p", random.randint(1, USD)))
        elif drawn < 0.18:
            self.say(self.offer(random.randrange(OFFERS + 1)))
        elif drawn < 0.22:
            begin = datetime.fromtimestamp(self.now_ms // 1000 + random.choice((-3, 2, 15, 60)), UTC)
            windows = random.choice(((), (f"{begin:%Y-%m-%dT%H:%M:%S}/{random.choice((1, 20))}s",), None))
            self.say(SetLeaseTimes(name, "p", maintenance=windows))
        elif drawn < 0.3:
            spec = make_spec(workers__min=1, workers__max=1, limits__budget_nanos=USD // 100)
            spec["workers"]["movable"] = True
            self.say(SubmitJob(f"j{random.randrange(10**6)}", spec, "ann"))
            self.say(ApplyClearing(clear(self.keen.snapshot())))
        elif drawn < 0.45:
            self.leases()
        elif drawn < 0.55:
            asked = (self.keen.state.offers[name].asked if name in self.keen.state.offers else None) or {"seed": 1}
            self.say(ReportMeasured(name, asked["seed"], {"matmul_gflops": random.choice((50.0, 5.0))}, "p"))

    def leases(self) -> None:
        for name in list(self.keen.state.live_leases):
            lease = self.keen.state.leases[name]
            if str(lease.state) == "granted":
                self.say(StartLease(name, lease.epoch, "w", 7, "n", "p"))
            elif self.random.random() < 0.4:
                self.say(EndLease(name, lease.epoch, "preempted", "", "p"))

    def pass_time(self) -> None:
        self.now_ms += self.random.choice((100, 500, 500, 1_000, 3_000, 10_300, 11_000, 60_000))
        quiet = {f"o{self.random.randrange(OFFERS)}" for _ in range(self.random.choice((0, 0, 2, OFFERS)))}
        for name in self.keen.state.offers:
            if name not in quiet:
                self.say(Heard(name, "p"))
        self.say(Tick(random=self.random.choice((0, self.random.getrandbits(64)))))


def test_a_tick_decides_what_it_would_by_looking_at_every_offer() -> None:
    kinds: set[str] = set()
    for seed in range(6):
        twins = Twins(Random(seed))
        for _ in range(200):
            twins.act()
            twins.pass_time()
            if twins.random.random() < 0.01:
                twins.restart()
        kinds |= twins.kinds
    for _ in range(2_500):  # six hours of signs of life are noted
        twins.now_ms += 9_000
        for name in twins.keen.state.offers:
            twins.say(Heard(name, "p"))
        twins.say(Tick(random=twins.random.getrandbits(64)))
    kinds |= twins.kinds
    assert kinds >= {
        "offer_held", "offer_window", "offer_changed schedule", "offer_changed not_heard", "offer_changed heard", "measurement_asked",
        "offer_measured", "lease_noticed max_lease", "offer_heard",
    }, sorted(kinds)  # fmt: skip


def test_a_tick_of_many_offers_looks_at_few(monkeypatch: pytest.MonkeyPatch) -> None:
    from market import timeouts

    twins = Twins(Random(1))
    looked: list[int] = []
    real = timeouts.release_what_is_over
    monkeypatch.setattr(timeouts, "release_what_is_over", lambda turn, offers: (looked.append(len(offers)), real(turn, offers)))
    for _ in range(40):
        twins.now_ms += 500
        for number in range(OFFERS):
            twins.keen.step(Heard(f"o{number}", "p"), twins.now_ms)
        twins.keen.step(Tick(), twins.now_ms)
    assert looked == [OFFERS] + [0] * 39


def test_a_calendar_gives_each_name_once_at_the_newest_of_its_times() -> None:
    calendar = Calendar()
    for name, at_ms in (("a", 700), ("b", 100), ("c", 400), ("a", 900), ("c", None), ("d", 901)):
        calendar.put(name, at_ms)
    assert calendar.take(99) == []
    assert calendar.take(899) == ["b"]
    assert calendar.take(900) == ["a"]
    assert calendar.take(10_000) == ["d"]
    assert calendar.take(20_000) == []
