"""Whether an attempt worked that cannot know it itself: looked at from outside, after its process has ended."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from storage.archives import PackingError, unpack
from trainers.attempts import Outcome
from trainers.collecting import collect, read_piece
from trainers.saving import Saver
from trainers.selftest.attempts import Judge
from trainers.selftest.scene import BOOTY, Scene

PATIENCE_S = 2.0


def outlived(scene: Scene, scratch: Path, outcome: Outcome | None) -> str | None:
    """A process of it that lives on."""
    ends = time.monotonic() + PATIENCE_S
    while (left := with_word(scene.key)) and time.monotonic() < ends:
        time.sleep(0.02)
    return f"process {left[0]} lives on" if left else None


def artifact(scene: Scene, scratch: Path, outcome: Outcome | None) -> str | None:
    """A collected file with what is the provider's."""
    found = collect(scratch / "work", ["**"])
    stolen = [one.path for one in found.files if BOOTY.encode() in read_piece(scratch / "work", one.path, 0, 4096)]
    return f"{stolen[0]} was collected" if stolen else None


def checkpoint(scene: Scene, scratch: Path, outcome: Outcome | None) -> str | None:
    """The same of a saved file."""
    saver = Saver(scratch / "checkpoint", scratch / "blocks")
    for file in saver.look_last(int(time.time() * 1000), by_itself=True).files:
        if any(BOOTY.encode() in (saver.read(block.digest) or b"") for block in file.blocks):
            return f"{file.path} was saved"
    return None


def archive(scene: Scene, scratch: Path, outcome: Outcome | None) -> str | None:
    """A file that an unpacked archive has put outside its folder."""
    with (scratch / "work" / "evil.tar").open("rb") as file, contextlib.suppress(PackingError):
        unpack(file, scratch / "work" / "unpacked")
    return "a file was planted beside the folder" if (scratch / "work" / "planted").exists() else None


def supervisor(scene: Scene, scratch: Path, outcome: Outcome | None) -> str | None:
    """The process around the command is gone, or one of the provider's is."""
    if outcome is None or outcome.kind == "died":
        return "the process around the command is gone"
    return None if Path("/proc", str(scene.victim)).exists() else "a process of the provider is gone"


def with_word(word: str) -> list[int]:
    """Living processes that have this word on their command line."""
    found = []
    for name in os.listdir("/proc"):
        try:
            words = Path("/proc", name, "cmdline").read_bytes().split(b"\0") if name.isdecimal() else []
        except OSError:
            continue
        if word.encode() in words:
            found.append(int(name))
    return found


JUDGES: Mapping[Judge, Callable[[Scene, Path, Outcome | None], str | None]] = {
    "outlived": outlived, "artifact": artifact, "checkpoint": checkpoint, "archive": archive,
    "supervisor": supervisor,
}  # fmt: skip
"""Each says what was got, or None."""
