"""What bounds a sandbox where the provider is not root, as most are not: no cgroup may be written, and the kernel counts."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from trainers.sandbox import isolation_level

ROOT = Path(__file__).parents[2]
NOBODY = "65534"
TRIED = ("fork-bomb", "thread-bomb", "memory-bomb", "address-space", "open-files", "raise-limits", "ptrace", "read-home")
BATTERY = f"""
import json, os
from trainers.selftest import battery
from trainers.selftest.attempts import BY_NAME
made = battery.run("sandbox", [BY_NAME[name] for name in {TRIED!r}])
found = {{one.name: one.verdict for one in made.findings}}
print(json.dumps({{"account": os.getuid(), "bounds": sorted(made.bounds), "found": found}}))
"""


def opened(paths: Sequence[Path], stage: Path) -> str:
    """Shell commands by which, in a mount namespace of their own, every account may come to these folders."""
    hidden: dict[Path, list[Path]] = {}
    for path in paths:
        for above in reversed(path.parents):
            if not above.stat().st_mode & 0o001:
                hidden.setdefault(above, []).append(path)
                break
    lines = []
    for number, (above, below) in enumerate(hidden.items()):
        kept = stage / str(number)
        lines += [f"mkdir {kept}", f"mount --bind {shlex.quote(str(above))} {kept}", f"mount -t tmpfs -o mode=755 none {shlex.quote(str(above))}"]
        for path in below:
            seen, held = shlex.quote(str(path)), shlex.quote(str(kept / path.relative_to(above)))
            lines += [f"mkdir -p {seen}", f"mount --bind {held} {seen}"]
    return "\n".join(lines)


def test_a_sandbox_holds_under_an_account_other_than_root(tmp_path: Path) -> None:
    if os.getuid() != 0 or not shutil.which("unshare") or not shutil.which("setpriv"):
        pytest.skip("only root can become another account")
    if isolation_level() != "sandbox":
        pytest.skip("bubblewrap does not run here, so there is no sandbox")
    paths = [Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), ROOT]
    script = f"""set -e
{opened(paths, tmp_path)}
cd /
exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups --no-new-privs env -i PATH="$PATH" HOME=/ PYTHONPATH={shlex.quote(str(ROOT))} \
  PYTHONDONTWRITEBYTECODE=1 {shlex.quote(sys.executable)} -c {shlex.quote(BATTERY)}
"""
    ran = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["account"] == int(NOBODY)
    assert told["bounds"] == [], "it is the kernel's count that is tried here, not a cgroup"
    assert {name: verdict for name, verdict in told["found"].items() if verdict == "escaped"} == {}
    assert told["found"]["thread-bomb"] == told["found"]["fork-bomb"] == told["found"]["memory-bomb"] == "held"
