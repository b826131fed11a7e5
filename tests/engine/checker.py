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
        and Fraction(offer["vram_gib"] or 0) >= Fraction(job.get("vram_gib_min") or 0)
        and (not job.get("speeds") or offer["gpu"] in speeds(job))
    )  # fmt: skip


def counts(job: Row) -> range:
    """How many GPUs a job may get, beside none."""
    return range(int(job["gpus_min"]) if job["gang"] != "false" else 1, int(job["gpus_max"]) + 1)


def speeds(job: Row) -> dict[str, Fraction]:
    """How fast each model is for a job that says so."""
    return {model: Fraction(speed) for model, speed in (part.rsplit(":", 1) for part in job["speeds"].split("|"))}


def goodput(job: Row, gpus: int) -> Fraction:
    """Steps per second, in straight lines between what is stated, from (0, 0); rounded down to a billionth as documented."""
    points = sorted((int(at), Fraction(steps)) for at, steps in (part.split(":") for part in job["goodput"].split("|")))
    before, made = 0, Fraction(0)
    for at, steps in points:
        if gpus <= at:
            return Fraction((made + (steps - made) * (gpus - before) / (at - before)) * 10**9 // 1, 10**9)
        before, made = at, steps
    return made


def made_of(offers: Sequence[Row], gpus: Sequence[int], job: Row) -> Fraction:
    """Welfare of a whole gang in dollars: what the job makes of it, less the asks."""
    hours, count = Fraction(job["hours"]), sum(gpus)
    paid = sum(
        (Fraction(offer["usd_per_gpu_hour"]) * taken for offer, taken in zip(offers, gpus, strict=True)), Fraction(0)
    )
    if not job.get("goodput"):
        return (Fraction(job["max_usd_per_gpu_hour"]) * count - paid) * hours
    speed = speeds(job)[offers[0]["gpu"]] if job.get("speeds") else Fraction(1)
    per_hour = goodput(job, count) * speed * Fraction(job["usd_per_million_steps"]) * 3600 / 10**6
    return (Fraction(per_hour * 10**9 // 1, 10**9) - paid) * hours


def whole(offers: Sequence[Row], gpus: Sequence[int], job: Row) -> bool:
    """Whether these GPUs may be the job's gang together."""
    paid = sum(
        (Fraction(offer["usd_per_gpu_hour"]) * taken for offer, taken in zip(offers, gpus, strict=True)), Fraction(0)
    )
    return (
        sum(gpus) in counts(job)
        and (job["same_region"] != "true" or len({offer["region"] for offer in offers}) == 1)
        and (not job.get("speeds") or len({offer["gpu"] for offer in offers}) == 1)
        and (not job.get("budget_usd") or paid * Fraction(job["hours"]) <= Fraction(job["budget_usd"]))
    )


def check(offers: Sequence[Row], jobs: Sequence[Row], matches: Sequence[Mapping[str, Any]]) -> Fraction:
    """The welfare of the matches in dollars; an assertion names what is broken."""
    by_offer, by_job = {row["id"]: row for row in offers}, {row["id"]: row for row in jobs}
    sold: dict[str, int] = defaultdict(int)
    got: dict[str, tuple[list[Row], list[int]]] = defaultdict(lambda: ([], []))
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
        got[job["id"]][0].append(offer)
        got[job["id"]][1].append(gpus)
    for name, gpus in sold.items():
        assert gpus <= int(by_offer[name]["gpus"]), f"{name} is sold twice"
    for name, (seats, taken) in got.items():
        assert whole(seats, taken, by_job[name]), f"{name} is split, apart, or beyond its budget"
        welfare += made_of(seats, taken, by_job[name])
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
            if whole(used, [gpus for gpus in taken if gpus], job):
                gain = made_of(used, [gpus for gpus in taken if gpus], job)
                left = tuple(have - gone for have, gone in zip(free, taken, strict=True))
                found.append(gain + search(place + 1, left))
        return found

    known: dict[tuple[int, tuple[int, ...]], Fraction] = {}
    return search(0, tuple(int(offer["gpus"]) for offer in offers))
