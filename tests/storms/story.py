"""One story: a market, people, machines, and weather, all from one seed; and what the auditor says of what is left."""

import asyncio
import gc
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

from tests.storms import virtual
from tests.storms.auditor import Auditor
from tests.storms.faults import CLASSES, Weather
from tests.storms.house import House, Ruined
from tests.storms.machines import Provider
from tests.storms.network import LONGEST_DELAY_S, Network
from tests.storms.people import Bookkeeper, Customer, Operator
from tests.storms.promises import Promises
from tests.storms.records import Unreadable, read_records
from tests.storms.runs import Steward

REPLAYED_EVERY = 4
"""Of so many seeds one also compares the whole state with a replay."""
CUSTOMERS, PROVIDERS = 3, 4
MEMBERS = [("op", "operator"), ("plane", "plane"), *((f"c{n}", "customer") for n in range(1, CUSTOMERS + 1)), *((f"p{n}", "provider") for n in range(1, PROVIDERS + 1))]  # fmt: skip


@dataclass(slots=True)
class Plan:
    """`seed` decides everything; the rest makes a story shorter or calmer, to find what matters in it."""

    seed: int
    seconds: float
    customers: int
    providers: int
    without: frozenset[str] = frozenset()
    announced: bool = False
    """Machines announce maintenance when they are listed, and jobs last until it begins."""

    @classmethod
    def of(cls, seed: int) -> "Plan":
        """Most stories are short, so that there are many."""
        random = Random(f"{seed} plan")
        return cls(seed, random.choice((10.0, 10.0, 12.0, 12.0, 14.0, 14.0, 20.0, 60.0)), random.randint(1, CUSTOMERS), random.randint(2, PROVIDERS))

    def command(self) -> str:
        """How to run it again."""
        usual, words = Plan.of(self.seed), [f"python -m tests.storms --seed {self.seed}"]
        for name in ("seconds", "customers", "providers"):
            words += [f"--{name} {getattr(self, name):g}"] if getattr(self, name) != getattr(usual, name) else []
        words += ["--announced"] if self.announced else []
        return " ".join([*words, *([f"--without {','.join(sorted(self.without))}"] if self.without else [])])


@dataclass(slots=True)
class Told:
    """What came of a story."""

    plan: Plan
    findings: list[str] = field(default_factory=list)
    count: Counter[str] = field(default_factory=Counter)
    records: int = 0
    acknowledged: int = 0
    head: str = ""


class Story:
    """A market that stands in `folder`, and everybody who has to do with it."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.told = Told(plan)
        self.weather = Weather.of(self._draw("weather"), plan.without)
        self.promises = Promises()
        self.house = House(folder, self.weather, self._draw("house"), MEMBERS)
        self.network = Network(self.house, self.weather, self._draw("network"), self.promises)

    def _draw(self, name: str) -> Random:
        return Random(f"{self.plan.seed} {name}")

    def run(self) -> Told:
        try:
            virtual.run(self._live())
        except Ruined as error:
            self._find(str(error))
        finally:
            self.house.let_go()
        self.told.count, self.told.acknowledged = self.weather.count, self.promises.heard_of
        return self.told

    async def _live(self) -> None:
        loop, plan = asyncio.get_running_loop(), self.plan
        self._rise()
        customers = [Customer(f"c{n}", self.network, self.weather, self._draw(f"c{n}"), plan.announced) for n in range(1, plan.customers + 1)]
        providers = [Provider(n, self.network, self.weather, self._draw(f"p{n}"), plan.announced) for n in range(1, plan.providers + 1)]
        operator = Operator(self.network, self.weather, self._draw("op"), [one.name for one in customers], [one.name for one in providers])
        names = [one.name for one in customers], [one.name for one in providers]
        bookkeeper = Bookkeeper(self.network, self.weather, self._draw("books"), *names)
        steward = Steward(self.network, self.weather, self._draw("steward"))
        everybody = [loop.create_task(one.live()) for one in (operator, bookkeeper, steward, *providers, *customers)]
        everybody += [loop.create_task(one.object()) for one in customers]
        trouble = loop.create_task(self._make_trouble())
        await asyncio.sleep(plan.seconds)
        for task in (trouble, *everybody):
            if task.done() and not task.cancelled():
                task.result()  # Ruined, or somebody in the story is broken himself
            task.cancel()
        await self._end(customers)

    def _rise(self) -> None:
        """Come up, perhaps in several tries."""
        again = self.weather.strikes("again", 0.3)
        if again:
            self.house.doom("kill", self._draw(f"rise {self.house.deaths}").randint(0, 9))
        if not self.house.start():
            self.weather.count["died while it recovered"] += 1
            self.house.heal()
            while not self.house.start():
                self.house.heal()

    async def _make_trouble(self) -> None:
        random = self._draw("trouble")
        patience_s = random.choice((3, 8, 20))
        while True:
            await asyncio.sleep(random.expovariate(1 / patience_s))
            self.house.note_disk()
            if self.house.exchange is None:
                await asyncio.sleep(random.uniform(0.1, random.choice((1.0, 1.0, 12.0))))
                self._rise()
                self.weather.count["recovered"] += 1
                continue
            drawn = random.random()
            if drawn < 0.35 and self.weather.strikes("kill", 0.9):
                self.house.doom("kill", random.randint(0, 12))
            elif drawn < 0.5 and self.weather.strikes("kill", 0.9):
                self.weather.count["died: between operations"] += 1
                self.house.crash()
            elif drawn < 0.65 and self.weather.strikes("full", 0.9):
                self.house.doom("full", random.randint(1, 8))
            elif drawn < 0.75 and self.weather.strikes("io", 0.9):
                self.house.doom("io", random.randint(0, 6))
            elif self.weather.strikes("clock", 0.7):
                ms = random.choice((-3_600_000, -5_000, -500, 500, 30_000, 3_600_000, 86_400_000))
                self.weather.count["clock set forward" if ms > 0 else "clock set back"] += 1
                self.house.jump(ms)

    async def _end(self, customers: list[Customer]) -> None:
        """The weather clears, customers leave, and the books are closed and looked at."""
        self.network.calm = True
        self.house.note_disk()
        self.house.heal()
        if self.house.exchange is None:
            self._rise_calmly()
        await asyncio.sleep(LONGEST_DELAY_S)  # what is under way may still come
        try:
            await asyncio.wait_for(asyncio.gather(*(one.give_up() for one in customers)), 600)
        except TimeoutError:
            self._find("the market answers nobody although the weather is good")
        live = None
        if self.plan.seed % REPLAYED_EVERY == 0 and self.house.exchange is not None:
            live = self.house.exchange.fingerprint()
        self.house.crash()
        self._rise_calmly()
        self._judge(live)

    def _rise_calmly(self) -> None:
        self.house.heal()
        if not self.house.start():
            self._find("the market does not come back although nothing is wrong with its disk")

    def _judge(self, live: object) -> None:
        told, house = self.told, self.house
        told.findings += house.lost
        if house.bugs:
            self._find(f"{house.bugs} commands met a bug")
        try:
            records = read_records(house.folder)
        except Unreadable as error:
            self._find(str(error))
            return
        told.records, told.head = len(records), records[-1].chained.hex() if records else ""
        auditor = Auditor(house.absences()).read(records)
        told.findings += auditor.findings + self.promises.broken(auditor)
        for job in auditor.jobs.values():
            if auditor.balances[f"escrow:{job.id}"] != job.disputed:
                self._find(f"all jobs are over, and the escrow of {job.id} holds {auditor.balances[f'escrow:{job.id}']}")
        if house.exchange is not None and {name: nanos for name, nanos in auditor.balances.items() if nanos} != {
            name: nanos for name, nanos in house.exchange.balances().items() if nanos
        }:
            self._find("the exchange's balances are not those of its journal")
        if live is not None and house.exchange is not None and _lasting(house.exchange.fingerprint()) != _lasting(live):
            self._find("what came back is not the exchange that wrote the journal")

    def _find(self, what: str) -> None:
        self.told.findings.append(what)


def _lasting(fingerprint: object) -> object:
    assert isinstance(fingerprint, dict)
    return {name: value for name, value in fingerprint.items() if name != "now_ms"}


def tell_all(seeds: Iterable[int]) -> Iterator[Told]:
    """The usual story of each seed."""
    return tell_each(map(Plan.of, seeds))


def tell_each(plans: Iterable[Plan]) -> Iterator[Told]:
    """One story after another."""
    gc.disable()  # a story leaves thousands of small cycles: swept up now and then, they cost a tenth less
    try:
        for place, plan in enumerate(plans):
            yield tell(plan)
            if place % 50 == 49:
                gc.collect()
    finally:
        gc.enable()


def shrunk(plan: Plan) -> Plan:
    """A plan that still fails, with as little in it as can be left out by trying once each."""
    tries: list[Callable[[Plan], Plan]] = [lambda now, name=name: replace(now, without=now.without | {name}) for name in CLASSES]
    tries += [lambda now: replace(now, customers=max(1, now.customers - 1))] * 2
    tries += [lambda now: replace(now, providers=max(1, now.providers - 1))] * 3
    tries += [lambda now, share=share: replace(now, seconds=max(1.0, now.seconds * share)) for share in (0.5, 0.5, 0.7, 0.7, 0.85, 0.85, 0.9)]
    for make in tries:
        smaller = make(plan)
        if smaller != plan and tell(smaller).findings:
            plan = smaller
    return plan


def tell(plan: Plan, keep: Path | None = None) -> Told:
    """Run one story, in `keep`, where its journal is left, else in a folder of its own (in memory where there is such a disk)."""
    shelf = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
    logging.disable(logging.CRITICAL)
    try:
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            return Story(plan, keep).run()
        with tempfile.TemporaryDirectory(prefix="torg-storm-", dir=shelf) as folder:
            return Story(plan, Path(folder)).run()
    finally:
        logging.disable(logging.NOTSET)
