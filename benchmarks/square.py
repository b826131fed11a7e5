"""A market and providers of a core or more on this machine, for benchmarks of batch jobs; all of it ends with the block."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil

from market import supervisor
from market.client import Market
from market.homes import Home
from storage.artifacts import Artifacts

ROOT = Path(__file__).resolve().parents[1]
USD = 1_000_000_000
LOOK_S = 0.02
Json = dict[str, Any]
Found = TypeVar("Found")


@dataclass
class Square:
    """See the module. `home`: the market's."""

    home: Path
    url: str
    hosts: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        keys = Home(self.home).read_keys()
        self.operator, self.customer = (
            Market(self.url, keys[name], patience_s=30) for name in ("operator", "customer")
        )
        self.operator.deposit(f"deposit-{secrets.token_hex(5)}", "customer", 100 * USD)

    def environment(self) -> dict[str, str]:
        """For a command line that finds this market."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TORG_"))}
        return kept | {"TORG_HOME": str(self.home), "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}

    def add_provider(self, cores: int = 1) -> None:
        """Start one; not waited for."""
        name = f"p{len(self.hosts) + 1}"
        folder = self.home.parent / name
        folder.mkdir()
        settings = {
            "url": self.url, "key": self.operator.add_member(name, "provider")["key"], "offer": f"offer-{name}", "name": name,
            "home": str(folder / "home"), "gpu": "cpu", "units": cores, "region": "here", "price_nanos_per_gpu_hour": USD // 10,
            "object_store_bytes": 80 << 20, "shares": {}, "drain_s": 10,
        }  # fmt: skip
        config = folder / "host.json"
        config.touch(mode=0o600)
        config.write_text(json.dumps(settings))
        with (folder / "host.out").open("wb") as output:
            command = [sys.executable, "-m", "market.actors.provider_host", "--config", str(config)]
            self.hosts.append(
                subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=self.environment())
            )

    def wait_free(self) -> None:
        """Until every provider waits for work."""
        wanted = len(self.hosts)
        until(lambda: sum(one["state"] == "open" and one["gpus_free"] == one["gpus"] for one in self.customer.offers()) == wanted)

    def wait_sandboxed(self) -> None:
        """Until every provider has shown by its self-test that its sandbox holds, as a job with ranks asks for."""
        until(lambda: all(one["isolation"] == "sandbox" for one in self.customer.offers()))

    def submit(
        self, argv: Sequence[str], files: Path, artifacts: Sequence[str] = (), ranks: int | None = None,
        requirements: Sequence[str] | None = None,
    ) -> str:  # fmt: skip
        """A batch job of these words with a folder's files; `ranks`: so many processes of it by torchrun."""
        spec = self._spec(argv, files, artifacts, ranks, requirements)
        job = f"job-{secrets.token_hex(5)}"
        self.customer.submit_job(job, spec)
        return job

    def _spec(
        self, argv: Sequence[str], files: Path, artifacts: Sequence[str], ranks: int | None, requirements: Sequence[str] | None
    ) -> Json:
        from market.forms import parse_job, resolve

        told = {
            "name": "benchmark", "command": list(argv), "workdir": str(files), "artifacts": list(artifacts),
            "workers": {"gpu": ["cpu"], "gpus": ranks or 1}, "limits": {"max_usd_per_gpu_hour": 0.9, "budget_usd": 1},
            "requirements": None if requirements is None else list(requirements), "launch": None if ranks is None else "torchrun",
        }  # fmt: skip
        return resolve(parse_job(json.dumps(told)), self.customer.upload, folder=files)

    def lines(self, job: str) -> list[str]:
        """What the command printed and the run said."""
        text: str = self.customer.job_logs(job)["text"]
        return [line.partition(" | ")[2] for line in text.splitlines()]

    def kill_worker(self, job: str) -> bool:
        """SIGKILL to the process that holds the job's lease, and so to the command; whether there was one."""
        active = [one for one in self.customer.job(job)["workers"] if one["state"] == "active" and one["pid"]]
        if not active:
            return False
        psutil.Process(active[0]["pid"]).kill()
        return True

    def wait_over(self, job: str, timeout_s: float = 500, look_s: float = LOOK_S) -> Json:
        """The job once it is done, asked for so often; raises when it ends otherwise."""

        def over() -> Json | None:
            found = self.customer.job(job)
            if found["state"] in ("failed", "cancelled"):
                raise RuntimeError(
                    f"{job} is {found['state']}: {found['reason']}: {found['detail']}\n{self.lines(job)[-30:]}"
                )
            return found if found["state"] == "done" else None

        return until(over, timeout_s, look_s)  # type: ignore[return-value]

    def artifact(self, job: str, path: str) -> bytes:
        """The content of a file that the job left."""
        found = Artifacts.from_json(self.customer.result(job)["manifest"])
        return next(self.customer.read_blob(file.blob) for file in found.files if file.path == path)


def until(reached: Callable[[], Found], timeout_s: float = 120, look_s: float = LOOK_S) -> Found:
    """The first true answer."""
    ends = time.monotonic() + timeout_s
    while not (found := reached()):
        if time.monotonic() > ends:
            raise TimeoutError(f"not within {timeout_s:.0f} s")
        time.sleep(look_s)
    return found


@contextmanager
def open_square(providers: int, cores: int = 1) -> Iterator[Square]:
    """A market with so many providers that wait for work, each of so many cores."""
    with tempfile.TemporaryDirectory(prefix="torg-bench-") as folder:
        home = Path(folder) / "market"
        info = supervisor.start(home)
        square = Square(home, info.url)
        try:
            for _ in range(providers):
                square.add_provider(cores)
            square.wait_free()
            yield square
        finally:
            for host in square.hosts:
                host.terminate()
            for host in square.hosts:
                host.wait(60)
            supervisor.stop(home)
