"""Events: what was decided, as plain JSON. The exchange makes them, the journal keeps them, the projection reads them.

An event is a flat dict with a `type`; its other fields are named in `FIELDS` (docs/FORMATS.md tells their meaning).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

Event = dict[str, Any]

FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "market_opened": ("market_id", "fee_ppm", "version"),
    "journal_format": ("format", "version"),
    "market_stopped": ("by",),
    "market_reopened": ("by",),
    "member_added": ("member", "role", "key_sha256", "by"),
    "member_revoked": ("member", "by"),
    "member_rotated": ("member", "key_sha256", "old_until_ms", "by"),
    "member_role": ("member", "role", "by"),
    "member_suspended": ("member", "reason", "by"),
    "member_resumed": ("member", "by"),
    "invite_made": ("invite", "role", "team", "member", "code_sha256", "expires_ms", "by"),
    "invite_revoked": ("invite", "by"),
    "invite_used": ("invite", "member"),
    "team_set": ("team", "weight", "quota_units", "by"),
    "team_removed": ("team", "by"),
    "member_teamed": ("member", "team", "by"),
    "credit_granted": ("grant", "member", "team", "amount_nanos", "expires_ms", "reason", "by"),
    "credit_expired": ("grant", "amount_nanos"),
    "limit_set": ("member", "team", "per_day_nanos", "per_month_nanos", "by"),
    "limit_reached": ("member", "team", "job", "period", "ends_ms", "percent", "used_nanos", "limit_nanos"),
    "secret_set": ("member", "name", "token"),
    "secret_removed": ("member", "name"),
    "transfer": ("id", "kind", "debit", "credit", "amount_nanos", "job", "lease"),
    "transfers": ("batch",),
    "transfer_refused": ("id", "kind", "debit", "credit", "amount_nanos", "job", "lease", "status"),
    "transfer_corrected": ("id", "transfer", "amount_nanos", "reason", "by"),
    "period_closed": ("number", "from_ms", "through_ms", "transfers", "balances", "by"),
    "offer_placed": (
        "offer",
        "provider",
        "name",
        "gpu",
        "gpus",
        "vram_gib",
        "region",
        "price_nanos_per_gpu_hour",
        "floor_price_nanos_per_gpu_hour",
        "isolation",
        "measured",
        "shares",
        "node",
        "versions",
        "request_digest",
    ),
    "offer_terms": ("offer", "terms"),
    "offer_window": ("offer", "begin_ms", "end_ms"),
    "offer_tested": ("offer", "selftest"),
    "offer_changed": ("offer", "state", "price_nanos_per_gpu_hour", "reason"),
    "offer_heard": ("offer", "heard_ms"),
    "measurement_asked": ("offer", "seed", "until_ms"),
    "offer_measured": ("offer", "seed", "measured", "below"),
    "offer_held": ("offer", "gpus", "reason", "why", "until_ms"),
    "job_submitted": ("job", "customer", "name", "spec", "budget_nanos", "spec_digest", "tags"),
    "job_estimated": (
        "job",
        "basis",
        "runs",
        "gpu",
        "workers",
        "low_ms",
        "middle_ms",
        "high_ms",
        "low_nanos",
        "middle_nanos",
        "high_nanos",
        "half",
        "widened",
        "claimed",
    ),
    "job_state": ("job", "state", "reason", "detail"),
    "job_wanted": ("job", "wanted", "reason"),
    "job_budget": ("job", "added_nanos", "budget_nanos"),
    "budget_reached": ("job", "percent", "used_nanos", "budget_nanos"),
    "job_retuned": ("job", "tuning", "id", "strategy", "request_digest", "after_round"),
    "lease_granted": (
        "lease",
        "epoch",
        "slot",
        "job",
        "customer",
        "offer",
        "provider",
        "gpu",
        "gpus",
        "price_nanos_per_gpu_hour",
        "replaces",
        "region",
        "ask_nanos_per_gpu_hour",
        "clearing",
        "price_rule",
    ),
    "lease_started": ("lease", "epoch", "worker", "pid", "node", "meter_key", "machine"),
    "lease_noticed": ("lease", "epoch", "job", "reason", "notice_ms"),
    "outbid": (
        "job", "offers", "gpus", "prices_nanos_per_gpu_hour", "asks_nanos_per_gpu_hour", "victims", "gain_nanos", "value_nanos",
        "loss_nanos", "horizon_ms", "until_ms",
    ),
    "promise_ended": ("job", "kept", "why"),
    "spot_cleared": ("matched", "unmatched"),
    "lease_metered": ("lease", "epoch", "job", "leased_ms", "trained_ms", "rounds", "tokens", "bytes", "claimed_ms"),
    "meter_signed": ("lease", "epoch", "job", "leased_ms", "trained_ms", "rounds", "tokens", "bytes", "run_ms", "signature"),
    "dispute_opened": (
        "dispute", "job", "lease", "by", "about", "reason", "amount_nanos", "fee_nanos", "held_nanos", "evidence", "until_ms",
    ),
    "dispute_closed": ("dispute", "job", "state", "amount_nanos", "reason", "by"),
    "lease_charged": ("lease", "epoch", "job", "from_ms", "to_ms", "amount_nanos", "fee_nanos", "round"),
    "lease_ended": ("lease", "epoch", "job", "reason", "fault", "metered_ms", "charged_ms", "detail"),
    "round_committed": (
        "job",
        "round",
        "step",
        "digest",
        "reason",
        "duration_ms",
        "members",
        "lost",
        "strategy",
        "tuning",
        "attempts",
        "late",
        "warned",
    ),
    "round_signed": ("job", "round", "signed"),
    "round_evaluated": ("job", "round", "loss", "metrics"),
    "checkpoint_durable": (
        "job",
        "round",
        "step",
        "manifest",
        "bytes",
        "stall_ms",
        "removed",
        "kind",
        "base_round",
    ),
    "attempt_ended": (
        "job",
        "number",
        "lease",
        "epoch",
        "kind",
        "code",
        "signal",
        "duration_ms",
        "detail",
        "manifest",
    ),
    "files_saved": ("job", "number", "lease", "epoch", "manifest", "bytes"),
    "provenance": ("job", "segment", "statement", "digest"),
    "job_result": ("job", "manifest"),
    "price_rule_set": ("rule", "by"),
    "due_rule_set": ("patience", "most_ms", "by"),
    "clearing": (
        "number",
        "snapshot_ms",
        "position",
        "suspect",
        "jobs",
        "snapshot",
        "bids",
        "offers",
        "algorithm",
        "effort",
        "looks",
        "price_rule",
        "welfare_nanos",
        "forgone_nanos",
        "waits",
        "kept_for",
        "classes",
        "matched",
        "stale",
        "unmatched",
    ),
}

# What a journal from before these fields does not say.
ROUND_BEFORE: Final[Mapping[str, Any]] = {"strategy": "", "tuning": 0, "attempts": 1, "late": [], "warned": []}
MEMBER_BEFORE: Final[Mapping[str, int]] = {"sent_bytes": 0, "received_bytes": 0, "stall_ms": 0}
EVALUATED_BEFORE: Final[Mapping[str, Any]] = {"metrics": {}}


_NAMES: Final[Mapping[str, frozenset[str]]] = {kind: frozenset(names) for kind, names in FIELDS.items()}


def make_event(kind: str, fields: Mapping[str, Any]) -> Event:
    """An event with exactly the fields of its type, in their order; anything else is a bug."""
    names = FIELDS[kind]
    if tuple(fields) == names:
        return {"type": kind, **fields}
    assert fields.keys() == _NAMES[kind], f"{kind}: {sorted(fields.keys() ^ _NAMES[kind])}"
    event: Event = {"type": kind}
    for name in names:
        event[name] = fields[name]
    return event
