"""Figures for Prometheus, made when they are asked for; the writer and the routes only count."""

import asyncio
import shutil
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from market.api.problems import Problem
from market.mirroring import STATES

if TYPE_CHECKING:
    from market.api.services import Services

BOOKS_S = 1.0
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Family = CounterMetricFamily | GaugeMetricFamily


class RequestCounts:
    """Answers by route and status."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str, int], int] = {}
        self.seconds: dict[tuple[str, str], float] = {}
        self.streams = 0

    def note(self, method: str, route: str, status: int, seconds: float) -> None:
        """One answered request; `route` is the template, so that ids make no new series."""
        key = (method, route, status)
        self.answers[key] = self.answers.get(key, 0) + 1
        self.seconds[method, route] = self.seconds.get((method, route), 0.0) + seconds


class _Figures(Collector):
    def __init__(self, services: "Services", books: dict[str, Any] | None) -> None:
        self._services = services
        self._books = books

    def collect(self) -> Iterator[Family]:
        services = self._services
        numbers = services.desk.numbers
        totals = services.exchange.totals()
        yield _gauge("torg_journal_records", "Durable records", services.desk.records)
        yield _gauge("torg_disk_full", "1 while the journal cannot be written", int(services.desk.full))
        for name in ("members", "offers", "gpus", "gpus_free", "leases_active"):
            yield _gauge(f"torg_{name}", f"{name.replace('_', ' ')} now", totals[name])
        yield _gauge("torg_balanced", "1 if the sum of all balances is zero", int(totals["balanced"]))
        yield from self._market()
        yield from self._machine()
        money = GaugeMetricFamily("torg_balances_nanos", "Sums of balances, nano-dollars", labels=("account",))
        for account, nanos in sorted(totals["balances_nanos"].items()):
            money.add_metric((account,), nanos)
        yield money
        yield _counter("torg_commands", "Commands decided", numbers.commands)
        yield _counter("torg_batches", "Batches of commands, one sync each at most", numbers.batches)
        yield _counter("torg_refusals", "Commands refused or without effect", numbers.refused)
        yield _counter("torg_clearings", "Clearings", numbers.clearings)
        yield _counter("torg_append_seconds", "Time in journal appends", numbers.sync_ns / 1e9)
        yield _counter("torg_clearing_seconds", "Time in clearings", numbers.clearing_ns / 1e9)
        yield _by(CounterMetricFamily, "torg_commands_by_kind", "Commands decided, by kind", "kind", numbers.by_kind)
        yield _by(CounterMetricFamily, "torg_refusals_by_code", "Commands refused, by code", "code", numbers.by_refusal)
        yield _gauge("torg_commands_waiting", "Commands not decided yet", services.desk.waiting)
        yield _counter("torg_bugs", "Commands that ended in a bug", numbers.bugs)
        answers = CounterMetricFamily("torg_http_answers", "HTTP answers", labels=("method", "route", "status"))
        for (method, route, status), count in services.requests.answers.items():
            answers.add_metric((method, route, str(status)), count)
        yield answers
        seconds = CounterMetricFamily("torg_http_seconds", "Time until the answer began", labels=("method", "route"))
        for (method, route), total in services.requests.seconds.items():
            seconds.add_metric((method, route), total)
        yield seconds

    def _market(self) -> Iterator[Family]:
        """The state of the market: nobody's name, nobody's ids."""
        found = self._services.exchange.figures()
        yield _by(GaugeMetricFamily, "torg_jobs", "Jobs by state", "state", found.jobs)
        yield _by(GaugeMetricFamily, "torg_offers_by_state", "Offers by state", "state", found.offers)
        yield _by(GaugeMetricFamily, "torg_leases", "Living leases by state", "state", found.leases)
        yield _by(GaugeMetricFamily, "torg_jobs_unmatched", "Pending jobs by why", "reason", found.unmatched)
        text = "Open jobs by the part of their budget that they have used at least"
        yield _by(GaugeMetricFamily, "torg_jobs_budget_reached", text, "percent", found.budgets_reached)
        text = "Spending limits of members and teams by the part that was used at least in their period"
        yield _by(GaugeMetricFamily, "torg_limits_reached", text, "percent", found.limits_reached)
        yield _gauge("torg_rounds", "Rounds committed, of all jobs", found.rounds)
        text = "Most committed rounds of a running job that are not durable"
        yield _gauge("torg_rounds_not_durable", text, found.undurable_rounds)
        yield _gauge("torg_offers_suspect", "Open offers that are not heard of", found.suspect)
        yield _gauge("torg_offers_doubted", "Open offers that measured below what they say", found.doubted)
        yield _gauge("torg_offer_silence_seconds", "Longest silence of an open offer", found.silent_ms / 1000)
        yield _gauge("torg_balance_sum_nanos", "Sum of all balances: must be 0", found.balance_sum_nanos)

    def _machine(self) -> Iterator[Family]:
        """What the market stands on."""
        services, books = self._services, self._books
        yield _gauge("torg_books_up", "1 if the books answer", int(books is not None))
        lag = services.desk.records - int(books["records"]) if books else services.desk.records
        yield _gauge("torg_books_lag_records", "Durable records that the books do not have yet", max(0, lag))
        ram = services.shelf.store.ram
        yield _gauge("torg_blob_ram_size_bytes", "What the tier in RAM before the blobs may hold", ram.limit_bytes)
        yield _gauge("torg_blob_ram_bytes", "What it holds", ram.kept_bytes)
        yield _counter("torg_blob_ram_hits", "Blobs read from it", ram.hits)
        yield _counter("torg_blob_ram_hit_bytes", "Bytes of these", ram.hit_bytes)
        yield _counter("torg_blob_ram_misses", "Blobs looked for in it in vain", ram.misses)
        disk = shutil.disk_usage(services.home.root)
        yield _gauge("torg_disk_free_bytes", "Room on the disk of the home", disk.free)
        yield _gauge("torg_disk_size_bytes", "Size of the disk of the home", disk.total)
        yield from self._mirrors()
        yield from self._archive()
        ahead = services.clock.ahead_ms / 1000
        yield _gauge("torg_clock_ahead_seconds", "How far the machine's clock is ahead of the market's", ahead)
        yield _gauge("torg_event_streams", "Open streams of jobs' events", services.requests.streams)
        limited = services.gate.refused
        yield _by(CounterMetricFamily, "torg_rate_limited", "Calls above a rate limit, by kind", "kind", limited)

    def _mirrors(self) -> Iterator[Family]:
        """Of the journal; of several the one that is furthest behind."""
        found = self._services.mirrors()
        states = {state: sum(one.state == state for one in found) for state in STATES}
        yield _by(GaugeMetricFamily, "torg_mirrors", "Mirrors of the journal, by state", "state", states)
        yield _gauge("torg_mirror_held", "1 while no new work is taken because a synchronous mirror is away", int(self._services.desk.held))
        lag_ms, records, size = (max((getattr(one, name) for one in found), default=0) for name in ("lag_ms", "lag_records", "lag_bytes"))
        yield _gauge("torg_mirror_lag_seconds", "For how long a mirror has lacked something, at most", lag_ms / 1000)
        yield _gauge("torg_mirror_lag_records", "Durable records that a mirror lacks", records)
        yield _gauge("torg_mirror_lag_bytes", "Durable bytes that a mirror lacks", size)
        every_ms = self._services.mirroring.every_ms if self._services.mirroring is not None else 0
        yield _gauge("torg_mirror_every_seconds", "How often the journal is copied", every_ms / 1000)

    def _archive(self) -> Iterator[Family]:
        """Of sealed segments of the journal; all 0 where there is none."""
        found = self._services.archive()
        archived, waiting, fails = (found.archived, found.waiting, found.error is not None) if found else (0, 0, False)
        yield _gauge("torg_archive_segments", "Segments of the journal that are in the archive", archived)
        yield _gauge("torg_archive_waiting_segments", "Sealed segments that belong there and are here", waiting)
        yield _gauge("torg_archive_failing", "1 while something keeps them from it; torg status says what", int(fails))


async def books_status(services: "Services") -> dict[str, Any] | None:
    """What the books say of themselves, or None if they do not answer within BOOKS_S."""
    from market.api.services import Caller

    try:
        async with asyncio.timeout(BOOKS_S):
            return await services.books.ask("status", Caller("metrics", "operator"), 0, {})
    except (TimeoutError, Problem):
        return None


def render(services: "Services", books: dict[str, Any] | None) -> str:
    """The text exposition; `books` is their status, or None while they do not answer."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(services, books))
    return generate_latest(registry).decode()


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def _by(
    family: type[CounterMetricFamily] | type[GaugeMetricFamily],
    name: str,
    text: str,
    label: str,
    counts: Mapping[str, int],
) -> Family:
    found = family(name, text, labels=(label,))
    for value, count in sorted(counts.items()):
        found.add_metric((value,), count)
    return found


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, value=value)
