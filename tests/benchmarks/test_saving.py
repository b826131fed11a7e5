"""What is made of the parts of a script that saves, and of the processor time beside it."""

import os
import statistics
import subprocess
import sys
import time

import pytest

from benchmarks.process_cpu import ProcessCpu
from benchmarks.saving import Part, figures


def part(stretches: list[float], **cpu_s: float) -> Part:
    return Part(sum(stretches), len(stretches), statistics.median(stretches), cpu_s)


def test_a_loss_is_told_from_a_machine_that_is_slow_in_one_part() -> None:
    slow, kept = part([2.0] * 10, run=2.0, script=9.0), part([1.0] * 9 + [2.0], run=1.5, script=9.0)
    found = figures("s", [(slow, kept), (part([1.0] * 10, run=1.0), kept)], 1, as_json=True)
    assert found["s_overhead"] == pytest.approx(1 - 10 / 11)
    assert found["s_standard_error"] == pytest.approx(0)
    assert found["s_plain_overhead"] == pytest.approx((1.1 / 2 - 1 + 1.1 - 1) / 2)
    assert found["s_cpu_s_run"] == found["s_cpu_s"] == pytest.approx((1.5 - 2.0 * 11 / 20 + 1.5 - 1.0 * 11 / 10) / 2)


BURN = "import sys, time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True)\nsys.stdin.read()"


def test_what_processes_below_another_compute_is_counted_by_their_names() -> None:
    begun = time.monotonic()
    with ProcessCpu(lambda: [os.getpid()], lambda command: "burner" if "process_time" in command else None, every_s=0.05) as cpu:
        with subprocess.Popen([sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"done\n"
            done = time.monotonic()
            while len(cpu.at_s) < 2 or cpu.at_s[-1] < done:
                time.sleep(0.01)
            process.communicate()
        ended = time.monotonic()
    assert 0.2 < cpu.between(begun - 1, ended)["burner"] < 2
    assert cpu.between(begun - 2, begun - 1).get("burner", 0.0) == 0
