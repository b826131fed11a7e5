"""The tier in RAM before blobs: bounded, last used stays, and never the only copy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from storage.blob_ram import BUCKET_BYTES, BlobRam, RamError, ram_bytes, say_ram_bytes
from storage.blobs import BlobMissing, BlobStore, BlobStoreFull
from storage.bucket_blobs import BucketBlobs, open_blobs
from storage.disk import Disk
from storage.object_stores import FolderStore


def test_what_was_used_last_stays_and_no_blob_takes_it_all() -> None:
    ram = BlobRam(800)
    for name in "abcdefgh":
        ram.keep(name, name.encode() * 100)
    assert ram.get("a") == b"a" * 100
    ram.keep("i", bytes(100))
    assert [ram.get(name) is None for name in "abci"] == [False, True, False, False]
    ram.keep("large", bytes(101))
    assert ram.get("large") is None
    assert (ram.kept_bytes, ram.hits, ram.misses, ram.hit_bytes) == (800, 4, 2, 400)
    ram.drop("a")
    ram.drop("a")
    assert (ram.get("a"), ram.kept_bytes) == (None, 700)
    nothing = BlobRam(0)
    nothing.keep("a", b"a")
    assert (nothing.get("a"), nothing.hits, nothing.misses) == (None, 0, 0)


def test_a_second_read_does_not_ask_the_store(tmp_path: Path) -> None:
    asked: list[str] = []

    class Counting(FolderStore):
        def get(self, name: str) -> bytes:
            asked.append(name)
            return super().get(name)

    store = BucketBlobs(tmp_path / "blobs", Counting(tmp_path / "objects"))
    data = os.urandom(300_000)
    name = store.put(data)
    again = BucketBlobs(tmp_path / "blobs", Counting(tmp_path / "objects"))  # as after a restart: nothing is in RAM
    for _ in range(3):
        with again.open(name) as file:
            file.seek(299_990)
            assert file.read(100) == data[-10:]
        assert again.read(name) == data
    assert len(asked) == 1
    assert (again.ram.hits, again.ram.misses, again.ram.kept_bytes) == (5, 1, 300_000)


def test_nothing_is_told_as_durable_that_the_store_does_not_have(tmp_path: Path) -> None:
    class Full(Disk):
        def rename(self, old: Path, new: Path) -> None:
            raise OSError(28, "No space left on device")

    store = BlobStore(tmp_path / "blobs", disk=Full(), ram=BlobRam(1 << 20))
    with pytest.raises(BlobStoreFull):
        store.put(b"bytes")
    assert store.ram.kept_bytes == 0
    store = BlobStore(tmp_path / "blobs", ram=BlobRam(1 << 20))
    name = store.put(b"bytes")
    store.path(name).unlink()
    assert name not in store, "whether it is there is asked of the store"
    assert store.put(b"bytes") == name
    assert store.path(name).read_bytes() == b"bytes", "and written again"
    assert store.delete(name)
    with pytest.raises(BlobMissing):
        store.read(name)


def test_the_size_is_the_operators_word_kept_in_the_home(tmp_path: Path) -> None:
    assert ram_bytes(tmp_path) is None
    assert open_blobs(tmp_path).ram.limit_bytes == 0
    assert BucketBlobs(tmp_path / "blobs", FolderStore(tmp_path / "objects")).ram.limit_bytes == BUCKET_BYTES
    say_ram_bytes(tmp_path, 3 << 20)
    assert open_blobs(tmp_path).ram.limit_bytes == ram_bytes(tmp_path) == 3 << 20
    for wrong in ("[]", "{}", '{"bytes": -1}', '{"bytes": "3"}', '{"bytes": true}'):
        (tmp_path / "blob_ram.json").write_text(wrong)
        with pytest.raises(RamError, match=r"blob_ram\.json"):
            ram_bytes(tmp_path)
