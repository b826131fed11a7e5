"""Builds one environment in a folder: pip resolves and unpacks wheels, the sandbox compiles, and what came of it is checked.

No code of a package runs here: pip is alone (`pip_alone`), with a Python that does not see the folder; bytecode is made in the
sandbox; scripts are only files.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, Final

from trainers.disk_use import free_bytes, used_bytes
from trainers.environments.layers import Base, make_layer, packages_folder
from trainers.environments.pip_alone import NO_FILTER, NO_INDEX, NO_PIP, PROBE, command
from trainers.environments.words import Verdict, last_words, verdict
from trainers.sandbox import Isolation
from trainers.scratch import wipe

BUILD_BYTES: Final = 15 << 30
"""Of one environment, what was fetched for it included."""
LEAST_FREE_BYTES: Final = 1 << 30
"""Of the owner's disk, whatever is built."""
BUILD_S: Final = 1_800.0
COMPILE_S: Final = 600.0
SAY_EVERY_S: Final = 30.0
_TICK_S = 0.2
_LOOK_EVERY_S = 2.0
_SHEBANG = b"#!/usr/bin/env python\n"
_HANDED_ON: Final = (
    "HOME", "LANG", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "NETRC", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
)  # fmt: skip
_OF_THE_MACHINE: Final = {
    NO_PIP: "its Python has no pip", NO_FILTER: "it cannot keep pip from starting programs", NO_INDEX: "its pip has no index",
}  # fmt: skip

Json = dict[str, Any]
Say = Callable[[str], None]


class RequirementsRefused(Exception):
    """The requirements cannot be met, here or elsewhere; the text says why, `tail` has pip's last lines."""

    def __init__(self, message: str, tail: str = "") -> None:
        super().__init__(message)
        self.tail = tail


class BuildTrouble(Exception):
    """This machine could not build it; another one may."""


class BuildCancelled(Exception):
    """Whoever asked for it does not want it any more."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one build: seconds for pip, bytes on disk."""

    seconds: float = BUILD_S
    most_bytes: int = BUILD_BYTES


@dataclass(frozen=True, slots=True)
class Built:
    """A whole environment in `folder`: [name, version] of what it adds, and the bytes that it takes."""

    folder: Path
    packages: tuple[tuple[str, str], ...]
    bytes: int


def build(
    lines: Sequence[str], base: Base, scratch: Path, isolation: Isolation, say: Say, cancelled: Event, limits: Limits = Limits(),
) -> Built:  # fmt: skip
    """Build in `scratch`, an empty folder of ours, of which `Built.folder` is to be kept and the rest goes.

    Raises RequirementsRefused, BuildTrouble, BuildCancelled, and OSError when this machine cannot write it.
    """
    for name in ("work", "home", "tmp", "pip", "cache"):
        (scratch / name).mkdir()
    folder = scratch / "work" / "environment"
    folder.mkdir()
    pip = _Pip(scratch, say, cancelled, limits)
    pinned = pip.resolve(lines)
    if pinned:
        pip.install(pinned, packages_folder(folder))
    _move_programs(folder)
    try:
        make_layer(folder, base)
    except FileExistsError as error:
        raise RequirementsRefused(f"a package brings {Path(error.filename).name}, which is torg's own") from None
    for name in ("pip", "cache", "tmp"):  # what the sandbox has no business with: addresses of the owner's index
        wipe(scratch / name)
    (scratch / "tmp").mkdir()
    _compile(folder, scratch, isolation, cancelled)
    size = check(folder)
    return Built(folder, tuple((one["name"], one["version"]) for one in pinned), size)


def can_build(folder: Path) -> str:
    """Why this machine could build no environment at all, as far as it can be told without a network; empty when it can."""
    words = command(folder, 1 << 20, [PROBE])
    try:
        done = subprocess.run(
            words, env=_environment(folder), stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"pip does not start: {error}"
    return "" if done.returncode == 0 else _OF_THE_MACHINE.get(done.returncode, "pip does not start")


def check(folder: Path) -> int:
    """The bytes of an environment of plain files and folders. Raises RequirementsRefused for what is none: a link out of it."""
    programs, total = folder / "bin", 0
    for here, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(here, name)
            status = path.lstat()
            kind = status.st_mode
            if stat.S_ISLNK(kind) and path.parent == programs and name.startswith("python"):
                continue  # ours, to the interpreter
            if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
                raise RequirementsRefused(f"a package has {path.relative_to(folder)}, which is no plain file")
            if kind & 0o7022:
                path.chmod(stat.S_IMODE(kind) & 0o755)
            total += status.st_blocks * 512
    return total


class _Pip:
    """pip's two runs for one build."""

    def __init__(self, scratch: Path, say: Say, cancelled: Event, limits: Limits) -> None:
        self._scratch, self._say, self._cancelled, self._limits = scratch, say, cancelled, limits
        self._began = time.monotonic()
        self._ends, self._says_at = self._began + limits.seconds, self._began + SAY_EVERY_S

    def resolve(self, lines: Sequence[str]) -> list[Json]:
        """What is to be installed over what is there: {name, version, sha256} each, sha256 None where it is not known."""
        wanted, report = self._scratch / "pip" / "requirements.txt", self._scratch / "pip" / "report.json"
        wanted.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        self._run(["install", "--dry-run", "--report", str(report), "--requirement", str(wanted)])
        return pinned_of(json.loads(report.read_text(encoding="utf-8")))

    def install(self, pinned: Sequence[Json], target: Path) -> None:
        """Unpack them. With hashes, where all are known, so that it is what was resolved."""
        wanted, hashed = self._scratch / "pip" / "pinned.txt", all(one["sha256"] for one in pinned)
        mark = " --hash=sha256:{sha256}" if hashed else ""
        wanted.write_text("".join(f"{{name}}=={{version}}{mark}\n".format(**one) for one in pinned), encoding="utf-8")
        options = ["--no-deps", "--no-compile", "--target", str(target), *(["--require-hashes"] if hashed else [])]
        self._run(["install", *options, "--requirement", str(wanted)])

    def _run(self, words: Sequence[str]) -> None:
        printed = self._scratch / "pip" / "printed.txt"
        log = self._scratch / "pip" / "log.txt"  # what it says of addresses that do not answer, it may print nowhere
        options = ["--only-binary", ":all:", "--no-color", "--log", str(log)]
        argv = command(self._scratch, self._limits.most_bytes, [*words, *options])
        with printed.open("wb") as output:
            process = subprocess.Popen(
                argv, env=_environment(self._scratch), cwd=self._scratch / "pip", stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            try:
                self._wait(process)
            finally:
                process.kill()
                process.wait()
        if process.returncode == 0:
            return
        if process.returncode in _OF_THE_MACHINE:
            raise BuildTrouble(f"no environment can be built here: {_OF_THE_MACHINE[process.returncode]}")
        text = printed.read_text(encoding="utf-8", errors="replace")
        tail = last_words(text)
        logged = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        if verdict(text + logged, process.returncode) is Verdict.REQUIREMENTS:
            raise RequirementsRefused("the requirements cannot be installed from wheels", tail)
        raise BuildTrouble(f"pip failed here: {tail or f'it ended with {process.returncode}'}")

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        looked = time.monotonic()
        while process.poll() is None:
            if self._cancelled.wait(_TICK_S):
                raise BuildCancelled
            now = time.monotonic()
            if now > self._ends:
                raise BuildTrouble(f"it was not built within {self._limits.seconds:.0f} s")
            if now - looked > _LOOK_EVERY_S or process.poll() is not None:
                looked = now
                self._measure(now)
        self._measure(time.monotonic())

    def _measure(self, now: float) -> None:
        used, most = used_bytes(self._scratch), self._limits.most_bytes
        if now > self._says_at:
            self._says_at = now + SAY_EVERY_S
            self._say(f"building the environment: {now - self._began:.0f} s so far, {used / 1e6:,.1f} MB")
        if free_bytes(self._scratch) < LEAST_FREE_BYTES:
            raise BuildTrouble("there is no room for it on this machine's disk")
        if used > most:
            raise RequirementsRefused(f"the environment takes more than an environment may: {used >> 20} of {most >> 20} MiB")


def pinned_of(report: Mapping[str, Any]) -> list[Json]:
    """{name, version, sha256} of what an installation report of pip wants installed. Raises RequirementsRefused."""
    found = []
    for one in report["install"]:
        name, version = one["metadata"]["name"], one["metadata"]["version"]
        if one.get("is_direct") or not re.fullmatch(r"[A-Za-z0-9._-]+", name) or not re.fullmatch(r"[A-Za-z0-9.+!_-]+", version):
            raise RequirementsRefused(f"a package wants {name[:80]} from an address of its own, which is not fetched")
        hashes = (one.get("download_info", {}).get("archive_info") or {}).get("hashes") or {}
        found.append({"name": name, "version": version, "sha256": hashes.get("sha256")})
    return found


def _move_programs(folder: Path) -> None:
    """Scripts go to `bin`, and are for whatever `python` is first on the PATH: the environment's."""
    made, programs = packages_folder(folder) / "bin", folder / "bin"
    programs.mkdir(exist_ok=True)
    for path in sorted(made.iterdir()) if made.is_dir() else ():
        if path.is_symlink() or not path.is_file() or path.name.startswith("python"):
            continue
        content = path.read_bytes()
        first, newline, rest = content.partition(b"\n")
        if newline and first.startswith(b"#!") and os.fsencode(sys.executable) in first:
            path.write_bytes(_SHEBANG + rest)
        path.chmod(0o755)
        path.rename(programs / path.name)


def _compile(folder: Path, scratch: Path, isolation: Isolation, cancelled: Event) -> None:
    """Bytecode, made where customers' code may run. What cannot be compiled stays as it is."""
    from trainers.command_process import CommandProcess
    from trainers.spawning import Place

    place = Place(scratch, isolation, 1, 2 << 30)
    seen = f"{place.seen('work')}/{folder.name}"
    packages = packages_folder(Path(seen))
    argv = [sys.executable, "-I", "-m", "compileall", "-q", "-s", seen, "-p", "/environment", str(packages)]
    process = CommandProcess(argv, {}, place, timeout_s=COMPILE_S)
    try:
        while process.wait(_TICK_S) is None:
            process.take_lines(1 << 20)
            if cancelled.is_set():
                raise BuildCancelled
    finally:
        process.close()


def _environment(scratch: Path) -> dict[str, str]:
    """The owner's own settings of pip, and nothing else of what this process has."""
    own = {name: value for name, value in os.environ.items() if name in _HANDED_ON or name.startswith("PIP_")}
    return own | {
        "PATH": "/nonexistent", "TMPDIR": str(scratch / "tmp"), "PIP_CACHE_DIR": str(scratch / "cache"), "PIP_USER": "0",
        "PIP_REQUIRE_VIRTUALENV": "0", "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_PROGRESS_BAR": "off",
    }  # fmt: skip
