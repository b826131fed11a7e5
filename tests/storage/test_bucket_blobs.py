"""Blobs in a bucket keep what the folder promises: once, whole, checked, and durable before anybody is told."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.blob_checks import check_blobs
from storage.blobs import BlobDamaged, BlobError, BlobMissing, BlobsAway, BlobStoreFull
from storage.bucket_blobs import BucketBlobs, PlaceError, claimed, new_place, open_blobs, read_place
from storage.journal import Journal
from storage.object_stores import FolderStore, ObjectStoreAway, ObjectStoreFull, S3Access
from tests.storage.s3_server import S3Server, s3_server
from tests.storage.test_backups import OPENED, record


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as found:
        yield found


@pytest.fixture(params=["folder", "bucket"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> object:
    if request.param == "folder":
        return FolderStore(tmp_path / "objects")
    server: S3Server = request.getfixturevalue("server")
    url = server.make_bucket(f"blobs-{abs(hash(request.node.name)) % 10**9}")
    return claimed(new_place(f"{url}/market", server.access))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_blobs_go_in_and_come_out_also_after_a_restart(objects: FolderStore, tmp_path: Path) -> None:
    store = BucketBlobs(tmp_path / "blobs", objects)
    large = os.urandom(3_000_000)
    name = digest(large)
    assert not store.upload(name, 0, len(large), large[:1_000_000]).whole
    store = BucketBlobs(tmp_path / "blobs", objects)
    assert store.partial(name) == 1_000_000
    assert store.upload(name, 1_000_000, len(large), large[1_000_000:]).whole
    assert store.partial(name) == 0
    small = store.put(b"small")
    assert store.put(b"small") == small
    for each in (store, BucketBlobs(tmp_path / "blobs", objects)):
        assert each.sizes() == {name: len(large), small: 5}
        assert (each.read(small), each.read(name)) == (b"small", large)
        with each.open(name) as file:
            file.seek(2_999_990)
            assert file.read(100) == large[-10:]
        assert each.verify(name)
    assert store.delete(small)
    assert not store.delete(small)
    with pytest.raises(BlobMissing):
        store.open(small)
    assert list(BucketBlobs(tmp_path / "blobs", objects).digests()) == [name]


def test_other_bytes_than_promised_never_reach_the_bucket(objects: FolderStore, tmp_path: Path) -> None:
    store = BucketBlobs(tmp_path / "blobs", objects)
    with pytest.raises(BlobDamaged):
        store.upload(digest(b"good"), 0, 4, b"evil")
    assert store.sizes() == {}
    assert store.put_all([(digest(b"good"), [b"evil"]), (digest(b"best"), [b"be", b"st"])]) == [digest(b"good")]
    assert store.sizes() == {digest(b"best"): 4}
    assert store.read(digest(b"best")) == b"best"
    assert store.upload(digest(b"good"), 0, 4, b"good").whole
    assert store.delete_all([digest(b"good"), digest(b"best"), digest(b"none")]) == 2
    assert BucketBlobs(tmp_path / "blobs", objects).sizes() == {}


def test_a_flipped_byte_is_found_and_its_object_named(objects: FolderStore, tmp_path: Path) -> None:
    with Journal.open(tmp_path / "journal") as journal:
        journal.append([record(OPENED)])
    store = BucketBlobs(tmp_path / "blobs", objects)
    name = store.put(b"content")
    objects.replace(f"{name[:2]}/{name}", b"cantent")
    fresh = BucketBlobs(tmp_path / "blobs", objects)
    assert check_blobs(fresh, tmp_path / "journal").damaged == (f"{objects.where}/{name[:2]}/{name}",)
    with pytest.raises(BlobDamaged):
        fresh.read(name)


class Failing(FolderStore):
    error: Exception | None = None

    def put_file(self, name: str, path: Path) -> None:
        if self.error is not None:
            raise self.error
        super().put_file(name, path)


@pytest.mark.parametrize(("error", "told"), [(ObjectStoreAway("s3://b: no answer"), BlobsAway), (ObjectStoreFull("full"), BlobStoreFull)])
def test_a_bucket_that_fails_is_told_and_the_upload_begins_again(tmp_path: Path, error: Exception, told: type[BlobError]) -> None:
    objects = Failing(tmp_path / "objects")
    store = BucketBlobs(tmp_path / "blobs", objects)
    objects.error = error
    with pytest.raises(told):
        store.upload(digest(b"1234"), 0, 4, b"1234")
    assert digest(b"1234") not in store
    assert store.partial(digest(b"1234")) == 0
    objects.error = None
    assert store.upload(digest(b"1234"), 0, 4, b"1234").whole


def test_one_bucket_has_one_market(server: S3Server, tmp_path: Path) -> None:
    url = server.make_bucket("owned")
    ours = new_place(url, server.access)
    claimed(ours)
    claimed(ours)
    with pytest.raises(BlobError, match="another market"):
        claimed(new_place(url, server.access))
    with pytest.raises(BlobsAway, match="NoSuchBucket"):
        claimed(new_place("s3://not-there", server.access))


def test_a_home_says_where_its_blobs_are(server: S3Server, tmp_path: Path) -> None:
    assert read_place(tmp_path) is None
    place = new_place(f"{server.make_bucket('home')}/m/", server.access)
    path = tmp_path / "blobs.json"
    path.write_text(json.dumps(place.to_json()))
    path.chmod(0o644)
    with pytest.raises(PlaceError, match="chmod 600") as told:
        read_place(tmp_path)
    assert "a-secret" not in str(told.value)
    path.chmod(0o600)
    assert read_place(tmp_path) == place
    name = open_blobs(tmp_path).put(b"1")
    assert open_blobs(tmp_path).read(name) == b"1"
    for wrong in ("[]", "{}", '{"url": "s3://b", "owner": 1}', '{"url": "x", "owner": "o"}', '{"url": "s3://bucket", "owner": "o", "more": "x"}'):
        path.write_text(wrong)
        with pytest.raises(PlaceError, match="does not say where"):
            read_place(tmp_path)


def test_access_that_is_said_travels_and_the_rest_is_left_to_the_environment() -> None:
    place = new_place("s3://bucket", S3Access(endpoint="https://s3.example.org"))
    assert set(place.to_json()) == {"url", "owner", "endpoint"}
