"""A real market with a real Ray head and provider hosts, and what the tests do to them. Every process is ended by its pid."""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil

from market import supervisor
from market.client import Market, MarketUnreachable
from market.homes import Home

ROOT = Path(__file__).resolve().parents[2]
USD = 1_000_000_000
PATIENCE_S = 30.0
HERE, ELSEWHERE = "here", "elsewhere"
ELSEWHERE_NANOS = USD // 4
Json = dict[str, Any]
Found = TypeVar("Found")


def until(reached: Callable[[], Found], what: str, timeout_s: float = 90.0) -> Found:
    """The first true answer; asks again and again."""
    give_up_at = time.monotonic() + timeout_s
    while not (found := reached()):
        assert time.monotonic() < give_up_at, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)
    return found


def environment() -> dict[str, str]:
    """Ours without what would lead Ray or torg elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TORG_"))}
    return kept | {"PYTHONPATH": str(ROOT)}


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """A deterministic tar, as clients make it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def tree(pid: int) -> list[psutil.Process]:
    """A process and all that it started, itself first."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def gone(process: psutil.Process) -> bool:
    """Whether a process has ended; a zombie has."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@dataclass
class ProviderHost:
    """One provider's machine: its own folder, its own key, its own process tree."""

    name: str
    offer: str
    config: Path
    output: Path
    region: str
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the host process; its status lines begin anew."""
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "market.actors.provider_host", "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(),
                cwd=self.config.parent,
            )

    def said(self, event: str) -> list[Json]:
        """Its status lines of one kind."""
        lines = self.output.read_text(errors="replace").splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{")]
        return [line for line in found if line["event"] == event]

    def wait_ready(self) -> None:
        """Until its offer is placed."""

        def ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.output.read_text()
            return bool(self.said("ready"))

        until(ready, f"{self.name} is ready")

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill_tree(self) -> list[psutil.Process]:
        """SIGKILL to everything of it at once; answers who was killed."""
        assert self.process is not None
        killed = tree(self.process.pid)
        for process in killed:
            with contextlib.suppress(psutil.NoSuchProcess):  # gone with the one before
                process.kill()
        self.process.wait()
        return killed

    def stop(self) -> None:
        """SIGTERM to a host that lives, and wait until it has drained."""
        assert self.process is not None
        assert self.alive(), f"{self.name} had ended before: {self.output.read_text(errors='replace')[-3000:]}"
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        assert code == 0, f"{self.name} ended with {code}: {self.output.read_text(errors='replace')[-3000:]}"


@dataclass
class Plaza:
    """A market and its providers."""

    home: Home
    url: str
    folder: Path
    hosts: dict[str, ProviderHost] = field(default_factory=dict)
    aside: set[str] = field(default_factory=set)
    """Jobs that train elsewhere, beside the tests of this region."""
    _markets: dict[str, Market] = field(default_factory=dict)

    def local(self, name: str) -> Market:
        """A local account's view of the market."""
        if name not in self._markets:
            self._markets[name] = Market(self.url, self.home.read_keys()[name], patience_s=PATIENCE_S)
        return self._markets[name]

    def add_host(self, name: str, price_nanos: int, region: str = HERE) -> ProviderHost:
        """Start another provider with one core; not waited for."""
        folder = self.folder / name
        folder.mkdir()
        offer = f"offer-{secrets.token_hex(5)}"
        config = folder / "host.json"
        settings = {
            "url": self.url,
            "key": self.local("operator").add_member(name, "provider")["key"],
            "offer": offer,
            "name": name,
            "home": str(folder / "home"),
            "gpu": "cpu",
            "units": 1,
            "region": region,
            "price_nanos_per_gpu_hour": price_nanos,
            "object_store_bytes": 80 * 2**20,
            "shares": {},
            "drain_s": 10,
            "selftest": False,
        }
        config.touch(mode=0o600)
        config.write_text(json.dumps(settings))
        host = ProviderHost(name, offer, config, folder / "host.out", region)
        host.start()
        self.hosts[name] = host
        return host

    def ready(self) -> None:
        """Every host runs, is listed and free: what the last test broke is mended, its job ended."""
        for job in self.local("customer").jobs():
            if job["id"] not in self.aside and job["state"] not in ("done", "failed", "cancelled"):
                self.local("customer").cancel_job(job["id"])
        for host in self.hosts.values():
            if not host.alive():
                host.start()
        for host in self.hosts.values():
            host.wait_ready()
        until(lambda: all(self._free()), "all offers are free")

    def has_a_free_offer(self) -> bool:
        """Whether some provider in our region waits for work."""
        return any(self._free())

    @contextlib.contextmanager
    def elsewhere(self) -> Iterator[None]:
        """With a provider in the other region."""
        host = self.add_host("dora", ELSEWHERE_NANOS, ELSEWHERE)
        try:
            host.wait_ready()
            yield
        finally:
            host.stop()
            del self.hosts[host.name]

    def _free(self) -> list[bool]:
        offers = {offer["id"]: offer for offer in self.local("operator").offers()}
        wanted = [offers.get(host.offer) for host in self.hosts.values() if host.region == HERE]
        return [one is not None and one["state"] == "open" and one["gpus_free"] == 1 for one in wanted]

    def host_of(self, provider: str) -> ProviderHost:
        return self.hosts[provider]

    def submit_lasting(self, budget_nanos: int = USD, **changes: Any) -> str:
        """A job that outlasts its test without taking the cores from it; see `submit`."""
        source = Path(__file__).with_name("gentle.py")
        digest = self.local("customer").upload(source.read_bytes())
        workload = {"kind": "file", "digest": digest, "class_name": "Gentle", "filename": source.name}
        return self.submit(budget_nanos, **{"workload": workload, "steps": 10**6, "rounds": 200_000, **changes})

    def submit(self, budget_nanos: int = USD, **changes: Any) -> str:
        """A job of the local customer on the smallest byte model; a change is named by its path: `workers__min=1`."""
        customer = self.local("customer")
        self.local("operator").deposit(f"deposit-{secrets.token_hex(5)}", "customer", budget_nanos)
        text = (Path(subprocess.__file__).read_bytes() + Path(tarfile.__file__).read_bytes()) * 2
        data = tar_of({"text/one.py": text[:100_000], "text/two.py": text[100_000:200_000]})
        spec: Json = {
            "name": "tiny",
            "workload": {"kind": "builtin", "name": "byte_lm"},
            "options": {"size": "100k", "context": 32, "batch": 4},
            "data": {"kind": "blob", "digest": customer.upload(data), "bytes": len(data), "label": "text"},
            "strategy": {"name": "diloco", "inner_steps": 5, "outer_lr": 0.7, "outer_momentum": 0.5, "codec": "int8"},
            "steps": 60, "rounds": 12,
            "workers": {"min": 2, "max": 2, "gpus": 1, "gpu": ["cpu"], "vram_gib": 0, "region": [HERE],
                        "reliability": 0.0, "isolation": "process"},
            "limits": {"max_price_nanos_per_gpu_hour": 9 * USD // 10, "budget_nanos": budget_nanos,
                       "deadline_ms": None},
            "checkpoint": {"every_rounds": 1, "keep": 3},
            "seed": 1, "tags": {},
        }  # fmt: skip
        for path, value in changes.items():
            where, *rest = path.split("__")
            if rest:
                spec[where][rest[0]] = value
            else:
                spec[where] = value
        job = f"job-{secrets.token_hex(5)}"
        customer.submit_job(job, spec)
        return job

    def job(self, job: str) -> Json:
        return self.local("customer").job(job)

    def rounds(self, job: str) -> list[Json]:
        return self.local("customer").rounds(job)

    def wait_rounds(self, job: str, rounds: int) -> Json:
        """Until that many rounds are committed."""

        def reached() -> Json | None:
            found = self.job(job)
            assert found["state"] not in ("failed", "cancelled"), (found["reason"], found["detail"])
            return found if found["rounds_committed"] >= rounds else None

        return until(reached, f"round {rounds} of {job}")  # type: ignore[return-value]

    def wait_state(self, job: str, *states: str, timeout_s: float = 120.0) -> Json:
        """Until the job is in one of these states; a final state that is none of them fails at once."""

        def reached() -> Json | None:
            found = self.job(job)
            if found["state"] in states:
                return found
            over = found["state"] in ("done", "failed", "cancelled")
            assert not over, (found["state"], found["reason"], found["detail"])
            return None

        return until(reached, f"{job} is {' or '.join(states)}", timeout_s)  # type: ignore[return-value]

    def worker_of(self, job: str, index: int = 0) -> Json:
        """One of the job's active workers, with the provider's name and the pid of its actor."""

        def found() -> Json | None:
            active = [worker for worker in self.job(job)["workers"] if worker["state"] == "active"]
            return active[index] if len(active) > index else None

        return until(found, f"worker {index} of {job}")  # type: ignore[return-value]

    def wait_newcomer(self, job: str, after_epoch: int) -> Json:
        """Until a worker whose lease came after that epoch has contributed to a round; that round."""

        def reached() -> Json | None:
            found = [one for one in self.rounds(job) if any(m["epoch"] > after_epoch for m in one["members"])]
            self.wait_rounds(job, 0)
            return found[0] if found else None

        return until(reached, f"a newcomer trains in {job}")  # type: ignore[return-value]

    def lease(self, job: str, lease: str) -> Json:
        """One lease of a job, living or over."""
        return next(one for one in self.job(job)["leases"] if one["id"] == lease)

    def log_of_run(self, job: str) -> str:
        return (self.home.logs / f"run-{job}.log").read_text()

    def answers(self) -> bool:
        try:
            with Market(self.url, timeout_s=1, patience_s=0) as market:
                market.healthz()
        except MarketUnreachable:
            return False
        return True

    def close(self) -> None:
        """End the hosts, then the market."""
        for host in self.hosts.values():
            if host.process is not None and host.alive():
                host.process.send_signal(signal.SIGTERM)
        for host in self.hosts.values():
            if host.process is not None:
                host.process.wait(60)
        for market in self._markets.values():
            market.close()
        supervisor.stop(self.home.root)


def open_plaza(folder: Path) -> Iterator[Plaza]:
    """A market with three providers at rising prices, all on this machine, each with folders of its own."""
    info = supervisor.start(folder / "market")
    plaza = Plaza(Home(folder / "market"), info.url, folder)
    try:
        for name, price_nanos in (("ada", USD // 4), ("ben", USD // 3), ("cleo", USD // 2)):
            plaza.add_host(name, price_nanos)
        yield plaza
    finally:
        plaza.close()
