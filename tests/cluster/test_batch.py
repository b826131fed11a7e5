"""Batch jobs on real machines: a command runs, is killed with its machine, begins again elsewhere, and leaves files."""

from __future__ import annotations

import hashlib
import random
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from market.provider_control import ask
from storage.artifacts import Artifacts
from tests.cluster.plaza import HERE, ROOT, USD, Json, Plaza, environment, tar_of, until
from tests.cluster.test_faults import gone

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

SCRIPT = b"""
import os, pathlib, sys, time
restarts = int(os.environ["TORG_RESTART_COUNT"])
print("begun", restarts, os.environ["WORD"], flush=True)
if "wait" in sys.argv and restarts == 0:
    time.sleep(3600)
pathlib.Path("out").mkdir()
pathlib.Path("out/answer.txt").write_text(f"{restarts} {pathlib.Path('given.txt').read_text()}")
sys.exit(int(sys.argv[1]) if restarts < int(sys.argv[2]) else 0)
"""


def submit(plaza: Plaza, *argv: str, retries: int = 0, **changes: Any) -> str:
    """A batch job of the local customer on one core here."""
    customer = plaza.local("customer")
    plaza.local("operator").deposit(f"deposit-{secrets.token_hex(5)}", "customer", USD)
    workdir = tar_of({"train.py": SCRIPT, "given.txt": b"forty-two"})
    command = {
        "argv": ["python", "train.py", *argv], "env": {"WORD": "hello"}, "artifacts": ["out", "*.onnx"], "timeout_ms": None,
        "retries": retries, "workdir": {"digest": customer.upload(workdir), "bytes": len(workdir), "label": "work"},
    }  # fmt: skip
    spec = {
        "name": "batch", "command": command | changes, "data": {"kind": "none"},
        "workers": {"min": 1, "max": 1, "gpus": 1, "gpu": ["cpu"], "vram_gib": 0, "region": [HERE], "reliability": 0.0,
                    "isolation": "process"},
        "limits": {"max_price_nanos_per_gpu_hour": 9 * USD // 10, "budget_nanos": USD, "deadline_ms": None},
        "tags": {},
    }  # fmt: skip
    job = f"job-{secrets.token_hex(5)}"
    customer.submit_job(job, spec)
    return job


def log_of(plaza: Plaza, job: str) -> str:
    told = plaza.local("customer").job_logs(job)
    text = told["text"]
    while told["text"]:
        told = plaza.local("customer").job_logs(job, after=told["next"])
        text += told["text"]
    return text


def printed(plaza: Plaza, job: str, line: str) -> bool:
    """Whether the command has printed this line; the run names the whole command in lines of its own."""
    return f" | {line}\n" in log_of(plaza, job)


def artifacts_of(plaza: Plaza, job: str) -> tuple[Artifacts, dict[str, bytes]]:
    customer = plaza.local("customer")
    found = Artifacts.from_json(customer.result(job)["manifest"])
    return found, {file.path: customer.read_blob(file.blob) for file in found.files}


def test_a_machine_that_is_killed_costs_its_try_and_the_command_begins_again_elsewhere(plaza: Plaza) -> None:
    job = submit(plaza, "0", "0", "wait")
    until(lambda: printed(plaza, job, "begun 0 hello"), "the command prints, and that is seen live")
    victim = plaza.worker_of(job)
    actor = psutil.Process(victim["pid"])
    family = [actor, *actor.children(recursive=True)]
    assert len(family) >= 3, "the worker, what is around the command, and the command"

    actor.kill()

    done = plaza.wait_state(job, "done")
    until(lambda: all(gone(process) for process in family), "nothing of the lost try lives on")
    first, second = done["leases"]
    assert (first["id"], first["fault"], first["charged_ms"]) == (victim["id"], "provider", 0)
    assert second["provider"] != first["provider"]
    assert second["charged_ms"] == second["metered_ms"] > 0
    assert done["billed_nanos"] == second["charged_nanos"]
    assert (done["command"]["exit_code"], done["command"]["restarts"]) == (0, 1)
    assert printed(plaza, job, "begun 1 hello")
    found, files = artifacts_of(plaza, job)
    assert files == {"out/answer.txt": b"1 forty-two"}
    assert found.unmatched == ("*.onnx",)
    bill = plaza.local("customer").invoice(job)
    assert bill["billed_nanos"] == done["billed_nanos"]
    assert {line["rounds"] for line in bill["lines"]} == {0}


def test_a_command_that_fails_by_itself_is_tried_again_on_the_same_lease(plaza: Plaza) -> None:
    job = submit(plaza, "3", "1", retries=1, requirements=["numpy"])  # which torg has, so that nothing is fetched
    done = plaza.wait_state(job, "done")
    text = log_of(plaza, job)
    assert "[torg: built the environment" in text
    assert "is on this machine already]" in text, "for the second try"
    assert [one["exit_code"] for one in done["command"]["attempts"]] == [3, 0]
    [lease] = done["leases"]
    assert lease["charged_ms"] == lease["metered_ms"]
    assert artifacts_of(plaza, job)[1] == {"out/answer.txt": b"1 forty-two"}
    rows: Json = plaza.local("customer").sql(f"SELECT number, code FROM attempts WHERE job = '{job}' ORDER BY number")
    assert rows["rows"] == [[1, 3], [2, 0]]


def test_a_command_that_goes_on_failing_fails_the_job_and_leaves_its_files(plaza: Plaza) -> None:
    job = submit(plaza, "3", "9")
    until(lambda: plaza.job(job)["state"] == "failed", "the job fails")
    failed = plaza.job(job)
    assert (failed["reason"], failed["command"]["exit_code"]) == ("command_failed", 3)
    assert failed["detail"].startswith("python train.py 3 9 exited with status 3")
    assert [one["fault"] for one in failed["leases"]] == ["customer"]
    assert artifacts_of(plaza, job)[1] == {"out/answer.txt": b"0 forty-two"}


def torg(plaza: Plaza, *words: str) -> bytes:
    """What a command line of the local customer prints."""
    settings = environment() | {"TORG_HOME": str(plaza.home.root)}
    return subprocess.run([sys.executable, "-m", "cli", *words], env=settings, check=True, capture_output=True).stdout


def test_a_run_that_is_killed_finds_its_command_still_running_and_its_customer_gets_in(plaza: Plaza, tmp_path: Path) -> None:
    job = submit(
        plaza, "0", "0",
        argv=["sh", "-c", "echo begun; i=0; while [ ! -e $HOME/go ]; do i=$((i+1)); echo tick $i; sleep 0.005; done; echo gone on"],
    )  # fmt: skip
    until(lambda: printed(plaza, job, "tick 300"), "the command runs and prints")
    pid = until(lambda: plaza.job(job)["run_pid"], "the run says its pid")
    psutil.Process(pid).kill()
    until(lambda: plaza.job(job)["run_pid"] not in (None, pid), "another process runs the job")
    (tmp_path / "key").write_text("go on")
    torg(plaza, "cp", str(tmp_path / "key"), f"{job}:came")
    assert torg(plaza, "exec", job, "--", "sh", "-c", "cat came; mv came $HOME/go") == b"go on"
    done = plaza.wait_state(job, "done")
    assert len(done["leases"]) == 1, "the worker outlived the run"
    assert done["command"]["restarts"] == 0
    shown = [line.partition(" | ")[2] for line in log_of(plaza, job).splitlines()]
    ticks = [line for line in shown if line.startswith("tick")]
    assert ticks == [f"tick {number}" for number in range(1, len(ticks) + 1)], "each line once"
    assert sum(": starting sh" in line for line in shown) == 1, "the second run went on with it"
    assert [line for line in shown if line in ("begun", "gone on")] == ["begun", "gone on"]


def test_a_steward_that_is_killed_finds_who_runs_what(plaza: Plaza) -> None:
    job = submit(
        plaza, "0", "0", argv=["sh", "-c", "echo begun; while [ ! -e $HOME/go ]; do sleep 0.1; done; echo gone on"]
    )
    until(lambda: printed(plaza, job, "begun"), "the command runs")
    before = _stewards()
    for one in before:
        one.kill()
    until(lambda: _stewards() - before, "another Steward is there")
    folder = _folder_of(plaza.worker_of(job))
    second = submit(plaza, "0", "0", argv=["true"])
    (folder / "home" / "go").touch()
    plaza.wait_state(job, "done")
    plaza.wait_state(second, "done")
    for one in (job, second):
        log = (plaza.home.logs / f"run-{one}.log").read_text()
        assert log.count("begins in process") == 1, "nobody ran it beside the one who did"


def _stewards() -> set[psutil.Process]:
    return {one for one in psutil.process_iter(["cmdline"]) if (one.info["cmdline"] or [""])[0] == "ray::StewardActor"}


def _folder_of(worker: Json) -> Path:
    """The command's folder as this machine names it: where the process around it was started."""
    around = psutil.Process(worker["pid"]).children()
    [found] = {Path(one.cwd()) for one in around if "trainers.command_child" in one.cmdline()}
    return found


def test_a_cancelled_command_is_gone_with_all_that_it_started(plaza: Plaza) -> None:
    job = submit(plaza, "0", "0", argv=["sh", "-c", "trap 'exit 0' TERM; echo begun; while true; do sleep 0.1; done"])
    until(lambda: printed(plaza, job, "begun"), "the command runs")
    worker = plaza.worker_of(job)
    family = psutil.Process(worker["pid"]).children(recursive=True)
    assert family
    plaza.local("customer").cancel_job(job)
    cancelled = plaza.wait_state(job, "cancelled")
    assert [one["reason"] for one in cancelled["leases"]] == ["cancelled"]
    until(lambda: all(gone(process) for process in family), "nothing of it lives on")


COUNTER = """
import os, pathlib, time
kept = pathlib.Path(os.environ["TORG_CHECKPOINT_DIR"], "count")
done = int(kept.read_text()) if kept.exists() else 0
print("from", done, flush=True)
while done < 3 or os.environ["TORG_RESTART_COUNT"] == "0":
    done += 1
    beside = kept.with_suffix(".new")
    beside.write_text(str(done))
    beside.rename(kept)
    time.sleep(0.2)
print("done", done)
"""


def test_what_was_saved_is_there_on_the_next_machine(plaza: Plaza) -> None:
    job = submit(plaza, argv=["python", "-c", COUNTER])
    until(lambda: plaza.job(job)["command"]["saved"], "something is saved")
    victim = plaza.worker_of(job)
    psutil.Process(victim["pid"]).kill()
    plaza.wait_state(job, "done")
    [begun, again] = [line.partition("from ")[2] for line in log_of(plaza, job).splitlines() if " | from " in line]
    assert begun == "0"
    assert int(again) > 0, "it goes on from what it had closed"


LAST_WORDS = """
import os, pathlib, signal, sys, time
kept = pathlib.Path(os.environ["TORG_CHECKPOINT_DIR"], "words")
if kept.exists():
    sys.exit(print("found", kept.read_text()))
def leave(*_):
    kept.write_text("the last ones")
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
print("begun", flush=True)
time.sleep(3600)
"""


def test_a_provider_that_drains_lets_the_last_save_come_to_the_market(plaza: Plaza) -> None:
    job = submit(plaza, argv=["python", "-c", LAST_WORDS])
    until(lambda: printed(plaza, job, "begun"), "the command runs")
    [host] = [one for one in plaza.hosts.values() if one.name == plaza.worker_of(job)["provider"]]
    host.stop()
    done = plaza.wait_state(job, "done")
    assert printed(plaza, job, "found the last ones")
    assert [one["reason"] for one in done["leases"]] == ["drained", "done"]
    assert (done["command"]["restarts"], done["command"]["lost"]) == (1, 1)


def test_an_owner_that_takes_its_machine_back_lets_the_last_save_come_to_the_market_first(plaza: Plaza) -> None:
    code = LAST_WORDS.replace("kept.read_text()", 'os.environ["TORG_RESTART_COUNT"], kept.read_text()')
    job = submit(plaza, argv=["python", "-c", code])
    until(lambda: printed(plaza, job, "begun"), "the command runs")
    [host] = [one for one in plaza.hosts.values() if one.name == plaza.worker_of(job)["provider"]]
    home = host.config.parent / "home"
    [*_, taken] = ask(home, {"ask": "reclaim", "why": "mine"}, 60)
    [status] = ask(home, {"ask": "status"}, 60)
    done = plaza.wait_state(job, "done")
    assert [*ask(home, {"ask": "release"}, 60)][-1]["gpus"] == 0
    assert (taken["gpus"], taken["leases"]) == (1, [done["leases"][0]["id"]])
    assert (status["leased"], status["held"]["why"]) == (0, "mine")
    assert printed(plaza, job, "found 1 the last ones")
    assert [one["reason"] for one in done["leases"]] == ["preempted", "done"]
    assert done["leases"][1]["offer"] != host.offer


def test_a_script_that_is_killed_at_a_random_moment_ends_with_the_very_bytes(plaza: Plaza, tmp_path: Path) -> None:
    script = ROOT / "examples" / "batch" / "byte_lm.py"
    words = ["--steps", "40", "--every", "10"]
    with subprocess.Popen(
        [sys.executable, script, *words], cwd=tmp_path, env=environment(), stdout=subprocess.PIPE
    ) as alone:
        workdir = tar_of({"byte_lm.py": script.read_bytes()})
        kept = {"digest": plaza.local("customer").upload(workdir), "bytes": len(workdir), "label": "work"}
        job = submit(plaza, argv=["python", "byte_lm.py", *words, "--rest", "0.15"], workdir=kept)
        until(lambda: plaza.job(job)["command"]["saved"], "something is saved")
        time.sleep(random.Random(7).uniform(0, 1))
        psutil.Process(plaza.worker_of(job)["pid"]).kill()
        done = plaza.wait_state(job, "done")
    assert alone.returncode == 0
    begun = [
        line.partition(" | begins at step ")[2] for line in log_of(plaza, job).splitlines() if "| begins at" in line
    ]
    assert begun[0] == "0"
    assert int(begun[1]) in (10, 20, 30, 40)
    assert done["command"]["restarts"] == 1
    assert artifacts_of(plaza, job)[1]["out/weights.bin"] == (tmp_path / "out" / "weights.bin").read_bytes()


def test_a_secret_reaches_the_command_and_nothing_that_stays(plaza: Plaza) -> None:
    value = f"canary-{secrets.token_hex(8)}"
    plaza.local("customer").set_secret("TOKEN", value)
    code = "import hashlib, os; v = os.environ['TOKEN']; print('it is', v); print(hashlib.sha256(v.encode()).hexdigest())"
    job = submit(plaza, argv=["python", "-c", code], secrets=["TOKEN"], artifacts=[])
    assert plaza.wait_state(job, "done", "failed")["state"] == "done"
    until(lambda: printed(plaza, job, hashlib.sha256(value.encode()).hexdigest()), "the command had the value")
    assert printed(plaza, job, "it is ***")
    assert value not in str(plaza.local("customer").provenance(job)) + str(plaza.job(job))
    files = [path for path in plaza.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert plaza.home.journal in {path.parent for path in files}
    assert not [path for path in files if value.encode() in path.read_bytes()]
    plaza.local("customer").remove_secret("TOKEN")
