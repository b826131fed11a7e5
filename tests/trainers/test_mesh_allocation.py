"""Workers keep what they freed."""

import subprocess
import sys

import pytest

SCRIPT = """
from pathlib import Path
from trainers.mesh.allocation import keep_freed_memory

def resident():
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])

kept = keep_freed_memory() if {setting} else None
before = resident()
block = bytearray(b"x") * (16 << 20)
del block
print(kept, resident() - before > 15 << 20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
@pytest.mark.parametrize(("setting", "expected"), [(True, "True True"), (False, "None False")])
def test_freed_memory_stays_with_a_worker(setting: bool, expected: str) -> None:
    told = subprocess.run([sys.executable, "-c", SCRIPT.format(setting=setting)], capture_output=True, text=True)
    assert told.stdout.split("\n")[0] == expected, told.stderr
