"""Runs the table of attempts in the real sandbox and outside it, and says of each whether the sandbox held."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from trainers import sandbox
from trainers.attempts import Outcome
from trainers.command_process import CommandProcess, Place
from trainers.outward.rules import OutwardRules
from trainers.selftest import limits
from trainers.selftest.attempts import ATTEMPTS, Attempt, Role
from trainers.selftest.decoys import decoys
from trainers.selftest.intruder import VARIABLE
from trainers.selftest.judges import JUDGES, with_word
from trainers.selftest.scene import Scene
from trainers.spawning import spawn

PATIENCE_S = 60.0
_NOT_HERE = frozenset({"ENOENT", "ENODEV", "ENXIO", "ENOSYS", "EAFNOSUPPORT", "ENETUNREACH", "EOPNOTSUPP", "ENOTTY"})

Json = dict[str, Any]
Verdict = Literal["held", "escaped", "not applicable"]
Told = Mapping[str, Json]


class NotMade(Exception):
    """An attempt never began, so nothing is known of what it would have got: a sandbox that does not start holds nobody."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one attempt. `inside`: by role, how it was stopped or what it got; `outside`: what its control got,
    which shows that the attempt is a real one, or how the machine itself refused it.
    """

    name: str
    tries: str
    verdict: Verdict
    inside: Mapping[str, str]
    outside: str


@dataclass(frozen=True, slots=True)
class Result:
    """`bounds`: what cgroups bound of each sandbox, of memory, pids and cpu."""

    isolation: sandbox.Isolation
    findings: Sequence[Finding]
    bounds: frozenset[str]

    def named(self, verdict: Verdict) -> list[str]:
        """Attempts with this verdict."""
        return [one.name for one in self.findings if one.verdict == verdict]


def run(
    isolation: sandbox.Isolation,
    attempts: Sequence[Attempt] = ATTEMPTS,
    progress: Callable[[int], None] = lambda done: None,
) -> Result:
    """All of them, in the order of the table. `progress`: gets how many are done. Takes about ten seconds on two cores.

    Raises NotMade.
    """
    with decoys() as (scene, folder):
        ground = _Ground(isolation, scene, folder)
        runs: list[Callable[[], tuple[str, Told]]] = [lambda: ("outside", ground.outside(attempts))]
        for role in ("command", "trainer"):
            mine = [one for one in attempts if role in one.roles]
            led_out = [one for one in mine if one.way_out and isolation == "sandbox"]
            together = [one for one in mine if not (one.alone or one.judge or one in led_out)]
            groups = [together, led_out, *([one] for one in mine if one not in [*together, *led_out])]
            runs += [_run_of(ground, role, group) for group in groups if group]
        told: dict[str, dict[str, Json]] = {"outside": {}, "command": {}, "trainer": {}}
        with ThreadPoolExecutor(max_workers=max(2, os.cpu_count() or 1)) as pool:
            done = 0
            for role, answers in pool.map(lambda one: one(), runs):
                told[role] |= answers
                done += len(answers) if role != "outside" else 0
                progress(done)
    findings = tuple(
        judged(one, {role: told[role][one.name] for role in one.roles}, told["outside"][one.name]) for one in attempts
    )
    return Result(isolation, findings, ground.bounds)


def _run_of(ground: _Ground, role: Role, group: Sequence[Attempt]) -> Callable[[], tuple[str, Told]]:
    return lambda: (role, ground.command(group) if role == "command" else ground.trainer(group))


def judged(attempt: Attempt, inside: Told, outside: Json) -> Finding:
    """What the answers of its runs mean."""
    verdict: Verdict = "held"
    if any("got" in answer for answer in inside.values()):
        verdict = "escaped"
    elif all("absent" in answer for answer in inside.values()) or (
        "got" not in outside and ("absent" in outside or outside.get("stopped") in _NOT_HERE)
    ):
        verdict = "not applicable"
    return Finding(
        attempt.name, attempt.tries, verdict, {role: _text(one) for role, one in inside.items()}, _text(outside)
    )


def _text(answer: Json) -> str:
    if "got" in answer:
        return f"got it: {answer['got']}"
    return str(answer.get("absent") or answer.get("stopped"))[:200]


class _Ground:
    """Where attempts run: a folder for each run, small limits, one scene."""

    def __init__(self, isolation: sandbox.Isolation, scene: Scene, folder: Path) -> None:
        self._isolation, self._scene, self._folder = isolation, scene, folder
        self.bounds: frozenset[str] = frozenset()

    def outside(self, attempts: Sequence[Attempt]) -> Told:
        """The controls, as programs of the provider's account."""
        scratch = self._scratch("outside")
        scene = replace(self._scene, own=str(scratch / "work"), hold_s=0.0)
        names = [one.name for one in attempts]
        environment = {**os.environ, "PYTHONPATH": str(sandbox.package_folder().parent), VARIABLE: _order(scene, names)}
        command = [*sandbox.python_command(), "-m", "trainers.selftest.intruder", "--role", "outside"]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False, start_new_session=True
        )  # fmt: skip
        found = _answers(done.stdout, names, done.stderr)
        self._daemon_of_the_control(found)
        return found

    def _daemon_of_the_control(self, found: dict[str, Json]) -> None:
        if "outlive" in found:
            left = with_word(self._scene.key)
            found["outlive"] = (
                {"got": f"process {left[0]} lived on"} if left else {"stopped": "it ended with its parent"}
            )
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def command(self, attempts: Sequence[Attempt]) -> Told:
        """In a batch job's command."""
        names = [one.name for one in attempts]
        scratch = self._scratch(f"command-{names[0]}")
        place = self._place(scratch, limits.TASKS if attempts[0].alone else sandbox.COMMAND_PROCESSES)
        if attempts[0].way_out and self._isolation == "sandbox":
            place = replace(place, way_out=OutwardRules())
        scene = replace(self._scene, own=place.seen("work"), key=self._key_of(names))
        variables = {VARIABLE: _order(scene, names), "PYTHONPATH": self._code(scratch, place)}
        argv = ["python", "-B", "-s", "-P", "-m", "trainers.selftest.intruder", "--role", "command"]
        command = CommandProcess(argv, variables, place, timeout_s=PATIENCE_S, grace_s=0.2)
        try:
            outcome = command.wait(2 * PATIENCE_S)
        finally:
            command.close()
        lines = "\n".join(command.take_lines(1 << 24))
        found = _answers(lines, names, _ended(outcome))
        for one in attempts:
            if one.judge:
                got = JUDGES[one.judge](scene, scratch, outcome)
                found[one.name] = {"got": got} if got else {"stopped": _WORDS[one.judge]}
        return found

    def trainer(self, attempts: Sequence[Attempt]) -> Told:
        """In a process that is locked in as a trainer child is."""
        names = [one.name for one in attempts]
        scratch = self._scratch(f"trainer-{names[0]}")
        place = self._place(scratch, limits.TASKS)
        scene = replace(self._scene, own=place.seen("work"))
        options = [
            "--role",
            "trainer",
            "--isolation",
            self._isolation,
            "--memory-limit-bytes",
            str(place.memory_limit_bytes),
            "--tasks",
            str(place.tasks),
        ]
        with _spawned("trainers.selftest.intruder", options, place) as begun:
            self.bounds = begun.group.bounds
            with contextlib.suppress(BrokenPipeError):  # it has died already: what it says below, or does not, tells
                begun.connection.sendall(_order(scene, names).encode() + b"\n")
            try:
                lines = begun.process.communicate(timeout=PATIENCE_S)[0].decode("utf-8", "replace")
                ended = f"it ended with status {begun.process.returncode}"
            except subprocess.TimeoutExpired as hung:
                lines, ended = (hung.output or b"").decode("utf-8", "replace"), "it hung and was ended"
        return _answers(lines, names, f"{ended} {lines[-500:]}")

    def _place(self, scratch: Path, tasks: int) -> Place:
        return Place(
            scratch,
            self._isolation,
            1,
            limits.MEMORY_LIMIT_BYTES,
            disk_limit_bytes=limits.DISK_LIMIT_BYTES,
            tasks=tasks,
        )

    def _scratch(self, name: str) -> Path:
        for inner in ("work", "home", "tmp", "checkpoint"):
            (self._folder / name / inner).mkdir(parents=True)
        return self._folder / name

    def _code(self, scratch: Path, place: Place) -> str:
        """Where this package is imported from; beside bubblewrap a folder in which there is nothing else."""
        if self._isolation == "sandbox":
            return place.code
        (scratch / "code").mkdir()
        (scratch / "code" / "trainers").symlink_to(sandbox.package_folder())
        return str(scratch / "code")

    def _key_of(self, names: Sequence[str]) -> str:
        """The daemon of an attempt is known by another word than that of its control."""
        return f"inside-{self._scene.key}" if "outlive" in names else self._scene.key


_WORDS = {
    "outlived": "all of it ended with its lease", "artifact": "links are not collected",
    "checkpoint": "links are not saved", "archive": "names that lead out are refused", "supervisor": "the process around it told its end",
}  # fmt: skip


@contextlib.contextmanager
def _spawned(module: str, options: Sequence[str], place: Place) -> Iterator[Any]:
    begun = spawn(module, options, place, dies_with_parent=False)
    try:
        yield begun
    finally:
        begun.process.kill()
        with contextlib.suppress(ProcessLookupError):
            os.kill(begun.pid, signal.SIGKILL)
        begun.process.wait()
        begun.group.close()
        begun.connection.close()
        if begun.process.stdout is not None:
            begun.process.stdout.close()


def _order(scene: Scene, names: Sequence[str]) -> str:
    return json.dumps({"scene": asdict(scene), "names": list(names)})


def _answers(lines: str, names: Sequence[str], ended: str) -> dict[str, Json]:
    """By name; what began and said nothing was ended. An answer of something else is none. Raises NotMade."""
    found: dict[str, Json] = {}
    begun, words = set(), ""
    for line in lines.splitlines():
        try:
            told = json.loads(line)
        except ValueError:
            words = line.strip() or words
            continue
        if isinstance(told, dict) and told.get("begins") in names:
            begun.add(told["begins"])
        elif isinstance(told, dict) and told.get("name") in names:
            found[told.pop("name")] = told
    if never := [name for name in names if name not in begun]:
        raise NotMade(f"{never[0]} could not be tried: {words[-300:] or ended.strip() or 'it said nothing'}")
    return {name: found.get(name, {"stopped": ended.strip() or "it said nothing"}) for name in names}


def _ended(outcome: Outcome | None) -> str:
    if outcome is None:
        return "it was ended"
    return outcome.detail or f"it ended: {outcome.kind} {outcome.code or outcome.signal or ''}"
