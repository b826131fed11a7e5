"""Requirements in a batch job's run, on machines of this process: built once a machine, and whose it is when they cannot be."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.trainers.test_batch_course import Machine, Play
from tests.trainers.wheels import make_wheel
from trainers.attempts import BUILDS_OF_TWO, Attempts
from trainers.environments import building

ALPHA = {"argv": ["python", "-c", "import alpha; print('it is', alpha.VERSION)"], "requirements": ["alpha"]}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    (tmp_path / "pip.conf").touch()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in {"CONFIG_FILE": str(tmp_path / "pip.conf"), "NO_INDEX": "1", "FIND_LINKS": str(folder)}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    return folder


@pytest.fixture
def play(tmp_path: Path, index: Path) -> Iterator[Callable[..., Play]]:
    made: list[Play] = []

    def begin(**command: Any) -> Play:
        folder = tmp_path / f"play-{len(made)}"
        folder.mkdir()
        made.append(Play(folder, **command))
        return made[-1]

    yield begin
    for one in made:
        for machine in one.machines:
            machine.kill()


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "_compile", lambda *_: None)


def test_it_is_built_before_the_command_and_there_when_it_begins_again(play: Callable[..., Play], index: Path) -> None:
    make_wheel(index, "alpha")
    job = play(**{**ALPHA, "argv": ["sh", "-c", "python -c 'import alpha; print(alpha.VERSION)'; exit $((2 - TORG_ATTEMPT))"]}, retries=1)
    job.machine()
    halt = job.drive()
    assert halt is not None
    assert halt.state == "done"
    told = "\n".join(job.door.lines)
    assert job.door.lines.count("1.0") == 2
    assert "[torg: building the environment" in told
    assert "[torg: built the environment" in told
    assert "is on this machine already" in told
    assert [one["kind"] for one in job.door.attempts] == ["exit", "exit"]


def test_what_cannot_be_installed_fails_the_job_at_once_with_pip_s_words(play: Callable[..., Play], index: Path) -> None:
    job = play(**ALPHA, retries=5, artifacts=["out"])
    job.machine()
    halt = job.drive()
    assert halt is not None
    assert (halt.state, halt.reason) == ("failed", "requirements")
    assert "has no environment: the requirements cannot be installed from wheels" in halt.detail
    assert "No matching distribution found for alpha" in halt.detail
    assert any("No matching distribution found for alpha" in line for line in job.door.lines)
    assert [(one["kind"], one["code"]) for one in job.door.attempts] == [("requirements", None)]
    assert job.door.lost == [], "no machine is to blame, and no further one is asked"


def test_a_machine_that_cannot_build_is_left_for_another(
    play: Callable[..., Play], index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(index, "alpha")
    job = play(**ALPHA)
    monkeypatch.delenv("PIP_FIND_LINKS")
    job.machine()
    assert job.drive(lambda: bool(job.door.lost)) is None
    [lost] = job.door.lost
    assert (lost["reason"], "no index" in lost["detail"]) == ("failed_to_start", True)
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    job.machine()
    halt = job.drive()
    assert halt is not None
    assert halt.state == "done"
    assert job.printed("it is 1.0")()


def test_no_machine_is_asked_for_ever(play: Callable[..., Play], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_FIND_LINKS")
    job = play(**ALPHA)
    for number in range(BUILDS_OF_TWO):
        job.machine()
        halt = job.drive(lambda number=number: len(job.door.lost) > number)
    halt = halt or job.drive()
    assert halt is not None
    assert (halt.state, halt.reason) == ("failed", "requirements")
    assert "3 machines could not build it" in halt.detail
    assert {one["reason"] for one in job.door.lost} == {"failed_to_start"}


def test_a_machine_that_builds_none_is_left_for_another(play: Callable[..., Play], monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Machine.__init__

    def without(machine: Machine, scratch: Path) -> None:
        begin(machine, scratch)
        machine._environments = None

    monkeypatch.setattr(Machine, "__init__", without)
    job = play(**ALPHA)
    job.machine()
    assert job.drive(lambda: bool(job.door.lost)) is None
    assert "builds no environments" in job.door.lost[0]["detail"]


def test_a_pause_ends_a_build(play: Callable[..., Play], index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_wheel(index, "alpha")

    def wait(folder: Path, scratch: Path, isolation: str, cancelled: Any) -> None:
        cancelled.wait()
        raise building.BuildCancelled

    monkeypatch.setattr(building, "_compile", wait)
    job = play(**ALPHA)
    machine = job.machine()
    job.drive(lambda: any("building the environment" in line for line in job.door.lines))
    job.course.pause("asked to")
    halt = job.drive()
    assert halt is not None
    assert halt.state == "paused"
    assert machine._commands is not None
    assert not machine._commands.running
    root = job.folder / "environments"
    assert not [one for one in root.iterdir() if one.is_dir()]


def test_a_drain_ends_a_build_and_the_command_begins_elsewhere(
    play: Callable[..., Play], index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(index, "alpha")
    compile_ = building._compile
    monkeypatch.setattr(building, "_compile", lambda *arguments: arguments[-1].wait())
    job = play(**ALPHA)
    machine = job.machine()
    job.drive(lambda: any("building the environment" in line for line in job.door.lines))
    monkeypatch.setattr(building, "_compile", compile_)
    drained: list[bool] = []
    drain = threading.Thread(target=lambda: drained.append(machine.drain(60)))
    drain.start()
    job.drive(lambda: bool(drained))
    drain.join()
    assert drained == [True]
    job.course.leave(0, "drained", "drained")
    job.machine()
    halt = job.drive()
    assert halt is not None
    assert halt.state == "done"


def test_a_run_whose_predecessor_has_told_of_the_requirements_halts() -> None:
    before = [{"kind": "requirements", "exit_code": 125, "manifest": None, "detail": "they are none"}]
    [over] = Attempts(["true"], retries=5, before=before).resume()
    assert (over.state, over.reason) == ("failed", "requirements")  # type: ignore[union-attr]
