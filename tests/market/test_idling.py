"""When a machine is for rent by itself: what is held, why, and for how long after."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from market.actors.host_config import Hardware, Watched
from market.actors.idle_watch import IdleWatch
from market.actors.machine import Cores, read_processes, torgs
from market.hours import parse_hours
from market.idling import IdleRules, Place, Seen, User, Verdict, decide, is_torg, of_torg

PYTHON = User(4123, "python")
NIGHT = parse_hours("22:00-06:00")
RULES = IdleRules(idle_for_ms=10_000)
NOON = (0, 720)


def cards(*used: User | None) -> list[Place]:
    return [Place(f"GPU {at}", 1, () if user is None else (user,)) for at, user in enumerate(used)]


def follow(rules: IdleRules, *looks: tuple[int, list[Place]]) -> list[Verdict]:
    """The verdict of each look, at its time in milliseconds."""
    seen, found = Seen(), []
    for now_ms, places in looks:
        verdict, seen = decide(rules, seen, places, now_ms, *NOON)
        found.append(verdict)
    return found


def test_only_the_card_that_somebody_uses_is_held_and_the_sentence_names_who() -> None:
    *_, idle, used, quiet, over = follow(
        RULES,
        (0, cards(None, None)),
        (10_000, cards(None, None)),
        (11_000, cards(None, PYTHON)),
        (20_999, cards(None, None)),
        (21_000, cards(None, None)),
    )
    assert idle == over == Verdict()
    said = "user process 4123 python on GPU 1; for rent once idle for 10 s"
    assert used == quiet == Verdict(1, ("GPU 1",), "idle", said)


def test_what_was_never_looked_at_before_is_not_for_rent_yet() -> None:
    [first] = follow(RULES, (0, cards(None)))
    assert first.why == "not known yet who uses GPU 0; for rent once idle for 10 s"
    assert follow(IdleRules(idle_for_ms=0), (0, cards(None)), (0, cards(PYTHON))) == [
        Verdict(),
        Verdict(1, ("GPU 0",), "idle", "user process 4123 python on GPU 0; for rent once idle for 0 ms"),
    ]


def test_a_card_that_cannot_be_looked_at_is_held() -> None:
    [verdict] = follow(RULES, (0, [Place("GPU 0", 1, problem="Not Supported")]))
    assert verdict.why.startswith("GPU 0 cannot be looked at: Not Supported")


def test_the_sentence_stays_while_who_was_named_is_there() -> None:
    other = User(5, "blender")
    load = [(0, [Place("the cores", 4, (PYTHON, other), 0.9)]), (1, [Place("the cores", 4, (other, PYTHON), 0.9)])]
    first, second = follow(RULES, *load)
    assert first == second
    assert (first.units, first.why[:40]) == (4, "user process 4123 python on the cores; f")
    *_, third = follow(RULES, *load, (2, [Place("the cores", 4, (other,), 0.9)]))
    assert third.why.startswith("user process 5 blender")
    *_, low = follow(RULES, *load, (30_000, [Place("the cores", 4, (other,), 0.25)]))
    assert low == Verdict()


def test_in_its_owners_hours_everything_is_held() -> None:
    rules = IdleRules(by_use=False, not_between=(NIGHT,))
    at_night, _ = decide(rules, Seen(), cards(None, None), 0, 3, 23 * 60)
    assert at_night == Verdict(2, ("GPU 0", "GPU 1"), "hours", "its owner's hours, 22:00-06:00")
    assert decide(rules, Seen(), cards(PYTHON), 0, *NOON)[0] == Verdict()


LOOKS = st.lists(
    st.tuples(st.integers(0, 8_000), st.lists(st.booleans(), min_size=3, max_size=3), st.integers(0, 1439)), min_size=1
)


@given(LOOKS)
def test_a_card_is_for_rent_exactly_when_it_was_idle_for_long_and_the_hours_allow_it(
    looks: list[tuple[int, list[bool], int]],
) -> None:
    rules, seen, now_ms = IdleRules(idle_for_ms=10_000, not_between=(NIGHT,)), Seen(), 0
    busy_ms: dict[int, int] = {}
    for passed_ms, used, minute in looks:
        now_ms += passed_ms
        places = cards(*(PYTHON if one else None for one in used))
        verdict, seen = decide(rules, seen, places, now_ms, 0, minute)
        for at, one in enumerate(used):
            if one or at not in busy_ms:
                busy_ms[at] = now_ms - (0 if one else 1)
        held = {f"GPU {at}" for at, ms in busy_ms.items() if now_ms - ms < rules.idle_for_ms}
        if NIGHT.cover(0, minute):
            held = {"GPU 0", "GPU 1", "GPU 2"}
        assert (set(verdict.places), verdict.units) == (held, len(held))
        assert bool(verdict.why) == bool(verdict.reason) == bool(held)


@given(st.dictionaries(st.integers(1, 20), st.integers(1, 20)), st.sets(st.integers(1, 20), max_size=3))
def test_torgs_own_are_the_roots_and_all_below_them(parents: dict[int, int], roots: set[int]) -> None:
    own = of_torg(parents, roots)
    assert roots <= own
    for pid, parent in parents.items():
        assert (pid in own) == (pid in roots or parent in own)


def test_which_command_lines_are_torgs() -> None:
    assert is_torg(("/usr/bin/python", "-m", "market.actors.provider_host", "--config", "x"))
    assert is_torg(("/usr/bin/python", "/usr/local/bin/torg", "provide", "--price", "1"))
    assert is_torg(("python", "-m", "cli", "--home", "x", "provide"))
    assert not is_torg(("/usr/bin/python", "train.py", "provide"))
    assert not is_torg(("torg", "watch"))


def test_who_is_below_us_is_torgs_and_who_is_not_is_not() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        processes = read_processes()
        assert {os.getpid(), child.pid} <= torgs(processes, os.getpid())
        assert child.pid not in torgs(processes, 2**30)
        child.communicate(b"\n")


def test_work_of_others_counts_and_our_own_does_not(tmp_path: Path) -> None:
    """On a made /proc, where who is busy is known to the tick."""
    ticks = os.sysconf("SC_CLK_TCK") * (os.cpu_count() or 1)

    def machine(foreign: int, own: int, folder: Path) -> None:
        (folder / "stat").write_text(f"cpu {foreign + own} 0 0 999 0 0 0 0\n")
        for pid, parent, name, used in (
            (os.getpid(), 1, "torg", 0),
            (7, os.getpid(), "own", own),
            (8, 1, "blender", foreign),
        ):
            (folder / str(pid)).mkdir(exist_ok=True)
            (folder / str(pid) / "stat").write_text(f"{pid} ({name}) S {parent} " + "0 " * 9 + f"{used} 0 0 0 0\n")
            (folder / str(pid) / "cmdline").write_bytes(name.encode())

    times = iter((0.0, 1.0, 2.0, 3.0))
    cores = Cores(2, tmp_path, lambda: next(times))
    loads = []
    for foreign, own in ((0, 0), (ticks // 2, 0), (ticks // 2, ticks), (ticks // 2, ticks)):
        machine(foreign, own, tmp_path)
        [place] = cores.look()
        loads.append((round(place.load or 0, 2), [user.name for user in place.users]))
    assert loads == [(0.0, []), (0.5, ["blender"]), (0.0, ["blender"]), (0.0, ["blender"])]
    assert Cores(1, Path("/nowhere")).look()[0].problem


def test_the_watch_tells_changes_alone() -> None:
    looks = iter([cards(PYTHON), cards(User(5, "sh")), cards(None), cards(None), cards(PYTHON), cards(User(5, "sh"))])
    times, heard = iter([0.0, 1.0, 2.0, 12.0, 13.0, 73.0]), []
    watch = IdleWatch(
        Watched(idle_for_ms=10_000), Hardware("cpu", 1, 0.0), heard.append, lambda: next(looks), lambda: next(times),
        lambda: time.struct_time((2026, 11, 26, 12, 0, 0, 3, 330, 0)),
    )  # fmt: skip
    for _ in range(6):
        watch.look()
    named = [(verdict.units, verdict.why.partition(" on ")[0]) for verdict, _ in heard]
    assert named == [
        (1, "user process 4123 python"),
        (0, ""),
        (1, "user process 4123 python"),
        (1, "user process 5 sh"),
    ], "another name for the same hold is told once a minute"
