"""`torg billing --focus`: every column that FOCUS 1.2 wants, of its type, and sums that are the invoices' to the nano."""

import csv
import json
from collections import defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from cli.main import run
from storage.billing import invoice
from storage.focus import COLUMNS, DECIMALS, INSTANTS
from storage.offline import offline_books
from storage.tenants import Tenant
from tests.storage.books_examples import DAY_MS, example_story, transfer, write

# FOCUS 1.2, «Cost and Usage»: MUST be present in every dataset, and of these MUST NOT be null in any row.
MANDATORY = frozenset({
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart",
    "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargePeriodEnd", "ChargePeriodStart", "ContractedCost",
    "EffectiveCost", "InvoiceIssuerName", "ListCost", "PricingQuantity", "PricingUnit", "ProviderName", "PublisherName",
    "ServiceCategory", "ServiceName",
})  # fmt: skip
NULLABLE = frozenset({"ChargeClass", "PricingQuantity", "PricingUnit"})
# Conditional: usage is measured, jobs are resources with types, tags are supported, hardware is priced by the unit.
CONDITIONAL = frozenset({
    "ConsumedQuantity", "ConsumedUnit", "ResourceId", "ResourceName", "ResourceType", "Tags", "SkuId", "SkuMeter",
    "SkuPriceId", "SkuPriceDetails",
})  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A market that is down, whose first job was paid in part with granted credits, of which some went back."""
    story = example_story()
    story.add(DAY_MS, transfer("grant-1", "grant", "grants", "credit:g1", 40_000))
    story.add(DAY_MS, transfer("hold-granted", "hold", "credit:g1", "escrow:job-a", 40_000, "job-a"))
    story.add(3 * DAY_MS, transfer("refund:x:fee", "refund", "fee", "wallet:ann", 700, "job-a", "lease-000001"))
    story.add(3 * DAY_MS, transfer("refund:x:fee:g1", "refund", "fee", "credit:g1", 300, "job-a", "lease-000001"))
    write(tmp_path / "home" / "journal", story.records)
    return tmp_path / "home"


def export(home: Path, file: Path, *more: str) -> int:
    return run(["--home", str(home), "billing", "--role", "operator", "--focus", str(file), *more])


def rows_of(home: Path, file: Path) -> list[dict[str, str]]:
    assert export(home, file) == 0
    with file.open(encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


def test_the_columns_are_there_and_null_only_where_they_may_be(home: Path, tmp_path: Path) -> None:
    rows = rows_of(home, tmp_path / "bill.csv")
    assert {row["ChargeCategory"] for row in rows} == {"Usage", "Credit", "Adjustment"}
    for row in rows:
        assert tuple(row) == COLUMNS
        assert set(row) >= MANDATORY | CONDITIONAL
        usage = row["ChargeCategory"] == "Usage"
        for name in MANDATORY - NULLABLE:
            assert row[name], name
        assert not row["ChargeClass"], "there are no corrections"
        for name in ("PricingQuantity", "PricingUnit", "ConsumedQuantity", "ConsumedUnit", "SkuId", "SkuPriceId", "PricingCategory"):
            assert bool(row[name]) is usage, name
        for name in DECIMALS:
            assert not row[name] or (Decimal(row[name]).is_finite() and "E" not in row[name]), name
        times = {name: datetime.strptime(row[name], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC) for name in INSTANTS}
        assert times["BillingPeriodStart"] <= times["ChargePeriodStart"] < times["ChargePeriodEnd"] <= times["BillingPeriodEnd"]
        assert times["BillingPeriodStart"].day == times["BillingPeriodEnd"].day == 1
        assert isinstance(json.loads(row["Tags"]), dict)
        assert row["BillingCurrency"] == "USD"
        assert {row[name] for name in ("ListCost", "ContractedCost", "EffectiveCost")} == {row["BilledCost"]}


def test_the_costs_are_the_invoices_to_the_nano(home: Path, tmp_path: Path) -> None:
    usage: dict[str, Decimal] = defaultdict(Decimal)
    credit: dict[str, Decimal] = defaultdict(Decimal)
    hours = Decimal(0)
    for row in rows_of(home, tmp_path / "bill.csv"):
        (credit if row["ChargeCategory"] == "Credit" else usage)[row["InvoiceId"]] += Decimal(row["BilledCost"])
        hours += Decimal(row["ConsumedQuantity"] or 0)
        if row["PricingQuantity"]:
            priced = Decimal(row["PricingQuantity"]) * Decimal(row["x_UnitPrice"])
            assert abs(priced - Decimal(row["BilledCost"])) < Decimal("1e-9")
    metered_ms = 0
    with offline_books(home / "journal", home / "books.duckdb") as books:
        for job, paid in usage.items():
            found = invoice(books, Tenant("root", "operator"), job)
            assert isinstance(found, dict)
            assert paid * 10**9 == found["due_nanos"]
            assert credit[job] * -(10**9) == found["due_granted_nanos"]
            metered_ms += sum(line["metered_ms"] * line["gpus"] for line in found["lines"] if line["kind"] == "usage")
        assert credit["job-a"] < 0
        whole = books.execute("SELECT sum(gpu_ms) FROM billing_facts").fetchall()[0][0]
    assert abs(hours * 3_600_000 - whole) < Decimal("1e-4")


def test_parquet_has_the_same_rows_with_types(home: Path, tmp_path: Path) -> None:
    import pyarrow as arrow
    from pyarrow import parquet

    texts = rows_of(home, tmp_path / "bill.csv")
    assert export(home, tmp_path / "bill.parquet") == 0
    table = parquet.read_table(tmp_path / "bill.parquet")
    assert tuple(table.column_names) == COLUMNS
    assert all(arrow.types.is_decimal(table.schema.field(name).type) for name in DECIMALS)
    assert all(arrow.types.is_timestamp(table.schema.field(name).type) for name in INSTANTS)
    assert [row["BilledCost"] for row in table.to_pylist()] == [Decimal(row["BilledCost"]) for row in texts]


def test_what_cannot_be_exported_is_said(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(home, tmp_path / "bill.txt") == 2
    assert "--focus: bill.txt is neither .csv nor .parquet" in capsys.readouterr().err
    assert export(home, tmp_path / "bill.csv", "--by", "day") == 2
    assert run(["--home", str(home), "billing", "--role", "provider", "--focus", str(tmp_path / "bill.csv")]) == 2
    assert export(home, tmp_path / "nowhere" / "bill.csv") == 3
