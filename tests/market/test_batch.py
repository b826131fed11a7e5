"""Batch jobs at the exchange: job files, checks, who pays for which try, and what a customer sees."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from market.command_checking import check_job_spec
from market.commands import LostWorker, Reading, ReportAttempt, ReportReadings, ReportSave, RetuneJob, SubmitJob
from market.form_errors import FormError
from market.forms import digest_only, parse_job, resolve
from market.outcomes import Settings
from market.owner_terms import OwnerTerms
from storage.units import charge_nanos
from tests.market.scene import USD, Scene, digest
from tests.market.test_selftests import GOOD as SHOWN

FILE = """
name: digits
command: python train.py --epochs 10
env: {LEVEL: 3, MODE: fast}
workdir: project
artifacts: [out, '*.log']
timeout: 1h30m
retries: 2
workers: {gpu: [cpu], gpus: 2}
limits: {max_usd_per_gpu_hour: 0.90, budget_usd: 1.00, deadline_hours: 2}
tags: {team: demo}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "train.py").write_text("print('hello')\n")
    return tmp_path


def spec_of(text: str, folder: Path) -> dict[str, Any]:
    return resolve(parse_job(text), digest_only, folder=folder)


def make_spec(**changes: Any) -> dict[str, Any]:
    command = {
        "argv": ["python", "train.py"],
        "env": {},
        "workdir": None,
        "artifacts": [],
        "timeout_ms": None,
        "retries": 0,
    }
    return {
        "name": "digits", "command": command | changes, "data": {"kind": "none"},
        "workers": {"min": 1, "max": 1, "gpus": 1, "gpu": ["cpu"], "vram_gib": 0, "region": [], "reliability": 0.0,
                    "isolation": "process"},
        "limits": {"max_price_nanos_per_gpu_hour": 9 * USD // 10, "budget_nanos": USD, "deadline_ms": None},
        "tags": {},
    }  # fmt: skip


# job files


def test_a_job_file_becomes_a_spec_that_the_exchange_takes(folder: Path) -> None:
    spec = spec_of(FILE, folder)
    assert check_job_spec(spec, Settings()) is None
    command = spec["command"]
    assert command["argv"] == ["python", "train.py", "--epochs", "10"]
    assert command["env"] == {"LEVEL": "3", "MODE": "fast"}
    assert command["workdir"]["label"] == "project"
    assert (command["timeout_ms"], command["retries"], command["artifacts"]) == (5_400_000, 2, ["out", "*.log"])
    assert (spec["workers"]["min"], spec["workers"]["max"], spec["workers"]["gpus"]) == (1, 1, 2)


def test_a_command_may_be_a_list_and_is_else_split_as_a_shell_would(folder: Path) -> None:
    listed = spec_of(
        "{name: a, command: [echo, two words, 3], limits: {max_usd_per_gpu_hour: 1, budget_usd: 1}}", folder
    )
    assert listed["command"]["argv"] == ["echo", "two words", "3"]
    text = "name: a\ncommand: sh -c 'echo \"a b\" > out'\nlimits: {max_usd_per_gpu_hour: 1, budget_usd: 1}\n"
    assert spec_of(text, folder)["command"]["argv"] == ["sh", "-c", 'echo "a b" > out']


PROJECT = """
[project]
name = "mine"
dependencies = ["Einops >= 0.8", "transformers[torch]"]
"""


@pytest.mark.parametrize(
    ("said", "lines"),
    [
        ("requirements: requirements.txt", ["einops==0.8.1", "tqdm"]),
        ("requirements: [tqdm, Einops == 0.8.1]", ["einops==0.8.1", "tqdm"]),
        ("pyproject: true", ["einops>=0.8", "transformers[torch]"]),
        ("pyproject: deep/pyproject.toml", ["einops>=0.8", "transformers[torch]"]),
        ("pyproject: false", None),
        ("requirements: []", None),
    ],
)
def test_what_a_command_imports_is_lines_in_one_form(folder: Path, said: str, lines: list[str] | None) -> None:
    (folder / "project" / "requirements.txt").write_text("tqdm  # a bar\neinops==0.8.1\n")
    for below in (folder / "project", folder / "project" / "deep"):
        below.mkdir(exist_ok=True)
        (below / "pyproject.toml").write_text(PROJECT)
    spec = spec_of(FILE + said + "\n", folder)
    assert spec["command"].get("requirements") == lines
    assert check_job_spec(spec, Settings()) is None


@pytest.mark.parametrize(
    ("said", "content", "words"),
    [
        ("requirements: nowhere.txt", "", "cannot be read: no such file"),
        ("requirements: wanted", "tqdm\n--index-url https://example.org\n", "wanted, line 2: '--index-url https://example.org' is an option"),
        ("requirements: wanted", "git+https://example.org/x.git", "line 1"),
        ("requirements: [tqdm, -e .]", "", "requirements, line 2: '-e .' is an option"),
        ("requirements: wanted", "\xff" * (1 << 16), "too large"),
        ("pyproject: wanted", "[project", "no TOML"),
        ("pyproject: wanted", "[project]\nname = 'x'", "no list of dependencies"),
        ("pyproject: wanted", "[project]\ndynamic = ['dependencies']", "dynamic"),
        ("pyproject: wanted", "[project]\ndependencies = ['a', './b']", "dependency 2: './b' is a path"),
        ("requirements: tqdm.txt\npyproject: true", "", "requirements and pyproject"),
        ("requirements: 3", "", "requirements"),
    ],
)
def test_requirements_that_cannot_be_are_told_with_their_line(folder: Path, said: str, content: str, words: str) -> None:
    (folder / "project" / "wanted").write_text(content)
    with pytest.raises(FormError) as refused:
        spec_of(FILE + said + "\n", folder)
    assert words in str(refused.value)


@pytest.mark.parametrize("wrong", [None, [], "tqdm", ["Tqdm"], ["b", "a"], ["-e ."], ["a @ file:///etc/passwd"], [1]])
def test_the_exchange_checks_requirements_again(wrong: object) -> None:
    refusal = check_job_spec(make_spec(requirements=wrong), Settings())
    assert refusal is not None
    assert refusal.field == "command.requirements"


def test_requirements_go_to_machines_that_build_environments() -> None:
    scene = Scene()
    scene.offer("offer-1", "p1")
    plan = scene.exchange.quote(make_spec(requirements=["tqdm"]), "ann", scene.now_ms)
    assert (plan["feasible"], plan["reason"], plan["relaxations"]) == (False, "environments", ["no requirements"])
    scene.offer("offer-2", "p2", terms=OwnerTerms(environments=True))
    plan = scene.exchange.quote(make_spec(requirements=["tqdm"]), "ann", scene.now_ms)
    assert [one["offer"] for one in plan["candidates"]] == ["offer-2"]
    assert [one["environments"] for one in scene.exchange.offers(scene.now_ms)] == [False, True]


@pytest.mark.parametrize("workers", ["4", "{gpus: 4}"])
def test_several_processes_are_one_machine_with_a_card_or_core_for_each(folder: Path, workers: str) -> None:
    spec = spec_of(FILE.replace("workers: {gpu: [cpu], gpus: 2}", f"workers: {workers}\nlaunch: torchrun"), folder)
    assert check_job_spec(spec, Settings()) is None
    assert spec["command"]["launch"] == "torchrun"
    wanted = spec["workers"]
    assert (wanted["min"], wanted["max"], wanted["gpus"], wanted["isolation"]) == (1, 1, 4, "sandbox")
    assert "launch" not in spec_of(FILE, folder)["command"]


def test_the_exchange_checks_a_launch_again() -> None:
    spec = make_spec(launch="torchrun")
    refusal = check_job_spec(spec, Settings())
    assert refusal is not None
    assert refusal.field == "workers.isolation"
    spec["workers"]["isolation"] = "sandbox"
    assert check_job_spec(spec, Settings()) is None
    for change in ({"launch": "mpirun"}, {"env": {"RANK": "1"}}, {"argv": ["torchrun", "train.py"]}):
        refusal = check_job_spec({**spec, "command": spec["command"] | change}, Settings())
        assert refusal is not None
        assert (refusal.field or "").startswith("command")


def test_a_launch_on_more_cores_than_any_machine_has_says_so_and_what_would_do() -> None:
    scene = Scene()
    for name, units in (("p1", 2), ("p2", 3)):
        scene.offer(f"offer-{name}", name, gpus=units, selftest=SHOWN)
    spec = make_spec(launch="torchrun")
    spec["workers"] |= {"gpus": 4, "isolation": "sandbox"}
    plan = scene.exchange.quote(spec, "ann", scene.now_ms)
    assert (plan["feasible"], plan["reason"]) == (False, "offer_too_small")
    assert plan["detail"].startswith("no offer has that many GPUs on one machine: 1 x 4 GPU wanted, 5 GPU offered")
    assert plan["relaxations"] == ["workers.gpus 3"]

    scene.offer("offer-p3", "p3", gpus=4)
    plan = scene.exchange.quote(spec, "ann", scene.now_ms)
    assert plan["reason"] == "isolation"
    assert plan["relaxations"] == ["workers.gpus 3"], "and not `workers.isolation process`, which has no loopback"


MISTAKES = [
    ("command: python train.py --epochs 10", "command: ''", "command"),
    ("command: python train.py --epochs 10", "command: \"echo 'open\"", "command"),
    ("command: python train.py --epochs 10", "command: [echo, true]", "command"),
    ("name: digits", "name: digits\nworkload: byte_lm", "command"),
    ("LEVEL: 3", "LEVEL: [3]", "env"),
    ("LEVEL: 3", "TORG_JOB: mine", "TORG_JOB"),
    ("LEVEL: 3", "CUDA_VISIBLE_DEVICES: '0'", "CUDA_VISIBLE_DEVICES"),
    ("LEVEL: 3", "two words: x", "two words"),
    ("workdir: project", "workdir: nowhere", "workdir"),
    ("artifacts: [out, '*.log']", "artifacts: [/etc/passwd]", "artifacts"),
    ("artifacts: [out, '*.log']", "artifacts: ../up", "artifacts"),
    ("timeout: 1h30m", "timeout: 90", "timeout"),
    ("timeout: 1h30m", "timeout: soon", "timeout"),
    ("timeout: 1h30m", "timeout: 400d", "timeout"),
    ("retries: 2", "retries: -1", "retries"),
    ("gpus: 2", "gpus: 2, max: 3", "several workers"),
    ("workers: {gpu: [cpu], gpus: 2}", "workers: 4", "launch: torchrun"),
    ("workers: {gpu: [cpu], gpus: 2}", "workers: 0\nlaunch: torchrun", "workers.gpus"),
    ("workers: {gpu: [cpu], gpus: 2}", "workers: {min: 4, max: 4}\nlaunch: torchrun", "workers.gpus"),
    ("retries: 2", "launch: mpirun", "launch"),
    ("command: python train.py --epochs 10", "command: torchrun train.py\nlaunch: torchrun", "calls torchrun"),
    ("LEVEL: 3", "LEVEL: 3}\nlaunch: torchrun\nsecrets: [RANK]\ntags: {x: y", "RANK"),
    ("retries: 2", "retry: 2", "did you mean retries"),
    ("retries: 2", "steps: 600", "steps"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "wrong", "named"), MISTAKES)
def test_a_mistake_is_told_with_its_field_and_a_remedy(folder: Path, line: str, wrong: str, named: str) -> None:
    with pytest.raises(FormError) as refused:
        spec_of(FILE.replace(line, wrong), folder)
    assert named in str(refused.value)
    assert refused.value.remedy
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "change",
    [
        {"argv": []}, {"argv": "python"}, {"argv": [""]}, {"argv": ["a\0b"]}, {"argv": [1]}, {"retries": 101}, {"retries": True},
        {"timeout_ms": 999}, {"timeout_ms": 1.5}, {"env": []}, {"env": {"1x": "a"}}, {"env": {"TORG_X": "a"}},
        {"env": {"A": 1}}, {"workdir": {"digest": "x", "bytes": 1, "label": "a"}}, {"workdir": {"digest": digest("a")}},
        {"workdir": {"digest": digest("a"), "bytes": 3 * 2**30, "label": "a"}}, {"artifacts": ["../a"]},
        {"artifacts": [1]}, {"artifacts": "out"}, {"shell": True},
    ],
)  # fmt: skip
def test_the_exchange_checks_a_command_again(change: dict[str, Any]) -> None:
    refusal = check_job_spec(make_spec(**change), Settings())
    assert refusal is not None
    assert (refusal.field or "").startswith("command")


def test_a_command_runs_on_one_worker() -> None:
    spec = make_spec()
    spec["workers"]["max"] = 2
    refusal = check_job_spec(spec, Settings())
    assert refusal is not None
    assert refusal.field == "workers.max"


# the life of one


def running(retries: int = 0, offers: int = 2, usd: float = 0.36, **changes: Any) -> Scene:
    scene = Scene()
    for number in range(1, offers + 1):
        scene.offer(f"offer-{number}", f"p{number}", usd * number)
    scene.do(SubmitJob("job-1", make_spec(retries=retries, **changes), "ann"))
    scene.clear()
    scene.start_all()
    return scene


def attempt(scene: Scene, number: int, status: int, **changes: Any) -> ReportAttempt:
    lease = scene.view()["leases"][-1]
    fields: dict[str, Any] = {
        "kind": "exit",
        "code": status,
        "signal": None,
        "duration_ms": 900,
        "detail": f"status {status}",
    }
    fields |= {"manifest": None, "by": "plane"} | changes
    return ReportAttempt("job-1", number, lease["id"], lease["epoch"], **fields)


def read(scene: Scene, ms: int) -> None:
    lease = scene.view()["leases"][-1]
    reading = Reading(lease["id"], lease["epoch"], ms, ms, 0, 0, 0)
    scene.do(ReportReadings("job-1", 77, (reading,), (), (), "plane"))


def test_a_command_that_ends_well_is_paid_by_the_time_of_its_lease() -> None:
    scene = running()
    scene.wait(10_000)
    read(scene, 10_000)
    scene.do(attempt(scene, 1, 0, manifest=digest("left")))
    scene.halt("done")
    view = scene.view()
    assert (view["state"], view["escrow_nanos"], view["billed_nanos"]) == (
        "done",
        0,
        charge_nanos(36 * USD // 100, 1, 10_000),
    )
    assert view["manifest"] == digest("left")
    assert (view["rounds_committed"], view["rounds_planned"], view["training"]["goodput"]) == (0, 0, None)
    told = view["command"]
    assert (told["exit_code"], told["ended_by"], told["status"], told["restarts"]) == (0, "exit", 0, 0)
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()


def test_a_command_that_fails_by_itself_is_the_customers_to_pay_with_all_its_tries() -> None:
    scene = running(retries=1)
    scene.wait(4_000)
    read(scene, 4_000)
    scene.do(attempt(scene, 1, 3))
    assert scene.view()["state"] == "running", "a retry is left, on the same lease"
    assert scene.exchange.directive("job-1")["restarts"] == 1
    scene.wait(4_000)
    read(scene, 8_000)
    scene.do(attempt(scene, 2, 0, kind="signal", code=None, signal=9, manifest=digest("left")))
    scene.halt("failed", "command_failed")
    view = scene.view()
    assert (view["state"], view["reason"]) == ("failed", "command_failed")
    assert view["command"]["exit_code"] == 137
    [lease] = view["leases"]
    assert (lease["reason"], lease["fault"], lease["charged_ms"]) == ("command_failed", "customer", 8_000)
    assert view["manifest"] == digest("left"), "what a failed command left can be looked at"


def test_a_lost_machine_is_not_paid_for_the_try_that_was_lost_with_it() -> None:
    scene = running()
    scene.wait(5_000)
    read(scene, 5_000)
    lost = scene.view()["leases"][0]
    scene.do(ReportReadings("job-1", 77, (), (), (LostWorker(lost["id"], lost["epoch"], "worker_killed"),), "plane"))
    scene.clear()
    scene.start_all()
    directive = scene.exchange.directive("job-1")
    assert (directive["restarts"], directive["attempts"]) == (1, [])
    assert [one["offer"] for one in directive["leases"]] == ["offer-2"]
    scene.wait(3_000)
    read(scene, 3_000)
    scene.do(attempt(scene, 1, 0))
    scene.halt("done")
    view = scene.view()
    assert [(one["fault"], one["charged_ms"]) for one in view["leases"]] == [("provider", 0), ("none", 3_000)]
    assert view["billed_nanos"] == charge_nanos(72 * USD // 100, 1, 3_000)
    assert view["command"]["restarts"] == 1


def test_a_report_that_is_told_again_changes_nothing_and_one_out_of_turn_is_refused() -> None:
    scene = running(retries=3)
    scene.do(attempt(scene, 1, 3))
    before = copy.deepcopy(scene.exchange.fingerprint())
    scene.do(attempt(scene, 1, 4))
    assert scene.exchange.fingerprint() == before
    assert scene.refused(attempt(scene, 3, 0)).code == "attempt_out_of_order"
    assert scene.refused(attempt(scene, 2, 0, by="ann")).code == "forbidden"


@pytest.mark.parametrize(
    "change",
    [{"kind": "stopped", "code": None}, {"kind": "exit", "code": None}, {"code": 256}, {"signal": 9},
     {"kind": "signal", "code": None}, {"duration_ms": -1}, {"manifest": "x"}],
)  # fmt: skip
def test_an_end_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    scene = running()
    assert scene.refused(attempt(scene, 1, 0, **change)).code == "invalid"


def test_a_job_is_done_only_when_its_command_has_ended_well() -> None:
    from market.commands import HaltJob

    scene = running(retries=1)
    for tell in (lambda: None, lambda: scene.do(attempt(scene, 1, 3))):
        tell()
        assert scene.refused(HaltJob("job-1", "done", "done", "", None, "plane")).code == "not_ended"


def test_it_has_no_rounds_no_checkpoints_and_no_strategy() -> None:
    scene = running()
    assert scene.refused(scene.make_round(1, {0: 100})).code == "no_rounds"
    assert scene.refused(RetuneJob("t1", "job-1", "ddp", {}, "ann")).code == "no_strategy"
    assert scene.exchange.rounds("job-1") == []
    explained = scene.exchange.explain("job-1")
    assert explained is not None
    assert explained["matched"]
    bundle = scene.exchange.bundle("job-1")
    assert bundle is not None
    assert bundle["statements"] == []


def test_a_job_that_trains_has_no_command() -> None:
    scene = Scene()
    scene.running()
    assert scene.view()["command"] is None
    assert scene.refused(attempt(scene, 1, 0)).code == "no_command"


def test_a_plan_says_how_long_the_budget_lasts() -> None:
    scene = Scene()
    scene.offer()
    plan = scene.exchange.quote(make_spec(), "ann", scene.now_ms)
    assert isinstance(plan, dict)
    assert (plan["feasible"], plan["budget_lasts_s"], plan["expected_s"], plan["strategy"]) == (True, 7_200, None, None)


def test_a_job_that_runs_out_of_escrow_pauses_and_begins_again_with_more() -> None:
    from market.commands import AddBudget

    scene = running()
    scene.wait(9_990_000)
    read(scene, 9_990_000)
    scene.wait(9_000)
    read(scene, 9_999_000)
    assert scene.exchange.directive("job-1")["wanted"] == "pause"
    scene.halt("paused", "paused")
    assert scene.state() == ("paused", "escrow_exhausted")
    scene.do(AddBudget("more", "job-1", USD, "ann"))
    scene.clear()
    scene.start_all()
    assert scene.exchange.directive("job-1")["restarts"] == 1


def save(scene: Scene, mark: str, **changes: Any) -> ReportSave:
    lease = scene.view()["leases"][-1]
    return replace(ReportSave("job-1", 1, lease["id"], lease["epoch"], digest(mark), 5, "plane"), **changes)


def test_what_a_command_saves_is_there_for_the_next_machine() -> None:
    scene = running()
    scene.do(save(scene, "one"))
    scene.do(save(scene, "two"))
    before = copy.deepcopy(scene.exchange.fingerprint())
    scene.do(save(scene, "two"))
    scene.do(save(scene, "three", epoch=99))
    assert scene.exchange.fingerprint() == before, "the same again, and a stale lease, change nothing"
    lost = scene.view()["leases"][0]
    scene.do(ReportReadings("job-1", 77, (), (), (LostWorker(lost["id"], lost["epoch"], "node_died"),), "plane"))
    assert scene.exchange.directive("job-1")["saved"] == digest("two")
    assert scene.view()["command"]["saved"]["bytes"] == 5
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()
    assert scene.refused(save(scene, "x", manifest="no digest")).code == "invalid"


def lose(scene: Scene, reason: str = "worker_killed", after_ms: int = 100) -> None:
    """The newest machine is lost, another one is found."""
    lost = scene.view()["leases"][-1]
    scene.do(ReportReadings("job-1", 77, (), (), (LostWorker(lost["id"], lost["epoch"], reason),), "plane"))
    scene.wait(after_ms)
    scene.clear()
    scene.start_all()


def test_machines_that_die_in_a_row_are_remembered_and_a_command_at_fault_spoils_no_record() -> None:
    scene = running(offers=4, usd=0.2)
    for known in ([], ["p1"], ["p1", "p2"]):
        assert scene.exchange.directive("job-1")["deaths"] == known
        scene.wait(2_000)
        read(scene, 2_000)
        lose(scene)
    assert scene.exchange.directive("job-1")["deaths"] == ["p1", "p2", "p3"]
    reliable = [offer["reliability"] for offer in scene.exchange.offers(scene.now_ms)]
    scene.halt("failed", "kills_workers")
    view = scene.view()
    assert (view["state"], view["reason"], view["billed_nanos"]) == ("failed", "kills_workers", 0)
    assert [one["fault"] for one in view["leases"]] == ["provider"] * 3 + ["customer"]
    after = [offer["reliability"] for offer in scene.exchange.offers(scene.now_ms)]
    assert all(new > old for new, old in zip(after, reliable, strict=True))
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()


def test_what_a_command_can_show_and_long_lives_break_the_row() -> None:
    scene = running(offers=4, usd=0.2)
    lose(scene)
    lose(scene, "drained")
    assert scene.exchange.directive("job-1")["deaths"] == ["p1"], "a drain says nothing of the command"
    scene.do(save(scene, "one"))
    lose(scene)
    assert scene.exchange.directive("job-1")["deaths"] == []
    lose(scene, after_ms=9_000)
    assert len(scene.exchange.directive("job-1")["deaths"]) == 1
    scene.wait(300_000)
    lose(scene)
    assert scene.exchange.directive("job-1")["deaths"] == []
