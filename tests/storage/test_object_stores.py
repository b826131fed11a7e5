"""One contract, held by a folder and by a bucket of a real S3-compatible server."""

import os
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from storage import s3_store
from storage.object_stores import (
    ABANDONED_S,
    FolderStore,
    ObjectMissing,
    ObjectStore,
    ObjectStoreAway,
    ObjectStoreDenied,
    S3Access,
    open_store,
    split_url,
)
from tests.storage.crash_disk import CrashDisk, Stopped
from tests.storage.s3_server import S3Server, s3_server


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as found:
        yield found


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "folder":
        return open_store(str(tmp_path / "objects"))
    server: S3Server = request.getfixturevalue("server")
    bucket = f"contract-{abs(hash(request.node.name)) % 10**9}"
    return open_store(f"{server.make_bucket(bucket)}/some/prefix", server.access)


def test_what_was_put_is_got_whole_and_in_part(store: ObjectStore) -> None:
    assert store.put_new("a/one", b"0123456789")
    assert store.get("a/one") == b"0123456789"
    assert store.size("a/one") == 10
    assert store.get_range("a/one", 0, 3) == b"012"
    assert store.get_range("a/one", 7, 99) == b"789"
    assert store.get_range("a/one", 4, 4) == store.get_range("a/one", 10, 12) == store.get_range("a/one", 50, 60) == b""


def test_the_first_of_a_name_stays(store: ObjectStore) -> None:
    assert store.put_new("one", b"first")
    assert not store.put_new("one", b"second")
    assert store.get("one") == b"first"


def test_of_many_writers_one_makes_the_object(store: ObjectStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: store.put_new("one", f"by {number}".encode()), range(8)))
    assert made.count(True) == 1
    assert store.get("one") == f"by {made.index(True)}".encode()


def test_replacing_is_seen_at_once(store: ObjectStore) -> None:
    store.replace("pointer", b"1")
    store.replace("pointer", b"22")
    assert (store.get("pointer"), store.size("pointer")) == (b"22", 2)


def test_an_empty_object_is_one(store: ObjectStore) -> None:
    assert store.put_new("empty", b"")
    assert (store.size("empty"), store.get("empty"), store.get_range("empty", 0, 5)) == (0, b"", b"")


def test_a_missing_object_is_missing_and_may_be_deleted(store: ObjectStore) -> None:
    store.put_new("a/one", b"1")
    for missing in ("two", "a", "a/one/more"):
        assert store.size(missing) is None
        with pytest.raises(ObjectMissing, match=f"no object {missing}"):
            store.get(missing)
        with pytest.raises(ObjectMissing):
            store.get_range(missing, 0, 1)
    store.delete("two")
    store.delete("a/one")
    assert store.size("a/one") is None
    assert store.put_new("a/one", b"again")


def test_a_list_has_exact_names_and_lengths_of_a_folder(store: ObjectStore) -> None:
    sizes = {"journal/2": 2, "journal/10": 10, "journal/deep/er": 3, "journals": 1, "x": 0}
    for name, size in sizes.items():
        store.put_new(name, bytes(size))
    assert {one.name: one.bytes for one in store.list()} == sizes
    assert [one.name for one in store.list("journal")] == ["journal/10", "journal/2", "journal/deep/er"]
    assert list(store.list("nothing")) == []
    assert all(one.modified_ms > 1_600_000_000_000 for one in store.list())


def test_a_file_goes_in_whole(store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_store, "ONE_REQUEST_BYTES", 6 << 20)
    monkeypatch.setattr(s3_store, "PART_BYTES", 5 << 20)
    for size in (0, 1000, 11_000_001):
        content = Random(size).randbytes(size)
        (tmp_path / "file").write_bytes(content)
        store.put_file(f"of/{size}", tmp_path / "file")
        assert store.size(f"of/{size}") == size
        assert store.get(f"of/{size}") == content


@pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "../a", "a/..", ".incoming/a", "a b", "a\n", "é", "x" * 513])
def test_what_is_no_name_is_refused(store: ObjectStore, name: str) -> None:
    for use in (store.get, store.size, store.delete, lambda bad: store.put_new(bad, b"")):
        with pytest.raises(ValueError, match="no name"):
            use(name)


@pytest.mark.parametrize(
    ("url", "wrong"),
    [("gs://bucket", "gs://"), ("s3://", "bucket"), ("s3://B", "bucket"), ("s3://bucket/a b", "prefix"),
     ("s3://bucket/../x", "prefix"), ("s3://id:key@bucket/x", "keys"), ("s3://bucket/x?y=1", "prefix")],
)  # fmt: skip
def test_what_is_no_place_is_refused(url: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        open_store(url)
    assert split_url("s3://bucket/a/b/") == ("bucket", "a/b")


def test_errors_say_where_and_never_a_key(server: S3Server) -> None:
    access = S3Access(server.endpoint, "us-east-1", "AKIDENTITY", "topsecret", "sessiontoken")
    nowhere = open_store("s3://not-there", access)
    with pytest.raises(ObjectStoreDenied, match="s3://not-there: PUT one: NoSuchBucket") as denied:
        nowhere.put_new("one", b"1")
    away = s3_store.S3Store("bucket", "", S3Access("http://127.0.0.1:9", "us-east-1", "AKIDENTITY", "topsecret"), retries=0)
    with pytest.raises(ObjectStoreAway, match="no answer") as unreachable:
        away.get("one")
    for error in (denied.value, unreachable.value):
        told = "".join(traceback.format_exception(error)) + repr(access) + repr(nowhere)
        assert "topsecret" not in told
        assert "sessiontoken" not in told


def test_a_folder_cut_anywhere_has_whole_objects_or_none(tmp_path: Path) -> None:
    """Each put that returned is there after a power cut; what did not return is whole or absent."""

    def work(home: Path, disk: CrashDisk, told: dict[str, bytes]) -> None:
        store = FolderStore(home / "objects", disk=disk)
        for name, data in (("a/one", b"1" * 50), ("two", b"22")):
            store.put_new(name, data)
            told[name] = data
        store.replace("two", b"new")
        told["two"] = b"new"
        store.delete("a/one")
        told["a/one"] = b""

    allowed = {"a/one": {b"1" * 50}, "two": {b"22", b"new"}}
    whole = None
    stop_at = 0
    while whole is None or stop_at <= whole:
        home = tmp_path / str(stop_at)
        (home / "objects/.incoming").mkdir(parents=True)
        disk, told = CrashDisk(stop_at), dict[str, bytes]()
        disk.adopt(home)
        try:
            work(home, disk, told)
            whole = len(disk.operations)
        except Stopped:
            pass
        for variant in range(3):
            left = tmp_path / f"{stop_at}-{variant}"
            disk.crash(home, left, Random(f"{stop_at} {variant}"))
            found = {one.name: (left / "objects" / one.name).read_bytes() for one in FolderStore(left / "objects").list()}
            assert all(data in allowed[name] for name, data in found.items()), "half an object"
            for name, data in told.items():
                if name == "a/one" and "two" in told and told["two"] == b"new":
                    continue  # its removal was begun, or done
                assert name in found, "told as durable and lost"
                assert found[name] == data or told["two"] == b"22"
            assert told.get("a/one") != b"" or "a/one" not in found, "deleted and there"
        stop_at += 1
    assert whole > 15


def test_what_a_killed_writer_left_is_swept_and_what_is_on_its_way_is_not(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.put_new("one", b"1")
    incoming = tmp_path / ".incoming"
    left, on_its_way = incoming / "0123456789abcdef", incoming / "fedcba9876543210"
    for path in (left, on_its_way):
        path.write_bytes(b"half")
    long_ago = left.stat().st_mtime - 2 * ABANDONED_S
    os.utime(left, (long_ago, long_ago))
    os.utime(tmp_path / "one", (long_ago, long_ago))
    again = FolderStore(tmp_path)
    assert [path.name for path in incoming.iterdir()] == [on_its_way.name]
    assert again.get("one") == b"1"
