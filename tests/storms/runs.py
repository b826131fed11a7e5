"""Simulated runs: what a job's RunActor tells the market, with meters that lie, words that come twice, and runs that are over."""

import asyncio
from hashlib import sha256
from random import Random
from typing import Any

from market.commands import (
    Evaluated,
    HaltJob,
    LostWorker,
    Member,
    Reading,
    ReportAttempt,
    ReportCheckpoint,
    ReportReadings,
    ReportRound,
    ReportSave,
)
from tests.storms.faults import Weather
from tests.storms.machines import REASONS
from tests.storms.network import Network

PLANE = "plane"


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


class Steward:
    """Starts a run for each job that should have one, as the real one does; a run of before may live on for a while."""

    def __init__(self, network: Network, weather: Weather, random: Random) -> None:
        self._network, self._weather, self._random = network, weather, random
        self._runs: dict[tuple[str, int], asyncio.Task[None]] = {}

    async def live(self) -> None:
        while True:
            await asyncio.sleep(1.5)
            told = await self._network.look(lambda exchange: exchange.runs())
            for one in [] if told is None else told["runs"]:
                key = (one["job"], one["run"])
                if key not in self._runs:
                    run = Run(*key, self._network, self._weather, Random(f"{self._random.random()} {key}"))
                    self._runs[key] = asyncio.get_running_loop().create_task(run.live())


class Run:
    """One attempt of one job, until it is over or another has taken its place."""

    def __init__(self, job: str, attempt: int, network: Network, weather: Weather, random: Random) -> None:
        self._job, self._attempt = job, attempt
        self._network, self._weather, self._random = network, weather, random
        self._since_s: dict[str, float] = {}
        self._pace = random.choice((1.0, 1.0, 0.9, 1.2))
        self._round = 0
        self._durable = 0
        self._words: set[asyncio.Task[Any]] = set()

    async def live(self) -> None:
        while True:
            await asyncio.sleep(self._random.uniform(1.5, 4.0))
            told = await self._network.look(lambda exchange: exchange.directive(self._job))
            if told is None:
                continue
            over = told["state"] != "running" or told["run"] != self._attempt
            if over and not self._weather.strikes("lies", 0.3):
                return
            self._weather.count["a run that is over spoke"] += over
            if told["wanted"] != "run" and self._random.random() < 0.7:
                await self._halt(told["wanted"])
                continue
            await self._work(told)

    async def _work(self, told: dict[str, Any]) -> None:
        active = [lease for lease in told["leases"] if lease["state"] == "active"]
        self._round = max(self._round, told["rounds_committed"]) if self._round else told["rounds_committed"]
        self._say(ReportReadings(self._job, 77, self._readings(active), (), self._lost(active), PLANE))
        if "command" in told["spec"]:
            await self._command(told, active)
        elif active and self._random.random() < 0.7:
            await self._commit(told, active)
        if self._random.random() < 0.01:
            self._weather.count["run failed"] += 1
            await self._network.say(HaltJob(self._job, "failed", self._random.choice(REASONS), "x", None, PLANE, self._attempt))

    def _readings(self, active: list[dict[str, Any]]) -> tuple[Reading, ...]:
        found = []
        for lease in active:
            ms = seen_ms = self._leased_ms(lease)
            self._network.promises.saw(lease["id"], seen_ms)
            if self._weather.strikes("lies", 0.05):
                self._weather.count["meter lied"] += 1
                ms = self._random.choice((0, ms // 2, 10 * ms + 1, 10**12))
            epoch = lease["epoch"] + (self._weather.strikes("lies", 0.02))
            found.append(Reading(lease["id"], epoch, ms, ms * 9 // 10, 0, ms, ms, seen_ms))
        return tuple(found)

    def _leased_ms(self, lease: dict[str, Any]) -> int:
        now_s = asyncio.get_running_loop().time()
        return int((now_s - self._since_s.setdefault(lease["id"], now_s)) * 1000 * self._pace)

    def _lost(self, active: list[dict[str, Any]]) -> tuple[LostWorker, ...]:
        if not active or not self._weather.strikes("death", 0.04):
            return ()
        lease = self._random.choice(active)
        self._weather.count["worker lost"] += 1
        return (LostWorker(lease["id"], lease["epoch"], self._random.choice(REASONS), ""),)

    async def _commit(self, told: dict[str, Any], active: list[dict[str, Any]]) -> None:
        number = self._round + 1
        if number <= told["spec"]["rounds"]:
            members = tuple(
                Member(
                    lease["id"], lease["epoch"], lease["slot"], 2.5, 30, 1000, self._leased_ms(lease), self._leased_ms(lease) // 2, 9,
                    _digest("c"), run_ms=self._leased_ms(lease),
                )
                for lease in active
            )
            digest = _digest(f"{self._job} {number} {self._attempt}")
            command = ReportRound(self._job, number, 30 * number, digest, "all", 1_000, members, (), PLANE)
            outcome = await self._network.sure(command)
            if isinstance(outcome.answer, dict) and outcome.created:
                self._round = number
                self._say(ReportReadings(self._job, 77, (), (Evaluated(number, 2.0),), (), PLANE))
        if self._random.random() < 0.6:
            self._say(ReportCheckpoint(self._job, self._round, 30 * self._round, _digest(f"m{self._round}"), 10, 1, (), PLANE))
        if self._round >= told["spec"]["rounds"]:
            last = ReportCheckpoint(self._job, self._round, 30 * self._round, _digest(f"m{self._round}"), 10, 1, (), PLANE)
            await self._network.sure(last)
            await self._network.sure(HaltJob(self._job, "done", "done", "", None, PLANE, self._attempt))

    async def _command(self, told: dict[str, Any], active: list[dict[str, Any]]) -> None:
        if not active:
            return
        lease, tries = active[0], len(told["attempts"])
        if self._random.random() < 0.4:
            self._say(ReportSave(self._job, tries + 1, lease["id"], lease["epoch"], _digest(f"s{self._random.randrange(9)}"), 5, PLANE))
        if self._random.random() < 0.2:
            code = self._random.choice((0, 0, 1))
            attempt = ReportAttempt(self._job, tries + 1, lease["id"], lease["epoch"], "exit", code, None, 900, "", None, PLANE)
            await self._network.sure(attempt)
            if code == 0:
                await self._network.sure(HaltJob(self._job, "done", "done", "", None, PLANE, self._attempt))
            elif tries >= told["spec"]["command"]["retries"]:
                await self._network.sure(HaltJob(self._job, "failed", "command_failed", "", None, PLANE, self._attempt))

    async def _halt(self, wanted: str) -> None:
        if wanted == "pause":
            if self._round:
                self._say(ReportCheckpoint(self._job, self._round, 30 * self._round, _digest(f"m{self._round}"), 10, 1, (), PLANE))
                await asyncio.sleep(0.2)
            await self._network.say(HaltJob(self._job, "paused", "", "", None, PLANE, self._attempt))

    def _say(self, command: Any) -> None:
        """Without waiting: so a later word may come first."""
        task = asyncio.get_running_loop().create_task(self._network.say(command))
        self._words.add(task)
        task.add_done_callback(self._words.discard)
