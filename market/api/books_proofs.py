"""Proofs that the books process makes: events of the market's log with what proves each of them."""

from collections.abc import Callable, Mapping
from typing import Any

from storage.billing import invoice
from storage.invoice_bundles import invoice_proof
from storage.job_events import billed_events
from storage.projection import Projection
from storage.tenants import QueryRefused, Tenant
from storage.transparency import LogIndex

Json = dict[str, Any]
Answer = Callable[[Json, Tenant], Json | QueryRefused]


class Proofs:
    """Questions to the log, by the projection's lists of what belongs together."""

    def __init__(self, projection: Projection, log_index: LogIndex) -> None:
        self.projection = projection
        self.log_index = log_index

    def by_name(self) -> Mapping[str, Answer]:
        """The questions by their names."""
        return {"invoice_proof": self._invoice_proof, "log": self._log}

    def _invoice_proof(self, params: Json, tenant: Tenant) -> Json | QueryRefused:
        """The invoice of a job with every event behind it, and the log's size and root that it is proven in."""
        job = str(params.get("job"))
        with self.projection.cursor() as cursor:
            cursor.begin()  # one moment of the books for the invoice and the list of its events
            said = invoice(cursor, tenant, job)
            if isinstance(said, QueryRefused):
                return said
            if "payments" not in said:
                return QueryRefused("not_the_customer", f"{job} is not your job", "job", "its customer can ask for that")
            records = cursor.execute("SELECT max(records) FROM watermarks").fetchall()[0][0]
            events = billed_events(cursor, job)
        self.log_index.catch_up()
        shown = [self.log_index.show(record, ordinals, records) for record, ordinals in events]
        return {**invoice_proof(said, shown), "size": records, "root": self.log_index.root(records).hex()}

    def _log(self, params: Json, _: Tenant) -> Json | QueryRefused:
        """Size and root of the log, and with `old` (and `new`) the proof that it only grew since."""
        self.log_index.catch_up()
        size = len(self.log_index)
        new, old = params.get("new", size), params.get("old")
        if not (isinstance(new, int) and 0 <= new <= size):
            return QueryRefused("size_unknown", f"the log has {size} records, not {new}", "new", "ask for an earlier size")
        answer: Json = {"size": new, "root": self.log_index.root(new).hex()}
        if old is not None:
            if not (isinstance(old, int) and 0 < old <= new):
                return QueryRefused("size_unknown", f"old is a size from 1 to {new}, not {old}", "old", "ask for a smaller one")
            answer |= {"old": old, "path": [one.hex() for one in self.log_index.consistency(old, new)]}
        return answer
