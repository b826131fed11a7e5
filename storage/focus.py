"""Bills in FOCUS 1.2, the FinOps Open Cost and Usage Specification: rows that other tools read beside a cloud's.

One `Usage` row for each billing line by job, provider, GPU model and day, a `Credit` row where granted credits paid for
some of it, and of what disputes and corrections changed on a day an `Adjustment` row, with a `Credit` row of the other sign
where that went back to granted credits. Costs are exact decimals of 9 places in USD, so they add up to the invoices to the
nano-dollar: `InvoiceId` is the job, whose `BilledCost` sums to what is due less what granted credits paid of it. Quantities are GPU-hours, rounded to
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
        if line["gpu_ms"] or line["charged_nanos"] or line["refunded_nanos"]:
            rows.append(common | _usage(line))
        if line["granted_nanos"]:
            rows.append(common | _cost("Credit", -line["granted_nanos"], f"paid with granted credits for {line['job']}"))
        adjusted = line["debited_nanos"] - line["credited_nanos"]
        if adjusted:
            rows.append(common | _cost("Adjustment", adjusted, f"by disputes and corrections about {line['job']}"))
        if line["credited_granted_nanos"]:
            rows.append(common | _cost("Credit", line["credited_granted_nanos"], f"given back to granted credits of {line['job']}"))
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


def _cost(category: str, nanos: int, description: str) -> Row:
    cost = _usd(nanos)
    return {
        "ChargeCategory": category, "ChargeFrequency": "Usage-Based" if category == "Credit" else "One-Time",
        "ChargeDescription": description,
        "BilledCost": cost, "ContractedCost": cost, "EffectiveCost": cost, "ListCost": cost,
    }  # fmt: skip


def _usd(nanos: int) -> Decimal:
    return (Decimal(nanos) * _NANO).quantize(_NANO)


def _hours(ms: int) -> Decimal:
    return (Decimal(ms) / _MS_PER_HOUR).quantize(_PICO, ROUND_HALF_EVEN)


def _instant(day: date) -> str:
    return f"{day.isoformat()}T00:00:00Z"


def _tags(text: str | None) -> str:
    return json.dumps(json.loads(text) if text else {}, sort_keys=True, ensure_ascii=False)
