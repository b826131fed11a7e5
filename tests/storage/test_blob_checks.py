"""A byte flipped in any blob is found and its file named; what a kept manifest lacks is named by its digest."""

from pathlib import Path
from random import Random

from storage.blob_checks import check_blobs
from storage.blobs import BlobStore
from storage.journal import Journal
from tests.storage.test_backups import home, left, record

__all__ = ["home"]


def test_a_byte_flipped_anywhere_is_found_and_its_file_named(home: Path) -> None:
    store = BlobStore(home / "blobs")
    whole = check_blobs(store, home / "journal")
    assert whole.ok
    assert (whole.blobs, whole.bytes) == (6, sum(store.sizes().values()))
    random = Random(1)
    for digest in store.digests():
        path = store.path(digest)
        content = path.read_bytes()
        flipped = bytearray(content)
        flipped[random.randrange(len(content))] ^= 1 << random.randrange(8)
        path.write_bytes(flipped)
        found = check_blobs(store, home / "journal")
        assert found.damaged == (str(path),)
        assert not found.ok
        path.write_bytes(content)
    assert check_blobs(store, home / "journal").ok


def test_what_a_kept_manifest_names_and_is_not_there_is_missing(home: Path) -> None:
    store = BlobStore(home / "blobs")
    file = next(digest for digest in store.digests() if store.read(digest) == b"a file that a command left")
    store.delete(file)
    assert check_blobs(store, home / "journal").missing == (file,)
    manifest = next(digest for digest in store.digests() if b"out.txt" in store.read(digest))
    store.delete(manifest)
    assert check_blobs(store, home / "journal").missing == (manifest,)


def test_a_manifest_that_is_none_is_named(home: Path) -> None:
    store = BlobStore(home / "blobs")
    other = store.put(b"no manifest")
    with Journal.open(home / "journal") as journal:
        journal.append([record(left(other))])
    (told,) = check_blobs(store, home / "journal").unreadable
    assert told.startswith(f"{store.path(other)}: ")


def test_what_is_removed_during_the_check_is_not_called_missing(home: Path) -> None:
    """A blob goes after the record that says so, which the check then reads."""
    store = BlobStore(home / "blobs")
    manifest = next(digest for digest in store.digests() if b"out.txt" in store.read(digest))
    kept = {"type": "checkpoint_durable", "job": "k", "manifest": manifest, "removed": []}
    with Journal.open(home / "journal") as journal:
        journal.append([record(kept)])

        def remove(done: int, total: int) -> None:
            if done == total and lost in store:
                store.delete(lost)
                journal.append([record({**kept, "manifest": manifest, "removed": [lost]})])

        lost = store.put(b"the base of before")
        journal.append([record({**kept, "manifest": lost})])
        found = check_blobs(store, home / "journal", remove)
    assert lost not in found.missing
