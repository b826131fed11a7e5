"""`torg simulate`: a trace of jobs through the real exchange in virtual time, beside baselines, without a market."""

import resource
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.collector import uncollected
from cli.due_rules import due_rule_of
from cli.errors import refused, usage
from cli.output import document
from cli.settings import Settings

if TYPE_CHECKING:
    from market.simulation.churning import Seats
    from market.simulation.trace import BareJob, TraceJob

FORMATS = ("philly", "torg")
KIB_PER_MIB = 1024


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("simulate")(simulate)


def simulate(
    ctx: typer.Context,
    jobs: Annotated[Path, typer.Option("--jobs", metavar="TRACE", help="CSV or .csv.gz of jobs")],
    offers: Annotated[Path, typer.Option("--offers", metavar="FILE", help="CSV of machines and asks: gpu,gpus,vram_mib_per_gpu,usd_per_hour_total,region; or the offers of torg clear")],
    trace_format: Annotated[str, typer.Option("--trace-format", metavar="FORMAT", help="philly: timestamp,duration,num_gpus,gpu_time,cluster, and a seeded rule adds prices; torg: docs/SIMULATION.md")] = "philly",
    churn: Annotated[Path | None, typer.Option("--churn", metavar="TRACE", help="CSV of machines that come and go: milliseconds,add or remove,machine")] = None,
    load: Annotated[str, typer.Option("--load", metavar="L", help="mean demand ÷ supply: the offers are repeated until it is so; none: the offers as they are")] = "0.9",
    times: Annotated[int, typer.Option("--times", metavar="N", help="make the trace N times as large, of the same shape, from seeded copies of its jobs: docs/SIMULATION.md")] = 1,
    price_rule: Annotated[str, typer.Option("--price-rule", metavar="RULE", help="what is paid in the market, ask or uniform: docs/PRICES.md")] = "ask",
    baselines: Annotated[str, typer.Option("--baselines", metavar="NAMES", help="played on the same trace: fifo, auction, greedy, joined by commas; none")] = "fifo,auction,greedy",
    clear_seconds: Annotated[float, typer.Option("--clear-seconds", metavar="S", help="how often the market clears, in virtual time")] = 60.0,
    save_hours: Annotated[float, typer.Option("--save-hours", metavar="H", help="how often a running job makes its work durable")] = 6.0,
    outlook_every: Annotated[int, typer.Option("--outlook-every", metavar="N", help="of every N jobs one looks at its plan before it is submitted, and how that came true is told; 0: none")] = 0,
    interruptible: Annotated[float, typer.Option("--interruptible", metavar="SHARE", help="so large a share of the jobs, drawn by the seed, may be outbid: docs/SIMULATION.md")] = 0.0,
    due_rule: Annotated[str, typer.Option("--due-rule", metavar="Nx[,TIME]|never", help="when a job that waits goes before others in the market, as of torg up")] = "4x,1d",
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="of the rule and of the churn; the same seed gives the same figures to the bit")] = 1,
    report: Annotated[Path | None, typer.Option("--report", metavar="OUT.html", help="write a report with plots: one file, no network")] = None,
) -> None:  # fmt: skip
    """Play a trace of jobs through the exchange in virtual time, and beside it FIFO, an arrival-order auction and greedy.

    Needs no market. Reports waits by size and tenant, completion times, fairness, utilisation, welfare against a proven
    bound, prices, losses, revenue by provider, and who was not served and why.
    """
    settings: Settings = ctx.obj
    if find_spec("numpy") is None:
        raise refused("not_installed", "a simulation needs numpy", remedy="pip install 'torg[engine]'")
    begun, begun_cpu = time.perf_counter(), time.process_time()
    from market.price_rules import PRICE_RULES
    from market.simulation.baselines import BASELINES
    from market.simulation.enlarging import MOST_TIMES
    from market.simulation.whole import LEAST_LOAD, MOST_LOAD, NothingToDo, Plan
    from market.simulation.whole import simulate as play
    from market.worth import DueRule

    if price_rule not in PRICE_RULES:
        raise usage(f"there is no price rule {price_rule!r}", field="--price-rule", remedy=f"there is: {', '.join(PRICE_RULES)}")
    names = tuple(name for name in (part.strip() for part in baselines.split(",")) if name and name != "none")
    for name in names:
        if name not in BASELINES or names.count(name) > 1:
            raise usage(f"there is no baseline {name!r}, or it is named twice", field="--baselines", remedy=f"of {', '.join(BASELINES)}, or none")
    _within("--seed", seed, 0, 2**63 - 1)
    _within("--clear-seconds", clear_seconds, 0.001, 86_400)
    _within("--save-hours", save_hours, 0.01, 8_760)
    _within("--outlook-every", outlook_every, 0, 1_000_000)
    _within("--interruptible", interruptible, 0, 1)
    _within("--times", times, 1, MOST_TIMES)
    wanted = _load(load, LEAST_LOAD, MOST_LOAD)
    _check_report(report)
    trace, listed, seats = _read(jobs, trace_format, offers, churn)
    plan = Plan(wanted, seed, clear_ms=round(clear_seconds * 1000), save_ms=round(save_hours * 3_600_000), baselines=names, price_rule=price_rule, outlook_every=outlook_every, interruptible=interruptible, times=times, due_rule=DueRule(*due_rule_of(due_rule)))
    bar = _Bar(settings)
    try:
        with uncollected():
            told = play(trace, listed, plan, seats, bar.tell, keep=False).told
    except NothingToDo as nothing:
        raise refused("nothing_to_do", str(nothing), remedy="a trace with jobs, and offers") from None
    finally:
        bar.close()
    told |= {
        "seconds": round(time.perf_counter() - begun, 2), "cpu_seconds": round(time.process_time() - begun_cpu, 2),
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (KIB_PER_MIB if sys.platform != "darwin" else KIB_PER_MIB**2), 1),
    }  # fmt: skip
    if report is not None:
        from market.simulation.report import page

        try:
            report.write_text(page(told), encoding="utf-8")
        except OSError as error:
            raise usage(f"{report}: {error.strerror or error}", field="--report", code="not_writable") from error
    if settings.as_json:
        document(told)
        return
    from cli.simulation_view import show

    show(settings, told)
    if report is not None:
        print(f"report: {report}")


def _within(option: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise usage(f"{value:g} is out of range", field=option, remedy=f"{least} to {most}")


def _check_report(report: Path | None) -> None:
    if report is not None and not report.parent.is_dir():
        raise usage(f"{report.parent} is no folder", field="--report")
    if report is not None and report.is_dir():
        raise usage(f"{report} is a folder", field="--report", remedy="a file in it, such as report.html")


def _load(text: str, least: float, most: float) -> float | None:
    if text == "none":
        return None
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not least <= found <= most:
        raise usage(f"{text[:40]!r} is no load", field="--load", remedy=f"{least:g} to {most:g}, or none")
    return found


def _read(jobs: Path, trace_format: str, offers: Path, churn: Path | None) -> "tuple[list[BareJob] | list[TraceJob], list[Any], Seats | None]":
    from cli.trace_files import read_rows, read_table
    from market.simulation.churning import seats_of
    from market.simulation.supply import machines_of
    from market.simulation.trace import churn_of, philly_jobs, torg_jobs

    if trace_format not in FORMATS:
        raise usage(f"there is no trace format {trace_format!r}", field="--trace-format", remedy=f"one of {', '.join(FORMATS)}")
    listed = read_table(offers, "--offers", machines_of)
    seats = None if churn is None else seats_of(read_rows(churn, "--churn", churn_of))
    if churn is not None and seats is None:
        raise usage(f"{churn}: no machine is there for any time", field="--churn")
    if trace_format == "torg":
        return read_table(jobs, "--jobs", torg_jobs), listed, seats
    return read_table(jobs, "--jobs", philly_jobs), listed, seats


class _Bar:
    """Progress on stderr, where that is a terminal: which run, how far."""

    def __init__(self, settings: Settings) -> None:
        self._shown: Any = None
        self._task: Any = None
        self._run = ""
        if not settings.as_json and sys.stderr.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            from cli.output import console

            columns = (TextColumn("{task.description:8}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._shown = Progress(*columns, console=console(settings, stderr=True), transient=True)
            self._shown.start()

    def tell(self, run: str, came: int, of: int) -> None:
        """`came` jobs of `of` have come in this run."""
        if self._shown is None:
            return
        if run != self._run:
            if self._task is not None:
                self._shown.update(self._task, completed=of)
            self._run, self._task = run, self._shown.add_task(run, total=of)
        self._shown.update(self._task, completed=came)

    def close(self) -> None:
        """Take it off the screen."""
        if self._shown is not None:
            self._shown.stop()
