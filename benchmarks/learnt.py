"""What simulated jobs have learnt, and a file that keeps it, so that a long study can be run in pieces.

One JSON line a job, only ever appended; the job, its strategy with all options, and the data are its key. Processes may
die in mid-line and several may append: a line without its end is no line and is cut off before the next is written.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.trials import Job


class NotKept(Exception):
    """A file holds something else than finished jobs; the message says where."""


@dataclass(frozen=True, slots=True)
class Learnt:
    """How a simulated job ended.

    `set`: the strategy's options with all defaults. `data`: digest of what it trained on. `held_out`: nats per byte, None
    when it diverged. `peak_round_bytes`: payload that the worker with most sent in a round; None when it diverged.
    """

    strategy: str
    job: Job
    set: Mapping[str, Any]
    data: str
    held_out: float | None
    peak_round_bytes: float | None

    @property
    def key(self) -> str:
        """Equal for what must end alike."""
        return key_of(self.strategy, self.job, self.set, self.data)


def key_of(strategy: str, job: Job, options: Mapping[str, Any], data: str) -> str:
    """The key of a job that may not have run yet; `options` with all defaults."""
    return json.dumps([strategy, asdict(job), dict(options), data], sort_keys=True)


def load(path: Path) -> dict[str, Learnt]:
    """What the file holds, by key; nothing where there is no file. Raises NotKept for a whole line that is none of ours."""
    if not path.exists():
        return {}
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    found = {}
    for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
        try:
            told = json.loads(line)
            one = Learnt(**{**told, "job": Job(**told["job"])})
        except (ValueError, TypeError, KeyError) as error:
            raise NotKept(f"{path}: line {number} is no finished job: {error!r}") from error
        found[one.key] = one
    return found


def append(path: Path, one: Learnt) -> None:
    """Write one more line, behind the last whole one."""
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(json.dumps(asdict(one)).encode() + b"\n")
