"""What a self-test says of a machine, as plain JSON that can be signed, and for which machine it holds."""

from __future__ import annotations

import platform
import shutil
import subprocess
from typing import Any

from trainers import landlock
from trainers.selftest import FORMAT
from trainers.selftest.battery import Result

Json = dict[str, Any]


def machine(torg: str) -> Json:
    """What a result depends on: with another one of these it is asked for again. `torg`: its version."""
    return {
        "kernel": platform.release(),
        "bubblewrap": bubblewrap_version(),
        "torg": torg,
        "landlock": landlock.version(),
    }


def report(result: Result, facts: Json, at_ms: int) -> Json:
    """Of one run. `facts`: of `machine`; `at_ms`: when, since the epoch."""
    return {
        "format": FORMAT,
        "isolation": result.isolation,
        "machine": facts,
        "groups": sorted(result.bounds),
        "held": len(result.named("held")),
        "escaped": result.named("escaped"),
        "not_applicable": result.named("not applicable"),
        "at_ms": at_ms,
    }


def bubblewrap_version() -> str:
    """Empty without bubblewrap."""
    program = shutil.which("bwrap")
    if program is None:
        return ""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().rpartition(" ")[2]
