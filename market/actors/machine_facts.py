"""What a provider's host tells of the machine under a lease's worker: what it can see, and nothing else. No torch."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from market.actors.host_config import own_versions
from trainers.determinism import DETERMINISTIC, RANDOMNESS

DRIVER = Path("/proc/driver/nvidia/version")
Json = dict[str, Any]


def machine_facts(gpu: str, gpus: int, threads: int) -> Json:
    """Facts of a worker with `gpus` units of `gpu` and so many threads of torch; what cannot be found out is absent."""
    return {"gpu": gpu, "gpus": gpus, "threads": threads, **_of_this_machine()}


@functools.cache
def _of_this_machine() -> Json:
    """`packages_sha256` is what a lock file would pin: SHA-256 over the lines `name==version` of all that is installed."""
    found: Json = {**own_versions(), "system": platform.system(), "kernel": platform.release(), "architecture": platform.machine()}
    found |= {"cores": os.cpu_count() or 0, "deterministic": DETERMINISTIC, "randomness": RANDOMNESS}
    installed = sorted({(one.metadata["Name"] or "").lower() + "==" + one.version for one in importlib.metadata.distributions()})
    found["packages_sha256"] = hashlib.sha256("".join(f"{line}\n" for line in installed).encode()).hexdigest()
    torch = [line.removeprefix("torch==") for line in installed if line.startswith("torch==")]
    driver = _driver()
    if torch:
        found["torch"] = torch[0]
    if driver:
        found["driver"] = driver
    return found


def _driver() -> str:
    """The NVIDIA driver's version line, empty where there is none."""
    try:
        return DRIVER.read_text(encoding="utf-8", errors="replace").splitlines()[0].strip()[:200]
    except (OSError, IndexError):
        return ""
