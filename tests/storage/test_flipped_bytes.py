"""One bit of one byte, at every place of a small file: found, and the place or the thing named. No answer is ever wrong."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import duckdb
import pytest

from storage.billing import billing
from storage.blobs import BlobDamaged, BlobStore
from storage.canonical import NotCanonical
from storage.invoice_bundles import verify_invoice
from storage.journal import Journal, JournalCorrupt, read_journal, segments, verify_journal
from storage.offline import ask_offline
from storage.projection import Projection, projection_equal
from storage.provenance import load_bundle, verify_bundle
from storage.tenants import Tenant
from tests.storage.books_examples import example_story, write
from tests.storage.test_provenance import example_bundle
from tests.storage.test_transparency import bundle_of

OPERATOR = Tenant("root", "operator")
HEADS = 3 * 4096
"""DuckDB's three headers; behind them are blocks of 256 KiB."""


def flips(whole: bytes, seed: int, step: int = 1) -> Iterator[tuple[int, bytes]]:
    """(place, the bytes with one bit of that place changed); every `step`-th place."""
    random = Random(seed)
    for place in range(random.randrange(step), len(whole), step):
        changed = bytearray(whole)
        changed[place] ^= 1 << random.randrange(8)
        yield place, bytes(changed)


def test_every_byte_of_a_journal(tmp_path: Path) -> None:
    """Heads of segments, heads of records, payloads: `verify_journal` names the segment, and the record that it is in."""
    payloads = [b"record %d " % number + b"." * 20 for number in range(9)]
    with Journal.open(tmp_path, segment_bytes=300) as journal:
        for payload in payloads:
            journal.append([payload])
    assert len(segments(tmp_path)) > 2
    number = 1
    for path in segments(tmp_path):
        whole = path.read_bytes()
        size = 48 + len(payloads[0])
        for place, changed in flips(whole, number):
            record = number + max(0, place - 96) // size
            path.write_bytes(changed)
            found = verify_journal(tmp_path)
            assert not found.ok
            assert found.first_bad is not None
            assert path.name in found.first_bad
            assert f"record {record}," in found.first_bad or place < 96, (place, found.first_bad)
            assert found.records == record - 1
            read: list[bytes] = []
            with contextlib.suppress(JournalCorrupt):  # a last record that is not whole may be one that never returned
                for one in read_journal(tmp_path):
                    read.append(one.payload)
            assert read == payloads[: record - 1]
        path.write_bytes(whole)
        number += max(0, len(whole) - 96) // size
    assert number == len(payloads) + 1


def test_every_byte_of_a_blob(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    digest = store.put(bytes(range(256)) * 4)
    (path,) = (one for one in tmp_path.rglob(digest) if one.is_file())
    whole = path.read_bytes()
    for _, changed in flips(whole, 1):
        path.chmod(0o600)
        path.write_bytes(changed)
        assert not store.verify(digest)
        with pytest.raises(BlobDamaged, match=digest):
            store.read(digest)


def test_every_byte_of_a_provenance_bundle() -> None:
    whole = json.dumps(example_bundle(None), separators=(",", ":")).encode()
    found = 0
    for _, changed in flips(whole, 2, 5):
        try:
            report = verify_bundle(load_bundle(changed))
        except NotCanonical:
            continue
        assert not report.ok
        assert any(not check.ok and check.name for check in report.checks)
        found += 1
    assert found > 100


def test_every_byte_of_an_invoice_bundle(tmp_path: Path) -> None:
    write(tmp_path / "journal", example_story().records)
    whole = json.dumps(bundle_of(tmp_path / "journal", "job-a"), separators=(",", ":")).encode()
    found = 0
    for _, changed in flips(whole, 3, 97):
        try:
            bundle = load_bundle(changed)
        except NotCanonical:
            continue
        report = verify_invoice(bundle)
        assert not report.ok
        assert any(not check.ok and check.code for check in report.checks)
        found += 1
    assert found > 30


def test_bytes_all_over_the_books(tmp_path: Path) -> None:
    """A damaged head: made again at the start. A damaged block: named by the comparison with the journal; who asks what
    lies in it is answered from the journal all the same."""
    journal, database = tmp_path / "journal", tmp_path / "books.duckdb"
    write(journal, example_story().records)
    with Projection.open(journal, database) as books:
        books.catch_up()
        with books.cursor() as cursor:
            expected = billing(cursor, OPERATOR, by=("job", "provider"))
    whole, random = database.read_bytes(), Random(4)
    places = [random.randrange(4096), 4096, HEADS - 1, *(random.randrange(HEADS, len(whole)) for _ in range(5))]
    rebuilt = named = 0
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1 << random.randrange(8)
        database.write_bytes(changed)
        with Projection.open(journal, database) as books:
            books.catch_up()
            same, detail = projection_equal(books)
            if books.rebuilds:
                rebuilt += 1
                assert same
            elif not same:
                named += 1
                assert str(database) in detail
                assert "Corrupt database file" in detail
        if same:
            continue
        database.write_bytes(changed)
        assert ask_offline(journal, database, lambda cursor: billing(cursor, OPERATOR, by=("job", "provider"))) == expected
        for left in tmp_path.glob("books.duckdb.*"):
            left.unlink()
    assert rebuilt >= 3
    assert named >= 2


def test_a_question_that_is_wrong_is_no_damage(tmp_path: Path) -> None:
    write(tmp_path / "journal", example_story().records)
    asked = 0

    def ask(cursor: duckdb.DuckDBPyConnection) -> None:
        nonlocal asked
        asked += 1
        cursor.execute("SELECT nothing FROM nowhere")

    with pytest.raises(duckdb.CatalogException):
        ask_offline(tmp_path / "journal", tmp_path / "books.duckdb", ask)
    assert asked == 1
