"""Faults of our own, put into the writers of a torture from outside: each must be found."""

from collections.abc import Callable

import storage.journal
from market.torture.deadly_disk import DeadlyDisk
from storage.blobs import BlobStore
from storage.ledger import Ledger, Transfer


def acknowledge_before_sync() -> None:
    """The journal's data are never synced; everything else is as it should be."""
    DeadlyDisk.sync_data = lambda self, handle: None  # type: ignore[method-assign]


def skip_the_chain() -> None:
    """Every record says that it follows on nothing."""
    storage.journal.chain = lambda before, number, payload: bytes(32)  # type: ignore[attr-defined]


def book_again() -> None:
    """An id that was booked is booked again."""


    def forgetting(real: Callable[..., object]) -> Callable[..., object]:
        def asked(self: Ledger, transfer: Transfer, *others: object) -> object:
            table = self._ids._recent
            if (number := table.number(transfer.id)) is not None:
                table._hashes[number - 1] ^= 1
            return real(self, transfer, *others)

        return asked

    for name in ("check", "book_new"):
        setattr(Ledger, name, forgetting(getattr(Ledger, name)))


def forget_the_folder() -> None:
    """A blob's name is promised before it is durable."""
    adopt = BlobStore._adopt

    def careless(self: BlobStore, temporary, digest) -> None:  # type: ignore[no-untyped-def]
        real, self._disk.sync_folder = self._disk.sync_folder, lambda folder: None  # type: ignore[method-assign]
        adopt(self, temporary, digest)
        self._disk.sync_folder = real  # type: ignore[method-assign]

    BlobStore._adopt = careless  # type: ignore[method-assign]
