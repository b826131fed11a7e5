"""Checks a clearing against the rows of its files, with nothing of the engine: exact fractions, one rule at a time."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import product
from typing import Any

Row = Mapping[str, str]
LEVELS = ["none", "nvlink", "nvswitch"]
OFFER_HEADING = "id,gpu,vram_gib,usd_per_gpu_hour,gpus,region,reliability,max_hours,available_in_hours,interconnect"
JOB_HEADING = ("id,gpus_min,gpus_max,gpu,regions,reliability_min,max_usd_per_gpu_hour,hours,deadline_hours,"
               "interconnect_min,same_region,gang")  # fmt: skip


def fits(offer: Row, job: Row) -> bool:
    """Whether a GPU of the offer may serve the job."""
    hours = Fraction(job["hours"])
    return (
        (not job["gpu"] or offer["gpu"] in job["gpu"].split("|"))
        and (not job["regions"] or offer["region"] in job["regions"].split("|"))
        and Fraction(offer["reliability"] or 0) >= Fraction(job["reliability_min"] or 0)
        and (not offer["max_hours"] or Fraction(offer["max_hours"]) >= hours)
        and (not job["deadline_hours"] or Fraction(offer["available_in_hours"] or 0) + hours <= Fraction(job["deadline_hours"]))
        and Fraction(offer["usd_per_gpu_hour"]) <= Fraction(job["max_usd_per_gpu_hour"])
        and LEVELS.index(offer["interconnect"] or "none") >= LEVELS.index(job["interconnect_min"] or "none")
    )  # fmt: skip


def counts(job: Row) -> range:
    """How many GPUs a job may get, beside none."""
    return range(int(job["gpus_min"]) if job["gang"] != "false" else 1, int(job["gpus_max"]) + 1)


def value(offer: Row, job: Row) -> Fraction:
    """Welfare of one GPU of the offer for the job, in dollars."""
    return (Fraction(job["max_usd_per_gpu_hour"]) - Fraction(offer["usd_per_gpu_hour"])) * Fraction(job["hours"])


def check(offers: Sequence[Row], jobs: Sequence[Row], matches: Sequence[Mapping[str, Any]]) -> Fraction:
    """The welfare of the matches in dollars; an assertion names what is broken."""
    by_offer, by_job = {row["id"]: row for row in offers}, {row["id"]: row for row in jobs}
    sold: dict[str, int] = defaultdict(int)
    got: dict[str, int] = defaultdict(int)
    regions: dict[str, set[str]] = defaultdict(set)
    seen: set[tuple[str, str]] = set()
    welfare = Fraction(0)
    for match in matches:
        offer, job, gpus = by_offer[match["offer"]], by_job[match["job"]], match["gpus"]
        assert gpus >= 1
        assert (job["id"], offer["id"]) not in seen, "one line for each pair"
        assert fits(offer, job), (offer, job)
        assert Fraction(str(match["usd_per_gpu_hour"])) == Fraction(offer["usd_per_gpu_hour"])
        seen.add((job["id"], offer["id"]))
        sold[offer["id"]] += gpus
        got[job["id"]] += gpus
        regions[job["id"]].add(offer["region"])
        welfare += value(offer, job) * gpus
    for name, gpus in sold.items():
        assert gpus <= int(by_offer[name]["gpus"]), f"{name} is sold twice"
    for name, gpus in got.items():
        assert gpus in counts(by_job[name]), f"{name} is split"
        assert by_job[name]["same_region"] != "true" or len(regions[name]) == 1, f"{name} is in two regions"
    return welfare


def best(offers: Sequence[Row], jobs: Sequence[Row]) -> Fraction:
    """The most welfare of any clearing, by trying all: for very small books only."""

    def search(place: int, free: tuple[int, ...]) -> Fraction:
        if place == len(jobs):
            return Fraction(0)
        key = (place, free)
        if key not in known:
            known[key] = max(_choices(place, free))
        return known[key]

    def _choices(place: int, free: tuple[int, ...]) -> list[Fraction]:
        job, found = jobs[place], [search(place + 1, free)]
        rooms = [range(left + 1) if fits(offer, job) else range(1) for offer, left in zip(offers, free, strict=True)]
        for taken in product(*rooms):
            used = [offer for offer, gpus in zip(offers, taken, strict=True) if gpus]
            if sum(taken) in counts(job) and (
                job["same_region"] != "true" or len({one["region"] for one in used}) == 1
            ):
                gain = sum((value(offer, job) * gpus for offer, gpus in zip(offers, taken, strict=True)), Fraction(0))
                left = tuple(have - gone for have, gone in zip(free, taken, strict=True))
                found.append(gain + search(place + 1, left))
        return found

    known: dict[tuple[int, tuple[int, ...]], Fraction] = {}
    return search(0, tuple(int(offer["gpus"]) for offer in offers))
