"""What a command comes to: an answer or a refusal, both values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from market.events import Event
from storage.values import value

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A command that was not carried out, and nothing changed. `code` is for programs, `remedy` says what would do."""

    code: str
    message: str
    field: str | None = None
    remedy: str | None = None
    status: int = 422


@value
class Answer:
    """A command that was carried out now (`created`) or before."""

    body: Json
    created: bool = True


@value
class Outcome:
    """`events` go to the journal before `answer` goes to anybody. A refusal has no events,
    but for the id of a transfer that stays refused."""

    events: tuple[Event, ...]
    answer: Json | Refusal
    created: bool


@dataclass(frozen=True, slots=True)
class Settings:
    """Limits and timers of a market. Hitting a limit is a refusal with its name in the code."""

    fee_ppm: int = 50_000
    offer_timeout_ms: int = 10_000
    start_timeout_ms: int = 45_000
    pause_timeout_ms: int = 30_000
    silence_timeout_ms: int = 30_000
    run_silence_ms: int = 15_000
    avoid_ms: int = 5_000
    dispute_window_ms: int = 7 * 24 * 3_600_000
    dispute_patience_ms: int = 30 * 24 * 3_600_000
    measure_every_ms: int = 12 * 3_600_000
    measure_patience_ms: int = 120_000
    max_members: int = 10_000
    max_offers: int = 20_000
    max_offers_per_provider: int = 256
    max_gpus_per_offer: int = 4_096
    max_open_jobs: int = 20_000
    max_open_jobs_per_customer: int = 1_000
    max_live_leases: int = 100_000
    max_spec_bytes: int = 256 * 1024
    max_offer_bytes: int = 64 * 1024
    max_amount_nanos: int = 10_000_000 * 1_000_000_000
    max_total_nanos: int = 2**62
    max_price_nanos_per_gpu_hour: int = 10_000 * 1_000_000_000
    max_text: int = 2_000


_LISTS = {
    "member": "torg members ls", "team": "torg teams ls", "invitation": "torg members invites", "offer": "torg offers --all",
    "dispute": "torg dispute ls", "secret": "torg secret ls", "transfer": "torg wallet history",
}  # fmt: skip
"""What shows all that there is of a kind."""


def unknown(what: str, name: str) -> Refusal:
    remedy = f"`{_LISTS[what]}` shows all" if what in _LISTS else None
    return Refusal(f"unknown_{what}", f"there is no {what} {name!r}", field=what, remedy=remedy, status=404)


def forbidden(message: str) -> Refusal:
    return Refusal("forbidden", message, status=403)


def conflict(what: str, name: str) -> Refusal:
    return Refusal(
        "conflict",
        f"{what} {name!r} exists with other contents",
        field="id",
        remedy="use a new id for a new request",
        status=409,
    )
