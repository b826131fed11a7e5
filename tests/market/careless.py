"""Faults of our own, put into the writers of a torture from outside: each must be found."""

import storage.journal
from market.torture.deadly_disk import DeadlyDisk
from storage.blobs import BlobStore
from storage.ledger import Ledger


def acknowledge_before_sync() -> None:
    """The journal's data are never synced; everything else is as it should be."""
    DeadlyDisk.sync_data = lambda self, handle: None  # type: ignore[method-assign]


def skip_the_chain() -> None:
    """Every record says that it follows on nothing."""
    storage.journal.chain = lambda before, number, payload: bytes(32)  # type: ignore[attr-defined]


def book_again() -> None:
    """An id that was booked is booked again."""
    real = Ledger.check

    def check(self: Ledger, transfer: object, at_ms: int | None = None) -> object:
        table = self._ids._recent
        if (number := table.number(transfer.id)) is not None:  # type: ignore[attr-defined]
            table._hashes[number - 1] ^= 1
        return real(self, transfer, at_ms)  # type: ignore[arg-type]

    Ledger.check = check  # type: ignore[method-assign, assignment]


def forget_the_folder() -> None:
    """A blob's name is promised before it is durable."""
    adopt = BlobStore._adopt

    def careless(self: BlobStore, temporary, digest) -> None:  # type: ignore[no-untyped-def]
        real, self._disk.sync_folder = self._disk.sync_folder, lambda folder: None  # type: ignore[method-assign]
        adopt(self, temporary, digest)
        self._disk.sync_folder = real  # type: ignore[method-assign]

    BlobStore._adopt = careless  # type: ignore[method-assign]
