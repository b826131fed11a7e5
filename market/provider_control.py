"""How an owner's command on the same machine speaks with the provider's host: JSON lines over a socket in its home.

One request a connection, any number of answers, the last of which has `"last": true`. The home is 0700, so nobody else
reaches the socket. A path below /proc stands for the home, because a socket's path may have 107 bytes only.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from market.reclaiming import Holds

Json = dict[str, Any]

SOCKET = "control.sock"
HOLDS = "holds.json"
LONGEST_LINE = 1 << 16


class NotRunning(Exception):
    """No host answers in this home."""


@contextlib.contextmanager
def address_in(home: Path) -> Iterator[str]:
    """The socket's address, as long as the context lasts."""
    folder = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{SOCKET}"
    finally:
        os.close(folder)


def ask(home: Path, request: Mapping[str, Any], timeout_s: float) -> Iterator[Json]:
    """The host's answers, as they come. `timeout_s` is how long it may be silent. Raises NotRunning when none answers."""
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(socket.socket(socket.AF_UNIX))
        connection.settimeout(timeout_s)
        try:
            connection.connect(stack.enter_context(address_in(home)))
            connection.sendall(json.dumps(dict(request)).encode() + b"\n")
            for line in stack.enter_context(connection.makefile("rb")):
                answer = json.loads(line)
                yield answer
                if answer.get("last"):
                    return
        except OSError as error:
            raise NotRunning(str(error)) from error
        raise NotRunning("it ended before it had answered")


def read_holds(home: Path) -> Holds:
    """What the owner of this home wants back; nothing where there is no such file, or a damaged one."""
    try:
        return Holds.of_json(json.loads((home / HOLDS).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return Holds()


def write_holds(home: Path, holds: Holds) -> None:
    """Whole or not at all. Raises OSError."""
    beside = home / f"{HOLDS}.new"
    beside.write_text(json.dumps(holds.as_json()), encoding="utf-8")
    beside.replace(home / HOLDS)
