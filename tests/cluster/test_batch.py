"""Batch jobs on real machines: a command runs, is killed with its machine, begins again elsewhere, and leaves files."""

from __future__ import annotations

import hashlib
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from market.provider_control import ask
from storage.artifacts import Artifacts
from tests.cluster.plaza import HERE, USD, Json, Plaza, environment, gone, tar_of, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

SCRIPT = b"""
import hashlib, os, pathlib, sys
restarts = int(os.environ["TORG_RESTART_COUNT"])
print("begun", restarts, os.environ["WORD"], flush=True)
if "TOKEN" in os.environ:
    print("it is", os.environ["TOKEN"], hashlib.sha256(os.environ["TOKEN"].encode()).hexdigest(), flush=True)
pathlib.Path("out").mkdir()
pathlib.Path("out/answer.txt").write_text(f"{restarts} {pathlib.Path('given.txt').read_text()}")
sys.exit(int(sys.argv[1]) if restarts < int(sys.argv[2]) else 0)
"""
STEPS = 100
WALK = f"""
import hashlib, os, pathlib, time
kept = pathlib.Path(os.environ["TORG_CHECKPOINT_DIR"], "state")
step, state = kept.read_text().split() if kept.exists() else ("0", "")
print("begun", os.environ["TORG_RESTART_COUNT"], os.environ["WORD"], "at", step, flush=True)
for step in range(int(step) + 1, {STEPS} + 1):
    state = hashlib.sha256(state.encode()).hexdigest()
    if step % 10 == 0:
        kept.with_suffix(".new").write_text(f"{{step}} {{state}}")
        kept.with_suffix(".new").rename(kept)
    while step == {STEPS} and os.environ["TORG_RESTART_COUNT"] == "0":
        time.sleep(3600)
    time.sleep(0.02)
pathlib.Path("out").mkdir()
pathlib.Path("out/answer.txt").write_text(state + pathlib.Path("given.txt").read_text())
"""
"""Its end shows every step; the first try never comes to it."""


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


def test_a_machine_that_is_killed_costs_its_try_and_the_command_goes_on_elsewhere_from_what_it_saved(plaza: Plaza) -> None:
    job = submit(plaza, argv=["python", "-c", WALK])
    until(lambda: printed(plaza, job, "begun 0 hello at 0"), "the command prints, and that is seen live")
    until(lambda: plaza.job(job)["command"]["saved"], "something is saved")
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
    begun = [line.partition(" | begun ")[2] for line in log_of(plaza, job).splitlines() if " | begun " in line]
    assert begun[0] == "0 hello at 0"
    assert begun[1:] in [[f"1 hello at {step}"] for step in range(10, STEPS + 1, 10)], "from what it had closed"
    state = ""
    for _ in range(STEPS):
        state = hashlib.sha256(state.encode()).hexdigest()
    found, files = artifacts_of(plaza, job)
    assert files == {"out/answer.txt": f"{state}forty-two".encode()}, "the very bytes of a run that nobody kills"
    assert found.unmatched == ("*.onnx",)
    bill = plaza.local("customer").invoice(job)
    assert bill["billed_nanos"] == done["billed_nanos"]
    assert {line["rounds"] for line in bill["lines"]} == {0}


def test_a_command_that_fails_by_itself_is_tried_again_on_the_same_lease_and_its_secret_stays_nowhere(plaza: Plaza) -> None:
    value = f"canary-{secrets.token_hex(8)}"
    plaza.local("customer").set_secret("TOKEN", value)
    own = {"requirements": ["numpy"], "secrets": ["TOKEN"]}  # torg has numpy, so nothing is fetched
    job = submit(plaza, "3", "1", retries=1, **own)
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

    shown = f" | it is *** {hashlib.sha256(value.encode()).hexdigest()}\n"
    assert text.count(shown) == 2, "the command had the value, and its log has not"
    assert value not in str(plaza.local("customer").provenance(job)) + str(plaza.job(job))
    files = [path for path in plaza.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert plaza.home.journal in {path.parent for path in files}
    assert not [path for path in files if value.encode() in path.read_bytes()]
    plaza.local("customer").remove_secret("TOKEN")


def test_a_command_that_goes_on_failing_fails_the_job_and_leaves_its_files(plaza: Plaza) -> None:
    job = submit(plaza, "3", "9")
    until(lambda: plaza.job(job)["state"] == "failed", "the job fails")
    failed = plaza.job(job)
    assert (failed["reason"], failed["command"]["exit_code"]) == ("command_failed", 3)
    assert failed["detail"].startswith("python train.py 3 9 exited with status 3")
    assert [one["fault"] for one in failed["leases"]] == ["customer"]
    assert artifacts_of(plaza, job)[1] == {"out/answer.txt": b"0 forty-two"}


def torg(plaza: Plaza, *words: str, codes: tuple[int, ...] = (0,)) -> bytes:
    """What a command line of the local customer prints; `codes`: with which it may exit."""
    settings = environment() | {"TORG_HOME": str(plaza.home.root)}
    done = subprocess.run([sys.executable, "-m", "cli", *words], env=settings, check=False, capture_output=True)
    assert done.returncode in codes, done.stderr.decode()
    return done.stdout


def test_a_steward_and_a_run_that_are_killed_find_the_command_still_running_and_its_customer_gets_in(
    plaza: Plaza, tmp_path: Path
) -> None:
    job = submit(
        plaza,
        argv=["sh", "-c", "echo begun; i=0; while [ ! -e $HOME/go ]; do i=$((i+1)); echo tick $i; sleep 0.005; done; echo gone on"],
    )  # fmt: skip
    until(lambda: printed(plaza, job, "tick 300"), "the command runs and prints")
    before = _stewards()
    for one in before:
        one.kill()
    until(lambda: _stewards() - before, "another Steward is there")
    second = submit(plaza, argv=["true"])
    plaza.wait_state(second, "done")
    for one in (job, second):
        log = (plaza.home.logs / f"run-{one}.log").read_text()
        assert log.count("begins in process") == 1, "nobody ran it beside the one who did"

    pid = until(lambda: plaza.job(job)["run_pid"], "the run says its pid")
    psutil.Process(pid).kill()
    until(lambda: plaza.job(job)["run_pid"] not in (None, pid), "another process runs the job")
    (tmp_path / "key").write_text("go on")
    torg(plaza, "cp", str(tmp_path / "key"), f"{job}:came")
    assert torg(plaza, "exec", job, "--", "cat", "came") == b"go on"
    torg(plaza, "exec", job, "--", "sh", "-c", "mv came $HOME/go", codes=(0, 255))  # the job's command may end before this does
    done = plaza.wait_state(job, "done")
    assert len(done["leases"]) == 1, "the worker outlived the run"
    assert done["command"]["restarts"] == 0
    shown = [line.partition(" | ")[2] for line in log_of(plaza, job).splitlines()]
    ticks = [line for line in shown if line.startswith("tick")]
    assert ticks == [f"tick {number}" for number in range(1, len(ticks) + 1)], "each line once"
    assert sum(": starting sh" in line for line in shown) == 1, "the second run went on with it"
    assert [line for line in shown if line in ("begun", "gone on")] == ["begun", "gone on"]


def _stewards() -> set[psutil.Process]:
    return {one for one in psutil.process_iter(["cmdline"]) if (one.info["cmdline"] or [""])[0] == "ray::StewardActor"}


def test_a_cancelled_command_is_gone_with_all_that_it_started(plaza: Plaza) -> None:
    job = submit(plaza, argv=["sh", "-c", "trap 'exit 0' TERM; echo begun; while true; do sleep 0.1; done"])
    until(lambda: printed(plaza, job, "begun"), "the command runs")
    worker = plaza.worker_of(job)
    family = psutil.Process(worker["pid"]).children(recursive=True)
    assert family
    plaza.local("customer").cancel_job(job)
    cancelled = plaza.wait_state(job, "cancelled")
    assert [one["reason"] for one in cancelled["leases"]] == ["cancelled"]
    until(lambda: all(gone(process) for process in family), "nothing of it lives on")


LAST_WORDS = """
import os, pathlib, signal, sys, time
kept, tries = pathlib.Path(os.environ["TORG_CHECKPOINT_DIR"], "words"), os.environ["TORG_RESTART_COUNT"]
words = kept.read_text() if kept.exists() else ""
if tries == "2":
    sys.exit(print("found", words))
def leave(*_):
    kept.write_text(f"{words}the last ones of {tries}, ")
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
print("begun", tries, flush=True)
time.sleep(3600)
"""


def test_the_last_save_comes_to_the_market_from_a_provider_that_drains_and_from_an_owner_that_takes_its_machine_back(
    plaza: Plaza,
) -> None:
    job = submit(plaza, argv=["python", "-c", LAST_WORDS])
    until(lambda: printed(plaza, job, "begun 0"), "the command runs")
    plaza.host_of(plaza.worker_of(job)["provider"]).stop()

    until(lambda: printed(plaza, job, "begun 1"), "the command runs on another machine")
    host = plaza.host_of(plaza.worker_of(job)["provider"])
    home = host.config.parent / "home"
    [*_, taken] = ask(home, {"ask": "reclaim", "why": "mine"}, 60)
    [status] = ask(home, {"ask": "status"}, 60)

    done = plaza.wait_state(job, "done")
    assert [*ask(home, {"ask": "release"}, 60)][-1]["gpus"] == 0
    assert (taken["gpus"], taken["leases"]) == (1, [done["leases"][1]["id"]])
    assert (status["leased"], status["held"]["why"]) == (0, "mine")
    assert printed(plaza, job, "found the last ones of 0, the last ones of 1, ")
    assert [one["reason"] for one in done["leases"]] == ["drained", "preempted", "done"]
    assert done["leases"][2]["offer"] != host.offer
    assert (done["command"]["restarts"], done["command"]["lost"]) == (2, 2)
