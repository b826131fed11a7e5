"""pip in a process that can do nothing but look, fetch and unpack: `main(folder, words)`. Not in the sandbox: it has the network.

It starts no program and no process, which the kernel sees to (seccomp): so no build of an sdist, no version control, whatever a
wheel's metadata may ask for. It writes below its folder only (Landlock, where there is one). It ends with its parent.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

from trainers import landlock, sandbox, seccomp

MEMORY_BYTES = 2 << 30
PROBE = "--has-index"
NO_PIP, NO_FILTER, NO_INDEX = 71, 72, 73
"""Exit statuses that are about this machine."""
_TRUE = ("1", "true", "yes", "on", "t", "y")


def main(folder: str, parent: int, most_bytes: int, words: Sequence[str]) -> int:
    """pip's exit status, or one of ours. With PROBE: whether this machine could build at all."""
    sandbox.die_with_parent(parent)
    if not _find_pip():
        return NO_PIP
    for which, wanted in ((resource.RLIMIT_DATA, MEMORY_BYTES), (resource.RLIMIT_FSIZE, most_bytes), (resource.RLIMIT_CORE, 1)):
        _, hard = resource.getrlimit(which)
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(which, (value, value))
    rules = [
        landlock.Rule("/", landlock.READ), landlock.Rule("/dev", landlock.DEVICES), landlock.Rule(folder, landlock.WRITE),
    ]  # fmt: skip
    with contextlib.suppress(landlock.LandlockUnavailable):
        landlock.confine(rules)
    try:
        seccomp.install(processes=False, sockets=True)
    except seccomp.SeccompUnavailable:
        return NO_FILTER
    if not _has_index():
        return NO_INDEX
    if list(words) == [PROBE]:
        return 0
    from pip._internal.cli.main import main as pip

    return int(pip(list(words)))


def _find_pip() -> bool:
    """pip of this Python, or the one that Python brings along for new environments."""
    if importlib.util.find_spec("pip") is not None:
        return True
    found = importlib.util.find_spec("ensurepip")
    if found is None or found.origin is None:
        return False
    wheels = sorted(Path(found.origin).parent.glob("_bundled/pip-*.whl"))
    sys.path += [str(wheel) for wheel in wheels[-1:]]
    return bool(wheels)


def _has_index() -> bool:
    """Whether the owner's configuration of pip leaves it anywhere to look."""
    from pip._internal.configuration import Configuration

    configuration = Configuration(isolated=False)
    configuration.load()
    told = {key.rpartition(".")[2]: str(value) for key, value in configuration.items() if str(value).strip()}
    return told.get("no-index", "").lower() not in _TRUE or "find-links" in told


def command(folder: Path, most_bytes: int, words: Sequence[str]) -> list[str]:
    """The command line of such a process, which sees nothing of a folder that it was started from."""
    code = str(sandbox.package_folder().parent)
    start = f"import sys; sys.path.append({code!r}); from trainers.environments.pip_alone import main; "
    start += "sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]))"
    return [sys.executable, "-I", "-B", "-c", start, str(folder), str(os.getpid()), str(most_bytes), *words]
