"""Sessions inside a command that runs: a real market, a real sandbox, the real command line; no Ray."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from market.sessions import MOST_OF_A_JOB
from tests.api.command_scene import CommandScene, batch_spec
from tests.api.square import Square, make_spec, refusal, until
from trainers.sandbox import isolation_level
from trainers.sessions import frames


@pytest.fixture(scope="module", params=sorted({"process", isolation_level()}))
def scene(square: Square, tmp_path_factory: pytest.TempPathFactory, request: Any) -> Iterator[CommandScene]:
    with CommandScene(square, tmp_path_factory.mktemp("machine"), level=request.param) as made:
        yield made


def test_outputs_are_apart_and_the_exit_code_is_passed_on(scene: CommandScene) -> None:
    assert scene.exec("sh", "-c", "echo out; echo err >&2; exit 7") == (7, b"out\n", b"err\n")
    assert scene.exec("sh", "-c", "kill -9 $$")[0] == 137


def test_it_has_the_commands_folder_and_environment(scene: CommandScene) -> None:
    code, out, _ = scene.exec("sh", "-c", "echo $WORD $TORG_JOB; pwd; echo here > made.txt")
    word, folder = out.decode().splitlines()
    assert (code, word) == (0, f"hello {scene.job}")
    assert folder.endswith("/work")
    assert scene.wait_for("made.txt") == "here\n"


def test_what_is_piped_goes_in_and_comes_out_whole(scene: CommandScene) -> None:
    data = os.urandom(5 << 20)
    code, out, _ = scene.exec("cat", given=data)
    assert (code, out == data) == (0, True)


def test_what_cannot_be_started_is_told_as_a_shell_does(scene: CommandScene) -> None:
    code, _, told = scene.exec("no-such-program")
    assert (code, b"no-such-program" in told) == (127, True)


def test_a_timeout_ends_it(scene: CommandScene) -> None:
    code, _, told = scene.exec("sh", "-c", "trap '' TERM HUP; sleep 100 & wait; sleep 100", options=("--timeout", "1s"))
    assert (code, b"timeout" in told) == (124, True)


def test_an_interrupt_goes_to_the_remote_process(scene: CommandScene) -> None:
    program = "import signal,sys\nsignal.signal(signal.SIGINT, lambda *_: sys.exit(42))\nprint('ready', flush=True)\nsignal.pause()"
    with scene.start("exec", scene.job, "--", "python", "-c", program) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
    assert process.returncode == 42


def test_a_customer_who_is_gone_takes_its_process_along(scene: CommandScene) -> None:
    program = "sh -c 'echo $$ > pid.txt; trap \"\" HUP; echo ready; sleep 1000; echo not reached'"
    process = scene.start("exec", scene.job, "--", "sh", "-c", f"trap 'echo told > told.txt; exit' TERM; {program} & wait")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.kill()
    process.communicate()
    assert scene.wait_for("told.txt") == "told\n"
    until(lambda: len(_sessions(scene)) == 0, "the session is forgotten")


def _sessions(scene: CommandScene) -> list[str]:
    lease = scene.worker
    headers = {"Authorization": f"Bearer {scene.token}"}
    found = httpx2.get(f"{scene.square.url}/v1/leases/{lease['id']}/sessions?epoch={lease['epoch']}", headers=headers)
    return [one["id"] for one in found.json()["sessions"]]


def test_a_market_that_is_killed_ends_sessions_clearly_and_nothing_else(scene: CommandScene) -> None:
    program = "trap 'echo ended > ended.txt; exit' TERM; echo ready; while true; do sleep 0.05; done"
    with scene.start("exec", scene.job, "--", "sh", "-c", program) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        scene.square.back("exchange", scene.square.kill("exchange"))
        out, told = running.communicate(timeout=60)
    assert (running.returncode, out) == (255, b"")
    assert told.startswith(b"torg: the session is lost: the connection to the market broke (")
    assert b"what ran in it is ended, the job's own command is not touched" in told
    assert scene.wait_for("ended.txt") == "ended\n", "the program inside was told to end"
    assert scene.desk.running
    assert until(lambda: scene.exec("echo", "again")[0] == 0, "another session opens")
    (scene.work / "ended.txt").unlink()


def test_another_customers_job_and_session_look_as_if_they_were_not(scene: CommandScene) -> None:
    _, eve = scene.square.newcomer("customer")
    order = {"kind": "exec", "argv": ["cat"]}
    theirs, never = (refusal(lambda name=name: eve.open_session(name, order)) for name in (scene.job, "job-never"))  # type: ignore[misc]
    assert (theirs.status, theirs.code) == (never.status, never.code) == (404, "unknown_job")
    assert refusal(lambda: scene.square.local("operator").open_session(scene.job, order)).status == 403


def test_a_leases_token_opens_its_sessions_and_nothing_else(scene: CommandScene) -> None:
    lease, headers = scene.worker, {"Authorization": f"Bearer {scene.token}"}
    with httpx2.Client(base_url=scene.square.url, headers=headers) as client:
        path = f"/v1/leases/{lease['id']}"
        assert client.get(f"{path}/sessions?epoch={lease['epoch']}").status_code == 200
        assert client.get(f"{path}/sessions?epoch={lease['epoch'] + 1}").json()["code"] == "lease_ended"
        assert client.get(f"{path}/secrets?epoch={lease['epoch']}").status_code == 401
        assert client.get("/v1/jobs").status_code == 401
        assert client.get("/v1/leases/other/sessions?epoch=1").status_code == 401


def test_bytes_that_are_no_frames_are_refused(scene: CommandScene) -> None:
    made = scene.ann.open_session(scene.job, {"kind": "exec", "argv": ["cat"]})
    path = f"{scene.square.url}/v1/jobs/{scene.job}/sessions/{made['session']}/frames"
    headers = {"Authorization": f"Bearer {scene.ann._wire._key}", "Content-Type": "application/octet-stream"}
    for body in (b"x", frames.frame(frames.STDOUT, b"not mine to send"), frames.frame(frames.STDIN, b"abc")[:-1]):
        assert httpx2.post(path, content=body, headers=headers).json()["code"] == "bad_frames"
    assert httpx2.post(f"{path}?offset=5", content=b"", headers=headers).json()["code"] == "frames_missing"


def test_a_job_without_a_command_or_a_machine_says_what_to_do(square: Square) -> None:
    _, ann = square.newcomer("customer", 10**10)
    job = square.name("job")
    ann.submit_job(job, make_spec(square.name("region")))
    refused = refusal(lambda: ann.open_session(job, {"kind": "exec", "argv": ["true"]}))
    assert (refused.code, "torg watch" in str(refused.remedy)) == ("no_command", True)
    waits = square.name("job")
    ann.submit_job(waits, batch_spec(square.name("region"), ["true"]))
    refused = refusal(lambda: ann.open_session(waits, {"kind": "exec", "argv": ["true"]}))
    assert (refused.code, refused.message, refused.remedy) == (
        "not_running", f"{waits} is pending: no machine runs it now", "wait until it runs"
    )  # fmt: skip


def test_the_end_of_the_command_ends_its_sessions(square: Square, tmp_path: Path) -> None:
    with CommandScene(square, tmp_path) as scene:
        process = scene.start("exec", scene.job, "--", "sh", "-c", "echo ready; sleep 1000")
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        scene.desk.stop()
        _, told = process.communicate(timeout=60)
        assert (process.returncode, b"command ended" in told) == (255, True)
        assert scene.exec("true")[0] == 255


def test_an_exchange_that_is_killed_ends_sessions_and_takes_new_ones(square: Square, tmp_path: Path) -> None:
    with CommandScene(square, tmp_path) as scene:
        process = scene.start("exec", scene.job, "--", "sh", "-c", "echo ready; sleep 1000")
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        square.back("exchange", square.kill("exchange"))
        _, told = process.communicate(timeout=60)
        assert (process.returncode, b"session is lost" in told) == (255, True)
        assert scene.exec("echo", "back")[:2] == (0, b"back\n")


def test_a_machine_that_is_lost_is_told(square: Square, tmp_path: Path) -> None:
    with CommandScene(square, tmp_path) as scene:
        process: subprocess.Popen[bytes] = scene.start("exec", scene.job, "--", "sh", "-c", "echo ready; sleep 1000")
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        scene.host.lease_ended(scene.worker["id"], epoch=scene.worker["epoch"], reason="worker_killed", detail="")
        _, told = process.communicate(timeout=60)
        assert (process.returncode, b"the session is lost: the machine" in told) == (255, True)


def test_too_many_at_once_are_refused_by_name(square: Square, tmp_path: Path) -> None:
    order = {"kind": "exec", "argv": ["cat"]}
    with CommandScene(square, tmp_path) as scene:
        for _ in range(MOST_OF_A_JOB):
            scene.ann.open_session(scene.job, order)
        refused = refusal(lambda: scene.ann.open_session(scene.job, order))
    assert (refused.status, refused.code) == (429, "too_many_sessions")


LOOK = "readlink /proc/self/ns/*; cat /proc/self/cgroup /proc/self/limits; grep -E '^(Cap|NoNewPrivs|Seccomp|Uid|Gid|Groups)' /proc/self/status"


@pytest.mark.parametrize("level", sorted({"process", isolation_level()}))
def test_its_process_is_held_by_all_that_holds_the_command(square: Square, tmp_path: Path, level: Any) -> None:
    """The self-test tries to break what holds the command; here both are held by the same."""
    program = f"({LOOK}) > look.tmp; mv look.tmp look.txt; exec sleep 1000"
    secret = tmp_path / "key"
    secret.write_text("not for jobs")
    with CommandScene(square, tmp_path, ["sh", "-c", program], level=level) as scene:
        held = scene.wait_for("look.txt")
        code, out, _ = scene.exec("sh", "-c", LOOK)
        assert (code, out.decode()) == (0, held)
        assert "Seccomp:\t2" in held
        assert "NoNewPrivs:\t1" in held
        code, out, _ = scene.exec("cat", str(secret))
        assert (code, out) == (1, b"")
        code, out, _ = scene.exec("sh", "-c", "ls /proc | grep -c '^[0-9]'; unshare -U true && echo out")
        assert b"out" not in out
