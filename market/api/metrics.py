"""Figures for Prometheus, made when they are asked for; the writer and the routes only count."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from market.api.services import Services

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Family = CounterMetricFamily | GaugeMetricFamily


class RequestCounts:
    """Answers by route and status."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str, int], int] = {}
        self.seconds: dict[tuple[str, str], float] = {}

    def note(self, method: str, route: str, status: int, seconds: float) -> None:
        """One answered request; `route` is the template, so that ids make no new series."""
        key = (method, route, status)
        self.answers[key] = self.answers.get(key, 0) + 1
        self.seconds[method, route] = self.seconds.get((method, route), 0.0) + seconds


class _Figures(Collector):
    def __init__(self, services: "Services") -> None:
        self._services = services

    def collect(self) -> Iterator[Family]:
        services = self._services
        numbers = services.desk.numbers
        totals = services.exchange.totals()
        yield _gauge("torg_journal_records", "Durable records", services.desk.records)
        yield _gauge("torg_disk_full", "1 while the journal cannot be written", int(services.desk.full))
        for name in ("members", "offers", "gpus", "gpus_free", "leases_active"):
            yield _gauge(f"torg_{name}", f"{name.replace('_', ' ')} now", totals[name])
        yield _gauge("torg_balanced", "1 if the sum of all balances is zero", int(totals["balanced"]))
        jobs = GaugeMetricFamily("torg_jobs", "Jobs by state", labels=("state",))
        for state, count in sorted(totals["jobs"].items()):
            jobs.add_metric((state,), count)
        yield jobs
        money = GaugeMetricFamily("torg_balances_nanos", "Sums of balances, nano-dollars", labels=("account",))
        for account, nanos in sorted(totals["balances_nanos"].items()):
            money.add_metric((account,), nanos)
        yield money
        yield _counter("torg_commands", "Commands decided", numbers.commands)
        yield _counter("torg_batches", "Batches of commands, one sync each at most", numbers.batches)
        yield _counter("torg_refusals", "Commands refused or without effect", numbers.refused)
        yield _counter("torg_clearings", "Clearings", numbers.clearings)
        yield _counter("torg_append_seconds", "Time in journal appends", numbers.sync_ns / 1e9)
        yield _counter("torg_bugs", "Commands that ended in a bug", numbers.bugs)
        answers = CounterMetricFamily("torg_http_answers", "HTTP answers", labels=("method", "route", "status"))
        for (method, route, status), count in services.requests.answers.items():
            answers.add_metric((method, route, str(status)), count)
        yield answers
        seconds = CounterMetricFamily("torg_http_seconds", "Time until the answer began", labels=("method", "route"))
        for (method, route), total in services.requests.seconds.items():
            seconds.add_metric((method, route), total)
        yield seconds


def render(services: "Services") -> str:
    """The text exposition."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(services))
    return generate_latest(registry).decode()


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, value=value)
