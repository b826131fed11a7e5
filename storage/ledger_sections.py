"""A ledger with its history as bytes, for snapshots: its transfers in order, booked again when they are read."""

import json
from typing import Final

from storage.ledger import Ledger, Status, Transfer

LEDGER_FORMAT: Final = 1
_TEXTS: Final = ("id", "kind", "debit", "credit", "job", "lease")


def write_ledger(ledger: Ledger) -> bytes:
    """Every transfer as columns of JSON; a text that comes again is written once."""
    booked = sorted(
        ((entry.number, entry.at_ms, entry.transfer) for account in ledger.balances()
         for entry in ledger.entries(account) if entry.amount_nanos < 0),
        key=lambda one: one[0],
    )  # fmt: skip
    assert len(booked) == len(ledger), "every transfer is one debit"
    columns: dict[str, object] = {
        "at_ms": [at_ms for _, at_ms, _ in booked],
        "amount_nanos": [transfer.amount_nanos for _, _, transfer in booked],
    }
    for name in _TEXTS:
        places: dict[str | None, int] = {}
        column = [places.setdefault(getattr(transfer, name), len(places)) for _, _, transfer in booked]
        columns[name] = [list(places), column]
    return json.dumps(columns, separators=(",", ":"), ensure_ascii=False).encode()


def read_ledger(data: bytes | memoryview) -> Ledger:
    """The ledger that `write_ledger` wrote."""
    columns = json.loads(bytes(data))
    texts = {name: [columns[name][0][place] for place in columns[name][1]] for name in _TEXTS}
    ledger = Ledger()
    for id, kind, debit, credit, amount, job, lease, at_ms in zip(
        texts["id"], texts["kind"], texts["debit"], texts["credit"], columns["amount_nanos"], texts["job"],
        texts["lease"], columns["at_ms"], strict=True,
    ):  # fmt: skip
        status = ledger.apply(Transfer(id, kind, debit, credit, amount, job, lease), at_ms)
        assert status is Status.CREATED, f"{id}: {status}"
    return ledger
