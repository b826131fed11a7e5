"""How outlooks come true: of some jobs, what a plan said at submission of when they would begin and be done, and what came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from market.simulation.records import DONE, GAVE_UP, UNFINISHED, JobRecord

Json = dict[str, Any]
GAVE_UP_FIRST = "gave_up_first"


def calibration(told: Mapping[str, Json], records: Mapping[str, JobRecord], clear_ms: int) -> Json:
    """{begins: by basis, done}, each {jobs, within, sooner, later, gave_up, gave_up_first, within_share, within_share_of_all}.

    `told` is by job what `market/outlook.py` said. Of a job that gave up before the end of what was said nobody knows: it is not
    in `within_share`; after that end it is `later`. `within_share_of_all` counts it as far as it is known: who gave up after the low
    end (those before it are `gave_up_first`) did not begin sooner; of whoever did not, as many begin within as of those of whom it is known. Who was told `now` begins at the next clearing, so within `clear_ms`. Jobs that
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
        if waited_ms > said["high_ms"] + clear_ms:
            return "later"
        return GAVE_UP if waited_ms >= said["low_ms"] else GAVE_UP_FIRST
    if ms < said["low_ms"]:
        return "sooner"
    return "within" if ms <= said["high_ms"] + clear_ms else "later"


def _counted(came: list[str]) -> Json:
    counts = {name: came.count(name) for name in ("within", "sooner", "later", GAVE_UP, GAVE_UP_FIRST)}
    first = counts.pop(GAVE_UP_FIRST)
    counts[GAVE_UP] += first
    told, ended = len(came), counts["within"] + counts["later"]
    known = told - counts[GAVE_UP]
    share = None
    if told > first and ended:
        waited = 1 - counts["sooner"] / (told - first)  # of those who stayed until the low end
        share = round(waited * counts["within"] / ended, 4)
    within = round(counts["within"] / known, 4) if known else None
    return {"jobs": told, **counts, GAVE_UP_FIRST: first, "within_share": within, "within_share_of_all": share}
