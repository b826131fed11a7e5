"""Scripts of failures for a fleet, as text: when what happens to whom.

    kill every 20                  one worker, drawn at random, each 20 s on average (exponentially spaced)
    kill 1 at 30                   the worker of slot 1, 30 s after the first round began; `any` draws one
    freeze any at 30 for 5         SIGSTOP, and SIGCONT 5 s later; without `for` for good
    cut 0 at 12                    its cable is pulled
    kill all at 60                 everybody at once

Several are joined by `;`. The same script, seed and length give the same failures.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

ANY, ALL = -1, -2
_ONE = re.compile(
    r"(?P<kind>kill|freeze|cut)\s+(?:every\s+(?P<every>[\d.]+)"
    r"|(?P<who>any|all|\d+)\s+at\s+(?P<at>[\d.]+)(?:\s+for\s+(?P<lasts>[\d.]+))?)"
)


@dataclass(frozen=True, slots=True)
class Failure:
    """At `at_s` seconds after the first round began, `kind` (kill, freeze, thaw, cut) happens to slot `who`, or ANY, ALL."""

    at_s: float
    kind: str
    who: int


def script(text: str, *, seed: int, seconds: float) -> list[Failure]:
    """The failures of a script within that many seconds, in order. Raises ValueError naming what cannot be read."""
    random_ = random.Random(seed)
    failures: list[Failure] = []
    for part in filter(None, map(str.strip, text.split(";"))):
        match = _ONE.fullmatch(part)
        if match is None or (match["lasts"] and match["kind"] != "freeze"):
            raise ValueError(
                f"cannot read {part!r}; for example `kill every 20`, `freeze any at 30 for 5`, `cut 0 at 12`"
            )
        if match["every"]:
            at_s = random_.expovariate(1 / float(match["every"]))
            while at_s < seconds:
                failures.append(Failure(at_s, match["kind"], ANY))
                at_s += random_.expovariate(1 / float(match["every"]))
            continue
        who = {"any": ANY, "all": ALL}.get(match["who"])
        who = int(match["who"]) if who is None else who
        failures.append(Failure(float(match["at"]), match["kind"], who))
        if match["lasts"]:
            failures.append(Failure(float(match["at"]) + float(match["lasts"]), "thaw", who))
    return sorted(failures, key=lambda failure: failure.at_s)
