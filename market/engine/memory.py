"""What a clearing leaves for the next one: prices and seats by id; and how a changed book goes on from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from market.engine import resuming
from market.engine.arrays import Arrays, Reals, Wholes
from market.engine.book import Book
from market.engine.seating import Seating

FORMAT = "torg-clearing-memory/1"


class BadMemory(ValueError):
    """The text is no memory of a clearing."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Prices and seats of a clearing, by id, so that they outlive the places of its arrays.

    Args:
        offers, prices: what a GPU of each offer costs beside its ask, for a whole lease, in nano-dollars × nano-hours.
        jobs, budget_prices: what a nano-dollar per hour of each job's budget costs, in nano-hours.
        seats: (3, n) places in `jobs`, places in `offers`, GPUs.
    """

    offers: Sequence[str]
    prices: Reals
    jobs: Sequence[str]
    budget_prices: Reals
    seats: Wholes

    def as_text(self) -> str:
        """One JSON document; floats as their shortest decimals, so that they come back as they were."""
        told = {
            "format": FORMAT, "offers": list(self.offers), "prices": self.prices.tolist(), "jobs": list(self.jobs),
            "budget_prices": self.budget_prices.tolist(), "seats": self.seats.T.tolist(),
        }  # fmt: skip
        return json.dumps(told, separators=(",", ":"))

    @classmethod
    def of_text(cls, text: str) -> Memory:
        """What `as_text` wrote; raises BadMemory."""
        try:
            told: Any = json.loads(text)
            if not isinstance(told, dict) or told.get("format") != FORMAT:
                raise BadMemory(f"it is no memory of a clearing: it does not say that its format is {FORMAT}")
            made = cls(
                [str(one) for one in told["offers"]], np.asarray(told["prices"], dtype=np.float64),
                [str(one) for one in told["jobs"]], np.asarray(told["budget_prices"], dtype=np.float64),
                np.asarray(told["seats"], dtype=np.int64).reshape(-1, 3).T,
            )  # fmt: skip
        except BadMemory:
            raise
        except json.JSONDecodeError as error:
            raise BadMemory(f"it is no memory of a clearing: it is no JSON, {error}") from error
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise BadMemory(f"it is no memory of a clearing: not {FORMAT}") from error
        made.check()
        return made

    def check(self) -> None:
        """Raises BadMemory where numbers cannot be."""
        prices = np.concatenate((self.prices, self.budget_prices))
        if self.prices.shape != (len(self.offers),) or self.budget_prices.shape != (len(self.jobs),):
            raise BadMemory("there is not one price for each id")
        if not (np.isfinite(prices).all() and (prices >= 0).all() and (prices < 1e30).all()):
            raise BadMemory("a price is negative or no number")
        if self.seats.size and not (
            (self.seats >= 0).all() and self.seats[0].max() < len(self.jobs) and self.seats[1].max() < len(self.offers)
            and self.seats[2].min() >= 1 and self.seats[2].max() < 2**31
        ):  # fmt: skip
            raise BadMemory("a seat is of no offer or job that is named")


def resume(book: Book, memory: Memory) -> tuple[Seating, Reals, Reals]:
    """Who still sits where they sat, and prices to begin with: `resumed`, by the ids of the tables."""
    return resumed(book.arrays, book.offer_ids, book.job_ids, memory)


def resumed(arrays: Arrays, offers: Sequence[str], jobs: Sequence[str], memory: Memory) -> tuple[Seating, Reals, Reals]:
    """Every job that is still there and whose seats still fit keeps them. A new offer begins at the price of its neighbour.

    Args:
        offers, jobs: the ids at the places of the arrays.
    """
    places = {name: place for place, name in enumerate(memory.offers)}
    was = np.fromiter((places.get(name, -1) for name in offers), dtype=np.int64, count=len(offers))
    prices = np.where(was >= 0, memory.prices[was] if len(memory.prices) else 0.0, -1.0)
    resuming.neighbours(arrays, prices)
    named = {name: place for place, name in enumerate(memory.jobs)}
    then = np.fromiter((named.get(name, -1) for name in jobs), dtype=np.int64, count=len(jobs))
    budgets = np.where(then >= 0, memory.budget_prices[then] if len(memory.jobs) else 0.0, 0.0)
    budgets[arrays.job["rate_max"] >= arrays.unbounded] = 0.0
    now_offer = np.full(len(memory.offers), -1, dtype=np.int64)
    now_offer[was[was >= 0]] = np.flatnonzero(was >= 0)
    now_job = np.full(len(memory.jobs), -1, dtype=np.int64)
    now_job[then[then >= 0]] = np.flatnonzero(then >= 0)
    seating = Seating(arrays)
    if memory.seats.size:
        job, offer, gpus = now_job[memory.seats[0]], now_offer[memory.seats[1]], memory.seats[2]
        order = np.argsort(job, kind="stable")
        resuming.keep(arrays, job[order], offer[order], gpus[order], seating.state, seating.gain, seating.room)
    return seating, prices, budgets
