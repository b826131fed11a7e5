"""Events of batches, refused transfers, corrections and closed periods become state; called by market/reducer.py alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from market.events import Event
from market.state import CorrectionRecord, PeriodRecord, State
from storage.canonical import digest_of
from storage.ledger import Status, Transfer


def _transfers(state: State, event: Event, at_ms: int) -> None:
    state.ledger.book(event["batch"], at_ms)


def _transfer_refused(state: State, event: Event, at_ms: int) -> None:
    fields = {name: value for name, value in event.items() if name not in ("type", "status")}
    state.ledger.refuse(Transfer(**fields), Status(event["status"]), at_ms)


def _transfer_corrected(state: State, event: Event, at_ms: int) -> None:
    made = CorrectionRecord(event["transfer"], event["amount_nanos"], event["reason"], event["by"])
    state.corrections[event["id"]] = made
    state.corrected[made.transfer] = state.corrected.get(made.transfer, 0) + made.amount_nanos


def _period_closed(state: State, event: Event, at_ms: int) -> None:
    state.periods.append(
        PeriodRecord(
            event["number"], event["from_ms"], event["through_ms"], event["transfers"], digest_of(event["balances"]), at_ms, event["by"]
        )
    )
    state.ledger.closed_ms = event["through_ms"]


BOOK_HANDLERS: Final[Mapping[str, Callable[[State, Event, int], Any]]] = {
    "transfers": _transfers,
    "transfer_refused": _transfer_refused,
    "transfer_corrected": _transfer_corrected,
    "period_closed": _period_closed,
}
