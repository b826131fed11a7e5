"""Simulated people: the operator, who pays in and out, and customers, who submit, top up, change their minds and ask again."""

import asyncio
from dataclasses import replace
from random import Random
from typing import Any

from market.book_commands import BookTransfers, ClosePeriod, CorrectTransfer
from market.commands import (
    AddBudget,
    CancelJob,
    Command,
    Deposit,
    GrantCredit,
    Payout,
    ReopenMarket,
    SetLimits,
    SetPriceRule,
    StopMarket,
    SubmitJob,
)
from market.dispute_commands import DecideDispute, OpenDispute
from market.outcomes import Refusal
from tests.market.scene import USD, make_spec
from tests.market.test_batch import make_spec as make_command
from tests.storms.faults import Weather
from tests.storms.network import Network


class Operator:
    """Pays in, pays out, grants, and sometimes takes the market down for a while."""

    def __init__(self, network: Network, weather: Weather, random: Random, customers: list[str], providers: list[str]) -> None:
        self._network, self._weather, self._random = network, weather, random
        self._customers, self._providers = customers, providers

    async def live(self) -> None:
        for name in self._customers:
            await self._network.sure(Deposit(f"first-{name}", name, self._random.randint(1, 40) * USD // 1000, "op"))
            await self._welcome(name)
        number = 0
        while True:
            await asyncio.sleep(self._random.uniform(2, 15))
            number += 1
            drawn, nanos = self._random.random(), self._random.randint(1, 10**10) // 1000
            if drawn < 0.4:
                await self._network.sure(Deposit(f"d-{number}", self._random.choice(self._customers), nanos, "op"))
            elif drawn < 0.75:
                nanos = self._random.choice((nanos, 1, 999, 10**6))
                await self._network.sure(Payout(f"p-{number}", self._random.choice([*self._providers, *self._customers]), nanos, "op"))
            elif drawn < 0.85:
                at_ms = await self._network.look(lambda exchange: exchange.now_ms)
                if at_ms is not None:
                    expires_ms = at_ms + self._random.choice((5_000, 60_000, 10_000_000))
                    await self._network.sure(
                        GrantCredit(f"g-{number}", self._random.choice(self._customers), None, nanos, expires_ms, "to begin with", "op")
                    )
            elif drawn < 0.88:
                nanos = self._random.choice((None, nanos // 1000 + 1, 10**6))
                await self._network.sure(SetLimits(self._random.choice(self._customers), None, "op", nanos, None))
            elif drawn < 0.92:
                await self._network.sure(SetPriceRule(self._random.choice(("ask", "class", "spot")), "op"))
            elif self._weather.strikes("whims", 0.5):
                self._weather.count["market stopped"] += 1
                await self._network.sure(StopMarket("op"))
                await asyncio.sleep(self._random.uniform(1, 40))
                await self._network.sure(ReopenMarket("op"))

    async def _welcome(self, name: str) -> None:
        """Some begin with credit, which ends in the middle of the story for some of them."""
        at_ms = await self._network.look(lambda exchange: exchange.now_ms)
        if at_ms is not None and self._random.random() < 0.5:
            expires_ms = self._random.choice((None, at_ms + 8_000, at_ms + 20_000))
            nanos = self._random.randint(1, 10) * USD // 1000
            await self._network.sure(GrantCredit(f"welcome-{name}", name, None, nanos, expires_ms, "to begin with", "op"))


class Bookkeeper:
    """Decides disputes, books many transfers at once, corrects what was booked, and closes periods."""

    def __init__(self, network: Network, weather: Weather, random: Random, customers: list[str], providers: list[str]) -> None:
        self._network, self._weather, self._random = network, weather, random
        self._customers, self._providers = customers, providers

    async def live(self) -> None:
        number = 0
        while True:
            await asyncio.sleep(self._random.uniform(1, 8))
            number += 1
            drawn = self._random.random()
            if drawn < 0.55:
                await self._decide()
            elif drawn < 0.72:
                await self._done(self._batch(f"b-{number}"), "batch booked")
            elif drawn < 0.88:
                await self._correct(f"c-{number}")
            else:
                await self._done(ClosePeriod(None, "op"), "period closed")

    def _batch(self, id: str) -> BookTransfers:
        random, rows = self._random, range(self._random.randint(1, 6))
        kinds = [random.choice(("deposit", "payout")) for _ in rows]
        accounts = [random.choice(self._customers if kind == "deposit" else self._providers) for kind in kinds]
        amounts, linked = [random.randint(1, 10**7) for _ in rows], [random.random() < 0.3 for _ in rows]
        return BookTransfers("op", [f"{id}-{row}" for row in rows], kinds, accounts, amounts, linked)

    async def _decide(self) -> None:
        known = await self._network.look(lambda exchange: exchange.disputes())
        waiting = [one for one in known or () if one["state"] == "open"]
        if waiting:
            one, verdict = self._random.choice(waiting), self._random.choice(("upheld", "rejected"))
            part = self._random.choice((None, 1 + one["amount_nanos"] // 2)) if (one["about"], verdict) == ("charges", "upheld") else None
            await self._done(DecideDispute(one["id"], verdict, part, "as the meters say", "op"), f"dispute {verdict}")

    async def _correct(self, id: str) -> None:
        account = self._random.choice(("world", "fee", *(f"earnings:{name}" for name in self._providers)))
        known = await self._network.look(lambda exchange: exchange.transfers(account))
        if known:
            one, part = self._random.choice(known), self._random.choice((None, 1, 10**6))
            await self._done(CorrectTransfer(id, one["id"], part, "booked by mistake", "op"), f"{one['kind']} corrected")

    async def _done(self, command: Command, what: str) -> None:
        outcome = await self._network.sure(command)
        if not isinstance(outcome.answer, Refusal):
            self._weather.count[what] += 1
            self._weather.count["given back to credit"] += bool(outcome.answer.get("granted_nanos"))


class Customer:
    """Some jobs at a time, each with a budget that may or may not do."""

    def __init__(self, name: str, network: Network, weather: Weather, random: Random, long: bool = False) -> None:
        self.name = name
        self._times = 10 if long else 1
        self.jobs: list[str] = []
        self._network, self._weather, self._random = network, weather, random

    async def live(self) -> None:
        await asyncio.sleep(self._random.uniform(0, 2))
        for number in range(self._random.randint(1, 4)):
            await self._submit(f"{self.name}-{number}")
            await asyncio.sleep(self._random.uniform(0.5, 10))
        while True:
            await self._change_mind()
            await asyncio.sleep(self._random.uniform(2, 20))

    async def _submit(self, id: str) -> None:
        command = SubmitJob(id, self._spec(), self.name)
        self.jobs.append(id)
        for _ in range(8):  # until the operator's money has come, and somebody offers what it wants
            outcome = await self._network.sure(command)
            if not isinstance(outcome.answer, Refusal):
                break
            if outcome.answer.code not in ("insufficient_funds", "market_closing"):
                return
            await asyncio.sleep(2)
        if self._weather.strikes("lies", 0.2):
            self._weather.count["the same id for another job"] += 1
            other = dict(command.spec) | {"limits": {**command.spec["limits"], "budget_nanos": 1 + command.spec["limits"]["budget_nanos"]}}
            await self._network.say(replace(command, spec=other))

    def _spec(self) -> dict[str, Any]:
        random = self._random
        least = random.randint(1, 3)
        price = random.choice((40, 60, 90, 200)) * USD // 100
        budget = random.randint(1, 30) * USD // 1000
        deadline = random.choice((None, None, None, 60_000))
        if random.random() < 0.2:
            spec = make_command(retries=random.randint(0, 2))
            spec["limits"] = {"max_price_nanos_per_gpu_hour": price, "budget_nanos": budget, "deadline_ms": deadline}
            return spec | {"wait": True}
        spec = make_spec(
            workers__min=least, workers__max=least + random.randint(0, 2), workers__gpus=random.choice((1, 1, 2)),
            limits__max_price_nanos_per_gpu_hour=price, limits__budget_nanos=budget, limits__deadline_ms=deadline,
            rounds=random.randint(2, 8) * self._times, wait=True,
        )  # fmt: skip
        spec["steps"] = spec["rounds"] * 30
        if random.random() < 0.3:
            spec["limits"]["interruptible"] = True
        elif random.random() < 0.2:
            spec["workers"]["grow_below_nanos_per_gpu_hour"] = price * 2 // 3
        if random.random() < 0.6:
            spec["workers"]["movable"] = True
        return spec

    async def _change_mind(self) -> None:
        if not self.jobs:
            return
        job, drawn = self._random.choice(self.jobs), self._random.random()
        if drawn < 0.5:
            add = AddBudget(f"more-{self._random.randrange(4)}", job, self._random.randint(1, 20) * USD // 1000, self.name)
            await self._network.sure(add)
        elif drawn < 0.65 and self._weather.strikes("whims", 0.6):
            self._weather.count["job cancelled"] += 1
            await self._network.sure(CancelJob(job, self.name))

    async def object(self) -> None:
        """Look at the bills now and then."""
        while True:
            await asyncio.sleep(self._random.uniform(1, 4))
            await self._object()

    async def _object(self) -> None:
        """To what some lease was charged: to all of it, or to a part."""
        seen = await self._network.look(lambda exchange: [one for one in map(exchange.job, self.jobs) if one])
        charged = [(one["id"], lease) for one in seen or () for lease in one["leases"] if lease["charged_nanos"]]
        if not charged:
            return
        (job, lease), number = self._random.choice(charged), self._random.randrange(100)
        amount = self._random.choice((None, 1 + lease["charged_nanos"] // 3))
        outcome = await self._network.sure(OpenDispute(f"{job}-d{number}", job, lease["id"], amount, "it was slow", "", self.name))
        self._weather.count["charges disputed"] += not isinstance(outcome.answer, Refusal)

    async def give_up(self) -> None:
        """End everything that is still open: at the end nobody's money may be left in an escrow."""
        for job in self.jobs:
            await self._network.sure(CancelJob(job, self.name))
