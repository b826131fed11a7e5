"""`torg provider reclaim` and `release`: spoken with the host on this machine, or noted for it."""

from __future__ import annotations

import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.provide_lock import alone
from market.actors.control import Asked, Control
from market.provider_control import SOCKET, read_holds
from tests.cli.conftest import Torg


def make_provider(home: Path, name: str) -> Path:
    folder = home / "providers" / name
    folder.mkdir(parents=True)
    (folder / "offer").write_text(f"offer-of-{name}\n")
    return folder


@pytest.fixture
def heard(home: Path) -> Iterator[list[dict[str, Any]]]:
    """What a host called ada is asked; it frees one GPU of one renter, or releases it."""
    asked: list[dict[str, Any]] = []

    def take(one: Asked) -> None:
        asked.append(one.request)
        if one.request["ask"] == "status":
            held = {"gpus": 1, "reason": "idle", "why": "user process 7 game on GPU 0", "until_ms": None}
            leases = [{"id": "lease-000001", "job": "job-1", "gpus": 1}]
            one.end("status", offer="offer-of-ada", units=3, leased=1, until_ms=0, held=held, leases=leases)
            return
        if one.request["ask"] == "release":
            one.end("released", gpus=0, why="", told=True)
            return
        one.tell("asked", units=1, gpu="cpu")
        one.tell("notice", lease="lease-000001", job="job-1", gpus=1, notice_s=5.0)
        one.tell("left", leases=["lease-000001"])
        one.end("free", gpus=1, seconds=0.4, leases=["lease-000001"], told=False)

    control = Control(make_provider(home, "ada"), take)
    yield asked
    control.close()


def test_only_its_owner_may_ask_and_no_other_thread_is_given_its_rights(home: Path) -> None:
    """The umask is the whole process's: a self-test begun meanwhile had folders that its sandbox could not enter."""
    folder = make_provider(home, "ada")
    seen, first, over = set(), threading.Event(), threading.Event()

    def look() -> None:
        while not over.is_set():
            seen.add(subprocess.run(["/bin/sh", "-c", "umask"], capture_output=True, text=True, check=True).stdout)
            first.set()

    looking = threading.Thread(target=look)
    looking.start()
    assert first.wait(60)
    for _ in range(300):
        control = Control(folder, lambda one: None)
        assert stat.S_IMODE((folder / SOCKET).stat().st_mode) == 0o600
        control.close()
    over.set()
    looking.join()
    assert len(seen) == 1
    assert [one for one in threading.enumerate() if one.name == "control"] == []


def test_the_steps_are_shown_and_the_machine_is_the_owners(torg: Torg, heard: list[dict[str, Any]]) -> None:
    ran = torg("provider", "reclaim", "--for", "2h", "--gpus", "1", "--notice", "0s", "--why", "a game")
    assert ran.code == 0
    assert ran.out.splitlines() == [
        "ada: 1 free after 0.4 s, 1 renter moved",
        "Not for rent until then; it is offered again in 2h.",
    ]
    assert ran.err.splitlines() == [
        "lease-000001 of job-1 has 5 s to leave",
        "left at a boundary: lease-000001",
        "the market is away: it will be told",
    ]
    assert [one["ask"] for one in heard] == ["status", "reclaim"]
    wish = heard[-1]
    assert (wish["gpus"], wish["why"], wish["notice_s"]) == (1, "a game", 0.0)
    assert wish["until_ms"] > 0


@pytest.mark.parametrize(
    ("option", "value", "remedy"),
    [("--for", "0s", "above 0s, at most 3650d"), ("--for", "4000d", "above 0s, at most 3650d"), ("--gpus", "7", "ada has 3; without it, all of them")],
)
def test_no_time_and_more_than_there_is_are_refused(torg: Torg, heard: list[dict[str, Any]], option: str, value: str, remedy: str) -> None:
    shown = value if option == "--gpus" else repr(value)
    ran = torg("provider", "reclaim", option, value)
    assert (ran.code, ran.err) == (2, f"torg: {option} {shown} is out of range ({remedy})\n")
    assert "reclaim" not in [one["ask"] for one in heard]


def test_it_is_one_document_and_a_release_follows(torg: Torg, heard: list[dict[str, Any]]) -> None:
    taken = torg("provider", "reclaim", "offer-of-ada", "--json").document
    assert (taken["provider"], taken["gpus"], taken["seconds"], taken["leases"]) == ("ada", 1, 0.4, ["lease-000001"])
    assert torg("provider", "release", "ada").out == "ada is for rent again.\n"
    assert [one["ask"] for one in heard] == ["reclaim", "release"]


def test_a_host_that_does_not_run_reads_it_when_it_starts(torg: Torg, home: Path) -> None:
    folder = make_provider(home, "ada")
    ran = torg("provider", "reclaim")
    assert ran.code == 0
    assert ran.out.startswith("ada does not run: the machine is yours.")
    assert read_holds(folder).now.gpus > 0
    assert torg("provider", "release").code == 0
    assert read_holds(folder).now.gpus == 0


def test_how_it_stands_and_why(torg: Torg, heard: list[dict[str, Any]], home: Path) -> None:
    assert torg("provider", "status").out.splitlines() == [
        "ada: 1 of 3 lent, 1 held, 1 free",
        "lent: 1 to job-1 (lease-000001)",
        "held: user process 7 game on GPU 0",
        "goes: 1970-01-01T00:00:00.000Z",
    ]
    assert torg("provider", "status", "--json").document["held"]["reason"] == "idle"
    make_provider(home, "ben")
    ran = torg("provider", "status", "ben")
    assert (ran.code, ran.err) == (3, "torg: NAME: ben does not run (`torg provide` starts it)\n")


def test_one_that_waits_for_a_market_is_not_taken_for_one_that_does_not_run(torg: Torg, home: Path) -> None:
    with alone(make_provider(home, "ada")):
        ran = torg("provider", "status", "ada")
    assert (ran.code, ran.err) == (3, "torg: NAME: ada waits for the market and lends nothing (it goes on when the market is back)\n")
    assert "ada does not run" in torg("provider", "status", "ada").err


def test_which_provider_is_meant_must_be_clear(torg: Torg, home: Path) -> None:
    ran = torg("provider", "reclaim")
    assert (ran.code, ran.err) == (
        3,
        "torg: NAME: no provider runs on this machine (`torg provide` starts one)\n",
    )
    make_provider(home, "ada")
    make_provider(home, "ben")
    assert torg("provider", "reclaim").err == "torg: NAME: more than one provider is here: ada, ben (name one)\n"
    assert torg("provider", "release", "cleo").err == "torg: NAME: 'cleo' is no provider of this machine (ada, ben)\n"
    ran = torg("provider", "reclaim", "ada", "--for", "2")
    assert (ran.code, ran.err.startswith("torg: --for: ")) == (2, True)
    assert torg("provider", "reclaim", "ada", "--gpus", "0").code == 2


def test_an_answer_that_breaks_off_is_no_answer(torg: Torg, home: Path) -> None:
    control = Control(
        make_provider(home, "ada"), lambda one: one.end("unknown") if one.request["ask"] == "?" else one.hang_up()
    )
    try:
        assert torg("provider", "reclaim", "--json").document["running"] is False
    finally:
        control.close()
