"""`torg run`: what becomes a job, what is shown of it, and how the command line ends."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Torg
from tests.cli.fake_market import Asked, FakeMarket, problem, stream
from tests.cli.samples import granted, job, state

PLAN = {
    "feasible": True, "reason": None, "detail": "", "relaxations": [], "expected_s": None, "expected_cost_nanos": None,
    "price_nanos_per_gpu_hour": 200_000_000, "budget_lasts_s": 3600,
    "candidates": [{"offer": "offer-1", "provider": "aurora", "gpu": "cpu", "gpus": 1, "region": "eu",
                    "price_nanos_per_gpu_hour": 200_000_000}],
}  # fmt: skip


def batch_job(state: str, code: int | None, **changed: Any) -> dict[str, Any]:
    """A batch job that has ended so."""
    tries = [] if code is None else [{"number": 1, "kind": "exit", "code": code, "signal": None, "exit_code": code,
                                      "duration_ms": 1500, "lease": "lease-000001", "detail": f"exited with status {code}"}]  # fmt: skip
    command = {"argv": ["python", "train.py"], "exit_code": code, "restarts": 0, "attempts": tries}
    reason = "command_failed" if state == "failed" else state
    detail = f"python train.py exited with status {code}\nlast line" if state == "failed" else ""
    return job(state=state, reason=reason, detail=detail, command=command, rounds_committed=0, rounds_planned=0,
               loss_first=None, loss_last=None, manifest=None) | changed  # fmt: skip


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "project"
    made.mkdir()
    (made / "train.py").write_text("print('hello')\n")
    monkeypatch.chdir(made)
    return made


@pytest.fixture
def open_market(market: FakeMarket) -> FakeMarket:
    """Takes every blob, and a job that ends with status 3 after two lines."""
    held: set[str] = set()

    def blob(asked: Asked) -> tuple[int, object]:
        if asked.method == "PUT":
            held.add(asked.path)
            return 201, {}
        return (200, {}) if asked.path in held else (404, {})

    class Routes(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            return blob if "/v1/blobs/" in key else super().get(key, default)

    market.routes = Routes({"POST /v1/quotes": (200, PLAN)})
    submits(market, batch_job("failed", 3))
    return market


def submits(market: FakeMarket, ends: dict[str, Any]) -> None:
    lines = (
        "12:00:00 run | [torg: aurora: starting]\n12:00:01 worker-x | epoch 1\tloss 0.5\n12:00:01 worker-x | a | b\n"
    )

    def logs(asked: Asked) -> tuple[int, object]:
        after = int(asked.query["after"])
        return 200, {"text": lines[after:], "next": len(lines), "over": after >= len(lines)}

    def submit(asked: Asked) -> tuple[int, object]:
        name = asked.body["id"]
        market.routes[f"GET /v1/jobs/{name}"] = (200, ends | {"id": name})
        market.routes[f"GET /v1/jobs/{name}/logs"] = logs
        return 201, ends | {"id": name, "state": "pending"}

    market.routes["POST /v1/jobs"] = submit


def spec_of(market: FakeMarket) -> dict[str, Any]:
    found: dict[str, Any] = market.last("POST", "/v1/jobs").body["spec"]
    return found


def test_its_output_and_its_exit_code_are_the_commands(torg: Torg, open_market: FakeMarket, project: Path) -> None:
    ran = torg("run", "-y", "--", "python", "train.py")
    assert ran.code == 3
    assert ran.out.splitlines()[-2:] == ["epoch 1\tloss 0.5", "a | b"]
    assert "aurora: starting" in ran.err
    assert "is failed: python train.py exited with status 3, billed $0.01" in ran.err
    assert "would run on" in ran.out


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        (batch_job("done", 0), 0),
        (batch_job("failed", 137), 137),
        (batch_job("failed", None, reason="deadline"), 1),
        (batch_job("cancelled", None), 1),
    ],
)
def test_how_it_ends(torg: Torg, open_market: FakeMarket, project: Path, ends: dict[str, Any], code: int) -> None:
    submits(open_market, ends)
    assert torg("run", "-y", "python", "train.py").code == code


def test_what_is_typed_becomes_the_job(torg: Torg, open_market: FakeMarket, project: Path) -> None:
    ran = torg(
        "run", "--gpu", "A100:2", "--max-price", "1.5", "--hours", "2", "--env", "LEVEL=3", "--env", "EMPTY=", "--artifacts",
        "out", "--timeout", "90m", "--retries", "2", "--name", "mine", "--tag", "team=x", "--id", "job-a", "-d", "-y", "--",
        "python", "train.py", "--env", "own", "--json",
    )  # fmt: skip
    assert (ran.code, ran.out.splitlines()[-1]) == (0, "job-a is pending.  torg logs job-a -f")
    spec = spec_of(open_market)
    assert spec["command"]["argv"] == ["python", "train.py", "--env", "own", "--json"]
    assert spec["command"]["env"] == {"LEVEL": "3", "EMPTY": ""}
    assert (spec["command"]["timeout_ms"], spec["command"]["retries"]) == (5_400_000, 2)
    assert spec["command"]["artifacts"] == ["out"]
    assert (spec["workers"]["gpu"], spec["workers"]["gpus"]) == (["A100"], 2)
    limits = {"max_price_nanos_per_gpu_hour": 1_500_000_000, "budget_nanos": 6_000_000_000, "deadline_ms": 7_200_000}
    assert spec["limits"] == limits
    assert (spec["name"], spec["tags"]) == ("mine", {"team": "x"})
    uploads = [one.path.rsplit("/", 1)[1] for one in open_market.asked if one.method == "PUT"]
    assert uploads == [spec["command"]["workdir"]["digest"]]


def test_what_is_not_said_follows_from_the_offers_of_now(torg: Torg, open_market: FakeMarket, project: Path) -> None:
    assert torg("run", "-y", "-d", "./tools/run.sh").code == 0
    spec = spec_of(open_market)
    assert (spec["name"], spec["workers"]["gpu"], spec["workers"]["gpus"]) == ("run.sh", ["cpu"], 1)
    assert spec["limits"] == {
        "max_price_nanos_per_gpu_hour": 400_000_000,
        "budget_nanos": 400_000_000,
        "deadline_ms": None,
    }
    assert spec["command"]["workdir"]["label"] == "project"


def test_it_may_wait_for_hardware_that_nobody_offers_yet(torg: Torg, open_market: FakeMarket, project: Path) -> None:
    asked = ["run", "-y", "-d", "--gpu", "RTX4090", "--max-price", "0.5"]
    assert torg(*asked, "--wait", "python", "train.py").code == 0
    assert spec_of(open_market)["wait"] is True
    assert torg(*asked, "python", "train.py").code == 0
    assert not spec_of(open_market).get("wait")


def test_where_no_price_is_known_the_reason_is_said_in_options(torg: Torg, open_market: FakeMarket, project: Path) -> None:
    why = "no offer is that large; would match with workers.gpus 1"
    open_market.routes["POST /v1/quotes"] = (200, PLAN | {"feasible": False, "price_nanos_per_gpu_hour": None, "detail": why})
    ran = torg("run", "-y", "--cpu", "99", "python", "train.py")
    assert (ran.code, "would match with --gpu or --cpu 1 (" in ran.err) == (2, True)


def test_where_ones_own_machine_would_be_taken_it_is_asked_what_others_may_cost(torg: Torg, open_market: FakeMarket, project: Path) -> None:
    open_market.routes["POST /v1/quotes"] = (200, PLAN | {"price_nanos_per_gpu_hour": 0})
    ran = torg("run", "-y", "python", "train.py")
    assert (ran.code, "is your own and costs nothing (--own PROVIDER" in ran.err) == (2, True)


def test_what_the_market_would_have_changed_is_said_in_options(torg: Torg, open_market: FakeMarket, project: Path) -> None:
    help = "workers.gpu also cpu, or limits.budget_usd 2; or say `wait: true`"
    no = {"code": "never_fits_gpu_model", "message": "too few are offered", "field": "workers.gpu", "remedy": help}
    plan = PLAN | {"feasible": False, "detail": "too few are offered", "refusal": no}
    open_market.routes["POST /v1/quotes"] = (200, plan)
    words = "--gpu also cpu, or --budget 2; or say `--wait`"

    refused = torg("run", "-y", "--gpu", "RTX4090", "--max-price", "0.5", "python", "train.py")
    assert refused.code == 3
    assert f"would help {words}" in refused.out
    assert f"torg: --gpu: too few are offered ({words})" in refused.err
    told = torg("run", "--dry-run", "--json", "--gpu", "RTX4090", "--max-price", "0.5", "python", "train.py")
    assert json.loads(told.out)["plan"]["refusal"] == no, "who reads JSON reads the market's own names"


def test_own_machines_need_no_price_and_no_budget(torg: Torg, open_market: FakeMarket, project: Path) -> None:
    ran = torg("run", "-y", "-d", "--own", "lab", "--hours", "2", "--available-hours", "1.5", "python", "train.py")
    spec = spec_of(open_market)
    assert (spec["workers"]["own"], spec["workers"]["available_ms"]) == (["lab"], 5_400_000)
    assert spec["limits"] == {"max_price_nanos_per_gpu_hour": 0, "budget_nanos": 0, "deadline_ms": 7_200_000}
    assert "workers   1 of 1 × cpu, only your own of lab, there for 1 h 30 min" in ran.out
    assert "budget    none: your own machines cost nothing" in ran.out


MISTAKES = [
    (["--own", "lab", "--budget", "1"], "machines of your own cost nothing"),
    (["--own", "a b"], "torg: --own: 'a b'"),
    (["--available-hours", "100000"], "torg: --available-hours: 100000.0"),
    (["--hours", "1e9"], "torg: --hours 1e+09 is out of range"),
    (["--hours", "0"], "torg: --hours 0 is out of range"),
    (["--hours", "nan"], "torg: --hours nan is out of range"),
    (["--gpu", "A1000000"], "A1000000"),
    (["--gpu", "A100", "--cpu", "2"], "stand together"),
    (["--gpu", "2"], "names no model"),
    (["--env", "LEVEL"], "NAME=VALUE"),
    (["--env", "TORG_JOB=x"], "torg: the command line: sets TORG_JOB in env"),
    (["--timeout", "soon"], "torg: --timeout: 'soon'"),
    (["--max-price", "-1"], "--max-price"),
    (["--artifacts", "../up"], "torg: --artifacts: '../up'"),
    (["--workdir", "nowhere"], "torg: --workdir: "),
    (["--retries", "101"], "torg: --retries: 101"),
    (["--region", "eu", "--region", "a b"], "torg: --region: 'a b'"),
    (["--cpu", "100000", "--max-price", "1"], "torg: --gpu or --cpu: 100000"),
    (["--tag", "a b=c"], "torg: --tag: 'a b'"),
    (["--workers", "4"], "--launch torchrun"),
    (["--workers", "4", "--launch", "torchrun", "--cpu", "2"], "--workers 4"),
    (["--workers", "4", "--launch", "torchrun", "--gpu", "A100:2"], "--workers 4"),
]


def test_a_file_of_requirements_goes_along_as_its_lines(torg: Torg, open_market: FakeMarket, project: Path) -> None:
    (project / "requirements.txt").write_text("Einops>=0.8\n")
    ran = torg("run", "-y", "-d", "--requirements", "requirements.txt", "--", "python", "train.py")
    assert spec_of(open_market)["command"]["requirements"] == ["einops>=0.8"]
    assert "packages  einops>=0.8; built on the machine" in ran.out
    (project / "requirements.txt").write_text("-r more.txt\n")
    ran = torg("run", "-y", "--requirements", "requirements.txt", "--", "python", "train.py")
    assert ran.code == 2
    assert "requirements.txt, line 1: '-r more.txt' is an option of pip" in ran.err


def test_a_projects_dependencies_go_along_from_its_work_folder(torg: Torg, open_market: FakeMarket, project: Path) -> None:
    (project / "part").mkdir()
    (project / "part" / "pyproject.toml").write_text('[project]\nname = "mine"\ndependencies = ["Einops>=0.8"]\n')
    ran = torg("run", "-y", "-d", "--pyproject", "--workdir", "part", "--", "python", "train.py")
    assert spec_of(open_market)["command"]["requirements"] == ["einops>=0.8"]
    assert "packages  einops>=0.8; built on the machine" in ran.out
    ran = torg("run", "-y", "--pyproject", "--", "python", "train.py")
    assert ran.code == 2
    assert "pyproject.toml' cannot be read: no such file" in ran.err
    ran = torg("run", "-y", "--pyproject", "--requirements", "requirements.txt", "--", "python", "train.py")
    assert (ran.code, "says requirements and pyproject" in ran.err) == (2, True)


def test_requirements_that_cannot_be_installed_end_it_with_125(torg: Torg, open_market: FakeMarket, project: Path) -> None:
    submits(open_market, batch_job("failed", 125, reason="requirements"))
    assert torg("run", "-y", "python", "train.py").code == 125


@pytest.mark.parametrize(
    ("options", "gpu", "units"),
    [(["--workers", "4"], "cpu", 4), (["--gpu", "A100:4"], "A100", 4), (["--workers", "4", "--gpu", "A100"], "A100", 4)],
)
def test_several_processes_as_torchrun_starts_them(
    torg: Torg, open_market: FakeMarket, project: Path, options: list[str], gpu: str, units: int
) -> None:
    ran = torg("run", "-y", "--launch", "torchrun", *options, "--", "python", "train.py")
    spec = spec_of(open_market)
    assert (spec["command"]["launch"], spec["workers"]["gpu"], spec["workers"]["gpus"]) == ("torchrun", [gpu], units)
    assert spec["command"]["argv"] == ["python", "train.py"]
    assert spec["workers"]["isolation"] == "sandbox"
    assert f"{units} processes of it on one machine" in ran.out


@pytest.mark.parametrize(("options", "named"), MISTAKES, ids=[" ".join(options) for options, _ in MISTAKES])
def test_a_mistake_is_named_and_nothing_is_submitted(
    torg: Torg, open_market: FakeMarket, project: Path, options: list[str], named: str
) -> None:
    ran = torg("run", "-y", *options, "--", "python", "train.py")
    assert ran.code == 2
    assert named in ran.err
    assert ran.err.count("\n") == 1
    assert not [one for one in open_market.asked if one.path == "/v1/jobs"]


def test_without_a_command_or_a_confirmation_nothing_runs(torg: Torg, open_market: FakeMarket, project: Path) -> None:
    assert torg("run", "-y").code == 2
    assert torg("run", "python", "train.py").code == 2
    open_market.routes["POST /v1/quotes"] = (
        200,
        PLAN | {"price_nanos_per_gpu_hour": None, "detail": "nothing is offered"},
    )
    ran = torg("run", "-y", "python", "train.py")
    assert ran.code == 2
    assert "nothing is offered" in ran.err


def test_a_file_that_cannot_go_along_is_named(torg: Torg, open_market: FakeMarket, project: Path) -> None:
    (project / "out").symlink_to("/etc")
    ran = torg("run", "-y", "python", "train.py")
    assert ran.code == 2
    assert "out is a link out of the folder, to /etc" in ran.err


def test_json_is_one_document_at_the_end(torg: Torg, open_market: FakeMarket, project: Path) -> None:
    ran = torg("run", "-y", "--json", "python", "train.py")
    assert ran.code == 3
    assert (ran.document["state"], ran.document["command"]["exit_code"]) == ("failed", 3)


def test_the_same_as_a_job_file(torg: Torg, open_market: FakeMarket, project: Path) -> None:
    (project / "job.yaml").write_text(
        "name: a\ncommand: python train.py\nworkdir: .\nlimits: {max_usd_per_gpu_hour: 1, budget_usd: 1}\n"
    )
    ran = torg("submit", "job.yaml", "-y", "--follow")
    assert (ran.code, ran.out.splitlines()[-1]) == (3, "a | b")
    assert spec_of(open_market)["command"]["argv"] == ["python", "train.py"]
    assert "logs -f" in torg("submit", "job.yaml", "-y").out


def test_an_interrupt_leaves_it_running_and_says_how_to_go_on(
    open_market: FakeMarket, project: Path, home: Path
) -> None:
    asked_for_more = project / "asked"

    def waiting(asked: Asked) -> tuple[int, object]:
        asked_for_more.touch()
        return 200, {"text": "", "next": 0, "over": False}

    def submit(asked: Asked) -> tuple[int, object]:
        open_market.routes["GET /v1/jobs/job-a/logs"] = waiting
        pending = batch_job("pending", None, id="job-a", detail="no machine is free")
        open_market.routes["GET /v1/jobs/job-a"] = (200, pending)
        return 201, pending

    open_market.routes["POST /v1/jobs"] = submit
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TORG_")}
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-m", "cli", "run", "-y", "--id", "job-a", "--", "python", "train.py"]
    with subprocess.Popen(
        command, env=environment | {"TORG_HOME": str(home), "PYTHONPATH": root}, stderr=subprocess.PIPE, text=True,
        stdout=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        while not asked_for_more.exists():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "job-a is pending: no machine is free" in told
    assert "job-a goes on" in told
    assert "torg logs job-a -f" in told
    assert "torg cancel job-a" in told


# looking at one


def test_lists_and_pages_know_jobs_without_rounds(torg: Torg, market: FakeMarket) -> None:
    one = batch_job("failed", 3)
    market.routes = {"GET /v1/jobs": (200, {"items": [one]}), f"GET /v1/jobs/{one['id']}": (200, one)}
    listed = torg("jobs").out
    assert "–" in listed
    assert "0/0" not in listed
    page = torg("job", one["id"]).out
    assert "command  python train.py" in page
    assert "exit     3" in page
    assert "exited with status 3, after 1.5 s (lease-000001)" in page
    assert "rounds" not in page


def test_watching_one_tells_its_tries(torg: Torg, market: FakeMarket) -> None:
    one = batch_job("done", 0)
    ended = {"type": "attempt_ended", "job": one["id"], "number": 1, "kind": "exit", "detail": "python train.py exited with status 0",
             "manifest": "ab" * 32}  # fmt: skip
    market.routes = {
        f"GET /v1/jobs/{one['id']}": (200, one),
        f"GET /v1/jobs/{one['id']}/events": stream(granted("lease-000001", "aurora"), ended, state("done")),
    }
    ran = torg("watch", one["id"])
    assert ran.code == 0
    assert "try 1: python train.py exited with status 0; its artifacts are kept" in ran.out
    assert json.loads(torg("watch", one["id"], "--json").out.splitlines()[-1])["exit_code"] == 0


def left_by(files: dict[str, bytes], **changed: Any) -> dict[str, Any]:
    rows = [{"path": path, "blob": hashlib.sha256(content).hexdigest(), "bytes": len(content), "executable": path.endswith(".sh")}
            for path, content in files.items()]  # fmt: skip
    return {
        "format": "torg-artifacts-1",
        "job": "job-a",
        "number": 1,
        "files": rows,
        "unmatched": ["*.onnx"],
        "left_out": 0,
    } | changed


class Shelf(dict[str, Any]):
    """Routes of a market that holds blobs."""

    def __init__(self, files: dict[str, bytes], manifest: dict[str, Any]) -> None:
        super().__init__({"GET /v1/jobs/job-a/result": (200, {"digest": "cd" * 32, "manifest": manifest})})
        for content in files.values():
            self[f"GET /v1/blobs/{hashlib.sha256(content).hexdigest()}"] = (200, content)


def test_artifacts_are_fetched_with_their_folders(torg: Torg, market: FakeMarket, tmp_path: Path) -> None:
    files = {"out/model.pt": b"model", "out/copy.pt": b"model", "run.sh": b"#!/bin/sh\n"}
    market.routes = Shelf(files, left_by(files))
    ran = torg("result", "job-a", "-o", str(tmp_path / "got"))
    assert ran.code == 0, ran.err
    assert {path: (tmp_path / "got" / path).read_bytes() for path in files} == files
    assert os.access(tmp_path / "got" / "run.sh", os.X_OK)
    assert "nothing matched '*.onnx'" in ran.out
    told = torg("result", "job-a", "-o", str(tmp_path / "got"), "--json").document
    assert (told["bytes"], len(told["files"]), told["unmatched"]) == (20, 3, ["*.onnx"])


def test_artifacts_never_leave_the_folder(torg: Torg, market: FakeMarket, tmp_path: Path) -> None:
    files = {"../up": b"x"}
    market.routes = Shelf(files, left_by(files))
    assert torg("result", "job-a", "-o", str(tmp_path / "got")).code == 1
    files = {"out/model.pt": b"model"}
    market.routes = Shelf(files, left_by(files))
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "out").symlink_to(tmp_path)
    ran = torg("result", "job-a", "-o", str(tmp_path / "linked"))
    assert ran.code == 3
    assert "is a link" in ran.err
    assert not (tmp_path / "model.pt").exists()


def test_a_job_that_keeps_nothing_has_no_result(torg: Torg, market: FakeMarket, tmp_path: Path) -> None:
    market.routes = {"GET /v1/jobs/job-a/result": problem(409, "no_result", "job-a is done and has no result")}
    assert torg("result", "job-a", "-o", str(tmp_path / "got")).code == 3
