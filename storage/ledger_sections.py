"""A ledger with its history as bytes, for snapshots."""

from typing import Final

from storage.ledger import Ledger

LEDGER_FORMAT: Final = 3


def write_ledger(ledger: Ledger) -> bytes:
    """Its columns (storage/ledger_bytes.py)."""
    return ledger.to_bytes()


def read_ledger(data: bytes | memoryview) -> Ledger:
    """The ledger that `write_ledger` wrote."""
    return Ledger.from_bytes(data)
