"""What the tests say to a real market, and fake machines that are plain HTTP clients."""

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from market.client import Market, MarketUnreachable, Refused
from market.homes import Home
from storage.checkpoints import Manifest, TensorEntry

USD = 1_000_000_000
PATIENCE_S = 60.0
Json = dict[str, Any]
Found = TypeVar("Found")
_numbers = count(1)


def until(reached: Callable[[], Found], what: str, timeout_s: float = 60.0) -> Found:
    """The first true answer; asks again and again."""
    give_up_at = time.monotonic() + timeout_s
    while not (found := reached()):
        assert time.monotonic() < give_up_at, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)
    return found


def refusal(call: Callable[[], object]) -> Refused:
    """What the market says no with."""
    try:
        answer = call()
    except Refused as refused:
        return refused
    raise AssertionError(f"not refused: {answer}")


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def make_spec(region: str, **changes: Any) -> Json:
    """A normalised spec for two workers and three rounds; a change is named by its path: `workers__min=3`."""
    spec: Json = {
        "name": "tiny",
        "workload": {"kind": "builtin", "name": "byte_lm"},
        "options": {},
        "data": {"kind": "none"},
        "strategy": {"name": "diloco", "inner_steps": 30, "outer_lr": 0.7, "outer_momentum": 0.9, "codec": "int8"},
        "steps": 90,
        "rounds": 3,
        "workers": {"min": 2, "max": 2, "gpus": 1, "gpu": ["cpu"], "vram_gib": 0, "region": [region],
                    "reliability": 0.0, "isolation": "process"},
        "limits": {"max_price_nanos_per_gpu_hour": 9 * USD // 10, "budget_nanos": 5 * USD, "deadline_ms": None},
        "checkpoint": {"every_rounds": 1, "keep": 3},
        "seed": 1,
        "tags": {"team": "demo"},
        "wait": True,
    }  # fmt: skip
    for path, value in changes.items():
        where, *rest = path.split("__")
        if rest:
            spec[where][rest[0]] = value
        else:
            spec[where] = value
    return spec


def make_offer(id: str, region: str, price_nanos: int = USD // 2, **changes: Any) -> Json:
    """One core for half a dollar an hour."""
    offer: Json = {
        "id": id, "name": id, "gpu": "cpu", "gpus": 1, "vram_gib": 4.0, "region": region,
        "price_nanos_per_gpu_hour": price_nanos, "floor_price_nanos_per_gpu_hour": None, "isolation": "process",
        "measured": {"matmul_gflops": 50.0}, "shares": [], "node": "node", "versions": {"python": "3.11"},
    }  # fmt: skip
    return offer | changes


@dataclass
class Square:
    """The market at `url` and its home, which only the tests may read."""

    url: str
    home: Home
    ca: Path | None = None
    _markets: dict[str, Market] = field(default_factory=dict)
    _keys: dict[str, str] = field(default_factory=dict)

    def local(self, name: str) -> Market:
        """A local account's view."""
        if name not in self._markets:
            self._markets[name] = Market(self.url, self.home.read_keys()[name], patience_s=PATIENCE_S, ca=self.ca)
        return self._markets[name]

    def newest_segment_bytes(self) -> int:
        """What is written of the journal's newest segment: its file is longer, by the room behind that."""
        return len(max(self.home.journal.glob("*.journal")).read_bytes().rstrip(b"\0"))

    def newcomer(self, role: str, funds_nanos: int = 0) -> tuple[str, Market]:
        """A new member of that role, with money."""
        name = f"{role}-{next(_numbers)}"
        key = self.local("operator").add_member(name, role)["key"]  # type: ignore[arg-type]
        self._keys[name] = key
        if funds_nanos:
            self.local("operator").deposit(f"funds-{name}", name, funds_nanos)
        self._markets[name] = Market(self.url, key, patience_s=PATIENCE_S, ca=self.ca)
        return name, self._markets[name]

    def key_of(self, name: str) -> str:
        """The key of a newcomer."""
        return self._keys[name]

    def name(self, kind: str) -> str:
        """A name that no other test uses."""
        return f"{kind}-{next(_numbers)}"

    def kill(self, process: str) -> int:
        """SIGKILL, at once; answers the pid that died."""
        pid = self.home.read_pid(process)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        return pid

    def back(self, process: str, old_pid: int) -> int:
        """The pid of the one that was started again."""
        return until(lambda: (pid := self.home.read_pid(process)) != old_pid and pid, f"{process} is back")  # type: ignore[return-value]

    def close(self) -> None:
        for market in self._markets.values():
            market.close()


class FakeProvider:
    """One offer whose leases are taken by nobody in particular: polls, says «started», and can fall silent."""

    def __init__(self, market: Market, offer: Json) -> None:
        self.market = market
        self.offer = str(offer["id"])
        self.live: list[Json] = []
        self.over = threading.Event()
        market.place_offer(offer)
        self.thread = threading.Thread(target=self._poll)
        self.thread.start()

    def _poll(self) -> None:
        seen = None
        while not self.over.is_set():
            try:
                view = self.market.leases(self.offer, wait_s=1, seen=seen)
                for lease in view["leases"]:
                    if lease["state"] == "granted":
                        self.market.lease_started(
                            lease["id"], epoch=lease["epoch"], worker=f"worker-{self.offer}", pid=4242, node="node"
                        )
            except MarketUnreachable:
                continue
            except Refused as refused:
                if refused.code != "lease_ended":  # over since it was listed
                    raise
                continue
            seen, self.live = view["version"], view["leases"]

    def close(self) -> None:
        self.over.set()
        self.thread.join()


class FakeRun:
    """Reports rounds and checkpoints of one job, without training anything."""

    def __init__(self, market: Market, job: str) -> None:
        self.market = market
        self.job = job
        self.round = 0
        self.manifest: str | None = None
        self.state = b""

    def workers(self, number: int, but_not: tuple[str, ...] = ()) -> list[Json]:
        """The active leases, as soon as there are so many (and none of `but_not` among them)."""
        seen = None
        give_up_at = time.monotonic() + 60
        while time.monotonic() < give_up_at:
            view = self.market.directive(self.job, wait_s=2, seen=seen)
            seen = view["version"]
            active = [lease for lease in view["leases"] if lease["state"] == "active" and lease["id"] not in but_not]
            if len(active) >= number:
                return active
        raise AssertionError(f"{self.job} has not {number} workers: {view}")

    def read(self, leases: list[Json], **more: Any) -> Json:
        """Meters as far as the clock allows."""
        readings = [
            {"lease": lease["id"], "epoch": lease["epoch"], "leased_ms": 10**9, "trained_ms": 10**9,
             "rounds": self.round, "tokens": 1000, "bytes": 10}
            for lease in leases
        ]  # fmt: skip
        return self.market.report_readings(self.job, run_pid=os.getpid(), readings=readings, **more)

    def report(
        self, leases: list[Json], lost: list[Json] | None = None, manner: Json | None = None, **more: int
    ) -> Json:
        """The next round, by these leases; `manner` is said of it, `more` of each member."""
        self.round += 1
        body: Json = {
            "job": self.job, "round": self.round, "step": 30 * self.round, "digest": digest(f"θ{self.round}"),
            "reason": "all members agree", "duration_ms": 20, "lost": lost or [],
            "members": [
                {"lease": one["id"], "epoch": one["epoch"], "slot": one["slot"], "provider": one["provider"],
                 "loss": 3.0 / self.round, "steps": 30, "tokens": 500, "leased_ms": 10**9, "trained_ms": 10**9,
                 "bytes": 5, "contribution": digest(f"Δ{self.round}{one['slot']}")} | more
                for one in leases
            ],
        } | (manner or {})  # fmt: skip
        self.market.report_round(body)
        answer = self.market.report_round(body)
        assert self.market.directive(self.job)["rounds_committed"] == self.round, "told again, it counts once"
        return answer

    def checkpoint(self, removed: list[str] | None = None) -> str:
        """Make the newest round durable."""
        self.state = f"state of {self.job} after {self.round}".encode() * 100
        state = self.market.upload(self.state)
        manifest = Manifest(
            job=self.job, round=self.round, step=30 * self.round, parent=self.manifest,
            tensors=(TensorEntry("w", (2, 3), "float32"),), state=state, state_bytes=len(self.state),
            parameters=digest(f"θ{self.round}"), strategy={"name": "diloco"}, code=None, data=None, created_at_ms=1,
        )  # fmt: skip
        self.manifest = self.market.upload(manifest.encode())
        body = {"job": self.job, "round": self.round, "step": 30 * self.round, "manifest": self.manifest,
                "bytes": len(self.state), "stall_ms": 1, "removed": removed or []}  # fmt: skip
        self.market.report_checkpoint(body)
        self.market.report_checkpoint(body)
        assert self.market.directive(self.job)["durable"]["manifest"] == self.manifest
        return state
