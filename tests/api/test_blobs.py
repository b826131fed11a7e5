"""Bytes up and down: resumed, checked, limited."""

import asyncio
import hashlib
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from market.api.limits import BLOB_BYTES
from market.api.problems import Problem
from market.api.shelf import Piece, Shelf
from market.blob_frames import Framed, framed
from storage.blobs import BlobStore
from storage.saved import Block, Saved, SavedFile
from tests.api.square import Square, refusal

MIB = 1024 * 1024


@pytest.fixture
def http(square: Square) -> httpx2.Client:
    headers = {"Authorization": f"Bearer {square.home.read_keys()['customer']}"}
    with httpx2.Client(base_url=square.url, headers=headers, timeout=30) as client:
        yield client  # type: ignore[misc]


def put(http: httpx2.Client, digest: str, data: bytes, first: int, total: int) -> httpx2.Response:
    content_range = f"bytes {first}-{first + len(data) - 1}/{total}"
    return http.put(f"/v1/blobs/{digest}", content=data, headers={"Content-Range": content_range})


def test_an_upload_goes_on_where_it_was_cut(http: httpx2.Client) -> None:
    data = os.urandom(3 * MIB + 17)
    digest = hashlib.sha256(data).hexdigest()
    assert http.head(f"/v1/blobs/{digest}").headers["Upload-Offset"] == "0"
    assert put(http, digest, data[:MIB], 0, len(data)).status_code == 202
    assert http.head(f"/v1/blobs/{digest}").headers["Upload-Offset"] == str(MIB)
    gap = put(http, digest, data[2 * MIB :], 2 * MIB, len(data))
    assert (gap.status_code, gap.json()["code"], gap.headers["Upload-Offset"]) == (409, "offset_wrong", str(MIB))
    done = put(http, digest, data[MIB:], MIB, len(data))
    assert (done.status_code, done.json()["whole"]) == (201, True)
    assert put(http, digest, data[:5], 0, len(data)).status_code == 200
    head = http.head(f"/v1/blobs/{digest}")
    assert (head.status_code, head.headers["Content-Length"]) == (200, str(len(data)))
    assert http.get(f"/v1/blobs/{digest}").content == data
    part = http.get(f"/v1/blobs/{digest}", headers={"Range": f"bytes={MIB}-{MIB + 9}"})
    assert (part.status_code, part.content) == (206, data[MIB : MIB + 10])
    assert part.headers["Content-Range"] == f"bytes {MIB}-{MIB + 9}/{len(data)}"
    past = http.get(f"/v1/blobs/{digest}", headers={"Range": f"bytes={len(data)}-"})
    assert (past.status_code, past.json()["code"]) == (416, "range_past_end")


def test_other_bytes_than_the_digest_says_are_not_kept(http: httpx2.Client) -> None:
    data = os.urandom(100_000)
    digest = hashlib.sha256(data).hexdigest()
    assert put(http, digest, data[:50_000], 0, len(data)).status_code == 202
    wrong = put(http, digest, bytes(50_000), 50_000, len(data))
    assert (wrong.status_code, wrong.json()["code"]) == (422, "digest_wrong")
    head = http.head(f"/v1/blobs/{digest}")
    assert (head.status_code, head.headers["Upload-Offset"]) == (404, "0"), "the upload starts again"
    assert http.put(f"/v1/blobs/{digest}", content=data).status_code == 201


def together(*contents: bytes) -> list[tuple[str, bytes]]:
    return [(hashlib.sha256(content).hexdigest(), content) for content in contents]


@contextmanager
def begun(square: Square, length: int) -> Iterator[socket.socket]:
    """A connection over which the head of a body of blobs was sent."""
    where, key = urlsplit(square.url), square.home.read_keys()["customer"]
    with socket.create_connection((where.hostname or "", where.port or 80)) as connection:
        head = f"POST /v1/blobs HTTP/1.1\r\nHost: market\r\nAuthorization: Bearer {key}\r\nContent-Length: {length}\r\n\r\n"
        connection.sendall(head.encode())
        yield connection


def test_several_blobs_come_in_one_request_and_wrong_bytes_are_refused_by_name(square: Square, http: httpx2.Client) -> None:
    market, (first, second, third) = square.local("customer"), together(*(os.urandom(MIB) for _ in range(3)))
    assert market.upload_all([first, (second[0], bytes(MIB)), third]) == [second[0]]
    assert market.missing_blobs([first[0], second[0], third[0]]) == [second[0]]
    assert (market.read_blob(first[0]), market.read_blob(third[0])) == (first[1], third[1])
    assert market.upload_all([first, second]) == [], "what is there may come again"
    assert market.missing_blobs([second[0]]) == []
    assert http.post("/v1/blobs", content=b"").json() == {"kept": 0, "wrong": []}


@pytest.mark.parametrize(("lost", "status", "code"), [(1, 422, "invalid_field"), (MIB + 99, 422, "invalid_field")])
def test_of_a_body_that_ends_too_early_whole_blobs_are_kept(
    square: Square, http: httpx2.Client, lost: int, status: int, code: str
) -> None:
    blobs = together(*(os.urandom(MIB) for _ in range(3)))
    answer = http.post("/v1/blobs", content=b"".join(framed(blobs))[:-lost])
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (status, code, "body")
    kept = 2 if lost < MIB else 1
    assert square.local("customer").missing_blobs([digest for digest, _ in blobs]) == [digest for digest, _ in blobs[kept:]]


def test_of_a_connection_that_is_cut_whole_blobs_are_kept_and_the_rest_is_sent_again(square: Square) -> None:
    blobs = together(*(os.urandom(MIB) for _ in range(3)))
    market, digests = square.local("customer"), [digest for digest, _ in blobs]
    body = b"".join(framed(blobs))
    with begun(square, len(body)) as connection:
        connection.sendall(body[: 2 * MIB + 500_000])
    until = time.monotonic() + 30
    while market.missing_blobs(digests) != digests[2:]:
        assert time.monotonic() < until
    assert market.upload_all(blobs[2:]) == []
    assert market.missing_blobs(digests) == []


def test_a_body_over_the_limit_is_refused_before_it_is_read(square: Square) -> None:
    with begun(square, BLOB_BYTES + 1) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_blobs_that_come_together_count_for_the_quota_together(tmp_path: Path) -> None:
    def receive(shelf: Shelf, *contents: bytes) -> list[str]:
        group = [Framed(digest, (memoryview(content),)) for digest, content in together(*contents)]
        return asyncio.run(shelf.receive_all("ann", group))

    shelf = Shelf(BlobStore(tmp_path / "blobs"), tmp_path / "uploads.log", quota_bytes=100)
    assert receive(shelf, b"a" * 30, b"b" * 30) == []
    with pytest.raises(Problem) as refused:
        receive(shelf, b"c" * 30, b"d" * 30)
    assert (refused.value.status, refused.value.code) == (413, "quota_exceeded")
    assert receive(shelf, b"a" * 30, b"c" * 30) == [], "what is there already takes no room"
    again = Shelf(BlobStore(tmp_path / "blobs"), tmp_path / "uploads.log", quota_bytes=100)
    assert (again.used_bytes("ann"), len(list(again.store.digests()))) == (90, 3)


@pytest.mark.parametrize("content_range", ["bytes 5-3/10", "bytes 0-10/10", "bytes x", "0-1/2"])
def test_a_range_that_means_nothing_is_refused(http: httpx2.Client, content_range: str) -> None:
    answer = http.put(f"/v1/blobs/{'a' * 64}", content=b"abc", headers={"Content-Range": content_range})
    assert (answer.status_code, answer.json()["field"]) == (422, "Content-Range")


def test_more_bytes_than_the_range_says_are_refused(http: httpx2.Client) -> None:
    answer = http.put(f"/v1/blobs/{'b' * 64}", content=b"x" * 11, headers={"Content-Range": "bytes 0-9/10"})
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("digest", ["A" * 64, "a" * 63, "..%2f..%2fkeys.json"])
def test_only_digests_name_blobs(http: httpx2.Client, digest: str) -> None:
    assert http.get(f"/v1/blobs/{digest}").status_code in (404, 422)


def test_the_sdk_uploads_once_and_resumes_downloads(square: Square, tmp_path: Path) -> None:
    market = square.local("customer")
    source = tmp_path / "source"
    source.write_bytes(os.urandom(9 * MIB))
    digest = market.upload(source)
    assert market.upload(source) == digest
    assert market.upload(b"") == hashlib.sha256(b"").hexdigest()
    target = tmp_path / "target"
    partial = tmp_path / f".target.{digest[:12]}.part"
    partial.write_bytes(source.read_bytes()[: 4 * MIB])
    market.download(digest, target)
    assert target.read_bytes() == source.read_bytes()
    assert not partial.exists()
    partial.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="arrived with digest"):
        market.download(digest, target)
    market.download(digest, target)
    assert refusal(lambda: market.read_blob("c" * 64)).status == 404


def test_a_quota_is_a_members_own_and_survives_a_restart(tmp_path: Path) -> None:
    async def bytes_of(data: bytes) -> AsyncIterator[bytes]:
        yield data

    def receive(shelf: Shelf, member: str, data: bytes) -> None:
        digest = hashlib.sha256(data).hexdigest()
        asyncio.run(shelf.receive(member, digest, Piece(0, len(data)), bytes_of(data)))

    shelf = Shelf(BlobStore(tmp_path / "blobs"), tmp_path / "uploads.log", quota_bytes=100)
    receive(shelf, "ann", b"a" * 60)
    receive(shelf, "ann", b"a" * 60)
    with pytest.raises(Problem) as refused:
        receive(shelf, "ann", b"b" * 60)
    assert (refused.value.status, refused.value.code) == (413, "quota_exceeded")
    receive(shelf, "bob", b"b" * 60)
    again = Shelf(BlobStore(tmp_path / "blobs"), tmp_path / "uploads.log", quota_bytes=100)
    assert (again.used_bytes("ann"), again.used_bytes("bob")) == (60, 60)


def test_a_blob_that_two_jobs_name_goes_with_the_second(tmp_path: Path) -> None:
    shelf = Shelf(BlobStore(tmp_path / "blobs"), tmp_path / "uploads.log")
    digest = shelf.store.put(b"the same initial state")
    shelf.need("job-a", [digest])
    shelf.need("job-b", [digest])
    asyncio.run(shelf.remove("job-a", [digest]))
    assert digest in shelf.store
    asyncio.run(shelf.remove("job-b", [digest]))
    assert digest not in shelf.store


def keep(shelf: Shelf, owner: str, *contents: bytes) -> str:
    """The market hears of a save of one file in these blocks, which its own actors uploaded."""
    blocks = tuple(Block(shelf.store.put(content), len(content)) for content in contents)
    saved = Saved("job-a", 1, (SavedFile("model", blocks),), 0, block_bytes=4096)
    manifest = shelf.store.put(saved.encode())
    asyncio.run(shelf.keep_saved("job-a", owner, manifest))
    return manifest


def test_a_save_is_its_customers_and_blocks_that_the_next_one_has_not_go(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shelf = Shelf(BlobStore(tmp_path / "blobs"), tmp_path / "uploads.log")
    first, second = b"a" * 4096, b"b" * 4096
    old = keep(shelf, "ann", first, b"c" * 9)
    new = keep(shelf, "ann", first, second)
    asyncio.run(shelf.remove_saved("job-a", old, new))
    left = {len(shelf.store.read(digest)) for digest in shelf.store.digests()}
    assert left == {4096, shelf.store.size(new)}, "two blocks and a manifest"
    assert shelf.used_bytes("ann") == 2 * 4096 + (shelf.store.size(new) or 0)
    again = Shelf(BlobStore(tmp_path / "blobs"), tmp_path / "uploads.log")
    events = [
        {"type": "job_submitted", "job": "job-a", "customer": "ann"},
        {"type": "files_saved", "job": "job-a", "manifest": new},
    ]
    again.observe(events)
    again.recall_manifests()
    asyncio.run(again.remove("job-b", [hashlib.sha256(first).hexdigest()]))
    assert again.used_bytes("ann") == shelf.used_bytes("ann")
    assert hashlib.sha256(first).hexdigest() in again.store, "the job needs it"
    for _ in range(2):  # a run says twice that it has stopped where the first answer got lost
        asyncio.run(again.remove_saved("job-a", new, None))
        assert list(again.store.digests()) == []
    assert not caplog.records, "nothing went wrong"


def test_a_save_over_the_quota_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    shelf = Shelf(BlobStore(tmp_path / "blobs"), tmp_path / "uploads.log", quota_bytes=5000)
    kept = keep(shelf, "ann", b"a" * 4000)
    before = set(shelf.store.digests())
    with pytest.raises(Problem) as refused:
        keep(shelf, "ann", b"b" * 4096, b"a" * 2000)
    assert (refused.value.status, refused.value.code) == (413, "quota_exceeded")
    assert set(shelf.store.digests()) == before
    assert kept in shelf.store


def test_another_jobs_save_and_one_without_its_blocks_are_refused(tmp_path: Path) -> None:
    shelf = Shelf(BlobStore(tmp_path / "blobs"), tmp_path / "uploads.log")
    missing = Saved("job-a", 1, (SavedFile("model", (Block("ab" * 32, 5),)),))
    others = Saved("job-b", 1, ())
    for saved in (missing, others):
        with pytest.raises(Problem) as refused:
            asyncio.run(shelf.keep_saved("job-a", "ann", shelf.store.put(saved.encode())))
        assert refused.value.code == "manifest_wrong"


def test_an_operator_checks_and_sweeps_from_the_command_line(square: Square, torg: Callable[..., tuple[int, str, str]]) -> None:
    square.local("customer").upload(os.urandom(1000))
    code, said, _ = torg("blobs", "gc", "--dry-run", "--json")
    found = json.loads(said)
    assert (code, found["swept"], found["due"]) == (0, 0, 0), "nothing was marked a day ago"
    assert found["marked"] >= 1
    code, said, _ = torg("blobs", "gc")
    assert code == 0
    assert "wait for the grace" in said
    code, said, _ = torg("blobs", "verify", "--json")
    checked = json.loads(said)
    assert checked["blobs"] >= found["blobs"]
    assert checked["damaged"] == []
    assert refusal(lambda: square.local("customer").blobs.collect(dry_run=True, grace_ms=3_600_000)).status == 403
    assert refusal(lambda: square.local("operator").blobs.collect(dry_run=True, grace_ms=1)).status == 422
