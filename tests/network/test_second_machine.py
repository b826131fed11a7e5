"""A second machine joins by invitation: two network namespaces with addresses, folders and token files of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.network,
    pytest.mark.cluster,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and iproute2 to make network namespaces"
    ),
]

JOB = """
name: across
workload: byte_lm
options: {size: 100k, context: 64}
data: ./text
strategy: {name: diloco, inner_steps: 5, codec: int8}
steps: 20
workers: {min: 2, max: 2, gpus: 1, gpu: [cpu]}
limits: {max_usd_per_gpu_hour: 0.90, budget_usd: 1.00}
"""


@dataclass(frozen=True)
class Machine:
    """One network namespace with an address and a home of its own."""

    namespace: str
    address: str
    home: Path

    def command(self, *arguments: str) -> list[str]:
        return ["ip", "netns", "exec", self.namespace, sys.executable, "-m", "cli", *arguments]

    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "TORG_"))}
        return kept | {"TORG_HOME": str(self.home), "HOME": str(self.home), "PYTHONPATH": str(ROOT)}

    def torg(self, *arguments: str, timeout_s: float = 120) -> dict | list:
        return json.loads(self.lines(*arguments, timeout_s=timeout_s))

    def lines(self, *arguments: str, timeout_s: float = 120) -> str:
        """What a command that has to succeed prints."""
        done = subprocess.run(
            self.command("--json", *arguments),
            cwd=self.home,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"torg {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        with (self.home / "provide.out").open("w") as log:
            return subprocess.Popen(
                self.command(*arguments),
                cwd=self.home,
                env=self.environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def provides(self) -> bool:
        """Whether `torg provide` says that its offer is placed."""
        return "offered: " in (self.home / "provide.out").read_text()


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    """Two machines joined by a cable: 10.203.7.1 and 10.203.7.2, nothing else reachable."""
    tag = f"{os.getpid() % 10_000}"
    ends = [("a", "10.203.7.1"), ("b", "10.203.7.2")]
    made = []
    try:
        for letter, address in ends:
            namespace = f"torg{letter}{tag}"
            ip("netns", "add", namespace)
            home = tmp_path / letter
            home.mkdir()
            made.append(Machine(namespace, address, home))
        ip(
            "link",
            "add",
            f"tga{tag}",
            "netns",
            made[0].namespace,
            "type",
            "veth",
            "peer",
            "name",
            f"tgb{tag}",
            "netns",
            made[1].namespace,
        )
        for (letter, address), machine in zip(ends, made, strict=True):
            ip("-n", machine.namespace, "addr", "add", f"{address}/24", "dev", f"tg{letter}{tag}")
            ip("-n", machine.namespace, "link", "set", f"tg{letter}{tag}", "up")
            ip("-n", machine.namespace, "link", "set", "lo", "up")
        yield made[0], made[1]
    finally:
        for machine in made:
            subprocess.run(["ip", "netns", "del", machine.namespace], check=False, capture_output=True)


def until(reached, what: str, timeout_s: float = 90):
    """The first true answer of `reached`, asked again and again until the time is up."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        answer = reached()
        if answer:
            return answer
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout_s} s: {what}")


def test_a_stranger_joins_over_the_network_and_both_train(machines: tuple[Machine, Machine]) -> None:
    market, stranger = machines
    providers: list[subprocess.Popen[str]] = []
    try:
        up = market.torg("up", "--host", market.address)
        assert market.address in up["url"]
        invitation = market.torg("invite", "provider")
        assert "code" in invitation
        providers.append(
            market.start("provide", "--gpus", "cpu:1", "--price", "0.10", "--name", "home", "--no-selftest")
        )
        providers.append(
            stranger.start(
                "provide", "--invite", invitation["code"], "--gpus", "cpu:1", "--price", "0.20", "--name", "stranger"
            )
        )
        until(lambda: all(machine.provides() for machine in machines), "two offers")
        offers = market.torg("offers")
        assert [offer["state"] for offer in offers] == ["open", "open"]
        assert {o["provider"] for o in offers} != {"provider"}, "the invited member has a name of its own"

        (market.home / "text").mkdir()
        (market.home / "text" / "a.txt").write_text("the quick brown fox jumps over the lazy dog. " * 2000)
        (market.home / "job.yaml").write_text(JOB)
        market.torg("wallet", "deposit", "5")
        job = market.torg("submit", "job.yaml", "-y")

        watched = [json.loads(line) for line in market.lines("watch", job["id"], timeout_s=150).splitlines()]
        final = market.torg("job", job["id"])
        assert final["state"] == "done", watched[-1]
        assert {w["provider"] for w in final["leases"]} == {o["provider"] for o in offers}, "both machines trained"
        assert final["rounds_committed"] == 4
        assert final["billed_nanos"] > 0
        token_files = list(stranger.home.rglob("*.token"))
        assert token_files, "the stranger keeps a token file of its own"
        assert all(p.stat().st_mode & 0o077 == 0 for p in token_files)
        assert not (stranger.home / "journal").exists(), "nothing of the market's is on the stranger's machine"
    finally:
        for process in providers:
            process.send_signal(signal.SIGTERM)
        for process in providers:
            process.wait(timeout=60)
        subprocess.run(
            market.command("down"),
            cwd=market.home,
            env=market.environment(),
            timeout=90,
            check=False,
            capture_output=True,
        )
