"""A tenant's SQL sees the tenant's rows and nothing else in the world, and cannot run for ever."""

from pathlib import Path

import pytest

from storage.projection import Projection
from storage.tenant_sql import HIDDEN_FROM_PROVIDERS, TENANT_TABLES, Limits, tenant_sql
from storage.tenants import QueryRefused, Tenant
from tests.storage.books_examples import Story, example_story, transfer, write

OPERATOR = Tenant("root", "operator")
ANN = Tenant("ann", "customer")
P1 = Tenant("p1", "provider")


@pytest.fixture(scope="module")
def books(tmp_path_factory):
    folder = tmp_path_factory.mktemp("books")
    write(folder / "journal", example_story().records)
    with Projection.in_memory(folder / "journal") as books:
        yield books


@pytest.fixture
def ask(books):
    with books.cursor() as cursor:
        yield lambda tenant, sql, limits=None: tenant_sql(cursor, tenant, sql, limits)


def test_everybody_sees_their_own_rows(ask) -> None:
    def column(tenant: Tenant, sql: str) -> list[object]:
        return [row[0] for row in ask(tenant, sql)["rows"]]

    assert column(ANN, "SELECT job FROM jobs") == ["job-a"]
    assert column(OPERATOR, "SELECT job FROM jobs") == ["job-a", "job-b"]
    assert column(P1, "SELECT job FROM jobs ORDER BY 1") == ["job-a", "job-b"]
    assert column(ANN, "SELECT DISTINCT provider FROM leases ORDER BY 1") == ["p1", "p2"]
    assert column(P1, "SELECT DISTINCT provider FROM billing") == ["p1"]
    assert column(P1, "SELECT DISTINCT provider FROM rounds") == ["p1"]
    assert column(Tenant("bob", "customer"), "SELECT count(*) FROM rounds") == [0]
    assert column(ANN, "SELECT id FROM transfers WHERE kind IN ('deposit', 'hold', 'release')") == [
        "d1", "hold-job-a", "release-job-a",
    ]  # fmt: skip
    assert column(P1, "SELECT DISTINCT kind FROM transfers") == ["charge"]
    for table in TENANT_TABLES:
        assert column(Tenant("x", "plane"), f"SELECT count(*) FROM {table}") == [0]
        assert column(Tenant("nobody", "customer"), f"SELECT count(*) FROM {table}") == [0]


def test_a_provider_does_not_see_from_what_its_customer_had_paid(tmp_path: Path) -> None:
    story = Story()
    story.submit(1, "job-a", "ann", 1_000_000_000, {})
    lease = story.grant(2, "job-a", "ann", "p1", 360_000_000)
    story.add(3, transfer("refund:x:earnings", "refund", "earnings:p1", "credit:g1", 5, "job-a", lease))
    write(tmp_path / "journal", story.records)
    with Projection.in_memory(tmp_path / "journal") as books, books.cursor() as cursor:
        refunds = "SELECT credit FROM transfers WHERE kind = 'refund'"
        assert tenant_sql(cursor, P1, refunds)["rows"] == [["wallet:ann"]]
        assert tenant_sql(cursor, OPERATOR, refunds)["rows"] == [["credit:g1"]]


def test_the_workloads_figures_are_rows_of_the_newest_evaluation_of_a_kept_round(tmp_path: Path) -> None:
    def evaluated(number: int, loss: float, **metrics: float) -> dict[str, object]:
        return {"type": "round_evaluated", "job": "job-a", "round": number, "loss": loss, "metrics": metrics}

    story = Story()
    story.submit(1, "job-a", "ann", 1_000_000_000, {})
    lease = story.grant(2, "job-a", "ann", "p1", 360_000_000)
    story.round(10, "job-a", 1, [lease])  # whose evaluation is of a journal of before
    story.round(20, "job-a", 2, [lease])
    story.add(30, evaluated(1, 3.0, accuracy=0.25, recall=0.5))
    story.add(40, evaluated(1, 3.0, accuracy=0.5))
    story.add(50, evaluated(2, 2.0, accuracy=0.75))
    write(tmp_path / "journal", story.records)
    sql = "SELECT job, round, step, name, value FROM metrics ORDER BY round, name"
    with Projection.in_memory(tmp_path / "journal") as books, books.cursor() as cursor:
        rows = [tenant_sql(cursor, who, sql)["rows"] for who in (ANN, OPERATOR, P1, Tenant("bob", "customer"))]
    mine = [["job-a", 1, 30, "accuracy", 0.5], ["job-a", 2, 60, "accuracy", 0.75]]
    assert rows == [mine, mine, [], []]


def test_a_provider_sees_no_money_and_no_spec_of_a_job(ask) -> None:
    found = ask(P1, f"SELECT {', '.join(HIDDEN_FROM_PROVIDERS)} FROM jobs")
    assert found["rows"] == [[None] * len(HIDDEN_FROM_PROVIDERS)] * 2
    assert None not in ask(ANN, f"SELECT {', '.join(HIDDEN_FROM_PROVIDERS)} FROM jobs")["rows"][0]


def test_sums_are_the_sums_of_the_bill(ask) -> None:
    story = example_story()
    found = ask(ANN, "SELECT sum(charged_nanos)::BIGINT AS n FROM billing")
    assert found == {"columns": ["n"], "rows": [[sum(story.charged.values())]], "truncated": False}


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("", "sql_not_one_statement"),
        ("-- nothing", "sql_not_one_statement"),
        ("SELECT 1; SELECT 2", "sql_not_one_statement"),
        ("SELECT", "sql_not_understood"),
        ("DROP TABLE jobs", "sql_not_a_select"),
        ("INSERT INTO jobs SELECT * FROM jobs", "sql_not_a_select"),
        ("WITH x AS (SELECT 1) DELETE FROM jobs", "sql_not_a_select"),
        ("ATTACH '/tmp/x.db'", "sql_not_a_select"),
        ("COPY jobs TO '/tmp/x'", "sql_not_a_select"),
        ("SET threads = 64", "sql_not_a_select"),
        ("INSTALL httpfs", "sql_not_a_select"),
        ("PRAGMA database_list", "sql_not_a_select"),
        ("SELECT * FROM read_text('/etc/hostname')", "sql_reaches_out"),
        ("SELECT * FROM read_csv('/etc/passwd')", "sql_reaches_out"),
        ("SELECT * FROM glob('/*')", "sql_reaches_out"),
        ("SELECT * FROM '/etc/passwd'", "sql_not_understood"),
        ("SELECT * FROM connection", "sql_not_understood"),
        ("SELECT * FROM query('DROP TABLE jobs')", "sql_not_understood"),
        ("SELECT * FROM colours", "sql_not_understood"),
        ("SELECT " + "1+" * 20_000 + "1", "sql_too_long"),
    ],
)
def test_anything_but_one_select_is_refused(ask, sql, code) -> None:
    refused = ask(OPERATOR, sql)
    assert isinstance(refused, QueryRefused)
    assert (refused.code, refused.field) == (code, "sql")
    assert "\n" not in refused.message
    assert refused.message


def test_a_statement_without_end_is_interrupted(ask) -> None:
    endless = "SELECT count(*) FROM range(1000000000000000) WHERE range % 7 = 8"  # it streams: no memory runs out first
    assert ask(ANN, endless, Limits(time_s=0.2)).code == "sql_too_slow"
    assert ask(ANN, "SELECT 1")["rows"] == [[1]]


def test_memory_and_answer_are_limited(ask) -> None:
    hungry = "SELECT list(range) FROM range(200000000)"
    assert ask(ANN, hungry, Limits(memory_mb=64, time_s=60)).code == "sql_too_large"
    wide = "SELECT repeat('x', 100000) FROM range(1000)"
    assert ask(ANN, wide, Limits(answer_bytes=1_000_000)).code == "sql_too_large"


def test_more_rows_than_the_limit_are_cut_and_that_is_said(ask) -> None:
    found = ask(ANN, "SELECT * FROM range(100)", Limits(rows=10))
    assert (len(found["rows"]), found["truncated"]) == (10, True)
    assert ask(ANN, "SELECT * FROM range(10)", Limits(rows=10))["truncated"] is False


def test_values_are_plain_json(ask) -> None:
    import json

    sql = (
        "SELECT submitted_at, submitted_at::DATE, 1.50::DECIMAL(9,2), 2::HUGEINT ** 1, 170141183460469231731::HUGEINT, "
        "'nan'::DOUBLE, [1, 2], NULL, true FROM jobs"
    )
    row = ask(ANN, sql)["rows"][0]
    assert row[0] == "2026-11-23T23:59:00.001Z"
    assert row[1:] == ["2026-11-23", "1.50", 2.0, "170141183460469231731", None, "[1, 2]", None, True]
    json.dumps(row, allow_nan=False)


def test_a_statement_cannot_write_a_file(ask, tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    assert isinstance(ask(OPERATOR, f"COPY (SELECT 1) TO '{target}'"), QueryRefused)
    assert not target.exists()
