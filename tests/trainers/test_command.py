"""A batch job's command in its sandbox, with real processes: how it ends, what it sees, and that nothing outlives it."""

from __future__ import annotations

import dataclasses
import os
import resource
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trainers.attempts import Outcome
from trainers.command_process import CommandProcess, Place
from trainers.sandbox import isolation_level

PATIENCE_S = 60
LEVELS = sorted({"process", isolation_level()})
pytestmark = pytest.mark.parametrize("isolation", LEVELS)

Start = Callable[..., CommandProcess]


@pytest.fixture
def place(tmp_path: Path, isolation: Any) -> Place:
    for name in ("work", "home", "tmp", "checkpoint"):
        (tmp_path / name).mkdir()
    return Place(tmp_path, isolation, threads=1, memory_limit_bytes=256 << 20)


@pytest.fixture
def start(place: Place) -> Iterator[Start]:
    begun: list[CommandProcess] = []

    def begin(*argv: str, timeout_s: float | None = None, grace_s: float = 5.0, **environment: str) -> CommandProcess:
        begun.append(CommandProcess(argv, environment, place, timeout_s=timeout_s, grace_s=grace_s))
        return begun[-1]

    yield begin
    for one in begun:
        one.close()


def python(text: str) -> tuple[str, str, str]:
    return "python", "-c", textwrap.dedent(text)


def finished(command: CommandProcess) -> tuple[Outcome, str]:
    """How it ended, and all that it printed."""
    outcome = command.wait(PATIENCE_S)
    assert outcome is not None
    return outcome, "\n".join(command.take_lines(1 << 30))


def line_of(command: CommandProcess, beginning: str) -> str:
    """Wait for a printed line; what follows its beginning."""
    seen: list[str] = []
    for _ in range(PATIENCE_S * 20):
        seen += command.take_lines(1 << 20)
        found = [line.removeprefix(beginning) for line in seen if line.startswith(beginning)]
        if found:
            return found[0]
        command.wait(0.05)
    raise AssertionError(seen)


def outlived(descriptor: int) -> bool:
    """Whether the process of a pidfd lives after all this time."""
    try:
        return not select.select([descriptor], [], [], PATIENCE_S)[0]
    finally:
        os.close(descriptor)


def test_its_output_and_its_exit_status_are_told(start: Start) -> None:
    outcome, text = finished(
        start(*python("import sys; print('to stdout'); print('to stderr', file=sys.stderr); sys.exit(7)"))
    )
    assert (outcome.kind, outcome.code, outcome.signal) == ("exit", 7, None)
    assert text.splitlines() == ["to stdout", "to stderr"]
    assert outcome.tail.endswith("to stderr")


def test_the_kernel_counts_its_tasks_for_accounts_other_than_root(place: Place, isolation: str) -> None:
    """Root is exempt from the limit; a provider of another account has no cgroups, and nothing else that bounds threads."""
    command = CommandProcess(
        python("import resource; print(resource.getrlimit(resource.RLIMIT_NPROC)[0])"), {}, dataclasses.replace(place, tasks=77),
        timeout_s=None,
    )  # fmt: skip
    _, text = finished(command)
    command.close()
    elsewhere, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    assert int(text) == (77 if isolation == "sandbox" else elsewhere), "without a user namespace it would count the account"


def test_a_signal_is_told(start: Start) -> None:
    outcome, _ = finished(start("sh", "-c", "kill -SEGV $$"))
    assert (outcome.kind, outcome.signal) == ("signal", signal.SIGSEGV)


@pytest.mark.parametrize(
    ("argv", "kind", "words"),
    [
        (("no-such-program",), "not_found", "no such program"),
        (("./plain.txt",), "not_executable", "chmod +x"),
        (("plain.txt",), "not_found", "started as ./plain.txt"),
        (("./odd.sh",), "not_found", "first line"),
    ],
)
def test_what_cannot_be_started_says_why(
    start: Start, place: Place, argv: tuple[str, ...], kind: str, words: str
) -> None:
    (place.scratch / "work" / "plain.txt").write_text("no program")
    (place.scratch / "work" / "odd.sh").write_text("#!/no/such/interpreter\n")
    (place.scratch / "work" / "odd.sh").chmod(0o755)
    outcome, _ = finished(start(*argv))
    assert outcome.kind == kind
    assert words in outcome.detail


def test_it_begins_in_its_folder_with_its_environment_and_no_more_of_ours_than_torg(
    start: Start, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORG_KEY", "secret")
    code = """
        import os, sys
        print(os.getcwd(), os.environ["HOME"], os.environ["TMPDIR"], os.environ["LEVEL"], os.environ["OMP_NUM_THREADS"])
        print(os.environ["CUDA_VISIBLE_DEVICES"] or "no card", os.environ.get("TORG_KEY"), os.environ.get("PYTHONPATH"))
        open("made", "w").write("here")
    """
    outcome, text = finished(start(*python(code), LEVEL="3"))
    assert outcome.succeeded, text
    here = "/scratch" if place.isolation == "sandbox" else str(place.scratch)
    assert text.splitlines() == [f"{here}/work {here}/home {here}/tmp 3 1", f"no card None {place.code}"]
    assert (place.scratch / "work" / "made").read_text() == "here"


def test_a_script_finds_torg(start: Start, place: Place) -> None:
    outcome, text = finished(start(*python("import torg; print(torg.__name__)")))
    # Without bubblewrap a checkout's folder may not be listed; an installation is among Python's packages.
    listed = place.isolation == "sandbox" or Path(sys.prefix) in Path(place.code).parents
    assert outcome.succeeded == listed, text
    assert text.splitlines()[-1] == ("torg" if listed else "ModuleNotFoundError: No module named 'torg'")


def test_python_is_this_one_with_its_packages(start: Start) -> None:
    outcome, text = finished(start(*python("import sys, numpy; print(sys.version_info[:2], numpy.__version__)")))
    assert outcome.succeeded, text
    import numpy

    assert text == f"{sys.version_info[:2]} {numpy.__version__}"


def test_it_may_start_processes_of_its_own(start: Start) -> None:
    code = """
        import multiprocessing, subprocess
        if __name__ == "__main__":
            print(subprocess.run(["echo", "a child"], capture_output=True, text=True).stdout.strip())
            with multiprocessing.get_context("fork").Pool(2) as pool:
                print(sum(pool.map(abs, [-1, -2, 3])))
    """
    outcome, text = finished(start(*python(code)))
    assert (outcome.succeeded, text.splitlines()) == (True, ["a child", "6"])


def test_there_is_no_network(start: Start) -> None:
    code = """
        import socket
        try:
            socket.create_connection(("127.0.0.1", 22), timeout=5)
        except OSError as error:
            print("refused", type(error).__name__)
    """
    outcome, text = finished(start(*python(code)))
    assert outcome.succeeded
    assert text.startswith("refused")


DAEMON = """
    import os, signal, sys, time
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            {in_the_daemon}
            print("daemon", flush=True)
            time.sleep(3600)
        os._exit(0)
    time.sleep(3600)
"""


def all_of(command: CommandProcess, place: Place) -> list[int]:
    """Descriptors of everybody who runs the text of DAEMON."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                status = Path(f"/proc/{name}/status").read_text()
                words = Path(f"/proc/{name}/cmdline").read_bytes()
                if b"time.sleep(3600)" in words and b"daemon" in words and "State:\tZ" not in status:
                    found.append(os.pidfd_open(int(name)))
            except OSError:  # gone meanwhile
                continue
    return found


def test_a_stop_ends_all_of_it_politely_and_a_daemon_too(start: Start, place: Place) -> None:
    polite = "signal.signal(signal.SIGTERM, lambda *_: (print('polite', flush=True), os._exit(0)))"
    command = start(*python(DAEMON.format(in_the_daemon=polite)))
    line_of(command, "daemon")
    processes = all_of(command, place)
    assert len(processes) >= 2

    command.stop()

    outcome, text = finished(command)
    assert outcome.kind == "stopped"
    assert "polite" in text
    assert not sum(outlived(one) for one in processes)


def test_what_does_not_hear_sigterm_is_killed_after_the_grace(start: Start, place: Place) -> None:
    command = start(*python(DAEMON.format(in_the_daemon="signal.signal(signal.SIGTERM, signal.SIG_IGN)")), grace_s=0.3)
    line_of(command, "daemon")
    processes = all_of(command, place)
    assert len(processes) >= 2
    command.stop()
    assert finished(command)[0].kind == "stopped"
    assert not sum(outlived(one) for one in processes)


def test_a_timeout_ends_it(start: Start) -> None:
    outcome, text = finished(start("sh", "-c", "echo begun; sleep 3600", timeout_s=0.5, grace_s=0.2))
    assert (outcome.kind, text) == ("timeout", "begun")


def test_what_it_leaves_running_ends_with_it(start: Start, place: Place) -> None:
    outcome, _ = finished(start("sh", "-c", "setsid sleep 3600 & exit 0"))
    assert outcome.succeeded
    assert all_of(start("true"), place) == []


POLITE = "trap 'echo polite > heard; exit 0' TERM; echo begun; sleep 3599 & wait"


def test_all_of_it_ends_politely_when_whoever_began_it_is_killed(tmp_path: Path, isolation: str) -> None:
    for name in ("work", "home", "tmp"):
        (tmp_path / name).mkdir()
    parent_code = f"""
import sys, time
from pathlib import Path
from trainers.command_process import CommandProcess, Place
place = Place(Path({str(tmp_path)!r}), {isolation!r}, 1, 1 << 28)
command = CommandProcess(["sh", "-c", {POLITE!r}], {{}}, place, timeout_s=None)
while not (lines := command.take_lines(1000)):
    time.sleep(0.05)
print("begun", flush=True)
sys.stdin.read()
"""
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", parent_code], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"begun\n"
        while not (sleeping := [name for name in os.listdir("/proc") if _words(name) == b"sleep\x003599\x00"]):
            assert parent.poll() is None
        shells = [
            name for name in os.listdir("/proc") if POLITE.encode() in _words(name) and _words(name).startswith(b"sh")
        ]
        assert shells
        descriptors = [os.pidfd_open(int(name)) for name in (*sleeping, *shells)]
        parent.kill()
        assert not sum(outlived(one) for one in descriptors)
        assert (tmp_path / "work" / "heard").read_text() == "polite\n"


def _words(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_memory_beyond_the_limit_ends_it(start: Start) -> None:
    code = """
        import os, time
        if os.fork() == 0:
            kept = b"x" * (200 << 20)
            time.sleep(3600)
        kept = b"x" * (200 << 20)
        time.sleep(3600)
    """
    outcome, _ = finished(start(*python(code), grace_s=0.2))
    assert outcome.kind == "memory"
    assert "of 256 MiB" in outcome.detail


def test_a_flood_costs_no_memory_and_what_is_dropped_is_counted(start: Start) -> None:
    lines = 2_000_000
    command = start("sh", "-c", f"yes 'a line of a flood' | head -n {lines}; echo the last line; exit 3")
    outcome = command.wait(PATIENCE_S)
    assert outcome is not None
    assert outcome.code == 3
    told = command.take_lines(1 << 30)
    dropped = [int(line.split()[1]) for line in told if line.startswith("[torg: ")]
    assert told[-1] == "the last line"
    assert len(told) < 30_000
    assert sum(dropped) + len(told) - len(dropped) == lines + 1
    assert command.said_all


def test_a_bar_of_progress_is_its_last_state(start: Start) -> None:
    _, text = finished(start("printf", r"10 %%\r50 %%\r100 %%\ndone"))
    assert text.splitlines() == ["100 %", "done"]
