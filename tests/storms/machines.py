"""Simulated providers: they list, start what they are leased, change their minds, lie, fall silent, and come again."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from random import Random
from typing import Any

from market.commands import (
    KEEP,
    ChangeOffer,
    EndLease,
    Heard,
    HoldOffer,
    LoseRay,
    PlaceOffer,
    ReportMeasured,
    SetLeaseTimes,
    StartLease,
)
from market.faults import CAUSES
from market.outcomes import Refusal
from market.owner_terms import OwnerTerms
from tests.market.scene import USD
from tests.storms.faults import Weather
from tests.storms.network import Network

REASONS = [cause.reason for cause in CAUSES]


class Provider:
    """One machine with one offer."""

    def __init__(self, number: int, network: Network, weather: Weather, random: Random, announced: bool = False) -> None:
        self.name = f"p{number}"
        self.offer = f"offer-{number}"
        self._network, self._weather, self._random = network, weather, random
        self._node, self._announced = 1, announced
        self._told: set[tuple[str, int]] = set()
        price = random.randint(20, 80) * USD // 100 + random.randrange(1000)
        self._terms = PlaceOffer(
            id=self.offer, name=self.name, gpu="cpu", gpus=random.randint(1, 4), vram_gib=4.0, region=random.choice(("eu", "us")),
            price_nanos_per_gpu_hour=price, floor_price_nanos_per_gpu_hour=random.choice((None, price // 2)), isolation="sandbox",
            measured={"matmul_gflops": 50.0}, shares=(), node=f"{self.name}-1",
            versions={"python": "3.11", "ray": "2.60", "torg": "0.1"}, by=self.name,
            terms=random.choice((*(OwnerTerms(),) * 7, OwnerTerms(notice_ms=1_000, max_lease_ms=2_000))),
        )  # fmt: skip

    async def live(self) -> None:
        await asyncio.sleep(self._random.uniform(0, 1))
        await self._network.sure(self._terms)
        if self._announced:
            await self._announce(self._random.randint(70, 100))
        while True:
            await asyncio.sleep(self._random.uniform(1.5, 3.5))
            if self._weather.strikes("death", 0.02):
                await self._die()
            view = await self._network.look(lambda exchange: exchange.leases_of(self.offer))
            if view is None:
                continue
            await self._network.say(Heard(self.offer, self.name))
            await self._serve(view)
            if self._weather.strikes("whims", 0.04):
                await self._change_mind(view)
            if view["leases"] and self._weather.strikes("whims", 0.04):
                await self._set_times()
            if self._weather.strikes("lies", 0.05):
                await self._lie(view)

    async def _serve(self, view: dict[str, Any]) -> None:
        if view["offer"]["state"] in ("offline", "withdrawn"):
            await self._network.sure(replace(self._terms, node=f"{self.name}-{self._node}"))
        asked = view["offer"]["measure"]
        if asked is not None:
            figures = {"matmul_gflops": self._random.choice((50.0, 51.0, 5.0))}
            await self._network.say(ReportMeasured(self.offer, asked["seed"], figures, self.name))
        for lease in view["leases"]:
            if lease["state"] == "granted" and self._random.random() < 0.9:
                await self._start(lease)
            elif lease["ending"] is not None and self._random.random() < 0.7:
                self._weather.count[f"left: {lease['ending']['reason']}"] += 1
                await self._network.say(EndLease(lease["id"], lease["epoch"], lease["ending"]["reason"], "", self.name))

    async def _start(self, lease: dict[str, Any]) -> None:
        if self._random.random() < 0.05:
            await self._network.say(EndLease(lease["id"], lease["epoch"], "failed_to_start", "no such file", self.name))
        else:
            await self._network.say(StartLease(lease["id"], lease["epoch"], f"w-{lease['slot']}", 7, f"{self.name}-{self._node}", self.name))

    async def _die(self) -> None:
        self._weather.count["machine silent"] += 1
        await asyncio.sleep(self._random.uniform(3, 90))
        if self._random.random() < 0.7:
            self._weather.count["machine back on another node"] += 1
            self._node += 1
            await self._network.sure(replace(self._terms, node=f"{self.name}-{self._node}"))

    async def _change_mind(self, view: dict[str, Any]) -> None:
        drawn, random = self._random.random(), self._random
        if drawn < 0.4:
            self._weather.count["price changed"] += 1
            price = random.randint(20, 120) * USD // 100
            self._terms = replace(self._terms, price_nanos_per_gpu_hour=price)
            if (self._terms.floor_price_nanos_per_gpu_hour or 0) > price:
                self._terms = replace(self._terms, floor_price_nanos_per_gpu_hour=None)
            await self._network.sure(ChangeOffer(self.offer, "price", self.name, price))
        elif drawn < 0.7:
            await self._network.sure(ChangeOffer(self.offer, random.choice(("drain", "withdraw", "relist")), self.name))
        else:
            held = random.randint(0, self._terms.gpus)
            leases = tuple(lease["id"] for lease in view["leases"] if random.random() < 0.5)
            await self._network.sure(HoldOffer(self.offer, held, self.name, leases=leases if held else ()))
            await asyncio.sleep(random.uniform(1, 10))
            await self._network.sure(HoldOffer(self.offer, 0, self.name))

    async def _set_times(self) -> None:
        """Maintenance soon, for those that run, too; perhaps another longest lease, for leases to come."""
        random = self._random
        await self._announce(*(random.choice((2, 8, 20)) for _ in range(random.randint(1, 2))), most_ms=random.choice((KEEP, KEEP, None, 6_000)))

    async def _announce(self, *in_s: int, most_ms: int | None = KEEP) -> None:
        """Maintenance in so many seconds."""
        now_ms = await self._network.look(lambda exchange: exchange.now_ms)
        if now_ms is None:
            return
        windows = tuple(
            f"{datetime.fromtimestamp(now_ms // 1000 + seconds, UTC):%Y-%m-%dT%H:%M:%S}/{self._random.randint(2, 15)}s" for seconds in in_s
        )
        outcome = await self._network.sure(SetLeaseTimes(self.offer, self.name, None, most_ms, windows))
        self._weather.count["maintenance set"] += not isinstance(outcome.answer, Refusal)

    async def _lie(self, view: dict[str, Any]) -> None:
        random = self._random
        self._weather.count["provider lied"] += 1
        lease = random.choice(view["leases"]) if view["leases"] else {"id": "lease-000001", "epoch": 1}
        forged = (
            StartLease(lease["id"], lease["epoch"] + random.choice((-1, 1)), "w", 7, "node", self.name),
            StartLease(f"lease-{random.randint(1, 30):06d}", random.randint(1, 30), "w", 7, "node", self.name),
            StartLease(lease["id"], lease["epoch"], "another-worker", 7, "node", self.name),
            EndLease(lease["id"], lease["epoch"], random.choice(REASONS), "because", self.name),
            EndLease(f"lease-{random.randint(1, 30):06d}", random.randint(1, 30), "cancelled", "", self.name),
            ChangeOffer(f"offer-{random.randint(1, 4)}", "price", self.name, 1),
            Heard(f"offer-{random.randint(1, 4)}", self.name),
            LoseRay(self.name),
            replace(self._terms, price_nanos_per_gpu_hour=1),
            replace(self._terms, gpus=64),
        )
        outcome = await self._network.say(random.choice(forged))
        self._weather.count["lie refused"] += outcome is not None and isinstance(outcome.answer, Refusal)
