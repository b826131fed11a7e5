"""The summary of a simulation in a terminal: runs side by side, waits by size and tenant, prices over time, who was not served."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

from cli.output import Column, console, print_table, printable
from cli.settings import Settings
from market.simulation.report import dollars, outlook_rows, short

WIDTH = 100
MOST_ROWS = 8
_BARS = " ▁▂▃▄▅▆▇█"


def show(settings: Settings, told: Mapping[str, Any]) -> None:
    """Print it; tables and lines of bars are no wider than WIDTH."""
    trace, supply, runs = told["trace"], told["supply"], told["runs"]
    print(f"{trace['jobs']:,} jobs of {trace['tenants']} tenants over {trace['days']:g} days: {trace['gpu_hours']:,.0f} GPU-hours, {trace['mean_gpus']:g} GPUs on average")
    load = "as listed" if told["plan"]["load"] is None else f"load {told['plan']['load']:g}"
    print(f"{supply['machines']:,} machines of {supply['models']} models with {supply['gpus']:,} GPUs ({load}); seed {told['plan']['seed']}\n")
    _runs(settings, runs)
    _by_gang(settings, runs)
    _by_tenant(settings, runs["market"])
    days = told["by_day"]["market"]
    ends = [f"GPUs let, by day (of {supply['gpus']:,})", "GPUs waited for", "ask, $/GPU-hour"]
    for title, name in zip(ends, ("gpus_used", "gpus_waited_for", "ask_usd_per_gpu_hour"), strict=True):
        values = [value for value in days[name] if value is not None]
        if values:
            print(f"{title:34} {_line(days[name], WIDTH - 60)} {min(values):,.4g} to {max(values):,.4g}")
    print()
    show_not_served(settings, runs["market"])
    _interrupted(settings, runs)
    for what, one in outlook_rows(told):
        print(f"{what}: {one['jobs']:,} jobs were told, {_share(one['within_share_of_all'])} fell within, counting who gave up as far as known; {one['sooner']:,} sooner, {one['later']:,} later, {one['gave_up']:,} gave up")
    money = "money is conserved" if told["money_conserved"] else "MONEY IS NOT CONSERVED"
    print(f"no way of clearing makes more than ${told['bound_usd']:,.0f}; {money}; {told['seconds']:g} s ({told['cpu_seconds']:g} s CPU), {told['peak_memory_mib']:,.0f} MiB")


def _runs(settings: Settings, runs: Mapping[str, Any]) -> None:
    columns = [Column("run"), *(Column(name, right=True) for name in ("done", "wait p50", "wait p99", "completion", "fair", "used", "welfare", "of bound", "lost"))]
    rows = [
        [
            name, f"{one['states'].get('done', 0):,}", *(short(value) for value in (one["wait_s"]["p50"], one["wait_s"]["p99"], one["completion_s"]["mean"])),
            f"{one['fairness']:.3f}", f"{one['utilisation']:.1%}", dollars(one["welfare_usd"]), _share(one["welfare_share_of_bound"]), f"{one['workers_lost']:,}",
        ]
        for name, one in runs.items()
    ]  # fmt: skip
    print_table(settings, columns, rows)


def _by_gang(settings: Settings, runs: Mapping[str, Any]) -> None:
    sizes = list(runs["market"]["wait_by_gang"])
    rows = [[size, f"{runs['market']['wait_by_gang'][size]['jobs']:,}", *(_both(run["wait_by_gang"].get(size)) for run in runs.values())] for size in sizes]
    columns = [Column("GPUs"), Column("jobs", right=True), *(Column(name, right=True) for name in runs)]
    print_table(settings, columns, rows, title="wait p50 / p99 by size of the gang")


def _by_tenant(settings: Settings, market: Mapping[str, Any]) -> None:
    rows = [
        [printable(name)[:24], f"{one['jobs']:,}", f"{one['never']:,}", short(one["p50"]), short(one["p99"])]
        for name, one in list(market["wait_by_tenant"].items())[:MOST_ROWS]
    ]
    columns = [Column("tenant"), *(Column(name, right=True) for name in ("jobs", "never", "wait p50", "wait p99"))]
    more = len(market["wait_by_tenant"]) - MOST_ROWS
    print_table(settings, columns, rows, title="in the market, by tenant" + (f" ({more} more in --json)" if more > 0 else ""))


def show_not_served(settings: Settings, market: Mapping[str, Any]) -> None:
    """Who earned most, and how many went without and why, the four largest reasons by name."""
    earned = list(market["revenue_usd"].items())[:3]
    if earned:
        console(settings).print(f"earned most: {', '.join(f'{printable(name)} ${usd:,.0f}' for name, usd in earned)}", markup=False)
    reasons = list(market["not_served"].items())
    if reasons:
        told = ", ".join(f"{reason} {count:,}" for reason, count in reasons[:4])
        more = sum(count for _, count in reasons[4:])
        print(fill(f"not served: {told}" + (f", others {more:,}" if more else ""), WIDTH, subsequent_indent="  "))


def _interrupted(settings: Settings, runs: Mapping[str, Any]) -> None:
    """Where some jobs may be outbid, or machines go: what was lost by it, and what became of both kinds of jobs."""
    market = runs["market"]
    causes, hours = market["preemptions"], market["gpu_hours"]
    if any(causes.values()):
        told = ", ".join(f"{count:,} by {cause}" for cause, count in causes.items() if count)
        print(f"workers preempted: {told}; {hours['redone']:,.0f} of {hours['let']:,.0f} GPU-hours let were lost with them, {hours['restarting']:,.0f} went into restarts")
    if market["by_terms"]:
        columns = [Column(""), *(Column(name, right=True) for name in ("jobs", "outbid", *(f"{name}: wait p50 / done" for name in runs)))]
        rows = [
            [name, f"{one['jobs']:,}", f"{one['outbid']:,}", *(f"{short(run['by_terms'][name]['wait_s']['p50'])} / {run['by_terms'][name]['done']:,}" for run in runs.values())]
            for name, one in market["by_terms"].items()
        ]  # fmt: skip
        print_table(settings, columns, rows, title="firm and interruptible jobs")


def _line(values: Sequence[float | None], width: int) -> str:
    """A line of bars, each the mean of what it stands for."""
    size = max(1, -(-len(values) // width))
    parts = [[value for value in values[first : first + size] if value is not None] for first in range(0, len(values), size)]
    means = [sum(part) / len(part) if part else 0.0 for part in parts]
    most = max(means, default=0.0) or 1.0
    return "".join(_BARS[round(mean / most * (len(_BARS) - 1))] for mean in means)


def _both(wait: Mapping[str, Any] | None) -> str:
    return "–" if wait is None or wait["p50"] is None else f"{short(wait['p50'])} / {short(wait['p99'])}"


def _share(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"
