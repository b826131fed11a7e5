"""One new bid against a standing book: what it takes from its submission until its leases are granted, in the exchange itself.

    python -m benchmarks.new_bid --offers 100000 --bids 1000 --json

An `Exchange` in memory, without journal and HTTP, lists so many offers (eight models, three regions, 250 to a provider) and has
been cleared; then bids for 1 to 8 GPUs come one by one, each cleared before the next. `submit`: the command, with its checks and
its estimate; `answer`: from then on, the snapshot, the clearing and its leases. p50 and p99 in milliseconds, of wall clock and of
CPU time. `share`: welfare of what the new bids got one by one, against a clearing of all of them at once.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from benchmarks.report import Target, finish, parser
from market.api.settling import settle_memory
from market.clearing import cleared, of_arrivals
from market.commands import AddMember, ApplyClearing, Command, Deposit, OpenMarket, PlaceOffer, SubmitJob
from market.exchange import Exchange, Settings

USD = 1_000_000_000
MODELS = [f"card{number}" for number in range(8)]
MANY = 10**7


class Market:
    """An exchange whose every command must be answered."""

    def __init__(self) -> None:
        self.exchange = Exchange(
            Settings(
                max_offers=MANY, max_open_jobs=MANY, max_open_jobs_per_customer=MANY, max_live_leases=MANY,
                max_amount_nanos=2**80, max_total_nanos=2**80,
            )
        )  # fmt: skip
        self.now_ms = 1_000_000

    def do(self, command: Command) -> None:
        answer = self.exchange.step(command, self.now_ms).answer
        assert isinstance(answer, dict), answer

    def list_offers(self, count: int, rng: random.Random) -> None:
        self.do(OpenMarket("square", "1"))
        roles = {"op": "operator", "ann": "customer"} | {f"p{n}": "provider" for n in range(count // 250 + 1)}
        for name, role in roles.items():
            self.do(AddMember(name, role, sha256(name.encode()).hexdigest(), "market"))
        self.do(Deposit("d", "ann", MANY * USD, "op"))
        for number in range(count):
            by, price = f"p{number // 250}", round(rng.uniform(0.3, 3.0) * USD)
            self.do(PlaceOffer(
                id=f"offer-{number:06d}", name=by, gpu=rng.choice(MODELS), gpus=rng.choice([1, 2, 4, 8]), vram_gib=24.0,
                region=rng.choice(["eu", "us", "as"]), price_nanos_per_gpu_hour=price, floor_price_nanos_per_gpu_hour=None,
                isolation="sandbox", measured={}, shares=(), node=by, versions={}, by=by,
            ))  # fmt: skip


def wish(number: int, rng: random.Random) -> SubmitJob:
    spec: dict[str, Any] = {
        "name": "new", "workload": {"kind": "builtin", "name": "byte_lm"}, "options": {"size": "1M"}, "data": {"kind": "none"},
        "strategy": {"name": "diloco", "inner_steps": 30, "outer_lr": 0.7, "outer_momentum": 0.9, "codec": "int8"},
        "steps": 600, "rounds": 20, "checkpoint": {"every_rounds": 1, "keep": 3}, "seed": 1, "tags": {},
        "workers": {
            "min": 1, "max": rng.choice([1, 2, 4, 8]), "gpus": 1, "gpu": sorted(rng.sample(MODELS, rng.choice([1, 2, 3]))),
            "vram_gib": 0, "region": rng.choice([[], ["eu"]]), "reliability": 0.0, "isolation": "process",
        },
        "limits": {
            "max_price_nanos_per_gpu_hour": round(rng.uniform(0.5, 3.0) * USD), "budget_nanos": 50 * USD, "deadline_ms": None,
        },
    }  # fmt: skip
    return SubmitJob(f"job-{number}", spec, "ann")


def timed(parts: dict[str, list[float]], name: str, action: Callable[[], Any]) -> Any:
    wall, cpu = time.perf_counter(), time.thread_time()
    found = action()
    parts.setdefault(f"{name}_ms", []).append((time.perf_counter() - wall) * 1000)
    parts.setdefault(f"{name}_cpu_ms", []).append((time.thread_time() - cpu) * 1000)
    return found


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--offers", type=int, default=100_000)
    arguments.add_argument("--bids", type=int, default=1_000)
    arguments.add_argument("--seed", type=int, default=1)
    chosen = arguments.parse_args()
    rng, market = random.Random(chosen.seed), Market()
    market.list_offers(chosen.offers, rng)
    market.do(ApplyClearing(cleared(market.exchange.snapshot())))
    first = wish(0, rng)
    market.do(first)  # the first one looks at the whole book
    market.do(ApplyClearing(cleared(market.exchange.snapshot())))
    settle_memory()  # as the exchange's process does
    parts: dict[str, list[float]] = {}
    alone = welfare = 0
    wishes = [wish(number, rng) for number in range(1, chosen.bids + 1)]
    before = market.exchange.book().copy()
    for one in wishes:
        market.now_ms += 10
        timed(parts, "submit", lambda one=one: market.do(one))

        def answer() -> Any:
            found = market.exchange.arrivals()
            made = cleared(market.exchange.snapshot()) if found is None else of_arrivals(found)
            market.do(ApplyClearing(made))
            return found is not None, made.welfare_nanos

        was_alone, gained = timed(parts, "answer", answer)
        alone, welfare = alone + was_alone, welfare + gained
        while market.exchange.dirty:
            made = cleared(market.exchange.snapshot())
            welfare += made.welfare_nanos
            market.do(ApplyClearing(made))
    together = _together(chosen, before, wishes)
    figures: dict[str, float] = {"offers": chosen.offers, "bids": chosen.bids, "alone": alone, "share": welfare / together}
    for name, values in parts.items():
        figures |= {f"{name}_p50": statistics.median(values), f"{name}_p99": sorted(values)[len(values) * 99 // 100]}
    whole = sorted(map(sum, zip(parts["submit_ms"], parts["answer_ms"], strict=True)))
    figures |= {"whole_ms_p50": statistics.median(whole), "whole_ms_p99": whole[len(whole) * 99 // 100]}
    targets = {"answer_ms_p99": Target(figures["answer_ms_p99"], 5.0), "share": Target(figures["share"], 0.98, at_most=False)}
    return finish(figures, targets, chosen.json)


def _together(chosen: Any, before: Any, wishes: list[SubmitJob]) -> int:
    """Welfare of one clearing of all these bids on the book as it was before the first of them."""
    from market.clearing import WELFARE, clear
    from market.order_making import bid_of_spec
    from market.orders import BookSnapshot

    bids = tuple(bid_of_spec(one.id, dict(one.spec), 0, "ann") for one in wishes)
    return clear(BookSnapshot((), bids, book=before), 10_000_000, WELFARE, reasons=False).welfare_nanos


if __name__ == "__main__":
    raise SystemExit(main())
