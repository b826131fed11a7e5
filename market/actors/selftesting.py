"""The self-test of a provider's host: once for a machine as it is, beside its work, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from market.actors.host_config import torg_version
from market.selftest_files import keep, kept
from trainers.selftest.report import machine

PATIENCE_S = 300.0

Json = dict[str, Any]


def known(home: Path) -> Json | None:
    """The signed report that is kept for this machine as it is now."""
    return kept(home, machine(torg_version()))


def begin(home: Path, then: Callable[[Json | None, str], None]) -> None:
    """Test, sign and keep, in a thread; `then` gets the signed report, or None and why there is none."""
    threading.Thread(target=lambda: then(*_tested(home)), name="selftest", daemon=True).start()


def _tested(home: Path) -> tuple[Json | None, str]:
    command = [sys.executable, "-m", "trainers.selftest", "--torg", torg_version(), "--parent-pid", str(os.getpid())]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S, check=True
        )
        return keep(home, json.loads(done.stdout.splitlines()[-1])), ""
    except subprocess.CalledProcessError as failed:
        return None, f"it ended with {failed.returncode}: {failed.stderr.strip()[-200:]}"
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired) as error:
        return None, f"{type(error).__name__}: {error}"
