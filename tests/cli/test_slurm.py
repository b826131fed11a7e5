"""examples/slurm/provider.sbatch, run by bash as Slurm would, with a program in the place of torg that says what it got."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "slurm" / "provider.sbatch"
STAND_IN = f"""#!{sys.executable}
import os, signal, sys
def leave(*_):
    print("draining", flush=True)
    sys.exit(int(os.environ.get("ENDS_WITH", "0")))
signal.signal(signal.SIGTERM, leave)
print(os.environ.get("CUDA_VISIBLE_DEVICES"), *sys.argv[1:], flush=True)
while True:
    signal.pause()
"""


def begin(folder: Path, **slurm: str) -> subprocess.Popen[str]:
    program = folder / "torg"
    program.write_text(STAND_IN)
    program.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "CUDA", "TORG"))}
    told: Mapping[str, str] = {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n01", "SLURM_CPUS_PER_TASK": "8", **slurm}
    environment = {**kept, **told, "PATH": f"{folder}:{kept['PATH']}"}
    return subprocess.Popen(["bash", SCRIPT], env=environment, stdout=subprocess.PIPE, text=True)


def first_line(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split()


@pytest.mark.parametrize("code", [0, 3])
def test_slurms_signal_drains_the_provider_and_the_job_ends_as_it_did(tmp_path: Path, code: int) -> None:
    end = int(time.time()) + 3600
    with begin(
        tmp_path, CUDA_VISIBLE_DEVICES="2,3", SLURM_JOB_GPUS="6,7", SLURM_JOB_END_TIME=str(end), ENDS_WITH=str(code)
    ) as job:
        cards, verb, *words = first_line(job)
        options = dict(zip(words[::2], words[1::2], strict=True))
        assert (cards, verb, options["--gpus"], options["--name"]) == ("2,3", "provide", "auto", "slurm-n01-6-7")
        assert 3500 < int(options["--for"].removesuffix("s")) <= 3600
        assert int(options["--notice"].removesuffix("s")) < 120, "it is over before Slurm kills"
        job.send_signal(signal.SIGTERM)
        rest, _ = job.communicate(timeout=30)
    assert (rest, job.returncode) == ("draining\n", code)


def test_without_cards_it_lends_the_jobs_cores_and_without_an_end_for_as_long_as_it_runs(tmp_path: Path) -> None:
    with begin(tmp_path, TORG_PRICE="0.05", TORG_INVITE_FILE="code") as job:
        words = first_line(job)
        job.send_signal(signal.SIGTERM)
        job.communicate(timeout=30)
    assert " ".join(words[1:]) == (
        "provide --price 0.05 --notice 100s --invite-file code --gpus cpu:8 --name slurm-n01-cpu"
    )


def test_the_cards_that_slurm_names_are_taken_where_cuda_is_told_nothing(tmp_path: Path) -> None:
    with begin(tmp_path, SLURM_JOB_GPUS="1") as job:
        assert first_line(job)[0] == "1"
        job.send_signal(signal.SIGTERM)
        job.communicate(timeout=30)


def test_a_job_that_is_nearly_over_lends_nothing(tmp_path: Path) -> None:
    with begin(tmp_path, SLURM_JOB_END_TIME=str(int(time.time()) + 60)) as job:
        said, _ = job.communicate(timeout=30)
    assert job.returncode == 0
    assert said.endswith("s are left: too short to lend anything\n")
