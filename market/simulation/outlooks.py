"""How outlooks come true: of some jobs, what a plan said at submission of when they would begin and be done, and what came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from market.simulation.records import DONE, GAVE_UP, UNFINISHED, JobRecord

Json = dict[str, Any]


def calibration(told: Mapping[str, Json], records: Mapping[str, JobRecord], clear_ms: int) -> Json:
    """{begins: by basis, done}, each {jobs, within, sooner, later, gave_up, within_share}.

    `told` is by job what `market/outlook.py` said. Of a job that gave up before the end of what was said nobody knows: it is not
    in the share; after that end it is `later`. Who was told `now` begins at the next clearing, so within `clear_ms`. Jobs that
    were open when the simulation ended are not counted, nor are those to whom nothing was said.
    """
    begins: dict[str, list[str]] = {}
    done: list[str] = []
    for name, outlook in told.items():
        one = records[name]
        if one.state == UNFINISHED:
            continue
        if outlook["begins"] is not None:
            begins.setdefault(outlook["begins"]["basis"], []).append(_came(outlook["begins"], one, one.wait_ms, clear_ms))
        if outlook["done"] is not None:
            took_ms = None if one.state != DONE or one.ended_ms is None else one.ended_ms - one.job.submitted_ms
            done.append(_came(outlook["done"], one, took_ms, clear_ms))
    return {"begins": {basis: _counted(came) for basis, came in sorted(begins.items())}, "done": _counted(done)}


def _came(said: Json, one: JobRecord, ms: int | None, clear_ms: int) -> str:
    if ms is None:  # it gave up: what was said may still have come true, or is known to be too early
        waited_ms = (one.ended_ms or 0) - one.job.submitted_ms
        return "later" if waited_ms > said["high_ms"] + clear_ms else GAVE_UP
    if ms < said["low_ms"]:
        return "sooner"
    return "within" if ms <= said["high_ms"] + clear_ms else "later"


def _counted(came: list[str]) -> Json:
    counts = {name: came.count(name) for name in ("within", "sooner", "later", GAVE_UP)}
    known = len(came) - counts[GAVE_UP]
    return {"jobs": len(came), **counts, "within_share": round(counts["within"] / known, 4) if known else None}
