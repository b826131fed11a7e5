"""Bills in FOCUS 1.2, the FinOps Open Cost and Usage Specification: rows that other tools read beside a cloud's.

One `Usage` row for each billing line by job, provider, GPU model and day, and a `Credit` row where granted credits paid for
some of it. Costs are exact decimals of 9 places in USD, so they add up to the invoices to the nano-dollar: `InvoiceId` is
the job, whose `BilledCost` sums to what is billed less what granted credits paid. Quantities are GPU-hours, rounded to
12 places. There are no commitment discounts; their status is there, null, because rules of other columns ask for it. The
unit price is the lease's own (pricing is dynamic and no list is published), in `x_UnitPrice`.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

VERSION = "1.2"
GROUPS = ("job", "provider", "gpu", "day")
"""How the billing lines must be grouped."""
DECIMALS = ("BilledCost", "ConsumedQuantity", "ContractedCost", "EffectiveCost", "ListCost", "PricingQuantity", "x_UnitPrice")
INSTANTS = ("BillingPeriodEnd", "BillingPeriodStart", "ChargePeriodEnd", "ChargePeriodStart")
COLUMNS = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd",
    "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargeFrequency", "ChargePeriodEnd",
    "ChargePeriodStart", "CommitmentDiscountStatus", "ConsumedQuantity", "ConsumedUnit", "ContractedCost",
    "EffectiveCost", "InvoiceId", "InvoiceIssuerName", "ListCost", "PricingCategory", "PricingQuantity",
    "PricingUnit", "ProviderName", "PublisherName", "ResourceId", "ResourceName", "ResourceType", "ServiceCategory",
    "ServiceName", "ServiceSubcategory", "SkuId", "SkuMeter", "SkuPriceDetails", "SkuPriceId", "Tags", "x_UnitPrice",
)  # fmt: skip
MARKET = "torg"
_UNIT = "GPU-Hours"
_MS_PER_HOUR = 3_600_000
_NANO = Decimal(10) ** -9
_PICO = Decimal(10) ** -12

Row = dict[str, Any]


def focus_rows(lines: Sequence[Mapping[str, Any]], jobs: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """`lines` of `storage.billing.billing(by=GROUPS)`; `jobs` by id: customer, name, tags (a JSON object as text, or
    None). Every row has all COLUMNS: decimals as Decimal, instants and the rest as text, None for null."""
    rows: list[Row] = []
    for line in lines:
        common = _common(line, jobs[line["job"]])
        rows.append(common | _usage(line))
        if line["granted_nanos"]:
            rows.append(common | _credit(line))
    return [{name: row.get(name) for name in COLUMNS} for row in rows]


def _common(line: Mapping[str, Any], job: Mapping[str, Any]) -> Row:
    day = date.fromisoformat(line["day"])
    month = day.replace(day=1)
    return {
        "BillingAccountId": job["customer"], "BillingAccountName": job["customer"], "BillingCurrency": "USD",
        "BillingPeriodStart": _instant(month), "BillingPeriodEnd": _instant((month + timedelta(days=31)).replace(day=1)),
        "ChargePeriodStart": _instant(day), "ChargePeriodEnd": _instant(day + timedelta(days=1)),
        "InvoiceId": line["job"], "InvoiceIssuerName": MARKET, "ProviderName": MARKET, "PublisherName": line["provider"],
        "ResourceId": line["job"], "ResourceName": job["name"], "ResourceType": "Job",
        "ServiceCategory": "Compute", "ServiceName": "Training compute", "ServiceSubcategory": "Other (Compute)",
        "Tags": _tags(job["tags"]),
    }  # fmt: skip


def _usage(line: Mapping[str, Any]) -> Row:
    price, charged = line["unit_price_nanos_per_gpu_hour"], _usd(line["charged_nanos"])
    hours = _hours(line["gpu_ms"])
    paid_hours = (Decimal(line["charged_nanos"]) / price).quantize(_PICO, ROUND_HALF_EVEN) if price else Decimal(0)
    return {
        "ChargeCategory": "Usage", "ChargeFrequency": "Usage-Based",
        "ChargeDescription": f"{line['gpu']} of {line['provider']} for {line['job']}: {hours:.6f} GPU-hours metered",
        "BilledCost": charged, "ContractedCost": charged, "EffectiveCost": charged, "ListCost": charged,
        "ConsumedQuantity": hours, "ConsumedUnit": _UNIT, "PricingCategory": "Dynamic", "PricingQuantity": paid_hours,
        "PricingUnit": _UNIT, "SkuId": line["gpu"], "SkuMeter": "GPU time", "SkuPriceId": f"{line['gpu']}@{price}",
        "x_UnitPrice": _usd(price),
    }  # fmt: skip


def _credit(line: Mapping[str, Any]) -> Row:
    granted = _usd(-line["granted_nanos"])
    return {
        "ChargeCategory": "Credit", "ChargeFrequency": "Usage-Based",
        "ChargeDescription": f"paid with granted credits for {line['job']}",
        "BilledCost": granted, "ContractedCost": granted, "EffectiveCost": granted, "ListCost": granted,
    }  # fmt: skip


def _usd(nanos: int) -> Decimal:
    return (Decimal(nanos) * _NANO).quantize(_NANO)


def _hours(ms: int) -> Decimal:
    return (Decimal(ms) / _MS_PER_HOUR).quantize(_PICO, ROUND_HALF_EVEN)


def _instant(day: date) -> str:
    return f"{day.isoformat()}T00:00:00Z"


def _tags(text: str | None) -> str:
    return json.dumps(json.loads(text) if text else {}, sort_keys=True, ensure_ascii=False)
