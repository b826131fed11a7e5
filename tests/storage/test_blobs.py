"""Bytes go in once, come out as they were, and a half of them is never taken for the whole."""

import hashlib
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.blob_ram import BlobRam
from storage.blobs import (
    BlobDamaged,
    BlobMissing,
    BlobOffsetWrong,
    BlobStore,
    BlobStoreFull,
    BlobTooLarge,
    Upload,
)
from storage.bucket_blobs import BucketBlobs
from storage.disk import Disk
from storage.object_stores import FolderStore
from tests.storage.crash_disk import CrashDisk, Stopped


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(params=["folder", "ram", "bucket", "bucket with ram"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    """One contract for all, with a tier in RAM before them or without."""
    ram = BlobRam(8 << 20 if request.param.endswith("ram") else 0)
    if request.param.startswith("bucket"):
        return BucketBlobs(tmp_path / "blobs", FolderStore(tmp_path / "objects"), ram=ram)
    return BlobStore(tmp_path / "blobs", ram=ram)


@contextmanager
def small_disk() -> Iterator[None]:
    """The file size limit of the process stands for a full disk; never while pytest prints, perhaps into a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_was_put_is_read(store: BlobStore) -> None:
    assert store.put(b"bytes") == digest(b"bytes")
    assert store.put(b"bytes") == digest(b"bytes")
    assert store.put(b"other bytes") == digest(b"other bytes")
    assert store.read(digest(b"bytes")) == b"bytes"
    assert store.size(digest(b"other bytes")) == 11
    assert set(store.digests()) == {digest(b"bytes"), digest(b"other bytes")}
    assert not list((store.folder / "temporary").iterdir())


def test_damage_is_found(store: BlobStore) -> None:
    name = store.put(b"bytes")
    assert store.verify(name)
    Path(store.where(name)).write_bytes(b"bytez")
    assert not store.verify(name), "whatever is in RAM"
    if store.ram.limit_bytes:
        assert store.read(name) == b"bytes"
        store.ram.drop(name)
        with store.open(name) as file:
            assert file.read() == b"bytez", "who reads a stream looks at the digest"
    with pytest.raises(BlobDamaged):
        store.read(name)


def test_a_missing_blob_and_a_name_that_is_no_digest(store: BlobStore) -> None:
    with pytest.raises(BlobMissing):
        store.read("0" * 64)
    assert store.size("0" * 64) is None
    assert not store.delete("0" * 64)
    for name in ("", "../../etc/passwd", "A" * 64, "0" * 63):
        with pytest.raises(ValueError, match="SHA-256"):
            store.path(name)


def test_a_deleted_blob_is_gone(store: BlobStore) -> None:
    name = store.put(b"x")
    assert store.delete(name)
    assert name not in store


@given(data=st.binary(min_size=1, max_size=200), cuts=st.lists(st.integers(0, 200), max_size=5))
@settings(deadline=None)
def test_an_upload_in_any_pieces_is_whole_in_the_end(tmp_path_factory, data, cuts) -> None:
    store = BlobStore(tmp_path_factory.mktemp("blobs"))
    name, total = digest(data), len(data)
    for cut in sorted(min(cut, total) for cut in cuts):
        # each piece overlaps what was already taken, as a retry does
        begin = max(0, store.partial(name) - 3)
        store.upload(name, begin, total, data[begin:cut] if cut > begin else b"")
        if cut < total:
            assert name not in store
            assert store.partial(name) == cut
        store = BlobStore(store.folder)
    assert store.upload(name, store.partial(name), total, data[store.partial(name) :]) == Upload(total, True)
    assert store.read(name) == data
    assert store.partial(name) == 0


def test_a_gap_is_refused_and_told_where_to_go_on(store: BlobStore) -> None:
    name = digest(b"0123456789")
    store.upload(name, 0, 10, b"012")
    with pytest.raises(BlobOffsetWrong) as refused:
        store.upload(name, 5, 10, b"56789")
    assert refused.value.expected == 3


def test_other_bytes_than_promised_are_refused_and_forgotten(store: BlobStore) -> None:
    name = digest(b"good")
    with pytest.raises(BlobDamaged):
        store.upload(name, 0, 4, b"evil")
    assert name not in store
    assert store.partial(name) == 0
    assert store.upload(name, 0, 4, b"good").whole


def test_size_limits(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, max_blob_bytes=10)
    with pytest.raises(BlobTooLarge):
        store.put(b"x" * 11)
    with pytest.raises(BlobTooLarge):
        store.upload("0" * 64, 0, 11, b"x")
    with pytest.raises(BlobTooLarge):
        store.upload("0" * 64, 5, 10, b"x" * 6)


def test_a_full_disk_leaves_nothing_that_looks_whole(store: BlobStore) -> None:
    data = os.urandom(3000)
    with small_disk(), pytest.raises(BlobStoreFull):
        store.put(data)
    assert list(store.digests()) == []
    assert not list((store.folder / "temporary").iterdir())
    with small_disk(), pytest.raises(BlobStoreFull):
        store.upload(digest(data), 0, 3000, data)
    assert 0 <= store.partial(digest(data)) <= 1000
    assert digest(data) not in store


def test_an_upload_goes_on_after_the_disk_has_room_again(store: BlobStore) -> None:
    data = os.urandom(3000)
    with small_disk(), pytest.raises(BlobStoreFull):
        store.upload(digest(data), 0, 3000, data)
    stands = store.partial(digest(data))
    assert store.upload(digest(data), stands, 3000, data[stands:]).whole
    assert store.read(digest(data)) == data


def test_an_upload_whose_sync_failed_begins_again(tmp_path: Path) -> None:
    class Failing(Disk):
        fails = True

        def sync(self, handle: int) -> None:
            if self.fails:
                raise OSError(5, "Input/output error")
            super().sync(handle)

    disk = Failing()
    store, data = BlobStore(tmp_path, disk=disk), b"x" * 100
    store.upload(digest(data), 0, 100, data[:60])
    with pytest.raises(OSError, match="Input/output"):
        store.upload(digest(data), 60, 100, data[60:])
    disk.fails = False
    assert store.partial(digest(data)) == 0, "nobody knows what of it is on the disk"
    assert store.upload(digest(data), 0, 100, data).whole


def test_leftovers_of_a_dead_writer_are_cleaned(store: BlobStore) -> None:
    (store.folder / "temporary" / "left").write_bytes(b"x")
    assert store.clean() == 1
    assert store.clean() == 0


def test_what_is_said_to_be_there_outlasts_a_power_cut_whoever_has_written_it(tmp_path: Path) -> None:
    """A writer dies before each of its operations; the next owner looks, and then the power fails."""
    data, told, whole = b"bytes" * 100, [], len(operations_of_a_put(tmp_path / "whole", b"bytes" * 100))
    for stop_at in range(whole + 1):
        live, disk = tmp_path / f"live-{stop_at}", CrashDisk(stop_at)
        with suppress(Stopped):
            BlobStore(live, disk=disk).put(data)
        disk.stop_at = None
        heir = BlobStore(live, disk=disk)
        heir.clean()
        if digest(data) not in heir:
            continue
        told.append(stop_at)
        for seed in range(12):
            left = tmp_path / f"left-{stop_at}-{seed}"
            disk.crash(live, left, Random(seed))
            assert BlobStore(left).read(digest(data)) == data
    assert min(told) < whole, "none died between the rename and the sync of its folder"
    assert len(told) <= whole


def operations_of_a_put(folder: Path, data: bytes) -> list[str]:
    disk = CrashDisk()
    BlobStore(folder, disk=disk).put(data)
    return disk.operations


def test_a_blob_is_not_there_before_its_name_is_durable(tmp_path: Path) -> None:
    seen: list[bool] = []

    class Watched(Disk):
        def sync_folder(self, folder: Path) -> None:
            if (folder / name).exists():
                seen.append(name in store)
            super().sync_folder(folder)

    data = b"bytes"
    name, store = digest(data), BlobStore(tmp_path, disk=Watched())
    for write in (
        lambda: store.put(data), lambda: store.put_all([(name, [data])]), lambda: store.upload(name, 0, len(data), data),
    ):  # fmt: skip
        write()
        assert name in store
        store.delete(name)
    assert seen == [False] * 3
