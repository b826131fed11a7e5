"""A batch job's command that really runs, on a machine of this process, behind a real market and without Ray or a run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from market.client import Market
from tests.api.square import USD, FakeProvider, FakeRun, Square, make_offer, until
from trainers.actors.command_desk import CommandDesk
from trainers.sandbox import isolation_level

Json = dict[str, Any]


def batch_spec(region: str, argv: list[str]) -> Json:
    command: Json = {"argv": argv, "env": {"WORD": "hello"}, "artifacts": [], "timeout_ms": None, "retries": 0, "workdir": None}
    return {
        "name": "batch", "command": command, "data": {"kind": "none"},
        "workers": {"min": 1, "max": 1, "gpus": 1, "gpu": ["cpu"], "vram_gib": 0, "region": [region], "reliability": 0.0,
                    "isolation": "process"},
        "limits": {"max_price_nanos_per_gpu_hour": 9 * USD // 10, "budget_nanos": USD, "deadline_ms": None},
        "tags": {}, "wait": True,
    }  # fmt: skip


class CommandScene:
    """`ann`'s job runs `argv` on `host`'s machine, whose worker takes sessions. `level`: the isolation, default the best."""

    def __init__(self, square: Square, folder: Path, argv: list[str] | None = None, level: Any = None) -> None:
        self.square, self.folder = square, folder
        region, self.job = square.name("region"), square.name("job")
        self.customer, self.ann = square.newcomer("customer", 20 * USD)
        _, self.host = square.newcomer("provider")
        self.offer = square.name("offer")
        self.provider = FakeProvider(self.host, make_offer(self.offer, region))
        spec = batch_spec(region, argv or ["sleep", "1000"])
        self.ann.submit_job(self.job, spec)
        self.run = FakeRun(square.local("plane"), self.job)
        [self.worker] = self.run.workers(1)
        [lease] = self.host.leases(self.offer)["leases"]
        self.desk = CommandDesk(scratch=folder, isolation=level or isolation_level(), memory_limit_bytes=256 << 20)
        door = {"url": square.url, "token": lease["sessions"], "ca": str(square.ca or ""), "lease": lease["id"], "epoch": lease["epoch"]}
        order = {"job": self.job, "number": 1, "restarts": 0, "command": spec["command"], "data": spec["data"]}
        answer = self.desk.begin(order, None, None, None, threads=1, devices=[], shares={})
        assert answer["ok"], answer
        self.desk.take_sessions(door)
        self.token = lease["sessions"]

    @property
    def work(self) -> Path:
        return self.folder / "command" / "work"

    def environment(self, who: Market | None = None) -> dict[str, str]:
        key = str((who or self.ann)._wire._key)
        base = {name: value for name, value in os.environ.items() if not name.startswith("TORG_")}
        base |= {"TORG_CA": str(self.square.ca)} if self.square.ca else {}
        return base | {"TORG_URL": self.square.url, "TORG_KEY": key, "TORG_HOME": str(self.folder / "no-home")}

    def start(self, *words: str, who: Market | None = None, **options: Any) -> subprocess.Popen[bytes]:
        given = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        return subprocess.Popen([sys.executable, "-m", "cli", *words], env=self.environment(who), **given)

    def torg(self, *words: str, given: bytes | None = None, who: Market | None = None) -> tuple[int, bytes, bytes]:
        """(exit code, stdout, stderr) of a command line."""
        stdin = subprocess.DEVNULL if given is None else subprocess.PIPE
        with self.start(*words, who=who, stdin=stdin) as process:
            out, told = process.communicate(given, timeout=60)
        return process.returncode, out, told

    def exec(self, *argv: str, given: bytes | None = None, options: tuple[str, ...] = ()) -> tuple[int, bytes, bytes]:
        return self.torg("exec", *options, self.job, "--", *argv, given=given)

    def wait_for(self, name: str) -> str:
        """A file of the working folder, once it has a text."""
        path = self.work / name
        return until(lambda: path.exists() and path.read_text(), name)

    def __enter__(self) -> CommandScene:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.desk.close()
        self.provider.close()
        self.ann.cancel_job(self.job)
