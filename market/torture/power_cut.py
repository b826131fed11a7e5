"""What a power cut may do to bytes and names that were never made durable, done to real files by the parent."""

import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

MOODS = ("keep", "drop", "tear", "hole", "duplicate")
AFTER_DOUBLING = ("keep", "drop", "tear")


@dataclass(slots=True)
class Unsynced:
    """What the writers' disk told: each file's durable length, and the renames and removals whose folder was not synced since."""

    durable: dict[Path, int] = field(default_factory=dict)
    renames: list[tuple[Path, Path, bytes | None]] = field(default_factory=list)
    unlinked: dict[Path, bytes] = field(default_factory=dict)
    """Segments that were sealed, as they were written."""
    doubled: set[Path] = field(default_factory=set)
    """Files whose end lies there twice since a power cut. No write was ever made behind that, so a further cut puts nothing there."""

    def hear(self, line: dict[str, Any]) -> None:
        """One line of a writer."""
        if "synced" in line:
            self.durable[Path(line["synced"])] = line["size"]
            self.doubled.discard(Path(line["synced"]))
        elif "renames" in line:
            source, target = map(Path, line["renames"])
            over = None if line["over"] is None else bytes.fromhex(line["over"])
            self.renames.append((source, target, over))
            self.durable[target] = self.durable.pop(source, 0)
        elif "unlinks" in line:
            self.unlinked[Path(line["unlinks"])] = bytes.fromhex(line["bytes"])
        elif "folder" in line:
            folder = Path(line["folder"])
            self.unlinked = {path: data for path, data in self.unlinked.items() if path.parent != folder}
            self.renames = [one for one in self.renames if one[1].parent != folder]

    def cut_power(self, home: Path, random: Random) -> list[str]:
        """Damage what may be damaged; what was done, in the words of MOODS `undo rename` and `undo unlink`."""
        done = [self._undo(*one) for one in reversed(self.renames) if random.random() < 0.5]
        self.renames.clear()
        done += [self._bring_back(*one) for one in self.unlinked.items() if random.random() < 0.5]
        self.unlinked.clear()
        files = [*sorted((home / "journal").glob("*.journal")), *sorted((home / "blobs" / "partial").glob("*"))]
        for path in files:
            durable = self.durable.get(path, 0)
            if path.stat().st_size > durable:
                mood = random.choice(AFTER_DOUBLING if path in self.doubled else MOODS)
                self.doubled |= {path} if mood == "duplicate" else set()
                _damage(path, durable, mood, random)
                done.append(mood)
        return [one for one in done if one]

    def _undo(self, source: Path, target: Path, over: bytes | None) -> str:
        if source.exists() or not target.exists():
            return ""  # it died before the rename itself
        os.rename(target, source)
        self.durable[source] = self.durable.pop(target, 0)
        if over is not None:
            target.write_bytes(over)
            self.durable[target] = len(over)
        return "undo rename"

    @staticmethod
    def _bring_back(path: Path, data: bytes) -> str:
        if path.exists():
            return ""  # it died before the removal itself
        path.write_bytes(data)
        return "undo unlink"


def _damage(path: Path, durable: int, mood: str, random: Random) -> None:
    content = path.read_bytes()
    tail = content[durable:]
    if mood == "drop":
        tail = b""
    elif mood == "tear":
        tail = tail[: random.randrange(len(tail))]
    elif mood == "hole":
        begin = random.randrange(len(tail))
        end = random.randint(begin + 1, len(tail))
        tail = tail[:begin] + bytes(end - begin) + tail[end:]
    elif mood == "duplicate":
        tail = tail.rstrip(b"\0") if path.suffix == ".journal" else tail  # without the room behind it
        if path.suffix != ".journal" or _whole(tail):
            # Of half an append there is no second copy behind it: no write was ever made that far.
            tail += tail
    if mood != "keep":
        path.write_bytes(content[:durable] + tail)


def _whole(tail: bytes) -> bool:
    """Whether the bytes are records to their end (docs/FORMATS.md)."""
    at = 0
    while at + 48 <= len(tail) and tail[at : at + 4] == b"TREC":
        at += 48 + int(struct.unpack_from("<I", tail, at + 4)[0])
    return at == len(tail)
