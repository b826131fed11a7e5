"""What a customer's order of a session means inside: the program, its environment, whether it has a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainers import sandbox
from trainers.spawning import Place

Json = dict[str, Any]

SHELL = 'if command -v bash >/dev/null 2>&1; then exec bash --norc --noprofile -i; else exec sh -i; fi'


def message_of(order: Mapping[str, Any], place: Place) -> Json:
    """{argv, environment, own, tty, rows, columns}, as `inside` takes it. `own`: not the command's environment, but ours."""
    kind = order["kind"]
    plain = {"environment": {}, "own": False, "tty": False, "rows": 0, "columns": 0}
    if kind == "exec":
        return {**plain, "argv": list(order["argv"])}
    if kind == "shell":
        environment = {"TERM": order["term"] or "dumb", "PS1": r"torg \w $ ", "HISTFILE": "/dev/null"}
        size = {"tty": True, "rows": order["rows"] or 24, "columns": order["columns"] or 80}
        return {**plain, **size, "argv": ["/bin/sh", "-c", SHELL], "environment": environment}
    assert kind in ("put", "get")
    environment = sandbox.child_environment(1, place.seen("home"), place.code)
    argv = [*sandbox.python_command(), "-m", "trainers.copying", kind, order["path"]]
    return {**plain, "argv": argv, "environment": environment, "own": True}
