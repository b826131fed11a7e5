"""`launch: torchrun` with real processes in the sandbox: what each rank finds, how the command ends, whose end it was."""

from __future__ import annotations

import shutil
import signal
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.actors.command_desk import CommandDesk
from trainers.attempts import Outcome, told
from trainers.command_process import CommandProcess, Place
from trainers.launches import launcher_in
from trainers.rank_processes import Marked
from trainers.sandbox import COMMAND_ROOM_BYTES, isolation_level

PATIENCE_S = 100
Start = Callable[..., CommandProcess]
sandboxed = pytest.mark.skipif(isolation_level() != "sandbox", reason="ranks find each other only in a sandbox")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    for name in ("work", "home", "tmp", "checkpoint"):
        (tmp_path / name).mkdir()
    return Place(tmp_path, isolation_level(), threads=4, memory_limit_bytes=4 << 30)


@pytest.fixture
def start(place: Place) -> Iterator[Start]:
    begun: list[CommandProcess] = []

    def begin(*argv: str, ranks: int = 3, timeout_s: float | None = None, **environment: str) -> CommandProcess:
        begun.append(CommandProcess(argv, environment, place, timeout_s=timeout_s, ranks=ranks, job="job-a"))
        return begun[-1]

    yield begin
    for one in begun:
        one.close()


def python(text: str) -> tuple[str, str, str]:
    return "python", "-c", textwrap.dedent(text)


def finished(command: CommandProcess) -> tuple[Outcome, list[str]]:
    """How it ended, and all that it printed, in the order of the ranks."""
    outcome = command.wait(PATIENCE_S)
    assert outcome is not None
    return outcome, sorted(command.take_lines(1 << 30))


def until_printed(command: CommandProcess, wanted: set[str]) -> None:
    seen: set[str] = set()
    for _ in range(PATIENCE_S * 20):
        seen |= set(command.take_lines(1 << 20))
        if wanted <= seen:
            return
        command.wait(0.05)
    raise AssertionError(seen)


def test_each_rank_finds_what_torchrun_would_say(start: Start) -> None:
    names = "RANK LOCAL_RANK GROUP_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT OMP_NUM_THREADS TORCHELASTIC_RUN_ID"
    outcome, lines = finished(start("sh", "-c", "echo " + " ".join(f"${name}" for name in names.split()), ranks=2))
    assert outcome.succeeded
    assert lines == [f"[rank {rank}] {rank} {rank} 0 2 2 127.0.0.1 29500 2 job-a" for rank in (0, 1)]


def test_one_rank_s_exit_ends_the_others_and_is_the_end_of_the_command(start: Start) -> None:
    code = """
        import os, signal, sys, time
        if os.environ["RANK"] == "1":
            while not all(os.path.exists(f"ready{rank}") for rank in (0, 2)):
                time.sleep(0.01)
            sys.exit(3)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("polite")))
        open("ready" + os.environ["RANK"], "w").close()
        time.sleep(3600)
    """
    outcome, lines = finished(start(*python(code)))
    assert (outcome.kind, outcome.code, outcome.detail) == ("exit", 3, "rank 1 of 3")
    assert lines == ["[rank 0] polite", "[rank 2] polite"], "and each was told once"
    assert told(["python", "train.py"], outcome, None) == "python train.py exited with status 3 (rank 1 of 3)"


def test_a_rank_that_is_killed_is_named(start: Start) -> None:
    outcome, _ = finished(start("sh", "-c", "if [ $RANK = 2 ]; then kill -KILL $$; fi; sleep 3600"))
    assert (outcome.kind, outcome.signal, outcome.detail) == ("signal", signal.SIGKILL, "rank 2 of 3")


def test_a_rank_may_be_done_before_the_others(start: Start) -> None:
    code = "if [ $RANK = 0 ]; then touch first; exit 0; fi; while [ ! -e first ]; do sleep 0.01; done; echo after"
    outcome, lines = finished(start("sh", "-c", code))
    assert (outcome.succeeded, lines) == (True, ["[rank 1] after", "[rank 2] after"])


def test_a_stop_reaches_every_rank_and_what_they_save_is_in_one_folder(start: Start, place: Place) -> None:
    code = """
        import os, signal, sys, time
        def leave(*_):
            open(f"../checkpoint/{os.environ['RANK']}", "a").write("saved")
            sys.exit(0)
        signal.signal(signal.SIGTERM, leave)
        print("ready", flush=True)
        time.sleep(3600)
    """
    command = start(*python(code))
    until_printed(command, {f"[rank {rank}] ready" for rank in range(3)})
    command.stop()
    outcome, _ = finished(command)
    assert (outcome.kind, outcome.exited) == ("stopped", True)
    assert [(place.scratch / "checkpoint" / name).read_text() for name in "012"] == ["saved"] * 3


def test_a_timeout_ends_every_rank(start: Start) -> None:
    outcome, lines = finished(start("sh", "-c", "echo begun; sleep 3600", timeout_s=2))
    assert (outcome.kind, lines) == ("timeout", [f"[rank {rank}] begun" for rank in range(3)])


def test_a_program_that_is_not_there_is_told_once(start: Start) -> None:
    assert finished(start("no-such-program"))[0].kind == "not_found"


def test_a_worker_starts_one_process_for_each_unit_of_its_lease(tmp_path: Path) -> None:
    desk = CommandDesk(scratch=tmp_path, isolation=isolation_level(), memory_limit_bytes=1 << 30)
    command = {"argv": ["sh", "-c", "echo $RANK of $WORLD_SIZE, $(ulimit -d); exit $RANK"], "env": {}, "artifacts": [], "timeout_ms": None}
    order = {"job": "job-a", "number": 1, "restarts": 0, "data": {"kind": "none"}, "command": command | {"launch": "torchrun"}}
    assert desk.begin(order, None, None, None, threads=2, devices=(), shares={}, units=2) == {"ok": True, "number": 1}
    lines = []
    while (answer := desk.wait(1, 0.1))["outcome"] is None:
        lines += desk.lines()
    assert (answer["outcome"]["code"], answer["outcome"]["detail"]) == (1, "rank 1 of 2")
    kibibytes = (2 * (1 << 30) + COMMAND_ROOM_BYTES) >> 10  # of two units
    assert sorted(lines) == [f"[rank {rank}] {rank} of 2, {kibibytes}" for rank in (0, 1)]
    desk.close()


@given(text=st.lists(st.text(alphabet="ab\r\n", max_size=12), max_size=8))
def test_lines_are_marked_however_the_bytes_come(text: list[str]) -> None:
    pieces = [one.encode() for one in text]
    one_by_one, at_once = Marked(7), Marked(7)
    apart = b"".join(map(one_by_one.lines, pieces)) + one_by_one.last()
    together = at_once.lines(b"".join(pieces)) + at_once.last()
    assert apart == together
    assert apart.count(b"[rank 7] ") == apart.count(b"\n")


def test_a_line_without_an_end_does_not_grow(capfd: pytest.CaptureFixture[str]) -> None:
    marked = Marked(0)
    assert sum(len(marked.lines(b"x" * 1000)) for _ in range(100)) > 90_000
    bar = Marked(1)
    for step in range(10_000):
        bar.lines(b"%6d steps\r" % step)
    assert bar.last() == b"[rank 1]   9999 steps\n"


@pytest.mark.parametrize(
    ("argv", "launcher"),
    [
        (["torchrun", "--standalone", "train.py"], "torchrun"),
        (["/opt/bin/torchrun", "train.py"], "torchrun"),
        (["python3", "-u", "-m", "torch.distributed.run", "train.py"], "torch.distributed.run"),
        (["python", "train.py", "--mode", "torchrun"], None),
        (["python", "-m", "train"], None),
        (["sh", "-c", "torchrun"], None),
    ],
)
def test_a_command_that_starts_ranks_itself_is_known(argv: list[str], launcher: str | None) -> None:
    assert launcher_in(argv) == launcher


@sandboxed
@pytest.mark.timeout(300)
def test_the_example_trains_on_two_ranks_and_saves_once_and_ranks_meet_by_whatever_name_they_call_the_loopback(
    start: Start, place: Place
) -> None:
    """That it goes on to the same weights from what it saved, `benchmarks.survival --ranks 2` shows."""
    shutil.copy(Path(__file__).parents[2] / "examples" / "batch" / "ddp.py", place.scratch / "work")
    code = """
        import os, runpy, sys, torch, torch.distributed as dist
        sys.argv = ["ddp.py", "--steps", "2", "--every", "2"]
        runpy.run_path("ddp.py", run_name="__main__")
        dist.init_process_group("gloo", init_method="tcp://localhost:29501", rank=int(os.environ["RANK"]), world_size=2)
        value = torch.tensor([dist.get_rank() + 1.0])
        dist.all_reduce(value)
        print("sum", value.item(), dist.is_torchelastic_launched())
        dist.destroy_process_group()
    """
    outcome, lines = finished(start(*python(code), ranks=2, TORG_CHECKPOINT_DIR=place.seen("checkpoint")))
    assert outcome.succeeded, lines
    weights = [line.partition("] weights ")[2] for line in lines if "] weights " in line]
    assert len(weights) == 2
    assert len(set(weights)) == 1, "all ranks have the same"
    assert [line for line in lines if "sum" in line] == ["[rank 0] sum 3.0 True", "[rank 1] sum 3.0 True"]
    assert [path.name for path in (place.scratch / "checkpoint").iterdir()] == ["state.pt"]
    assert (place.scratch / "work" / "out" / "weights.bin").exists()
