"""One turn of the exchange: a command being decided. Every event is applied at once, so later ones stand on it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from market.agenda import STIRRING
from market.commands import SYSTEM
from market.events import Event, make_event
from market.outcomes import Refusal, Settings, forbidden, unknown
from market.reducer import apply, book, book_event, book_new
from market.state import Job, OfferRecord, State, Volatile
from storage.ledger import Transfer


class Turn:
    """State, limits and the time of one decision; collects its events. A refusal must come before the first event."""

    __slots__ = ("events", "now_ms", "settings", "state", "volatile")

    def __init__(self, state: State, volatile: Volatile, settings: Settings, now_ms: int) -> None:
        self.state = state
        self.volatile = volatile
        self.settings = settings
        self.now_ms = now_ms
        self.events: list[Event] = []

    def emit(self, kind: str, fields: dict[str, Any]) -> None:
        event = make_event(kind, fields)
        apply(self.state, event, self.now_ms)
        self.events.append(event)
        if kind in STIRRING and self.volatile.agenda is not None:
            self.volatile.agenda.note(event)

    def transfer(self, transfer: Transfer) -> None:
        """Book it; that it can be booked was decided before."""
        event = transfer.event()
        book_event(self.state, transfer, event, self.now_ms)
        self.events.append(event)

    def book(self, transfer: Transfer) -> None:
        """The same for one without a job that `Ledger.check` has just found to be CREATED."""
        book(self.state, transfer, self.now_ms)
        self.events.append(transfer.event())

    def book_new(self, transfer: Transfer, floor_nanos: int) -> bool:
        """The same of one that nobody has checked yet, if it can be booked: see `Ledger.book_new`."""
        is_booked = book_new(self.state, transfer, self.now_ms, floor_nanos)
        if is_booked:
            self.events.append(transfer.event())
        return is_booked

    def set_offer(self, offer: OfferRecord, state: str, price_nanos_per_gpu_hour: int, reason: str) -> None:
        fields = {"offer": offer.id, "state": state, "price_nanos_per_gpu_hour": price_nanos_per_gpu_hour}
        self.emit("offer_changed", fields | {"reason": reason})

    def set_job(self, job: Job, state: str, reason: str, detail: str = "") -> None:
        self.emit("job_state", {"job": job.id, "state": state, "reason": reason, "detail": self.cut(detail)})

    def want(self, job: Job, wanted: str, reason: str) -> None:
        if (job.wanted, job.wanted_reason) != (wanted, reason):
            self.emit("job_wanted", {"job": job.id, "wanted": wanted, "reason": reason})

    def cut(self, text: str) -> str:
        """Somebody's free text, short enough to keep and always UTF-8."""
        return text[: self.settings.max_text].encode("utf-8", "replace").decode("utf-8")

    def require(self, by: str, roles: Collection[str]) -> Refusal | None:
        """Refuse unless the member has one of the roles and its key is not revoked; SYSTEM may do everything."""
        if by == SYSTEM:
            return None
        member = self.state.members.get(by)
        if member is None or member.revoked:
            return Refusal("unauthorized", f"{by!r} is no member of this market", status=401)
        if member.suspended and member.role == "operator":
            return forbidden(f"{by!r} is suspended")
        if member.role not in roles:
            return forbidden(f"this is for {' or '.join(sorted(roles))}, and {by!r} is a {member.role}")
        return None

    def require_active(self, by: str) -> Refusal | None:
        """Refuse to begin something for a member that is suspended."""
        member = self.state.members.get(by)
        if member is None or not member.suspended:
            return None
        message = f"{by} is suspended: what runs goes on, and nothing new begins"
        return Refusal("member_suspended", message, remedy="ask an operator", status=403)

    def is_operator(self, by: str) -> bool:
        member = self.state.members.get(by)
        return by == SYSTEM or (member is not None and member.role == "operator" and not member.suspended)

    def find_offer(self, name: str, by: str) -> OfferRecord | Refusal:
        """The offer, if it is this provider's or the asker is an operator; else as if it did not exist."""
        refusal = self.require(by, ("provider", "operator"))
        if refusal is not None:
            return refusal
        offer = self.state.offers.get(name)
        if offer is None or not (offer.provider == by or self.is_operator(by)):
            return unknown("offer", name)
        return offer

    def find_job(self, name: str, by: str) -> Job | Refusal:
        """The job, if it is this customer's or the asker is an operator or the plane; else as if it did not exist."""
        job = self.state.jobs.get(name)
        member = self.state.members.get(by)
        trusted = by == SYSTEM or (member is not None and member.role in ("operator", "plane"))
        if job is None or not (trusted or job.customer == by):
            return Refusal("unknown_job", f"there is no job {name!r}", field="job", status=404)
        return job
