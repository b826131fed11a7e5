"""Books for tests: strategies of small ones, with ties, and what the engine makes of rows."""

import os
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from market.engine.book import PLAIN, Book, Fairness, book_of
from market.engine.columns import JOB_COLUMNS, OFFER_COLUMNS, OPTIONAL_JOB_COLUMNS, jobs_of, offers_of
from market.engine.solve import Cleared, solve
from tests.engine.checker import Row

EXAMPLES = int(os.environ.get("EXAMPLES", "20"))
"""Of each property."""
MODELS, REGIONS, LEVELS = ("A100", "H100", "RTX4090"), ("AS", "EU", ""), ("none", "nvlink", "nvswitch", "")


def _lists(names: Sequence[str]) -> st.SearchStrategy[str]:
    named = [name for name in names if name]
    return st.lists(st.sampled_from(named), max_size=2, unique=True).map("|".join)


def offers(most: int, gpus: int) -> st.SearchStrategy[list[Row]]:
    row = st.fixed_dictionaries({
        "gpu": st.sampled_from(MODELS), "vram_gib": st.sampled_from(("24", "80", "")),
        "usd_per_gpu_hour": st.sampled_from(("0", "0.5", "0.5", "1", "1.000000001", "2.25")),
        "gpus": st.integers(1, gpus).map(str), "region": st.sampled_from(REGIONS),
        "reliability": st.sampled_from(("", "0.9", "0.99", "1")), "max_hours": st.sampled_from(("", "1", "8", "24.5")),
        "available_in_hours": st.sampled_from(("", "0", "2", "0.1")), "interconnect": st.sampled_from(LEVELS),
    })  # fmt: skip
    return st.lists(row, max_size=most).map(_numbered)


def jobs(most: int, gpus: int) -> st.SearchStrategy[list[Row]]:
    row = st.fixed_dictionaries({
        "gpus_min": st.integers(1, gpus), "gpus_max": st.integers(0, gpus), "gpu": _lists(MODELS),
        "regions": _lists(REGIONS), "reliability_min": st.sampled_from(("", "0", "0.9", "0.99")),
        "max_usd_per_gpu_hour": st.sampled_from(("0.5", "1", "2", "3.333333333")),
        "hours": st.sampled_from(("0.2", "1", "8", "24.5")), "deadline_hours": st.sampled_from(("", "", "0.3", "10", "48")),
        "interconnect_min": st.sampled_from(("", "", "none", "nvlink", "nvswitch")),
        "same_region": st.sampled_from(("true", "false", "")), "gang": st.sampled_from(("true", "true", "false", "")),
        "vram_gib_min": st.sampled_from(("", "", "24", "30")), "budget_usd": st.sampled_from(("", "", "0", "0.5", "8", "40")),
        "team": st.sampled_from(("", "red", "blue")), "waited_hours": st.sampled_from(("", "0.5", "100")),
        "curve": st.sampled_from((("", "", ""), ("", "", ""), ("1:2|3:5|8:6", "", "140"), ("2:1.5|6:9", "H100:1|A100:0.4", "300"))),
    })  # fmt: skip
    return st.lists(row.map(_sized), max_size=most).map(_numbered)


def _sized(row: dict[str, Any]) -> dict[str, str]:
    most = min(row["gpus_min"] + row["gpus_max"], 40)
    row["goodput"], row["speeds"], row["usd_per_million_steps"] = row.pop("curve")
    return {**row, "gpus_min": str(row["gpus_min"]), "gpus_max": str(most)}


def _numbered(rows: list[dict[str, str]]) -> list[Row]:
    return [{"id": f"n{place}", **row} for place, row in enumerate(rows)]


def book(offer_rows: Sequence[Row], job_rows: Sequence[Row], fairness: Fairness = PLAIN) -> Book:
    columns = (*JOB_COLUMNS, *OPTIONAL_JOB_COLUMNS)
    return book_of(
        offers_of(OFFER_COLUMNS, [[row[name] for name in OFFER_COLUMNS] for row in offer_rows]),
        jobs_of(columns, [[row[name] for name in columns] for row in job_rows]),
        fairness,
    )


def matches(made: Book, cleared: Cleared) -> list[dict[str, Any]]:
    seats = zip(cleared.job_rows.tolist(), cleared.offer_rows.tolist(), cleared.gpus.tolist(), strict=True)
    return [
        {"job": made.jobs.ids[job], "offer": made.offers.ids[offer], "gpus": gpus,
         "usd_per_gpu_hour": made.offers.price_nanos[offer] / 1_000_000_000}
        for job, offer, gpus in sorted(seats)
    ]  # fmt: skip


def cleared(offer_rows: Sequence[Row], job_rows: Sequence[Row], **options: Any) -> tuple[list[dict[str, Any]], Cleared]:
    made = book(offer_rows, job_rows)
    done = solve(made, **({"budget": 1, "bound": True} | options))
    return matches(made, done), done
