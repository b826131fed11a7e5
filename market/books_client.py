"""The part of the SDK that asks about the past: bills, prices, proofs, SQL. Mixed into `market.client.Market`."""

from collections.abc import Mapping
from typing import Any

from market.consortium_client import items, part
from market.wire import Wire

Json = dict[str, Any]


class PastQuestions:
    """Routes of the books, each one method."""

    _wire: Wire

    def billing(
        self, *, by: str | None = None, since: str | None = None, until: str | None = None, job: str | None = None
    ) -> list[Json]:
        params = {"by": by, "since": since, "until": until, "job": job}
        return items(self._wire.json("GET", "/v1/billing", params=params))

    def prices(
        self, *, gpu: str | None = None, region: str | None = None, since: str | None = None, until: str | None = None,
        points: int = 0,
    ) -> Json:  # fmt: skip
        """{since_ms, until_ms, items, series}: quotes and trades, and medians over time in `points` parts of it."""
        params = {"gpu": gpu, "region": region, "since": since, "until": until, "points": points}
        return self._wire.json("GET", "/v1/prices", params=params)

    def invoice(self, job: str) -> Json:
        return self._wire.json("GET", f"/v1/invoices/{part(job)}")

    def invoice_bundle(self, job: str) -> Json:
        """The invoice of one's own job with the proof of every line (storage/invoice_bundles.py)."""
        return self._wire.json("GET", f"/v1/invoices/{part(job)}/bundle", wait_s=600)

    def log(self, *, old: int | None = None, new: int | None = None) -> Json:
        """{head}: a signed head of the market's log (of `new` records); with `old` also {old, path}, the proof that it
        begins with that size's; without `new` also {cosigned}, heads that members cosigned, each with its path."""
        return self._wire.json("GET", "/v1/log", params={"old": old, "new": new})

    def cosign_head(self, head: Mapping[str, Any], *, public_key: str, at_s: int, signature: str) -> Json:
        """{member, public_key, size}: say that one has seen a head (storage/cosignatures.py)."""
        body = {"head": dict(head), "public_key": public_key, "at_s": at_s, "signature": signature}
        return self._wire.json("POST", "/v1/log/cosignatures", body=body)

    def disputes(self, *, job: str | None = None) -> list[Json]:
        """Those that touch oneself, oldest first."""
        return items(self._wire.json("GET", "/v1/disputes", params={"job": job}))

    def dispute(self, dispute: str) -> Json:
        return self._wire.json("GET", f"/v1/disputes/{part(dispute)}")

    def open_dispute(
        self, id: str, *, job: str, lease: str, reason: str, amount_nanos: int | None = None, evidence: str = ""
    ) -> Json:
        """Object to what a lease of one's own job was charged; `amount_nanos` None: to all of it."""
        body = {"id": id, "lease": lease, "amount_nanos": amount_nanos, "reason": reason, "evidence": evidence}
        return self._wire.json("POST", f"/v1/jobs/{part(job)}/disputes", body=body)

    def decide_dispute(self, dispute: str, *, verdict: str, reason: str, amount_nanos: int | None = None) -> Json:
        """`upheld` or `rejected` (operator)."""
        body = {"verdict": verdict, "reason": reason, "amount_nanos": amount_nanos}
        return self._wire.json("POST", f"/v1/disputes/{part(dispute)}/decide", body=body)

    def sql(self, statement: str) -> Json:
        """{columns, rows} of one read-only statement over one's own books."""
        return self._wire.json("POST", "/v1/sql", body={"sql": statement})

    def verify_books(self) -> Json:
        """{ok, records, head, first_bad, balanced, projection_ok} (operator)."""
        return self._wire.json("GET", "/v1/books/verify", wait_s=600)

    def rebuild_books(self) -> Json:
        return self._wire.json("POST", "/v1/books/rebuild", body={}, wait_s=600)
