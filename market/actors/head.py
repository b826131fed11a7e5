"""The process that owns the market's Ray head: `python -m market.actors.head --home HOME --url URL --host H`.

1. Starts an embedded head (or, with `--ray ADDRESS`, joins that cluster through a node of its own on this machine).
2. Tells the exchange where Ray is, and waits as long as the exchange is away.
3. Makes the detached Steward on its node; the Steward makes the runs.
4. Waits for SIGTERM, the end of its parent, or the end of Ray; then ends the actors first and Ray second.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

from market.actors.door import HomeDoor
from market.actors.ray_node import NodeSettings, RayNode, enter_ray, join, start_head, write_token
from market.homes import Home
from trainers.actors.lifeline import watch
from trainers.actors.wiring import STEWARD, DoorAway, end_actor, is_seat, living_actors

RAY_ENDED = 3
LOOK_S = 0.5
SAY_AGAIN_S = 10.0


def main(arguments: list[str] | None = None) -> int:
    """Run the head until it is told to end. Exit code 0 when told, 3 when Ray ended by itself."""
    given = _arguments(arguments)
    home = Home(given.home)
    stopping = threading.Event()
    watch(os.getppid(), stopping.set)
    began = time.monotonic()

    token_path = home.run / "ray.token"
    if given.ray_token is not None:
        write_token(token_path, given.ray_token.read_text(encoding="ascii").strip())
    else:
        write_token(token_path)
    enter_ray(token_path, given.host)
    settings = NodeSettings(node_ip=given.host, token_path=token_path, cpus=2)
    # In the main thread: the kernel ends Ray's processes when the thread that started them ends.
    node = start_head(settings) if given.ray is None else join(settings, given.ray)
    try:
        node.connect()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        _say(f"ray is up at {node.address} after {time.monotonic() - began:.1f} s")
        door = HomeDoor(given.url, str(given.home))
        _announce(door, node.address, token_path, stopping)
        _start_steward(door, node, home)
        return _watch(node, door, token_path, stopping)
    finally:
        _end_actors()
        node.stop()
        _say("ray is down")


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m market.actors.head")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--host", default="127.0.0.1", help="address of this machine for Ray's nodes")
    parser.add_argument("--ray", help="join this cluster (host:port) instead of starting one")
    parser.add_argument("--ray-token", type=Path, help="file with the token of the cluster to join")
    return parser.parse_args(arguments)


def _watch(node: RayNode, door: HomeDoor, token_path: Path, stopping: threading.Event) -> int:
    """Until told to stop or Ray ends; says again where Ray is, to an exchange that may have forgotten."""
    said_at = time.monotonic()
    while not stopping.wait(LOOK_S):
        if not node.alive():
            _say("ray ended by itself")
            return RAY_ENDED
        if time.monotonic() - said_at > SAY_AGAIN_S:
            said_at = time.monotonic()
            with contextlib.suppress(DoorAway):  # in a moment again
                door.announce_ray(node.address, str(token_path))
    return 0


def _announce(door: HomeDoor, address: str, token_path: Path, stopping: threading.Event) -> None:
    while not stopping.is_set():
        try:
            door.announce_ray(address, str(token_path))
            return
        except DoorAway:
            stopping.wait(LOOK_S)


def _start_steward(door: HomeDoor, node: RayNode, home: Home) -> None:
    from market.actors.steward import start_steward

    # One that a killed head left in a cluster of somebody else's would still be pinned to the node of that head.
    end_actor(STEWARD)
    start_steward(door, node.node_id, str(home.logs))


def _end_actors() -> None:
    import ray

    if not ray.is_initialized():
        return
    # The Steward first: it would start again what we end.
    for name in sorted(living_actors(), key=lambda name: name != STEWARD):
        if name == STEWARD or is_seat(name):
            end_actor(name)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
