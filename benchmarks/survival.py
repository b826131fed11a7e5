"""Whether a script that saves survives its machine: killed at random moments, it must end with an undisturbed run's bytes.

    python -m benchmarks.survival [--script FILE] [--ranks N] [--left out/weights.bin] [--kills 3] [--seed 1] [--json] [-- ARGUMENTS OF THE SCRIPT]

The script runs twice as a batch job on two providers of this machine, as `torg run` would: once undisturbed, and once with
its worker killed by SIGKILL at moments that the seed draws, evenly over half of the undisturbed run's time after each start.
It leaves `out/weights.bin`, or what `--left` names. `benchmarks/survivors/` has scripts for Hugging Face's Trainer and for Lightning; start this
benchmark with a Python that has them and what torg needs. `--ranks N` starts the script as torchrun would, on providers of N
cores, and kills all ranks with their worker: `--ranks 2 --script examples/batch/ddp.py -- --steps 300 --rest 0.05`.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.report import Target, finish, parser, say
from benchmarks.square import ROOT, open_square, until

LEFT = "out/weights.bin"
FIRST = "[rank 0] "


def main() -> int:
    """See the module."""
    arguments = parser(__doc__)
    arguments.add_argument("--script", type=Path, default=ROOT / "examples" / "batch" / "byte_lm.py")
    arguments.add_argument("--ranks", type=int)
    arguments.add_argument("--left", default=LEFT)
    arguments.add_argument("--kills", type=int, default=3)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("words", nargs="*")
    chosen = arguments.parse_args()
    draw = random.Random(chosen.seed)
    argv = ["python", chosen.script.name, *chosen.words]
    with tempfile.TemporaryDirectory() as folder, open_square(2, chosen.ranks or 1) as square:
        files = Path(folder)
        shutil.copy(chosen.script, files)
        if chosen.ranks is not None:
            square.wait_sandboxed()
        began = time.monotonic()
        job = square.submit(argv, files, ["out"], chosen.ranks)
        square.wait_over(job)
        alone_s, wanted = time.monotonic() - began, square.artifact(job, chosen.left)
        say(chosen.json, f"undisturbed: {alone_s:.1f} s, {len(wanted)} bytes")
        square.wait_free()

        began = time.monotonic()
        job = square.submit(argv, files, ["out"], chosen.ranks)
        killed = 0
        for number in range(chosen.kills):
            until(
                lambda begun=number: _starts(square.lines(job)) > begun or square.customer.job(job)["state"] == "done"
            )
            time.sleep(draw.uniform(0.05, 0.5) * alone_s)
            if square.customer.job(job)["state"] == "done" or not square.kill_worker(job):
                break
            killed += 1
            say(chosen.json, f"killed after {time.monotonic() - began:.1f} s")
        done = square.wait_over(job)
        disturbed_s, found = time.monotonic() - began, square.artifact(job, chosen.left)
        for line in square.lines(job):
            if line.removeprefix(FIRST).startswith(("begins", "[torg: p", "[torg: TORG")):
                say(chosen.json, f"    {line}")
    same = float(found == wanted)
    figures = {
        "kills": killed, "restarts": done["command"]["restarts"], "undisturbed_s": alone_s, "disturbed_s": disturbed_s,
        "same_bytes": same, "billed_usd": done["billed_nanos"] / 1e9,
    }  # fmt: skip
    targets = {"same_bytes": Target(same, 1, at_most=False), "kills": Target(killed, chosen.kills, at_most=False)}
    return finish(figures, targets, chosen.json)


def _starts(lines: list[str]) -> int:
    return sum(line.startswith("[torg: ") and ": starting " in line for line in lines)


if __name__ == "__main__":
    sys.exit(main())
