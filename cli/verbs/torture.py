"""`torg torture`: whether this machine and its disk keep what a market promises."""

import secrets
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.errors import Exit, usage
from cli.output import Column, console, document, print_table
from cli.settings import Settings

if TYPE_CHECKING:
    from market.torture.storm import Report

SHOWN_AT_MOST = 10


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("torture")(torture)


def torture(
    ctx: typer.Context,
    minutes: Annotated[float, typer.Option(help="how long")] = 1.0,
    folder: Annotated[
        Path | None, typer.Option(help="on the disk to be tried; default: the disk of the market's home")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="of an earlier run: the same faults in the same order")] = None,
) -> None:
    """Kill real writers at every kind of write, tear what was not synced, starve the disk: is anything lost that was
    acknowledged? Works in a folder of its own; a market that runs is not touched. Exit 1 when a promise was broken."""
    settings: Settings = ctx.obj
    if not 0 < minutes <= 24 * 60:
        raise usage(f"--minutes {minutes:g} is out of range", field="--minutes", remedy="above 0 to 1440")
    if seed is not None and not 0 <= seed < 2**32:
        raise usage(f"--seed {seed} is out of range", field="--seed", remedy=f"0 to {2**32 - 1}")
    where = _disk_of(settings, folder)
    report = _storm(settings, where, secrets.randbelow(2**32) if seed is None else seed, minutes * 60)
    again = f"torg torture --minutes {minutes:g} --seed {report.seed} --folder {where}"
    if settings.as_json:
        document(_told(report, again))
    else:
        _show(settings, report, again)
    if not report.held:
        raise typer.Exit(Exit.FAILED)


def _disk_of(settings: Settings, folder: Path | None) -> Path:
    homes = [settings.home, *settings.home.absolute().parents]
    where = folder if folder is not None else next(one for one in homes if one.is_dir())
    if not where.is_dir():
        raise usage(f"--folder: {where} is not a folder", field="--folder", remedy="name one that exists")
    # Not in a market's home itself: what lies there is backed up.
    return where.parent if (where / "journal").is_dir() else where


def _storm(settings: Settings, where: Path, seed: int, seconds: float) -> "Report":
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    try:
        from market.torture.storm import Report, Storm
    except ImportError as error:
        raise usage(f"{error}", remedy="install what a market needs: torg[node]", code="not_installed") from None
    try:
        work = Path(tempfile.mkdtemp(prefix="torg-torture-", dir=where))
    except OSError as error:
        raise usage(f"--folder: {where} cannot be written: {error.strerror}", field="--folder") from None
    ends_at = time.monotonic() + seconds
    screen = console(settings, stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen, transient=True, disable=settings.as_json or not screen.is_terminal) as bar:
        task = bar.add_task("killing writers", total=seconds)

        def seen(report: Report) -> None:
            done = seconds - max(0.0, ends_at - time.monotonic())
            bar.update(task, completed=done, description=f"{report.kills} kills, {report.acknowledged:,} acknowledged")

        report = Storm(work, seed, seen=seen).run(lambda _: time.monotonic() < ends_at)
    if report.held:
        shutil.rmtree(work)
    return report


def _told(report: "Report", again: str) -> dict[str, Any]:
    return {
        "held": report.held, "seed": report.seed, "kills": report.kills, "lives": report.lives,
        "acknowledged": report.acknowledged, "compared": report.compared,
        "acknowledged_and_lost": len(report.lost), "double_booked": len(report.double_booked), "wrong": len(report.wrong),
        "findings": [*report.lost, *report.double_booked, *report.wrong],
        "recovery_p50_ms": report.recovery_ms(0.5), "recovery_p99_ms": report.recovery_ms(0.99),
        "recoveries": len(report.recovery_us), "faults": dict(sorted(report.faults.items())),
        "power_cuts": dict(sorted(report.power_cuts.items())), "refused": dict(sorted(report.refused.items())),
        "kept": None if report.kept is None else str(report.kept), "again": again,
    }  # fmt: skip


def _show(settings: Settings, report: "Report", again: str) -> None:
    rows = [[what, f"{times:,}"] for what, times in sorted(report.faults.items())]
    rows += [[f"power cut: {what}", f"{times:,}"] for what, times in sorted(report.power_cuts.items())]
    print_table(settings, (Column("fault"), Column("times", right=True)), rows)
    p50, p99 = report.recovery_ms(0.5), report.recovery_ms(0.99)
    print(f"kills                  {report.kills:,} in {report.lives:,} lives")
    print(f"acknowledged           {report.acknowledged:,}, compared {report.compared:,} times")
    print(f"acknowledged and lost  {len(report.lost):,}")
    print(f"booked twice           {len(report.double_booked):,}")
    print(f"otherwise wrong        {len(report.wrong):,}")
    if p50 is not None and p99 is not None:
        print(f"recovery               p50 {p50:,.1f} ms, p99 {p99:,.1f} ms of {len(report.recovery_us):,}")
    for finding in [*report.lost, *report.double_booked, *report.wrong][:SHOWN_AT_MOST]:
        print(f"  {finding}")
    if report.held:
        print(f"Every promise was kept. Seed {report.seed}.")
    else:
        print(f"A promise was broken. What is left lies in {report.kept}. To repeat: {again}")
