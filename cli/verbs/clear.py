"""`torg clear`: offers and jobs from files, matched by the engine, without a market."""

import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.collector import uncollected
from cli.errors import refused, usage
from cli.output import Column, document, log, print_table
from cli.settings import Settings
from cli.waits_view import show_waits

if TYPE_CHECKING:
    from market.engine.book import Book
    from market.engine.solve import Cleared

SHOWN = 40
NO_PRICE = "at one price for all of a model and region this gang and the others do not go together"
MAX_BUDGET = 1_000_000
MAX_WEIGHT = 1_000
MAX_AGEING_USD = 1_000


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("clear")(clear)


def clear(
    ctx: typer.Context,
    offers: Annotated[Path, typer.Argument(metavar="OFFERS", help="CSV or Parquet: " + "id,gpu,vram_gib,usd_per_gpu_hour,gpus,region,reliability,max_hours,available_in_hours,interconnect")],
    jobs: Annotated[Path, typer.Argument(metavar="JOBS", help="CSV or Parquet: " + "id,gpus_min,gpus_max,gpu,regions,reliability_min,max_usd_per_gpu_hour,hours,deadline_hours,interconnect_min,same_region,gang; and, if wanted, vram_gib_min, budget_usd, team, waited_hours, goodput, speeds, usd_per_million_steps (docs/CLEARING.md)")],
    price_rule: Annotated[str, typer.Option("--price-rule", metavar="RULE", help="what is paid; ask: the ask of each offer; uniform: one price for a model and region; spot: as ask, since no job of a file may be outbid")] = "ask",
    bound: Annotated[bool, typer.Option("--bound", help="also prove how much more any clearing could reach")] = False,
    budget: Annotated[int | None, typer.Option("--budget", metavar="N", help="effort: millions of pairs (job, offer) that may be looked at; default: by the size of the book")] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="of the engine's random steps; the same seed gives the same matches")] = 1,
    memory: Annotated[Path | None, typer.Option("--memory", metavar="FILE", help="go on from the last clearing's prices and seats, if the file is there, and write this one's into it")] = None,
    team_weights: Annotated[str, typer.Option("--team-weights", metavar="TEAM:W,…", help="what the welfare of each team's jobs counts, such as red:2,blue:0.5; others count 1")] = "",
    ageing: Annotated[str, typer.Option("--ageing", metavar="USD", help="what each hour waited (waited_hours) adds to a GPU's welfare")] = "0",
) -> None:  # fmt: skip
    """Match gangs of GPUs to offers from two files, for the most welfare: Σ (limit − ask) · hours · GPUs.

    Needs no market. A job gets gpus_min to gpus_max GPUs, of one or several offers, or nothing (with gang false any
    number from 1). Empty gpu or regions stand for any, an empty deadline or max_hours for no limit. The first run on a
    machine compiles the engine's loops, which takes up to a minute; later runs load them.
    """
    _check_options(price_rule, budget, seed)
    fairness = _fairness(team_weights, ageing)
    if memory is not None:
        from cli.book_files import check_memory_place

        check_memory_place(memory)
    with uncollected():
        _clear(ctx.obj, offers, jobs, price_rule, bound, budget, seed, memory, fairness)


def _clear(
    settings: Settings, offers: Path, jobs: Path, price_rule: str, bound: bool, budget: int | None, seed: int, memory: Path | None,
    fairness: tuple[dict[str, int], int],
) -> None:  # fmt: skip
    from cli.book_files import read, read_memory, write_memory
    from market.engine.columns import jobs_of, offers_of

    begun = time.perf_counter()
    offered, wanted = read(offers, "OFFERS", offers_of), read(jobs, "JOBS", jobs_of)
    read_ms = _ms(begun)
    if price_rule != "ask" and (any(wanted.goodput) or any(one is not None for one in wanted.budget_nanos)):
        raise usage("jobs with budget_usd or goodput are cleared at the asks alone", field="--price-rule", remedy="--price-rule ask")
    from market.engine.book import Fairness, book_of
    from market.engine.solve import solve, warm_up

    if not settings.as_json and sys.stderr.isatty():
        log(f"clearing {len(wanted.ids):,} jobs × {len(offered.ids):,} offers")
    begun = time.perf_counter()
    warm_up()
    load_ms = _ms(begun)
    before = None if memory is None else read_memory(memory)
    begun, used = time.perf_counter(), time.thread_time()
    book = book_of(offered, wanted, Fairness(*fairness))
    cleared = solve(book, budget=budget, seed=seed, bound=bound, memory=before)
    times = {"read_ms": read_ms, "load_ms": load_ms, "clear_ms": _ms(begun), "clear_cpu_ms": round((time.thread_time() - used) * 1000, 1)}
    told = _document(book, cleared, price_rule) | {"price_rule": price_rule, "budget": cleared.budget, "seed": seed} | times
    if not book.fairness.plain:
        plain = solve(book_of(offered, wanted), budget=budget, seed=seed, memory=before)
        told |= {"objective_usd": _usd(cleared.objective_nanos), "fairness_cost_usd": _usd(max(0, plain.welfare_nanos - cleared.welfare_nanos))}
    if memory is not None:
        write_memory(memory, cleared.memory)
    if settings.as_json:
        document(told)
    else:
        _show(settings, told)


def _fairness(team_weights: str, ageing: str) -> tuple[dict[str, int], int]:
    """Weights in billionths by team, and nano-dollars for a GPU and hour waited."""
    from market.engine.columns import amount_nanos

    weights: dict[str, int] = {}
    for part in team_weights.split(",") if team_weights else ():
        team, colon, weight = part.rpartition(":")
        nanos = amount_nanos(weight.strip(), MAX_WEIGHT) if colon else None
        if nanos is None or team.strip() in weights:
            raise usage(f"{part.strip()!r} is no team and its weight", field="--team-weights", remedy=f"TEAM:WEIGHT joined by commas, each team once, weights 0 to {MAX_WEIGHT:,}")
        weights[team.strip()] = nanos
    added = amount_nanos(ageing.strip(), MAX_AGEING_USD)
    if added is None:
        raise usage(f"{ageing!r} is out of range", field="--ageing", remedy=f"0 to {MAX_AGEING_USD:,} dollars for a GPU and hour waited")
    return weights, added


def _ms(begun: float) -> float:
    return round((time.perf_counter() - begun) * 1000, 1)


def _check_options(price_rule: str, budget: int | None, seed: int) -> None:
    from market.price_rules import PRICE_RULES

    if price_rule not in PRICE_RULES:
        raise usage(f"there is no price rule {price_rule!r}", field="--price-rule", remedy=f"there is: {', '.join(PRICE_RULES)}")  # fmt: skip
    if budget is not None and not 0 <= budget <= MAX_BUDGET:
        raise usage(f"{budget} is out of range", field="--budget", remedy=f"0 to {MAX_BUDGET:,} million pairs")
    if not 0 <= seed < 2**63:
        raise usage(f"{seed} is out of range", field="--seed", remedy="0 to 2^63 - 1")
    missing = [name for name in ("numpy", "numba") if find_spec(name) is None]
    if missing:
        raise refused("not_installed", f"the engine needs {' and '.join(missing)}", remedy="pip install 'torg[engine]'")


def _document(book: "Book", cleared: "Cleared", rule: str) -> dict[str, Any]:
    from market.engine.columns import NANOS
    from market.engine.reasons import reasons
    from market.file_prices import priced

    offers, jobs = book.offers, book.jobs
    rows = cleared.rows()
    prices, given_up, classes = priced(rule, offers, jobs, rows)
    served = {job for job, _, _ in rows}
    if given_up:
        kept = [(row, price) for row, price in zip(rows, prices, strict=True) if row[0] not in given_up]
        rows, prices = [row for row, _ in kept], [price for _, price in kept]
    left = [row for row in range(len(jobs.ids)) if row not in served]
    welfare = _welfare_nanos(book, rows) if given_up else cleared.welfare_nanos
    told: dict[str, Any] = {
        "matches": [
            {"job": jobs.ids[job], "offer": offers.ids[offer], "gpus": gpus, "usd_per_gpu_hour": price / NANOS}
            for (job, offer, gpus), price in zip(rows, prices, strict=True)
        ],
        "unmatched": [
            *({"job": jobs.ids[one.row], "reason": str(one.reason), "detail": one.detail} for one in reasons(book, left)),
            *({"job": jobs.ids[job], "reason": "class_price", "detail": NO_PRICE} for job in sorted(given_up)),
        ],
        "classes": [
            {"gpu": one.gpu, "region": one.region, "gpus": one.gpus, "usd_per_gpu_hour": _usd(one.price_nanos_per_gpu_hour)}
            for one in classes
        ],
        "welfare_usd": _usd(welfare),
        "welfare_nanos": welfare,
    }  # fmt: skip
    if any(jobs.waited):
        from market.engine.waits import waits_of

        told["waited"] = waits_of(jobs, served - given_up)
    if cleared.bound_nanos is not None:
        told |= {"bound_usd": _usd(cleared.bound_nanos), "bound_nanos": cleared.bound_nanos}
    return told


def _welfare_nanos(book: "Book", rows: list[tuple[int, int, int]]) -> int:
    """Of what is left of the seats."""
    from market.engine.book import value_nanos

    seats: dict[int, list[tuple[int, int]]] = {}
    for job, offer, gpus in rows:
        seats.setdefault(job, []).append((offer, gpus))
    return sum(value_nanos(book, job, own) for job, own in seats.items()) // 1_000_000_000


def _usd(nanos: int) -> float:
    return nanos / 1_000_000_000


def _show(settings: Settings, told: dict[str, Any]) -> None:
    by_job: dict[str, list[dict[str, Any]]] = {}
    for match in told["matches"]:
        by_job.setdefault(match["job"], []).append(match)
    rows = [
        [job, str(sum(one["gpus"] for one in seats)), _prices(seats), ", ".join(f"{one['gpus']} × {one['offer']}" for one in seats)]
        for job, seats in list(by_job.items())[:SHOWN]
    ]  # fmt: skip
    print_table(settings, [Column("job"), Column("GPUs", right=True), Column("$/GPU-hour", right=True), Column("offers")], rows, title="matches")  # fmt: skip
    if len(by_job) > SHOWN:
        print(f"… and {len(by_job) - SHOWN:,} jobs more; --json prints all")
    left = told["unmatched"]
    if left:
        print_table(settings, [Column("job"), Column("reason"), Column("detail")], [[one["job"], one["reason"], one["detail"]] for one in left[:SHOWN]], title="unmatched")  # fmt: skip
    if len(left) > SHOWN:
        print(f"… and {len(left) - SHOWN:,} jobs more; --json prints all")
    print(f"{len(by_job):,} jobs matched, {len(left):,} not; welfare ${told['welfare_usd']:,.2f}{_of_bound(told)}; {told['clear_ms']:,.0f} ms, budget {told['budget']:,}")  # fmt: skip
    if "fairness_cost_usd" in told:
        print(f"weights and waiting cost ${told['fairness_cost_usd']:,.2f} of welfare; with them it counts ${told['objective_usd']:,.2f}")
    if "waited" in told:
        show_waits(settings, told["waited"], "hours waited", "hours", "{:.4g}".format)


def _of_bound(told: dict[str, Any]) -> str:
    if "bound_usd" not in told:
        return ""
    reached = told.get("objective_usd", told["welfare_usd"])
    share = f", {reached / told['bound_usd']:.2%} of it" if told["bound_usd"] else ""
    return f"; no clearing reaches more than ${told['bound_usd']:,.2f}{share}"


def _prices(seats: list[dict[str, Any]]) -> str:
    low, high = min(one["usd_per_gpu_hour"] for one in seats), max(one["usd_per_gpu_hour"] for one in seats)
    return f"{low:g}" if low == high else f"{low:g}–{high:g}"
