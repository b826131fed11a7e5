"""The books say to the nano what the journal says, for whoever may see it, and can always be made again."""

import os
from pathlib import Path
from typing import Any

import duckdb
import pytest

from storage import projection
from storage.billing import billing, invoice
from storage.journal import Record
from storage.ledger import Ledger, Transfer
from storage.offline import offline_books
from storage.projection import VERSION, Projection, ProjectionBusy, ProjectionNewer, projection_equal
from storage.record_tables import RecordTables
from storage.records import encode_record
from storage.tables import rows_of
from storage.tenants import QueryRefused, Tenant
from storage.transfer_batches import TransferBatch
from storage.units import MS_PER_DAY, charge_nanos
from tests.storage.books_examples import CHEAP, DAY_MS, PRICE, Story, example_story, transfer, write

OPERATOR = Tenant("root", "operator")
ANN = Tenant("ann", "customer")
P1 = Tenant("p1", "provider")


@pytest.fixture
def story() -> Story:
    return example_story()


@pytest.fixture
def journal(tmp_path: Path, story: Story) -> Path:
    write(tmp_path / "journal", story.records)
    return tmp_path / "journal"


@pytest.fixture(scope="module")
def cursor(tmp_path_factory: pytest.TempPathFactory):
    """Books of that story that nobody changes."""
    journal = tmp_path_factory.mktemp("read") / "journal"
    write(journal, example_story().records)
    with Projection.in_memory(journal) as books, books.cursor() as cursor:
        yield cursor


def test_balances_equal_a_ledger_that_saw_the_same_transfers(cursor, story) -> None:
    import json

    ledger = Ledger()
    for record in story.records:
        for event in json.loads(record)["events"]:
            if event.pop("type") == "transfer":
                assert ledger.apply(Transfer(**event)) == "created"
    found = dict(cursor.execute("SELECT account, balance_nanos FROM balances").fetchall())
    assert found == ledger.balances()
    assert sum(found.values()) == 0
    last = cursor.execute("SELECT arg_max(balance_nanos, (record, ordinal)) FROM history WHERE account = 'wallet:ann'")
    assert last.fetchall() == [(ledger.balance("wallet:ann"),)]


def test_a_packed_batch_becomes_the_rows_of_its_events() -> None:
    rows = [Transfer(f"d{n}", "deposit", "world", f"wallet:{n}", n + 1, *[(), ("j",), ("j", "l")][n % 3]) for n in range(9)]
    for codes in (bytes(9), bytes([0, 1, 0, 0, 2, 0, 0, 0, 3]), bytes([1] * 9)):
        batch = TransferBatch.of(rows).take(bytes([1] * 9), codes)
        payload = encode_record(5, [{"type": "transfers", "batch": batch}])
        wanted: dict[str, list[Any]] = {}
        for name, row in rows_of(7, payload):
            wanted.setdefault(name, []).append(row)
        tables = RecordTables()
        tables.take(Record(7, payload, ""))
        found = {name: [tuple(row.values()) for row in table.to_pylist()] for name, table in tables.tables().items()}
        assert found == wanted
        assert tables.rows == 9


def test_sorted_entries_are_the_same_entries(tmp_path, monkeypatch) -> None:
    def entries(books: Projection) -> list[Any]:
        with books.cursor() as cursor:
            return cursor.execute("SELECT * FROM entries ORDER BY ALL").fetchall()

    def ordered(books: Projection) -> list[Any]:
        with books.cursor() as cursor:
            return cursor.execute("SELECT account, record, ordinal FROM sorted_entries").fetchall()

    records = example_story().records
    write(tmp_path / "journal", records)
    with Projection.in_memory(tmp_path / "journal") as plain:
        monkeypatch.setattr(projection, "SORT_ROWS", 4)
        with Projection.open(tmp_path / "journal", tmp_path / "books") as books:
            for until in range(1, len(records) + 1, len(records) // 4):
                books._apply(until)
            books.catch_up()
            assert 4 <= len(ordered(books)) == len(set(ordered(books)))
            assert ordered(books) == sorted(ordered(books))
            assert entries(books) == entries(plain)
            assert projection_equal(books)[0]


@pytest.mark.parametrize(
    "by", [(), ("job",), ("provider",), ("gpu",), ("day",), ("tag",), ("tag:team",), ("job", "provider", "gpu", "day")]
)
def test_every_grouping_adds_up_to_the_ledger(cursor, story, by) -> None:
    lines = billing(cursor, OPERATOR, by=by)
    assert sum(line["charged_nanos"] for line in lines) == sum(story.charged.values())
    balances = dict(cursor.execute("SELECT account, balance_nanos FROM balances").fetchall())
    earned = sum(nanos for account, nanos in balances.items() if account.startswith("earnings:") or account == "fee")
    assert sum(line["charged_nanos"] for line in lines) == earned
    refund = charge_nanos(PRICE, 1, 5_531) - charge_nanos(PRICE, 1, 5 * 997)
    assert sum(line["refunded_nanos"] for line in lines) == refund
    assert sum(line["gpu_ms"] for line in lines) == 5_531 + 2 * 64_000 + 50_000
    assert sum(line["rounds"] for line in lines) == 5 + 9 + 3


def test_a_lease_over_midnight_is_split_between_the_days(cursor) -> None:
    lines = billing(cursor, ANN, by=("day", "provider"))
    shown = [(line["day"], line["provider"], line["gpu_ms"], line["rounds"]) for line in lines]
    first, second = "2026-11-23", "2026-11-24"
    assert shown == [
        (first, "p1", 5_531, 5), (first, "p2", 2 * 5 * 991, 5), (second, "p1", 0, 0),
        (second, "p2", 2 * (64_000 - 4_955), 4),
    ]  # fmt: skip
    assert lines[2]["charged_nanos"] == charge_nanos(PRICE, 1, 5 * 997) - charge_nanos(PRICE, 1, 4 * 997)
    assert lines[3]["unit_price_nanos_per_gpu_hour"] == CHEAP
    assert lines[3]["charged_nanos"] == charge_nanos(CHEAP, 2, 64_000) - charge_nanos(CHEAP, 2, 4 * 991)


def test_hours_add_up_to_their_days(cursor) -> None:
    hours, days = (billing(cursor, ANN, by=(name,)) for name in ("hour", "day"))
    assert len(hours) > 1
    for day in days:
        own = [line for line in hours if line["hour"].startswith(day["day"])]
        for name in ("gpu_ms", "charged_nanos", "refunded_nanos", "rounds"):
            assert sum(line[name] for line in own) == day[name]
    assert [line["hour"] for line in hours] == sorted(line["hour"] for line in hours)


def test_since_is_inclusive_and_until_exclusive(cursor, story) -> None:
    midnight = DAY_MS + MS_PER_DAY
    at_charge = midnight + 6_000
    before = billing(cursor, OPERATOR, by=("job",), until_ms=at_charge)
    after = billing(cursor, OPERATOR, by=("job",), since_ms=at_charge)
    assert sum(line["charged_nanos"] for line in before + after) == sum(story.charged.values())
    late = charge_nanos(PRICE, 1, 5 * 997) - charge_nanos(PRICE, 1, 4 * 997)
    assert [line["charged_nanos"] for line in after] == [
        charge_nanos(CHEAP, 2, 64_000) - charge_nanos(CHEAP, 2, 4 * 991) + late
    ]


def test_everybody_sees_their_own(cursor) -> None:
    def jobs(tenant: Tenant) -> set[str]:
        return {line["job"] for line in billing(cursor, tenant)}

    assert jobs(OPERATOR) == {"job-a", "job-b"}
    assert jobs(ANN) == {"job-a"}
    assert jobs(Tenant("bob", "customer")) == {"job-b"}
    assert {line["provider"] for line in billing(cursor, P1)} == {"p1"}
    assert jobs(Tenant("ann", "provider")) == set()
    assert jobs(Tenant("root", "plane")) == set()


@pytest.mark.parametrize("by", [("colour",), ("tag", "tag:team"), ("tag:",), ('tag:a"b',)])
def test_an_unknown_grouping_is_refused_and_the_known_ones_named(cursor, by) -> None:
    refused = billing(cursor, ANN, by=by)
    assert isinstance(refused, QueryRefused)
    assert (refused.code, refused.field) == ("by_unknown", "by")
    assert "job, provider, gpu, day, hour, tag" in (refused.remedy or "")


def test_an_invoice_adds_up_and_shows_what_was_not_charged(cursor, story) -> None:
    bill = invoice(cursor, ANN, "job-a")
    usage = [line for line in bill["lines"] if line["kind"] == "usage"]
    free = [line for line in bill["lines"] if line["kind"] == "not_charged"]
    assert [line["amount_nanos"] for line in usage] == [story.charged["lease-000001"], story.charged["lease-000002"]]
    assert all(line["capped_nanos"] == 0 for line in usage)
    assert [(line["lease"], line["metered_ms"], line["amount_nanos"]) for line in free] == [
        ("lease-000001", 5_531 - 5 * 997, 0)
    ]
    assert bill["refunded_nanos"] == charge_nanos(PRICE, 1, 5_531) - charge_nanos(PRICE, 1, 5 * 997)
    assert bill["billed_nanos"] == bill["earnings_nanos"] + bill["fee_nanos"] == sum(story.charged.values())
    assert bill["held_nanos"] - bill["billed_nanos"] - bill["released_nanos"] == bill["escrow_nanos"] == 0
    assert [payment["kind"] for payment in bill["payments"]] == ["hold", "release"]
    assert bill["state"] == "done"


def test_an_invoice_is_only_for_those_who_were_part_of_it(cursor) -> None:
    assert isinstance(invoice(cursor, Tenant("bob", "customer"), "job-a"), QueryRefused)
    assert isinstance(invoice(cursor, ANN, "job-nobody"), QueryRefused)
    seen = invoice(cursor, P1, "job-a")
    assert {line["provider"] for line in seen["lines"]} == {"p1"}
    assert "payments" not in seen


def test_the_books_go_on_where_they_stood(tmp_path: Path, story: Story) -> None:
    half = len(story.records) // 2
    write(tmp_path / "journal", story.records[:half])
    with Projection.open(tmp_path / "journal", tmp_path / "books.duckdb") as books:
        assert books.catch_up() == half
        assert books.catch_up() == 0
    write(tmp_path / "journal", story.records[half:])
    with Projection.open(tmp_path / "journal", tmp_path / "books.duckdb") as books:
        assert (books.rebuilds, books.records) == (0, half)
        assert books.catch_up() == len(story.records) - half
        assert projection_equal(books)[0]


def _lines(books: Projection) -> object:
    with books.cursor() as cursor:
        return billing(cursor, OPERATOR)


def _remove(path: Path) -> None:
    path.unlink()


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _garble(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


def _halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _other_database(path: Path) -> None:
    path.unlink()
    _other_database_of(path, 1)


def _other_database_of(path: Path, version: int) -> None:
    with duckdb.connect(str(path)) as other:
        other.execute("CREATE TABLE format (version INTEGER)")
        other.execute("INSERT INTO format VALUES (?)", [version])


def test_books_of_a_newer_torg_are_left_alone(tmp_path: Path, journal: Path, story: Story) -> None:
    database = tmp_path / "books.duckdb"
    _other_database_of(database, 999)
    before = database.read_bytes()
    with pytest.raises(ProjectionNewer, match=rf"has format 999, and this torg reads up to {VERSION}: .* remove the file"):
        Projection.open(journal, database)
    assert database.read_bytes() == before
    with offline_books(journal, database) as books:
        assert books.execute("SELECT count(*) FROM jobs").fetchall()[0][0] > 0
    assert database.read_bytes() == before
    database.unlink()
    with Projection.open(journal, database) as books:
        assert books.catch_up() == len(story.records)


@pytest.mark.parametrize("harm", [_remove, _empty, _garble, _halve, _other_database])
def test_a_file_that_cannot_be_used_is_made_again(tmp_path: Path, journal: Path, story: Story, harm) -> None:
    database = tmp_path / "books.duckdb"
    with Projection.open(journal, database) as books:
        books.catch_up()
        expected = _lines(books)
    harm(database)
    with Projection.open(journal, database) as books:
        assert books.catch_up() == len(story.records)
        assert books.rebuilds == 1
        assert _lines(books) == expected
        assert projection_equal(books)[0]


def test_a_file_that_vanishes_under_the_owner_is_made_again(tmp_path: Path, journal: Path, story: Story) -> None:
    database = tmp_path / "books.duckdb"
    with Projection.open(journal, database) as books:
        books.catch_up()
        database.unlink()
        assert books.catch_up() == len(story.records)
        assert database.exists()


def test_a_file_that_killed_its_opener_is_not_opened_again(tmp_path: Path, journal: Path) -> None:
    database = tmp_path / "books.duckdb"
    with Projection.open(journal, database) as books:
        books.catch_up()
    (tmp_path / "books.duckdb.opening").touch()
    with Projection.open(journal, database) as books:
        assert books.rebuilds == 1


def test_books_that_are_ahead_of_the_journal_are_made_again(tmp_path: Path, story: Story) -> None:
    write(tmp_path / "journal", story.records)
    with Projection.open(tmp_path / "journal", tmp_path / "books.duckdb") as books:
        books.catch_up()
    other = tmp_path / "other"
    write(other, [*story.records[:-1], story.records[0], story.records[1]])
    with Projection.open(other, tmp_path / "books.duckdb") as books:
        assert books.catch_up() == len(story.records) + 1
        assert projection_equal(books)[0]


def test_rows_that_were_changed_behind_the_journal_are_found(tmp_path: Path, journal: Path) -> None:
    database = tmp_path / "books.duckdb"
    with Projection.open(journal, database) as books:
        books.catch_up()
    with duckdb.connect(str(database)) as thief:
        thief.execute("UPDATE transfers SET amount_nanos = amount_nanos + 1 WHERE id = 'd1'")
    with Projection.open(journal, database) as books:
        same, detail = projection_equal(books)
        assert not same
        assert "transfers" in detail
        books.rebuild()
        assert projection_equal(books)[0]


def test_a_second_owner_is_refused(tmp_path: Path, journal: Path) -> None:
    with Projection.open(journal, tmp_path / "books.duckdb"), pytest.raises(ProjectionBusy):
        Projection.open(journal, tmp_path / "books.duckdb")


def test_offline_books_come_from_the_file_or_from_the_journal(tmp_path: Path, journal: Path) -> None:
    database = tmp_path / "books.duckdb"
    with offline_books(journal, database) as connection:
        from_file = billing(connection, OPERATOR)
        with pytest.raises(duckdb.InvalidInputException, match="read-only"):
            connection.execute("DELETE FROM transfers")
    assert from_file
    with Projection.open(journal, database), offline_books(journal, database) as connection:
        assert billing(connection, OPERATOR) == from_file


def test_an_event_nobody_knows_is_kept_whole(tmp_path: Path) -> None:
    from tests.storage.books_examples import payload

    write(
        tmp_path / "journal",
        [payload(5, [{"type": "comet_seen", "where": "north"}, transfer("d", "deposit", "world", "wallet:a", 3)])],
    )
    with Projection.in_memory(tmp_path / "journal") as books, books.cursor() as cursor:
        assert cursor.execute("SELECT type, body FROM other_events").fetchall() == [("comet_seen", '{"where":"north"}')]
        assert cursor.execute("SELECT account FROM balances ORDER BY 1").fetchall() == [("wallet:a",), ("world",)]


def test_the_training_views_add_up_and_read_older_journals(tmp_path: Path) -> None:
    story = Story()
    story.submit(0, "job-a", "ann", 1, {})
    one, two = (story.grant(10, "job-a", "ann", name, PRICE) for name in ("p1", "p2"))
    manner = {"strategy": "noloco", "tuning": 1, "attempts": 3, "late": [1], "warned": [{"slot": 1, "reason": "nan"}]}
    story.round(1_000, "job-a", 1, [one, two])  # as a journal of before says it
    story.round(2_000, "job-a", 2, [one, two], manner, sent_bytes=100, received_bytes=90, stall_ms=7)
    story.round(3_000, "job-a", 3, [one, two])
    story.round(4_000, "job-a", 3, [one], manner, sent_bytes=10)  # every machine was lost: round 3 is made again
    for lease in (one, two):
        story.meter(4_500, lease, 4_000, 3)
    write(tmp_path / "journal", story.records)
    with Projection.in_memory(tmp_path / "journal") as books, books.cursor() as cursor:
        rounds = cursor.execute(
            "SELECT round, members, strategy, tuning, attempts, late, warned, sent_bytes, stall_ms, leased_ms, trained_ms,"
            " goodput, tokens_per_s, held_out_loss FROM round_totals ORDER BY round"
        ).fetchall()
        workers = cursor.execute(
            "SELECT lease, rounds, sent_bytes, received_bytes FROM worker_totals ORDER BY lease"
        ).fetchall()
        [job] = cursor.execute(
            "SELECT rounds, tokens, sent_bytes, retries, late, leased_ms, trained_ms, goodput FROM training_lines"
        ).fetchall()
    assert rounds == [
        (1, 2, "", 0, 1, 0, 0, 0, 0, 2_000, 1_800, 0.9, 2_000.0, 4.1),
        (2, 2, "noloco", 1, 3, 1, 1, 200, 14, 2_000, 1_800, 0.9, 2_000.0, 4.1 / 2),
        (3, 1, "noloco", 1, 3, 1, 1, 10, 0, 0, 0, None, 1_000.0, 4.1 / 3),
    ]  # fmt: skip
    assert workers == [(one, 3, 110, 90), (two, 2, 100, 90)]
    assert job == (3, 5_000, 210, 4, 2, 8_000, 3_600, 0.45)
