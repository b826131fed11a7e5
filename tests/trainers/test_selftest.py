"""The battery: nothing gets out of the sandbox, its controls work outside it, and what its answers mean."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest

from trainers import sandbox
from trainers.sandbox import isolation_level
from trainers.selftest import battery
from trainers.selftest.__main__ import alone
from trainers.selftest.attempts import ATTEMPTS, BY_NAME
from trainers.selftest.battery import Finding, judged
from trainers.selftest.judges import JUDGES
from trainers.selftest.report import machine, report

# What this account, kernel or container refuses to everybody, so that its control shows an error instead of a success.
MAY_BE_REFUSED_OUTSIDE = frozenset(
    {"read-home", "read-shadow", "sysrq", "kernel-memory", "disk-device", "mknod", "other-cards", "mount", "fsopen", "unshare",
     "clone3", "setns", "chroot", "pivot-root", "bpf", "io-uring", "ptrace", "vm-readv", "kcmp", "pidfd-getfd", "userfaultfd",
     "perf", "file-handle", "kernel-module", "kexec", "reboot", "swap", "accounting", "clock", "host-name", "kernel-log",
     "fanotify", "capabilities", "setuid", "32-bit-calls", "terminal", "core-dump", "raise-limits", "raw-socket",
     "packet-socket", "vsock", "audit-socket", "cipher-socket", "metadata", "internet", "own-network", "proc-sys", "keyring",
     "proc-mem", "proc-supervisor", "open-files", "write-packages"}
)  # fmt: skip


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> list[Finding]:
    if isolation_level() != "sandbox":
        pytest.skip("bubblewrap does not run here, so there is no sandbox to break out of")
    folder = tmp_path_factory.mktemp("battery")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        found = list(battery.run("sandbox").findings)
    assert list(folder.iterdir()) == [], "nothing of it is left"
    return found


def test_nothing_escapes_from_the_sandbox(findings: list[Finding]) -> None:
    assert [one for one in findings if one.verdict == "escaped"] == []
    assert sum(one.verdict == "held" for one in findings) >= 40


def test_every_attempt_is_a_real_one(findings: list[Finding]) -> None:
    outside = {one.name: one.outside for one in findings}
    assert [
        name for name, said in outside.items() if not (said.startswith("got it") or name in MAY_BE_REFUSED_OUTSIDE)
    ] == []
    assert all(one.verdict != "held" or one.outside for one in findings)


def test_each_is_tried_in_every_process_that_it_is_for(findings: list[Finding]) -> None:
    assert [(one.name, sorted(one.inside)) for one in findings] == [(one.name, sorted(one.roles)) for one in ATTEMPTS]
    assert not [one for one in findings if "it said nothing" in one.inside.values()]


@pytest.mark.parametrize(
    ("inside", "outside", "verdict"),
    [
        ({"stopped": "EPERM"}, {"got": "a mount"}, "held"),
        ({"got": "a mount"}, {"got": "a mount"}, "escaped"),
        ({"got": "a mount"}, {"stopped": "ENOENT"}, "escaped"),
        ({"stopped": "EPERM"}, {"stopped": "EPERM"}, "held"),
        ({"stopped": "EPERM"}, {"stopped": "ENOSYS"}, "not applicable"),
        ({"stopped": "EPERM"}, {"absent": "no card"}, "not applicable"),
        ({"absent": "no card"}, {"got": "a card"}, "not applicable"),
    ],
)
def test_what_the_answers_mean(inside: dict[str, Any], outside: dict[str, Any], verdict: str) -> None:
    attempt = BY_NAME["mount"]
    assert judged(attempt, {"command": inside}, outside).verdict == verdict


def test_the_table_is_whole() -> None:
    assert len(BY_NAME) == len(ATTEMPTS) >= 25
    assert all(one.tries and one.roles for one in ATTEMPTS)
    assert {one.judge for one in ATTEMPTS if one.judge} == set(JUDGES)


def test_holes_in_a_sandbox_are_found(monkeypatch: pytest.MonkeyPatch, findings: list[Finding]) -> None:
    """With the machine's network and its temporary files in it."""
    whole = sandbox.bubblewrap_command
    others = ["--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts"]

    def with_holes(*arguments: Any, **named: Any) -> list[str]:
        command = whole(*arguments, **named)
        at = command.index("--unshare-all")
        return [
            *command[:at],
            *others,
            *command[at + 1 : -1],
            "--ro-bind",
            tempfile.gettempdir(),
            tempfile.gettempdir(),
            "--",
        ]

    monkeypatch.setattr(sandbox, "bubblewrap_command", with_holes)
    names = ("read-keys", "tcp-loopback", "udp", "stolen-key", "internet", "mount", "keyring")
    found = battery.run("sandbox", [dataclasses.replace(BY_NAME[name], roles=("command",)) for name in names])
    assert found.named("escaped") == ["read-keys", "tcp-loopback", "udp", "stolen-key", "internet"]


def test_a_sandbox_that_does_not_start_has_held_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    if isolation_level() != "sandbox":
        pytest.skip("bubblewrap does not run here")
    whole = sandbox.bubblewrap_command
    monkeypatch.setattr(sandbox, "bubblewrap_command", lambda *given, **named: [*whole(*given, **named)[:-1], "--chdir", "/no", "--"])
    for role in ("command", "trainer"):
        with pytest.raises(battery.NotMade, match=r"mount could not be tried: .*Can't chdir to /no"):
            battery.run("sandbox", [dataclasses.replace(BY_NAME["mount"], roles=(role,))])


def test_a_report_names_what_it_depends_on(findings: list[Finding]) -> None:
    result = battery.Result("sandbox", findings, frozenset({"pids"}))
    told = report(result, machine("0.1.0"), at_ms=1)
    assert json.loads(json.dumps(told)) == told
    assert told["machine"]["kernel"] == os.uname().release
    assert told["held"] + len(told["not_applicable"]) == len(ATTEMPTS)
    assert told["groups"] == ["pids"]


def test_the_threat_table_names_every_attempt_and_no_other() -> None:
    page = (Path(__file__).parents[2] / "docs" / "SECURITY.md").read_text(encoding="utf-8")
    table = page[page.index("## Threats to a provider") : page.index("## What is not")]
    rows = [line.split(" | ")[-1] for line in table.splitlines() if line.startswith("| ")]
    assert {name for row in rows for name in re.findall(r"`([a-z0-9-]+)`", row)} == set(BY_NAME)


def test_two_on_one_machine_follow_each_other(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    with alone(file, 0.0) as first, alone(file, 0.0) as second:
        assert (first, second) == (True, False), "it goes on after its wait"
    with alone(file, 60.0) as third:
        assert third
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with alone(tmp_path / "link", 0.0) as fourth:
        assert not fourth
    assert not (tmp_path / "elsewhere").exists()
