"""A provider's host joins whichever head there is now, and can be told to leave while it waits for one."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from market.actors.ray_node import sweep_folders
from market.client import Market
from market.homes import Home
from market.supervisor import start
from tests.cluster.plaza import environment

PATIENCE_S = 60.0


@contextmanager
def silent_head() -> Iterator[tuple[str, Callable[[], None]]]:
    """A port where somebody listens and never answers, as a head's whose machine has just been cut off: its address, and
    what waits until somebody comes.
    """
    with ExitStack() as opened:
        server = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        server.settimeout(PATIENCE_S)

        def wait_for_somebody() -> None:
            opened.enter_context(server.accept()[0])

        yield f"127.0.0.1:{server.getsockname()[1]}", wait_for_somebody


def test_a_host_that_joins_a_head_that_is_gone_begins_anew_at_the_next_one_and_leaves_when_told(
    spare: Path, tmp_path: Path
) -> None:
    url, home = start(spare, no_ray=True).url, Home(spare)
    keys, token, config, output = home.read_keys(), tmp_path / "ray.token", tmp_path / "host.json", tmp_path / "out"
    token.write_text("a" * 64)
    told = {
        "url": url, "key": keys["provider"], "offer": "offer-joining", "name": "joining", "home": str(tmp_path / "host"),
        "gpu": "cpu", "units": 1, "price_nanos_per_gpu_hour": 1_000_000,
    }  # fmt: skip
    config.write_text(json.dumps(told))
    config.chmod(0o600)
    with (
        silent_head() as (gone, comes_to_the_first),
        silent_head() as (there, comes_to_the_second),
        Market(url, keys["plane"], patience_s=PATIENCE_S) as plane,
    ):
        plane.announce_ray(gone, str(token))
        with output.open("wb") as out:
            command = [sys.executable, "-m", "market.actors.provider_host", "--config", str(config)]
            host = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment(), cwd=tmp_path)
        try:
            comes_to_the_first()
            plane.announce_ray(there, str(token))
            comes_to_the_second()
            host.send_signal(signal.SIGTERM)
            assert host.wait(PATIENCE_S) == 0
        finally:
            host.kill()
            host.wait()
    said = [json.loads(line)["event"] for line in output.read_text().splitlines() if line.startswith("{")]
    assert said == ["rejoin", "drained"]
    left = [mark.parent for mark in Path("/tmp").glob("torg-*/owner") if mark.read_text().split()[0] == str(host.pid)]
    assert len(left) <= 1, "what its first life left is swept by the second"
    assert set(left) <= set(sweep_folders())
