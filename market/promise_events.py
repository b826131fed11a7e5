"""Events of bids that have outbid others become state: called by the reducer alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from market.events import Event
from market.state import State


def _outbid(state: State, event: Event, at_ms: int) -> None:
    job = state.jobs[event["job"]]
    assert job.promise is None, f"{job.id} has outbid others already"
    job.promise = {name: value for name, value in event.items() if name not in ("type", "job")} | {"at_ms": at_ms}
    state.promised_jobs[job.id] = None
    for name in event["offers"]:
        offer = state.offers[name]
        offer.promised[job.id] = offer.promised.get(job.id, 0) + event["gpus"]
        state.touched[name] = None
    job.version += 1


def _promise_ended(state: State, event: Event, at_ms: int) -> None:
    job = state.jobs[event["job"]]
    assert job.promise is not None, f"{job.id} waits for nobody to leave"
    for name in dict.fromkeys(job.promise["offers"]):
        state.offers[name].promised.pop(job.id, None)
        state.touched[name] = None
    job.promise = None
    del state.promised_jobs[job.id]
    job.version += 1


def _spot_cleared(state: State, event: Event, at_ms: int) -> None:
    for one in event["unmatched"]:
        state.jobs[one["job"]].unmatched = one


PROMISE_HANDLERS: Final[Mapping[str, Callable[[State, Event, int], Any]]] = {
    "outbid": _outbid,
    "promise_ended": _promise_ended,
    "spot_cleared": _spot_cleared,
}
